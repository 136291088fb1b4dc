"""Simulated particle sets with known states, streamed to disk (P33, P34)."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from drgn.errors import InputError
from drgn.formats.atomic import replacing
from drgn.formats.mrc import StackWriter, write_volume
from drgn.formats.relion import matrix_to_euler
from drgn.formats.star import write_blocks
from drgn.physics import fourier, imaging, rotations
from drgn.physics.grids import half_lattice
from drgn.physics.phantoms import toy_molecule

_CHUNK = 256
_VOLTAGE_kV, _CS_mm, _AMPLITUDE_CONTRAST = 300.0, 2.0, 0.1  # P33
_DEFOCUS_A = (8_000.0, 30_000.0)
_ASTIGMATISM_A = 400.0
_B_FACTOR_A2 = 100.0  # P33


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is simulated; see `drgn.simulate.simulate`."""

    n_particles: int
    box_size: int
    pixel_size_A: float
    snr: float
    attached_fraction: float
    shift_px: float
    seed: int

    def __post_init__(self) -> None:
        if self.n_particles < 1 or self.box_size < 16 or self.box_size % 2 or self.snr <= 0:
            raise InputError(
                f"n_particles={self.n_particles} box_size={self.box_size} snr={self.snr}: expected at"
                " least one particle, an even box of at least 16 px and an SNR above 0"
            )
        if not 0 <= self.attached_fraction <= 1:
            raise InputError(f"attached_fraction={self.attached_fraction}: expected a share from 0 to 1")
        if self.box_size * self.pixel_size_A < 180:
            raise InputError(
                f"box_size={self.box_size} x pixel_size_A={self.pixel_size_A} is a field of"
                f" {self.box_size * self.pixel_size_A:.0f} A; the toy molecule needs at least 180 A"
            )


def write_toy(experiment: Experiment, output: Path) -> Path:
    """Simulate the toy molecule; the star file comes last, so that its presence means a complete set.

    Parameters
    ----------
    experiment
        What to make.
    output
        Folder; made where it is missing.

    Returns
    -------
    Path
        particles.star.
    """
    n, size = experiment.n_particles, experiment.box_size
    output.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(experiment.seed)
    uniform = torch.rand(n, 6, generator=generator, dtype=torch.float64)
    motion = uniform[:, 0]
    attached = uniform[:, 1] < experiment.attached_fraction
    shift_px = (2 * uniform[:, 2:4] - 1) * experiment.shift_px
    mean_defocus = _DEFOCUS_A[0] + (_DEFOCUS_A[1] - _DEFOCUS_A[0]) * uniform[:, 4]
    rotation = rotations.random_rotations(n, generator)
    half_astigmatism = torch.full((n,), _ASTIGMATISM_A / 2, dtype=torch.float64)

    def column(value: float) -> Tensor:
        return torch.full((n,), value, dtype=torch.float64)

    parameters = torch.stack(
        [
            mean_defocus + half_astigmatism,
            mean_defocus - half_astigmatism,
            180 * uniform[:, 5],
            column(0.0),
            column(_VOLTAGE_kV),
            column(_CS_mm),
            column(_AMPLITUDE_CONTRAST),
            column(_B_FACTOR_A2),
            column(1.0),
        ],
        dim=1,
    )
    lattice = half_lattice(size, 2)

    def clean(rows: Tensor) -> Tensor:
        """Noise-free images (len(rows), D, D)."""
        transforms = torch.stack(
            [
                toy_molecule(float(motion[i]), bool(attached[i])).fourier(
                    imaging.slice_coordinates(lattice.frequencies.double(), rotation[i])
                    / experiment.pixel_size_A
                )
                for i in rows.tolist()
            ]
        )
        contrast, phase = imaging.transfer(
            lattice.frequencies.double(),
            torch.full((len(rows),), experiment.pixel_size_A, dtype=torch.float64),
            parameters[rows],
            shift_px[rows],
        )
        return fourier.ifft(lattice.scatter(imaging.observe(transforms, contrast, phase)), 2).real

    sample = clean(torch.arange(min(n, 500)))
    noise_std = math.sqrt(float(sample.var()) / experiment.snr)
    with StackWriter(output / "particles.mrcs", n, size, experiment.pixel_size_A) as stack:
        for rows in torch.arange(n).split(_CHUNK):
            noise = torch.randn(len(rows), size, size, generator=generator, dtype=torch.float64)
            stack.write((clean(rows) + noise_std * noise).float().numpy())
    names = [f"{i + 1:06d}@particles.mrcs" for i in range(n)]
    with replacing(output / "truth.csv") as path:
        pd.DataFrame({"key": names, "motion": motion, "attached": attached.int()}).to_csv(path, index=False)
    (output / "maps").mkdir(exist_ok=True)
    for state in (0.0, 0.5, 1.0):
        for lobe in (True, False):
            density = toy_molecule(state, lobe).density(size, experiment.pixel_size_A)
            name = f"motion{state:.1f}_{'attached' if lobe else 'detached'}.mrc"
            write_volume(output / "maps" / name, density.float().numpy(), experiment.pixel_size_A)
    write_blocks(output / "particles.star", _star(experiment, names, rotation, shift_px, parameters))
    return output / "particles.star"


def _star(
    experiment: Experiment, names: list[str], rotation: Tensor, shift_px: Tensor, parameters: Tensor
) -> dict[str, pd.DataFrame]:
    """RELION 3.1 blocks."""
    euler_deg = matrix_to_euler(rotation.numpy())
    shift_A = shift_px.numpy() * experiment.pixel_size_A
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["opticsGroup1"],
            "rlnVoltage": [_VOLTAGE_kV],
            "rlnSphericalAberration": [_CS_mm],
            "rlnAmplitudeContrast": [_AMPLITUDE_CONTRAST],
            "rlnImagePixelSize": [experiment.pixel_size_A],
            "rlnImageSize": [experiment.box_size],
            "rlnImageDimensionality": [2],
        }
    )
    values = parameters.numpy()
    particles = pd.DataFrame(
        {
            "rlnImageName": names,
            "rlnMicrographName": [f"micrograph{i // 100:04d}.mrc" for i in range(len(names))],
            "rlnAngleRot": euler_deg[:, 0],
            "rlnAngleTilt": euler_deg[:, 1],
            "rlnAnglePsi": euler_deg[:, 2],
            "rlnOriginXAngst": shift_A[:, 0],
            "rlnOriginYAngst": shift_A[:, 1],
            "rlnDefocusU": values[:, 0],
            "rlnDefocusV": values[:, 1],
            "rlnDefocusAngle": values[:, 2],
            "rlnPhaseShift": np.zeros(len(names)),
            "rlnCtfBfactor": values[:, 7],
            "rlnOpticsGroup": np.ones(len(names), np.int64),
        }
    )
    return {"optics": optics, "particles": particles}
