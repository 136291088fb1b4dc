"""Maps of any program as a person names them, and what two of them must have in common."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from drgn.errors import InputError
from drgn.formats.mrc import read_cubic

_SAME = 1e-3  # relative difference of pixel sizes that is rounding


class Map(NamedTuple):
    """density: (D, D, D) float32. pixel_size_A: Angstrom per voxel. path: where it was read."""

    density: Tensor
    pixel_size_A: float
    path: Path


def read(path: Path, option: str) -> Map:
    """Read a map; an InputError where it is not there, not finite, or does not say its pixel size."""
    if not path.is_file():
        raise InputError(f"{option}={path} is not there: expected a map (.mrc).")
    volume, pixel_size_A, _ = read_cubic(path)
    if not np.isfinite(pixel_size_A):
        raise InputError(f"{path} does not say its pixel size; write it into the header of the map.")
    if not np.isfinite(volume).all():
        raise InputError(f"{path} has voxels that are not finite; make the map anew.")
    return Map(torch.from_numpy(volume), pixel_size_A, path)


def require_like(one: Map, box_size: int, pixel_size_A: float, other: str) -> None:
    """Raise an InputError where a map differs in box or pixel size from `other`, which has these."""
    mine = one.density.shape[-1]
    if mine != box_size:
        raise InputError(
            f"{one.path} has a box of {mine} voxels and {other} one of {box_size}; bring them to the same box"
            " and pixel size first."
        )
    if abs(one.pixel_size_A - pixel_size_A) > _SAME * pixel_size_A:
        raise InputError(
            f"{one.path} has voxels of {one.pixel_size_A:.5g} A and {other} of {pixel_size_A:.5g} A; bring"
            " them to the same pixel size, or correct the header of the one that is wrong."
        )
