import math

import pytest
import torch

from drgn.models.encodings import GaussianEncoding, GeometricEncoding
from drgn.physics.grids import half_lattice


@pytest.mark.parametrize("factor", [1.0, 2 * math.pi])
def test_the_papers_formula_by_hand(factor):
    # box 6: i = 0, 1, 2 and i / (D/2 - 1) = 0, 1/2, 1: scales 6 pi, 6 pi / sqrt(3), 2 pi
    k = (0.25, -0.1, 0.5)
    scales = [6 * math.pi / factor, 6 * math.pi / math.sqrt(3) / factor, 2 * math.pi / factor]
    phases = [k_j * scale for k_j in k for scale in scales]
    expected = [math.sin(p) for p in phases] + [math.cos(p) for p in phases]
    encoding = GeometricEncoding(box_size=6, wavelength_factor=factor)
    assert encoding.out_dim == 18
    torch.testing.assert_close(encoding(torch.tensor(k)), torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_the_longest_and_the_shortest_wavelength():
    # P3, in units of the box's extent in Fourier space, 1: from 2 frequency samples (Nyquist) to the extent
    encoding = GeometricEncoding(box_size=64)
    wavelengths = 2 * math.pi / encoding.scale.double()
    assert wavelengths[0].item() == pytest.approx(2 / 64)
    assert wavelengths[-1].item() == pytest.approx(1.0)
    ratios = wavelengths[1:] / wavelengths[:-1]
    torch.testing.assert_close(ratios, torch.full_like(ratios, float(ratios[0])))
    low = GeometricEncoding(box_size=64, wavelength_factor=2 * math.pi)
    torch.testing.assert_close(low.scale * 2 * math.pi, encoding.scale)


def test_points_are_normal_around_the_origin():
    encoding = GaussianEncoding(box_size=48, sigma=0.5, n_frequencies=20_000)
    points = encoding.points_px
    assert points.shape == (3, 20_000)
    torch.testing.assert_close(points.mean(1), torch.zeros(3), atol=0.4, rtol=0)
    torch.testing.assert_close(points.std(1), torch.full((3,), 12.0), atol=0.3, rtol=0)
    assert (points @ points.T / 20_000 / 144 - torch.eye(3)).abs().max() < 0.04
    assert points.abs().max() > 36  # tails, not a ball


def test_a_feature_pair_is_the_transform_of_a_point():
    # the projection of a point at r is exp(-2 pi i k.r): minus the sine, and the cosine
    encoding = GaussianEncoding(box_size=16, n_frequencies=5)
    k = half_lattice(16, 3).frequencies[::50]
    expected = torch.exp(-2j * math.pi * (k @ encoding.points_px))
    out = encoding(k)
    torch.testing.assert_close(torch.complex(out[:, 5:], -out[:, :5]), expected, atol=1e-5, rtol=0)


def test_as_many_gaussian_as_geometric_features_unless_said_otherwise():
    assert GaussianEncoding(box_size=20).out_dim == GeometricEncoding(box_size=20).out_dim == 60
    assert GaussianEncoding(box_size=20, n_frequencies=7).out_dim == 14


def test_the_seed_decides_the_points_whatever_was_drawn_before():
    a = GaussianEncoding(box_size=16, seed=3)
    torch.randn(5)
    assert torch.equal(GaussianEncoding(box_size=16, seed=3).points_px, a.points_px)
    assert not torch.equal(GaussianEncoding(box_size=16, seed=4).points_px, a.points_px)
