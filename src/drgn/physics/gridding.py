"""Between half grids (see `physics.voxels`) and whole transforms: voxels, shells, fall-off."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.physics import voxels


def half_of(transform: Tensor, reach: int) -> Tensor:
    """The voxels of a centred transform with 0 <= z <= reach and |x|, |y| <= reach."""
    h = transform.shape[-1] // 2
    side = slice(h - reach, h + reach + 1)
    return transform[h : h + reach + 1, side, side]


def centre_of(grid: NDArray[Any], reach: int) -> NDArray[Any]:
    """The same voxels of a half grid."""
    origin = grid.shape[2] // 2 - 1
    side = slice(origin - reach, origin + reach + 1)
    return grid[: reach + 1, side, side]


def whole(half: NDArray[np.complex64], side: int) -> Tensor:
    """Centred Hermitian transform of a box from its half."""
    reach, h = len(half) - 1, side // 2
    values = torch.from_numpy(half.copy())
    transform = torch.zeros(side, side, side, dtype=torch.complex64)
    near = slice(h - reach, h + reach + 1)
    transform[h : h + reach + 1, near, near] = values
    transform[h - reach : h, near, near] = values[1:].flip((0, 1, 2)).conj()
    return transform


def shells_inside(radius: int) -> tuple[Tensor, Tensor]:
    """Which voxels of a half grid lie inside a radius, (z, y, x), and the shell of each of these, (M,)."""
    n_z, n_y, n_x, _ = voxels.half_grid(radius, 1).shape
    z, y, x = torch.meshgrid(torch.arange(n_z), torch.arange(n_y), torch.arange(n_x), indexing="ij")
    r = (z**2 + (y - radius - 1) ** 2 + (x - radius - 1) ** 2).double().sqrt()
    inside = r < radius
    return inside, r[inside].round().long()


def interpolation(side: int) -> Tensor:
    """What trilinear insertion does to a density: sinc^2 along each axis, (side, side, side)."""
    fall = torch.sinc((torch.arange(side) - side // 2) / side).square()
    return fall[:, None, None] * fall[None, :, None] * fall[None, None, :]
