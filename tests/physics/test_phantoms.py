"""The Gaussian molecules against their own definition."""

import math

import pytest
import torch

from drgn.physics import fourier
from drgn.physics.grids import half_lattice
from drgn.physics.phantoms import GaussianPhantom, toy_molecule
from drgn.physics.rotations import angle_deg, random_rotations


def _blob(centre_A, sigma_A=6.0, weight=2.5):
    return GaussianPhantom(
        torch.tensor([centre_A], dtype=torch.float64),
        torch.tensor([sigma_A], dtype=torch.float64),
        torch.tensor([weight], dtype=torch.float64),
    )


@pytest.mark.parametrize("size", [24, 25])
def test_density_is_centred_in_x_y_z_and_sums_to_the_weight(size):
    density = _blob((9.0, -12.0, 6.0)).density(size, 3.0)
    assert density.sum().item() == pytest.approx(2.5, rel=1e-4)
    peak = torch.unravel_index(density.argmax(), density.shape)
    assert [int(i) - size // 2 for i in peak] == [2, -4, 3]  # [z, y, x]
    expected = 2.5 * 27 / (6.0 * math.sqrt(2 * math.pi)) ** 3
    assert density.max().item() == pytest.approx(expected)


@pytest.mark.parametrize("size", [24, 25])
def test_fourier_is_the_transform_of_the_density(molecule, size):
    phantom = GaussianPhantom(molecule.centre_A, molecule.sigma_A * 3.2, molecule.weight)  # 8 A at 8 A / px
    lattice = half_lattice(size, 3)
    transform = lattice.gather(fourier.fft(phantom.density(size, 8.0), 3))
    exact = phantom.fourier(lattice.frequencies.double() / 8.0)
    assert exact.abs().max() > 0.4 * phantom.weight.sum()
    torch.testing.assert_close(transform, exact, atol=1.0, rtol=0)  # aliasing at Nyquist
    low = len(half_lattice(size, 3, size / 4))
    torch.testing.assert_close(transform[:low], exact[:low], atol=2e-3, rtol=0)


def test_fourier_at_zero_is_the_weight():
    assert _blob((9.0, -12.0, 6.0)).fourier(torch.zeros(1, 3).double()).tolist() == [2.5]


def test_rotated_turns_points_as_the_conventions_say():
    rotation = random_rotations(1, torch.Generator().manual_seed(0))[0]
    point = torch.tensor([9.0, -12.0, 6.0], dtype=torch.float64)
    torch.testing.assert_close(_blob(point.tolist()).rotated(rotation).centre_A[0], rotation @ point)


def test_the_arm_turns_rigidly_and_evenly_about_a_hinge_and_nothing_else_moves():
    start, middle, end = (toy_molecule(m, attached=True).centre_A for m in (0.0, 0.5, 1.0))
    moved = (end - start).norm(dim=1) > 1e-9
    assert 15 < moved.sum() < len(moved) / 2
    assert torch.equal(moved, (middle - start).norm(dim=1) > 1e-9)

    def turn(a, b):
        """Return the rotation that carries one set of points to the other (Kabsch), and its shift."""
        a_mean, b_mean = a.mean(0), b.mean(0)
        u, _, vh = torch.linalg.svd((b - b_mean).T @ (a - a_mean))
        hand = torch.diag(torch.tensor([1.0, 1.0, torch.linalg.det(u @ vh)], dtype=torch.float64))
        rotation = u @ hand @ vh
        torch.testing.assert_close((a - a_mean) @ rotation.T + b_mean, b)  # rigid
        return rotation, b_mean - rotation @ a_mean

    half, half_shift = turn(start[moved], middle[moved])
    whole, whole_shift = turn(start[moved], end[moved])
    torch.testing.assert_close(half @ half, whole)
    torch.testing.assert_close(half @ half_shift + half_shift, whole_shift)  # about the same axis
    assert angle_deg(whole, torch.eye(3).double()) > 45


def test_the_lobe_detaches():
    whole, without = toy_molecule(0.3, attached=True), toy_molecule(0.3, attached=False)
    assert 10 < len(whole.weight) - len(without.weight) < len(whole.weight) / 2
    torch.testing.assert_close(whole.centre_A[: len(without.weight)], without.centre_A)


@pytest.mark.parametrize("motion", [0.0, 0.5, 1.0])
def test_the_molecule_fits_a_box_of_192_A_and_is_chiral(motion):
    centre = toy_molecule(motion, attached=True).centre_A
    assert 80 < torch.pdist(centre).max() < 140
    assert centre.norm(dim=1).max() < 96 - 3 * 5  # three sigma of 5 A
    # along its principal axes, the molecule overlaps none of its four mirror images well
    x = centre - centre.mean(0)
    x = x @ torch.linalg.eigh(x.T @ x).eigenvectors
    flips = torch.tensor([[-1, 1, 1], [1, -1, 1], [1, 1, -1], [-1, -1, -1]], dtype=torch.float64)
    overlap = [torch.exp(-(torch.cdist(x, x * flip) ** 2) / (4 * 5.0**2)).sum() for flip in flips]
    itself = torch.exp(-(torch.cdist(x, x) ** 2) / (4 * 5.0**2)).sum()
    assert max(overlap) < 0.9 * itself


def test_the_same_seed_is_the_same_molecule():
    assert torch.equal(toy_molecule(0.2, True).centre_A, toy_molecule(0.2, True, seed=7).centre_A)
    assert not torch.allclose(toy_molecule(0.2, True).centre_A, toy_molecule(0.2, True, seed=8).centre_A)
