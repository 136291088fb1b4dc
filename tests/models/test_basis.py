"""A mean and modes on voxels: slices are those of their volumes, coefficients those of the images."""

import pytest
import torch

from drgn.errors import InputError
from drgn.models import basis
from drgn.models.basis import Packed, Statistics, packed, shared, unpacked
from drgn.models.classes import Classes
from drgn.models.modes import LinearModes, Subspace, posterior
from drgn.physics import fourier, imaging
from drgn.physics.grids import half_lattice
from drgn.physics.phantoms import GaussianPhantom
from drgn.physics.rotations import random_rotations

BOX, MODES, N = 32, 2, 6
LATTICE = half_lattice(BOX, 2)


def phantom(seed):
    generator = torch.Generator().manual_seed(seed)
    centre = 4 * torch.randn(12, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(12, generator=generator, dtype=torch.float64)
    return GaussianPhantom(centre, torch.full((12,), 1.5, dtype=torch.float64), weight)


@pytest.fixture
def subspace():
    torch.manual_seed(0)
    made = Subspace(box_size=BOX, zdim=1, modes=MODES, radius_px=12)
    for i in range(MODES + 1):
        full = fourier.fft(phantom(i).density(BOX, 1.0), 3)
        made.density[i] = fourier.ifft(fourier.crop(full, made.side, 3), 3).real.float()
    return made


@pytest.fixture
def view(subspace):
    n = subspace.n_known(LATTICE.frequencies)
    rotation = random_rotations(N, torch.Generator().manual_seed(1)).float()
    return imaging.fold(imaging.slice_coordinates(LATTICE.frequencies[:n], rotation)), rotation, n


def test_slices_are_those_of_the_volumes(subspace, view):
    (folded, sign), rotation, n = view
    slices = subspace.slices(folded, sign)
    where = imaging.slice_coordinates(LATTICE.frequencies[:n].double(), rotation.double())
    for i in range(MODES + 1):
        exact = phantom(i).fourier(where)
        error = (slices[..., i] - exact).abs().square().sum() / exact.abs().square().sum()
        assert error < 1e-3


def test_the_volume_at_z_has_the_slices_at_z(subspace, view):
    z = torch.tensor([0.7])
    transform = subspace.transform(z)
    lattice = half_lattice(BOX, 3, 12)
    want = subspace.decode(z[None])[0]
    density = phantom(0).density(BOX, 1.0).float() + sum(
        c * phantom(i + 1).density(BOX, 1.0).float() for i, c in enumerate(want)
    )
    exact = fourier.fft(density, 3)
    error = (lattice.gather(transform) - lattice.gather(exact)).abs().max()
    assert error < 1e-4 * lattice.gather(exact).abs().max()
    (folded, sign), *_ = view
    slices = subspace.slices(folded, sign)
    expected = slices[..., 0] + (slices[..., 1:] * want).sum(-1)
    torch.testing.assert_close(subspace.at(slices, z.expand(N, 1)), expected)


def test_beyond_the_radius_all_volumes_are_the_mean(subspace):
    assert Subspace(box_size=BOX, zdim=1, modes=MODES, radius_px=15).mean.numel() == 0  # nothing is left
    mean = phantom(0).density(BOX, 1.0).float()
    subspace.mean.copy_(mean)
    n, reached = (count(LATTICE.frequencies) for count in (subspace.n_known, subspace.n_reached))
    assert n < reached < len(LATTICE)
    rotation = random_rotations(N, torch.Generator().manual_seed(1)).float()
    where = imaging.slice_coordinates(LATTICE.frequencies[n:reached], rotation)
    exact = phantom(0).fourier(where.double())
    found = subspace.slices_of_mean(*imaging.fold(where))
    assert (found - exact).abs().square().sum() < 5e-3 * exact.abs().square().sum()
    lattice = half_lattice(BOX, 3)
    for z in (-1.0, 2.0):
        values = lattice.gather(subspace.transform(torch.tensor([z])))
        far = lattice.frequencies.norm(dim=1) * BOX >= 12
        wanted = lattice.gather(fourier.fft(mean, 3))
        assert (values - wanted)[far].abs().max() < 1e-4 * wanted.abs().max()


def test_coefficients_are_found_in_images_of_little_noise(subspace, view):
    (folded, sign), _, n = view
    slices = subspace.slices(folded, sign)
    contrast = torch.linspace(-1, 1, n).expand(N, n)
    truth = torch.randn(N, MODES, generator=torch.Generator().manual_seed(2))
    image = (slices[..., 0] + (slices[..., 1:] * truth[:, None]).sum(-1)) * contrast
    known = posterior(
        subspace.statistics(slices * 100, image * 100 * contrast, contrast.square(), torch.arange(N))
    )  # noise of a hundredth
    torch.testing.assert_close(known.mean, truth, atol=2e-3, rtol=2e-3)
    nothing = posterior(
        subspace.statistics(
            slices, torch.zeros(N, n, dtype=torch.complex64), torch.zeros(N, n), torch.arange(N)
        )
    )
    torch.testing.assert_close(nothing.mean, torch.zeros(N, MODES))  # the prior
    torch.testing.assert_close(nothing.precision, torch.eye(MODES).expand(N, -1, -1))


def test_images_of_one_particle_share_their_statistics():
    values = torch.tensor([[1.0], [2.0], [4.0]])
    assert shared(values, torch.tensor([0, 1, 0])).flatten().tolist() == [5.0, 2.0, 5.0]
    assert shared(values, torch.tensor([0, 1, 2])) is values


def test_the_posterior_is_that_of_linear_regression():
    """Two observations of w with noise variance 1/2 each: precision 2 G + 1, mean 2 h / precision."""
    gram = torch.tensor([[[1.0, 0.5], [0.5, 3.0]]])
    overlap = torch.tensor([[9.0, 4.0]])
    known = posterior(Statistics(gram, overlap))
    assert known.precision.item() == pytest.approx(7.0)
    assert known.mean.item() == pytest.approx(2 * (4.0 - 0.5) / 7.0)


def test_the_grid_follows_the_density(subspace, view):
    (folded, sign), *_ = view
    before = subspace.slices(folded, sign)
    subspace.density.mul_(2)
    torch.testing.assert_close(subspace.slices(folded, sign), 2 * before)
    again = Subspace(box_size=BOX, zdim=1, modes=MODES, radius_px=12)
    again.load_state_dict(subspace.state_dict())
    torch.testing.assert_close(again.slices(folded, sign), 2 * before)


def test_without_a_latent_there_is_the_mean_alone():
    homogeneous = Subspace(box_size=BOX, zdim=0, modes=8, radius_px=12)
    assert homogeneous.n_modes == 0
    assert homogeneous.transform(None).shape == (BOX, BOX, BOX)
    assert list(homogeneous.parameters()) == []


def statistics_of(n, volumes):
    """Statistics of n images of linear regressions on 20 values."""
    generator = torch.Generator().manual_seed(2)
    slices = torch.randn(n, 20, volumes, generator=generator)
    return Statistics(slices.mT @ slices, slices.sum(1) + torch.randn(n, volumes, generator=generator))


@pytest.mark.parametrize("volumes", [1, 2, 5, 9])
def test_symmetric_matrices_are_packed_without_loss(volumes):
    known = statistics_of(7, volumes)
    gram = (known.gram + known.gram.mT) / 2
    assert packed(gram).shape == (7, volumes * (volumes + 1) // 2)
    assert torch.equal(unpacked(packed(gram)), gram)
    order = torch.tensor([5, 0, 5])
    assert torch.equal(Packed(packed(gram), known.overlap).some(order).gram, gram[order])


@pytest.mark.parametrize("piece", [3, 100])  # of the 20 images
@pytest.mark.parametrize("modes", [0, 1, 3])
def test_the_moments_of_modes_are_those_of_their_whitened_posteriors(monkeypatch, piece, modes):
    monkeypatch.setattr(basis, "_PIECE", piece)
    known = statistics_of(20, modes + 1)
    first, second = LinearModes(box_size=16, zdim=modes).moments(Packed(packed(known.gram), known.overlap))
    assert first.dtype == second.dtype == torch.float32
    assert torch.equal(first[:, 0], torch.ones(20))
    assert torch.equal(second[:, 0], torch.ones(20))
    if modes:
        found = posterior(known)
        covariance = torch.linalg.inv(found.precision)
        spread = torch.cov(found.mean.T, correction=0).reshape(modes, modes) + covariance.mean(0)
        whiten = torch.linalg.inv(torch.linalg.cholesky(spread))
        mean = (found.mean - found.mean.mean(0)) @ whiten.T
        torch.testing.assert_close(first[:, 1:], mean, atol=1e-5, rtol=1e-5)
        square = mean[:, :, None] * mean[:, None] + whiten @ covariance @ whiten.T
        torch.testing.assert_close(unpacked(second)[:, 1:, 1:], square, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(unpacked(second)[:, 0, 1:], first[:, 1:])


def test_the_moments_of_classes_are_their_probabilities(monkeypatch):
    monkeypatch.setattr(basis, "_PIECE", 3)
    known, classes = statistics_of(20, 4), Classes(box_size=16, zdim=4)
    probability = classes.encode(known)[0]
    first, second = classes.moments(Packed(packed(known.gram), known.overlap))
    torch.testing.assert_close(first, probability)
    torch.testing.assert_close(unpacked(second), torch.diag_embed(probability))


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        (Subspace, "radius_px", 0),
        (LinearModes, "radius_px", -3),
        (Classes, "radius_px", 0),
        (Subspace, "modes", 0),
        (Subspace, "modes", -1),
        (Subspace, "hidden_dim", 0),
    ],
)
def test_sizes_are_at_least_one(kind, option, value):
    with pytest.raises(InputError, match=rf"^warmstart\.{option}={value}: expected at least 1$"):
        kind(box_size=16, zdim=2, **{option: value})
