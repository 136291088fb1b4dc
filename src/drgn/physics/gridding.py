"""Between half grids (see `physics.voxels`) and whole transforms: voxels, shells, fall-off."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.physics import voxels


def put(half: Tensor, grid: NDArray[Any], a: int) -> None:
    """Write what `slices.padded_half` gives into channels 2 a and 2 a + 1 of a half grid."""
    centre_of(grid, len(half) - 1)[..., 2 * a : 2 * a + 2] = torch.view_as_real(half).numpy()


def centre_of(grid: NDArray[Any], reach: int) -> NDArray[Any]:
    """The same voxels of a half grid."""
    origin = grid.shape[2] // 2 - 1
    side = slice(origin - reach, origin + reach + 1)
    return grid[: reach + 1, side, side]


def density_of(half: Tensor, side: int, box_size: int) -> Tensor:
    """The middle (D, D, D) of the real map of side^3 voxels whose centred transform has this half.

    Parameters
    ----------
    half
        (reach + 1, 2 reach + 1, 2 reach + 1) complex, from `centre_of`, reach < side / 2; 0 beyond.
    side
        Even.
    box_size
        D, even.
    """
    reach = len(half) - 1
    middle = torch.arange(-(box_size // 2), box_size // 2) % side  # the origin is the first element
    for axis in (2, 1):
        shape = list(half.shape)
        shape[axis] = side - 2 * reach - 1
        parts = half.narrow(axis, reach, reach + 1), half.new_zeros(shape), half.narrow(axis, 0, reach)
        half = torch.fft.ifft(torch.cat(parts, dim=axis), dim=axis).index_select(axis, middle)
    return torch.fft.irfft(half, n=side, dim=0).index_select(0, middle)


def density_at(values: Tensor, inside: Tensor, reach: int, side: int, box_size: int) -> Tensor:
    """The same map from values (M,) at the voxels of a half grid that are `inside` (z, y, x); 0 elsewhere.

    `reach`, `side` and `box_size` as of `density_of`; what lies beyond the reach is left out.
    """
    grid = torch.zeros(inside.shape, dtype=torch.complex64)
    grid[inside] = values
    half = centre_of(grid.unsqueeze(-1).numpy(), reach)[..., 0]
    return density_of(torch.from_numpy(half), side, box_size)


def shells_inside(radius: int) -> tuple[Tensor, Tensor]:
    """Which voxels of a half grid lie inside a radius, (z, y, x), and the shell of each of these, (M,)."""
    n_z, n_y, n_x, _ = voxels.half_grid(radius, 1).shape
    x2 = (torch.arange(n_x, dtype=torch.int32) - radius - 1).square()
    y2 = (torch.arange(n_y, dtype=torch.int32) - radius - 1).square()
    r2 = torch.arange(n_z, dtype=torch.int32).square()[:, None, None] + y2[:, None] + x2
    inside = r2 < radius**2
    of_r2 = torch.arange(radius**2).double().sqrt().round().long()
    return inside, of_r2[r2[inside].long()]


def interpolation(side: int, box_size: int | None = None) -> Tensor:
    """What trilinear insertion does to a density of side^3 voxels: sinc^2 along each axis, its middle D^3."""
    box_size = box_size or side
    fall = torch.sinc((torch.arange(box_size) - box_size // 2) / side).square()
    return fall[:, None, None] * fall[None, :, None] * fall[None, None, :]
