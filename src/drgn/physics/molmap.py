"""Densities of atomic models as Chimera's molmap defines them."""

import math

import torch
from torch import Tensor

from drgn.physics import fourier

SIGMA_FACTOR = 1 / (math.pi * math.sqrt(2))
"""molmap's sigma over its resolution, 0.225: such a Gaussian's transform falls to 1/e at 1 / resolution."""

_REACH = 5.0  # sigmas after which a Gaussian is cut off, as in molmap; 4e-6 of its height
_VOXELS_AT_A_TIME = 1 << 22


def molmap(
    centre_A: Tensor, electrons: Tensor, resolution_A: float, box_size: int, pixel_size_A: float
) -> Tensor:
    """Sum of a Gaussian an atom, of sigma 0.225 x resolution and integral `electrons`, at the voxel centres.

    Parameters
    ----------
    centre_A
        (N, 3) x, y, z from the origin of the box.
    electrons
        (N,) atomic numbers.
    resolution_A
        molmap's resolution.
    box_size, pixel_size_A
        The grid. What lies outside is left out.

    Returns
    -------
    Tensor
        (D, D, D) [z, y, x] float32, electrons per voxel.
    """
    sigma_px = SIGMA_FACTOR * resolution_A / pixel_size_A
    reach = math.ceil(_REACH * sigma_px)
    offset = torch.arange(-reach, reach + 1)
    total = torch.zeros(box_size**3, dtype=torch.float32)
    position = centre_A / pixel_size_A + box_size // 2
    atoms = max(1, _VOXELS_AT_A_TIME // len(offset) ** 3)
    for place, weight in zip(position.split(atoms), electrons.split(atoms), strict=True):
        voxel = place.round().to(torch.int64)[:, :, None] + offset  # (n, 3, K)
        distance = (voxel - place[:, :, None]) / sigma_px
        height = torch.exp(-0.5 * distance**2) / (sigma_px * math.sqrt(2 * math.pi))
        height = (height * ((voxel >= 0) & (voxel < box_size))).float()
        x, y, z = voxel.clamp(0, box_size - 1).unbind(1)
        hx, hy, hz = height.unbind(1)
        index = ((z * box_size)[:, :, None, None] + y[:, None, :, None]) * box_size + x[:, None, None, :]
        value = (weight.float()[:, None] * hz)[:, :, None, None] * hy[:, None, :, None] * hx[:, None, None, :]
        total.index_add_(0, index.flatten(), value.flatten())
    return total.reshape((box_size,) * 3)


def clipped_molmap(
    centre_A: Tensor, electrons: Tensor, resolution_A: float, box_size: int, pixel_size_A: float
) -> Tensor:
    """`molmap` on a grid of at most a third of the resolution, its default, clipped in Fourier space (P33).

    Parameters and result as of `molmap`, on the grid (box_size, pixel_size_A); the sum of all voxels is kept,
    and nothing is left at or beyond Nyquist along any axis.
    """
    factor = max(2, math.ceil(3 * pixel_size_A / resolution_A - 1e-6))
    fine = molmap(centre_A, electrons, resolution_A, factor * box_size, pixel_size_A / factor)
    return fourier.downsample(fine, box_size, 3) * factor**3
