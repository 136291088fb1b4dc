"""The files of a simulated set, streamed: memory does not grow with the number of particles.

particles.mrcs, particles.star (RELION 3.1), truth.csv, maps/*.mrc, maps.csv and simulation.json. The star
comes last, so that its presence means a complete set.
"""

import json
import math
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

import drgn
from drgn.errors import InputError
from drgn.formats.atomic import replacing
from drgn.formats.mrc import StackWriter, read_volume, write_volume
from drgn.formats.relion import matrix_to_euler
from drgn.formats.star import write_blocks
from drgn.physics.ctf import PARAMETERS
from drgn.simulation.images import Scene
from drgn.simulation.microscope import Microscope
from drgn.simulation.molecules import ClosedForm, Molecule
from drgn.simulation.noise import draw_noise, noise_filter
from drgn.simulation.poses import PoseOptions, Poses

_CHUNK = 256  # images that get their noise at a time
_BLOCK_BYTES = 1 << 28  # noise-free images that are made at a time, state by state
_SAMPLE = 2_000  # images, of all states, that the power of the signal is measured on
_SAMPLE_CLOSED_FORM = 500


def write_set(
    molecule: Molecule,
    output: Path,
    *,
    n_particles: int,
    box_size: int,
    pixel_size_A: float,
    snr: float,
    shift_px: float,
    data_sign: int,
    noise_spectrum: list[float] | None,
    poses: PoseOptions,
    microscope: Microscope,
    seed: int,
    options: Mapping[str, Any],
) -> Path:
    """Simulate a set.

    Parameters
    ----------
    molecule
        What is imaged.
    output
        Folder; made where it is missing.
    n_particles, box_size, pixel_size_A, snr, shift_px, data_sign, noise_spectrum, poses, microscope, seed
        See `drgn.simulate.simulate`.
    options
        Plain values that simulation.json repeats.

    Returns
    -------
    Path
        particles.star.
    """
    n = n_particles
    if n < 1 or box_size < 16 or box_size % 2 or snr <= 0 or pixel_size_A <= 0 or shift_px < 0 or seed < 0:
        raise InputError(
            f"n_particles={n} box_size={box_size} pixel_size_A={pixel_size_A} snr={snr} shift_px={shift_px}"
            f" seed={seed}: expected at least one particle, an even box of at least 16 px, a pixel size and"
            " an SNR above 0, a shift and a seed of 0 or more"
        )
    molecule.check_field(box_size * pixel_size_A, shift_px * pixel_size_A)
    colour = noise_filter(noise_spectrum, box_size)
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(n, 6, generator=generator, dtype=torch.float64)
    truth, state = molecule.draw(uniform[:, :2].numpy())
    shift_A = (2 * uniform[:, 2:4] - 1) * shift_px * pixel_size_A
    parameters = microscope.draw(uniform[:, 4:])
    right = Poses(poses.draw(n, generator), shift_A)
    told = poses.told(right, generator)

    (output / "maps").mkdir(parents=True, exist_ok=True)
    files = [f"{name}.mrc" for name in molecule.states.index]
    for i in _watched(range(len(files)), "making maps"):
        density = molecule.density(i, box_size, pixel_size_A)
        write_volume(output / "maps" / files[i], density.float().numpy(), pixel_size_A)

    def read_map(one: int) -> Tensor:
        return torch.from_numpy(read_volume(output / "maps" / files[one])[0])

    scene = Scene(molecule, truth, state, right, parameters, box_size, pixel_size_A, read_map)
    noise_std = math.sqrt(_signal_variance(scene) / snr)
    power = 0.0
    block = max(_CHUNK, _BLOCK_BYTES // (8 * box_size**2) // _CHUNK * _CHUNK)
    with StackWriter(output / "particles.mrcs", n, box_size, pixel_size_A) as stack:
        starts = range(0, n, _CHUNK)
        for start in _watched(starts, "making images"):
            if start % block == 0:
                clean = scene.images(np.arange(start, min(start + block, n)))
                power += float(np.square(clean).sum())
            images = torch.from_numpy(clean[start % block : start % block + _CHUNK])
            noise = draw_noise(len(images), box_size, colour, generator)
            stack.write((data_sign * images + noise_std * noise).float().numpy())

    names = [f"{i + 1:06d}@particles.mrcs" for i in range(n)]
    table = truth.assign(map=np.asarray(files, dtype=object)[state])
    table.insert(0, "key", names)
    if not poses.exact:
        euler_deg = matrix_to_euler(right.rotation.numpy())
        for i, angle in enumerate(("rot", "tilt", "psi")):
            table[f"true_{angle}_deg"] = euler_deg[:, i]
        table["true_shift_x_A"], table["true_shift_y_A"] = right.shift_A.T.numpy()
    _write_table(output / "truth.csv", table)
    maps = molecule.states.reset_index(drop=True)
    maps.insert(0, "file", files)
    _write_table(output / "maps.csv", maps.assign(label=list(molecule.states.index)))
    variance = power / (n * box_size**2)
    facts = {
        "options": options,
        "noise_standard_deviation": noise_std,
        "signal_variance": variance,
        "snr": variance / noise_std**2,
        "snr_definition": "variance of the noise-free images over all pixels and images / noise variance",
        "weight_definition": "a map's voxel and its projections are in weight per voxel of this box",
        "versions": {
            "drgn": drgn.__version__,
            "python": platform.python_version(),
            **{library: version(library) for library in ("torch", "numpy", "scipy")},
        },
    }
    with replacing(output / "simulation.json") as path:
        path.write_text(json.dumps(facts, indent=2, default=str) + "\n")
    star = _star(names, told, parameters.numpy(), box_size, pixel_size_A)
    write_blocks(output / "particles.star", star)
    return output / "particles.star"


def _signal_variance(scene: Scene) -> float:
    """Variance of the noise-free images over all pixels and images, measured on some of each state."""
    exact = isinstance(scene.molecule, ClosedForm)
    strata = np.zeros_like(scene.state) if exact else scene.state
    states, counts = np.unique(strata, return_counts=True)
    each = math.ceil((_SAMPLE_CLOSED_FORM if exact else _SAMPLE) / len(states))
    total = 0.0
    for one, count in zip(states, counts, strict=True):
        images = scene.images(np.flatnonzero(strata == one)[:each])
        total += float(torch.from_numpy(images).var()) * count / len(strata)
    return total


def _watched(items: range, description: str) -> Any:
    return track(items, description=description, disable=not sys.stderr.isatty(), transient=True)


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)


def _star(
    names: list[str], poses: Poses, parameters: NDArray[np.float64], box_size: int, pixel_size_A: float
) -> dict[str, pd.DataFrame]:
    """RELION 3.1 blocks."""
    column = dict(zip(PARAMETERS, parameters.T, strict=True))
    euler_deg, shift_A = matrix_to_euler(poses.rotation.numpy()), poses.shift_A.numpy()
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["opticsGroup1"],
            "rlnVoltage": column["voltage_kV"][:1],
            "rlnSphericalAberration": column["spherical_aberration_mm"][:1],
            "rlnAmplitudeContrast": column["amplitude_contrast"][:1],
            "rlnImagePixelSize": [pixel_size_A],
            "rlnImageSize": [box_size],
            "rlnImageDimensionality": [2],
        }
    )
    particles = pd.DataFrame(
        {
            "rlnImageName": names,
            "rlnMicrographName": [f"micrograph{i // 100:04d}.mrc" for i in range(len(names))],
            "rlnAngleRot": euler_deg[:, 0],
            "rlnAngleTilt": euler_deg[:, 1],
            "rlnAnglePsi": euler_deg[:, 2],
            "rlnOriginXAngst": shift_A[:, 0],
            "rlnOriginYAngst": shift_A[:, 1],
            "rlnDefocusU": column["defocus_u_A"],
            "rlnDefocusV": column["defocus_v_A"],
            "rlnDefocusAngle": column["defocus_angle_deg"],
            "rlnPhaseShift": column["phase_shift_deg"],
            "rlnCtfBfactor": column["b_factor_A2"],
            "rlnOpticsGroup": np.ones(len(names), np.int64),
        }
    )
    return {"optics": optics, "particles": particles}
