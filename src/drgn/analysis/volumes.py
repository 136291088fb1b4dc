"""Maps decoded from a run, written as MRC files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch

from drgn import __version__
from drgn.formats.atomic import replacing
from drgn.formats.mrc import read_volume, write_volume

if TYPE_CHECKING:
    from drgn.run import Run

_VOLUME_NAME = re.compile(r"vol_(\d{3,})\.mrc")
# what `scoring.half_maps` and `write_spread` write beside a volume
_BESIDE = re.compile(r"vol_\d{3,}_((half_1|half_2|weighted|local_resolution|sd)\.mrc|fsc\.(csv|png))")


class VolumeFiles(Sequence[np.ndarray]):
    """Maps on disk as a sequence of arrays, each read when it is asked for: a set may be larger than memory.

    Attributes
    ----------
    paths
        The MRC files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    @staticmethod
    def stem(number: int, n: int) -> str:
        """Name, without .mrc, of one of n volumes."""
        return f"vol_{number:0{max(3, len(str(n - 1)))}d}"

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> VolumeFiles: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | VolumeFiles:
        """One map (D, D, D) float32, or some of the files."""
        if isinstance(index, slice):
            return VolumeFiles(self.paths[index])
        return read_volume(self.paths[index])[0]


def write_volumes(
    run: Run, z: np.ndarray, folder: Path, volumes: Iterable[np.ndarray] | None = None
) -> VolumeFiles:
    """Decode latents and write vol_000.mrc, vol_001.mrc, ... and z_values.txt, which lists their latents.

    Volumes of these names that an earlier, longer series left in the folder are removed, so that the folder
    never holds a mixture of two.

    Parameters
    ----------
    run
        The run whose model decodes.
    z
        (M, Z) latents; (1, 0) for a run without a latent.
    folder
        Created when it does not exist.
    volumes
        (D, D, D) at each latent; None: they are decoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{VolumeFiles.stem(i, len(z))}.mrc" for i in range(len(z))]
    for path in folder.iterdir():
        if _BESIDE.fullmatch(path.name):
            path.unlink()
    if volumes is None:
        volumes = run.volumes(z, "cuda" if torch.cuda.is_available() else "cpu")
    for path, volume, point in zip(paths, volumes, z, strict=True):
        write_volume(path, volume, run.pixel_size_A, label=_label(run.name, point))
    for path in folder.iterdir():
        if _VOLUME_NAME.fullmatch(path.name) and path not in paths:
            path.unlink()
    with replacing(folder / "z_values.txt") as temporary:
        np.savetxt(temporary, z, fmt="%.6g")
    return VolumeFiles(paths)


def write_spread(
    run: Run, z: np.ndarray, logvar: np.ndarray, samples: int, paths: Sequence[Path], seed: int
) -> list[Path]:
    """Write beside each volume, as _sd.mrc, the standard deviation of the maps that a posterior allows.

    It is the uncertainty of the map that comes from that of the latent; that of the decoder itself is not in
    it (half maps show that one).

    Parameters
    ----------
    run
        The run whose model decodes.
    z, logvar
        (M, Z), posteriors of the particles.
    samples
        Draws from each.
    paths
        M volumes.
    seed
        Of the draws.
    """
    generator = np.random.default_rng(seed)
    written = []
    for path, mean, spread in zip(paths, z, np.exp(0.5 * logvar), strict=True):
        drawn = mean + spread * generator.standard_normal((samples, len(mean)), np.float32)
        total = np.zeros((run.box_size,) * 3)
        square = np.zeros_like(total)
        for volume in run.volumes(drawn, "cuda" if torch.cuda.is_available() else "cpu"):
            total += volume
            square += volume.astype(np.float64) ** 2
        variance = np.maximum(square - total**2 / samples, 0) / (samples - 1)
        written.append(path.with_name(f"{path.stem}_sd.mrc"))
        write_volume(written[-1], np.sqrt(variance).astype(np.float32), run.pixel_size_A)
    return written


def _label(name: str, z: np.ndarray) -> str:
    """At most 80 bytes: the program, the run and as much of z as fits."""
    values = " ".join(f"{value:.3g}" for value in z)
    return f"drgn {__version__} {name[:30]}{f' z={values}' if len(z) else ''}"[:80]
