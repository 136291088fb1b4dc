"""Maps turned and shifted, in closed form; the search itself is tested with the verb fsc."""

from dataclasses import replace

import torch

from drgn.physics import rotations
from drgn.physics.alignment import resampled, spread_rotations
from drgn.physics.fsc import fsc
from drgn.physics.phantoms import GaussianPhantom

SIZE, PIXEL_A = 32, 6.0


def blobs():
    generator = torch.Generator().manual_seed(5)
    centre_A = 45 * (2 * torch.rand(12, 3, generator=generator, dtype=torch.float64) - 1)
    weight = torch.linspace(0.5, 1.5, 12, dtype=torch.float64)
    return GaussianPhantom(centre_A, torch.full_like(weight, 0.8 * PIXEL_A), weight)


def test_a_resampled_map_is_the_map_of_moved_blobs():
    phantom = blobs()
    turn = rotations.from_rotvec(torch.tensor([0.4, -0.9, 1.1], dtype=torch.float64))
    shift_px = torch.tensor([1.5, -0.7, 2.2], dtype=torch.float64)
    # V(r) = V'(A r + t): a blob at c is at A^T (c - t)
    centre_A = (phantom.centre_A - shift_px * PIXEL_A) @ turn
    expected = replace(phantom, centre_A=centre_A).density(SIZE, PIXEL_A)
    found = resampled(phantom.density(SIZE, PIXEL_A), turn, shift_px)
    assert fsc(found, expected)[1 : SIZE // 2 - 3].min() > 0.99


def test_rotations_are_spread_evenly():
    spread = spread_rotations(1000)
    generator = torch.Generator().manual_seed(0)
    drawn = rotations.random_rotations(200, generator)
    nearest = torch.stack([rotations.angle_deg(spread, one).min() for one in drawn])
    assert nearest.max() < 28  # 15 degrees is the radius of an even share
