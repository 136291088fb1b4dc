"""Grids of orientations and shifts that a search looks at, even and of any step.

Orientations are directions of view times angles in the plane. A central slice that is turned in its plane by
180 degrees is its own complex conjugate, so that the grid holds half of the angles alone.
"""

import math

import torch
from torch import Tensor

from drgn.physics import rotations

HALF_TURN = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
"""HALF_TURN @ R shows the conjugate of the slice at R."""


def directions(n: int) -> Tensor:
    """Directions of view (n, 2), RELION's rot and tilt in degrees, evenly over the sphere (Fibonacci)."""
    i = torch.arange(n, dtype=torch.float64) + 0.5
    rot = 180 * (1 + 5**0.5) * i
    return torch.stack([rot % 360, torch.rad2deg(torch.acos(1 - 2 * i / n))], dim=1)


def half_orientations(step_rad: float) -> Tensor:
    """Orientations R (M, 3, 3) about `step_rad` apart; with HALF_TURN @ R they cover SO(3)."""
    views = directions(round(4 * math.pi / step_rad**2))
    half = math.ceil(math.pi / step_rad)  # angles in the plane over 180 degrees
    psi = torch.arange(half, dtype=torch.float64) * (180 / half)
    euler = torch.cat([views.repeat_interleave(half, 0), psi.repeat(len(views))[:, None]], dim=1)
    return rotations.from_euler(euler)


def shifts(step_px: float, extent_px: float) -> Tensor:
    """Shifts (T, 2) in a square of [-extent_px, extent_px], at most `step_px` apart along x and y."""
    n = math.ceil(extent_px / step_px)
    along = torch.linspace(-extent_px, extent_px, 2 * n + 1) if n else torch.zeros(1)
    y, x = torch.meshgrid(along, along, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)
