"""molmap's Gaussians against the exact ones, and slices of such a map against exact slices."""

import math

import pytest
import torch

from drgn.physics import fourier
from drgn.physics.grids import half_lattice
from drgn.physics.imaging import slice_coordinates
from drgn.physics.molmap import SIGMA_FACTOR, clipped_molmap, molmap
from drgn.physics.phantoms import GaussianPhantom
from drgn.physics.rotations import random_rotations
from drgn.physics.slices import extract, padded_transform

RESOLUTION_A = 12.0


@pytest.fixture(scope="module")
def phantom():
    generator = torch.Generator().manual_seed(0)
    centre_A = 80 * torch.rand(300, 3, generator=generator, dtype=torch.float64) - 40
    weight = 1 + 15 * torch.rand(300, generator=generator, dtype=torch.float64)
    return GaussianPhantom(centre_A, torch.full((300,), SIGMA_FACTOR * RESOLUTION_A).double(), weight)


def test_sigma_is_chimeras():
    assert abs(SIGMA_FACTOR - 0.225) < 1e-3


@pytest.mark.parametrize(("size", "pixel_A"), [(40, 3.0), (41, 2.7)])
def test_it_is_the_sum_of_exact_gaussians(phantom, size, pixel_A):
    exact = phantom.density(size, pixel_A).float()
    made = molmap(phantom.centre_A, phantom.weight, RESOLUTION_A, size, pixel_A)
    assert (made - exact).abs().max() < 2e-5 * exact.max()


def test_the_peak_of_one_atom():
    made = molmap(torch.zeros(1, 3).double(), torch.tensor([8.0]).double(), 6.0, 32, 1.5)
    expected = 8 * (1.5 / (SIGMA_FACTOR * 6.0 * math.sqrt(2 * math.pi))) ** 3
    assert made[16, 16, 16].item() == made.max().item() == pytest.approx(expected, rel=1e-5)
    assert made.sum().item() == pytest.approx(8, rel=1e-3)  # sampled finely enough, nothing is lost


def test_atoms_outside_the_box_are_left_out():
    far = torch.tensor([[500.0, 0, 0]], dtype=torch.float64)
    assert not molmap(far, torch.ones(1).double(), 6.0, 16, 3.0).any()


def test_clipping_is_downsampling_and_keeps_the_weight(phantom):
    fine = molmap(phantom.centre_A, phantom.weight, RESOLUTION_A, 64, 3.0)
    made = clipped_molmap(phantom.centre_A, phantom.weight, RESOLUTION_A, 32, 6.0)
    torch.testing.assert_close(made, fourier.downsample(fine, 32, 3) * 8)
    assert made.sum().item() == pytest.approx(phantom.weight.sum().item(), rel=1e-4)
    # an image of it is the Fourier clip of the image of the fine map
    image = fourier.downsample(fine.sum(0), 32, 2) * 4
    torch.testing.assert_close(made.sum(0), image, atol=1e-4 * float(image.max()), rtol=0)


@pytest.mark.parametrize(("size", "pixel_A"), [(32, 6.0), (64, 3.0)])
def test_slices_of_the_map_are_exact_within_two_percent(phantom, size, pixel_A):
    lattice = half_lattice(size, 2)
    rotation = random_rotations(20, torch.Generator().manual_seed(1))
    coordinates = slice_coordinates(lattice.frequencies.double(), rotation)
    exact = phantom.fourier(coordinates / pixel_A)
    transform = padded_transform(
        clipped_molmap(phantom.centre_A, phantom.weight, RESOLUTION_A, size, pixel_A)
    )
    inside = lattice.frequencies.norm(dim=1) < 0.5 - 1 / size  # the last shell has no neighbour beyond it
    error = (extract(transform, coordinates.float()) - exact)[:, inside].norm() / exact[:, inside].norm()
    assert error < 0.02
