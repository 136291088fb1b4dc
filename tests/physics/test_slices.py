"""The projection-slice theorem, and back-projection as its adjoint."""

import pytest
import torch
from torch_fourier_slice import project_3d_to_2d

from drgn.physics import fourier, slices
from drgn.physics.fsc import fsc, resolution_A
from drgn.physics.grids import half_lattice
from drgn.physics.imaging import slice_coordinates
from drgn.physics.rotations import random_rotations

PIXEL_A = 3.0


def _rotations(n, seed=0):
    return random_rotations(n, torch.Generator().manual_seed(seed))


def _correlation(a, b):
    a, b = (x - x.mean((-1, -2), keepdim=True) for x in (a, b))
    return (a * b).sum((-1, -2)) / (a.norm(dim=(-1, -2)) * b.norm(dim=(-1, -2)))


def _exact_projections(phantom, rotation, size):
    """Images (B, D, D) of the central slices of the exact transform."""
    lattice = half_lattice(size, 2)
    values = phantom.fourier(slice_coordinates(lattice.frequencies.double() / PIXEL_A, rotation))
    return fourier.ifft(lattice.scatter(values), 2).real


@pytest.mark.parametrize("size", [48, 49])
def test_projection_slice_theorem(molecule, size):
    # the sum of the density along z is the central slice kz = 0 of the exact transform
    projection = molecule.density(size, PIXEL_A).sum(0)
    lattice = half_lattice(size, 2, size * 0.3)  # beyond, the sampled density is aliased
    plane = torch.nn.functional.pad(lattice.frequencies.double() / PIXEL_A, (0, 1))
    torch.testing.assert_close(
        lattice.gather(fourier.fft(projection, 2)), molecule.fourier(plane), atol=0.05, rtol=0
    )
    assert molecule.fourier(plane).abs().max() > 0.5 * molecule.weight.sum()


@pytest.mark.parametrize("size", [48, 49])
def test_rotating_the_molecule_is_rotating_its_slice(molecule, size):
    rotation = _rotations(3)
    plane = half_lattice(size, 2).frequencies.double() / PIXEL_A
    turned_slice = molecule.fourier(slice_coordinates(plane, rotation))
    for i in range(3):
        slice_of_turned = molecule.rotated(rotation[i]).fourier(torch.nn.functional.pad(plane, (0, 1)))
        torch.testing.assert_close(turned_slice[i], slice_of_turned)


@pytest.mark.parametrize("size", [48, 49])
def test_projecting_a_volume_equals_projecting_the_turned_molecule(molecule, size):
    rotation = _rotations(4)
    volume = molecule.density(size, PIXEL_A)
    projected = slices.project(volume, rotation)
    turned = torch.stack([molecule.rotated(r).density(size, PIXEL_A).sum(0) for r in rotation])
    assert _correlation(projected, turned).min() > 0.9995
    assert _correlation(slices.project(volume, rotation.mT), turned).mean() < 0.7
    assert _correlation(slices.project(volume.flip(0).roll(1 - size % 2, 0), rotation), turned).mean() < 0.8


@pytest.mark.parametrize(("size", "padding", "reach"), [(16, 2, 15), (16, 2, 3), (15, 2, 14), (12, 3, 0)])
def test_half_of_the_padded_transform_is_that_of_the_whole(size, padding, reach):
    volume = torch.randn(size, size, size, generator=torch.Generator().manual_seed(0))
    whole, h = slices.padded_transform(volume, padding), size * padding // 2
    near = slice(h - reach, h + reach + 1)
    half = slices.padded_half(volume, padding, reach)
    torch.testing.assert_close(half, whole[h : h + reach + 1, near, near], atol=1e-4, rtol=0)


def test_padding_makes_the_projection_better(molecule):
    rotation = _rotations(4)
    volume = molecule.density(48, PIXEL_A)
    exact = _exact_projections(molecule, rotation, 48)
    correlation = [_correlation(slices.project(volume, rotation, pad), exact).min() for pad in (1, 2, 3)]
    assert correlation[0] < correlation[1] < correlation[2]
    assert correlation[1] > 0.9995


def test_projections_keep_their_grey_values(molecule):
    # uncorrected, interpolation loses 4 % at padding 2 and 16 % at padding 1, most of it far from the centre
    rotation = _rotations(6)
    exact = _exact_projections(molecule, rotation, 48)
    projected = slices.project(molecule.density(48, PIXEL_A), rotation)
    projected -= projected.mean((1, 2), keepdim=True)  # the exact ones lack the mean
    gain = (projected * exact).sum() / exact.square().sum()
    assert gain.item() == pytest.approx(1.0, abs=0.005)
    assert (projected - exact).norm() < 0.03 * exact.norm()


def test_torch_fourier_slice_projects_alike(molecule):
    # its matrices turn the plane of the slice, ours turn the particle: the transposed
    rotation = _rotations(5).float()
    volume = molecule.density(48, PIXEL_A).float()
    ours = slices.project(volume, rotation)
    assert _correlation(ours, project_3d_to_2d(volume, rotation.mT)).min() > 0.9995
    assert _correlation(ours, project_3d_to_2d(volume, rotation)).mean() < 0.7


@pytest.mark.parametrize("size", [8, 9])
def test_extract_returns_the_grids_own_values(size):
    volume = torch.randn((size,) * 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    transform = fourier.fft(volume, 3)
    lattice = half_lattice(size, 3)
    values = slices.extract(transform, lattice.frequencies.double())
    torch.testing.assert_close(values, lattice.gather(transform), atol=1e-4, rtol=0)  # float32 lattice


def test_extract_is_linear_between_the_grids_points():
    transform = fourier.fft(torch.randn(8, 8, 8, dtype=torch.float64), 3)
    halfway = torch.tensor([[0.5, 0.0, 0.0], [1.0, -2.25, 0.0]], dtype=torch.float64) / 8
    values = slices.extract(transform, halfway)
    expected = torch.stack(
        [
            (transform[4, 4, 4] + transform[4, 4, 5]) / 2,
            0.75 * transform[4, 2, 5] + 0.25 * transform[4, 1, 5],
        ]
    )
    torch.testing.assert_close(values, expected)


def test_extract_is_zero_outside_the_box():
    transform = torch.ones(8, 8, 8, dtype=torch.complex128)
    outside = torch.tensor([[0.51, 0.0, 0.0], [0.0, -0.7, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    assert slices.extract(transform, outside).abs().tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("size", [16, 17])
def test_insert_is_the_adjoint_of_extract(size):
    # Re <insert(v), V> = Re <v, extract(V)> + Re <conj v, extract at -k>, twice the first for a real volume
    generator = torch.Generator().manual_seed(1)
    points = (torch.rand(300, 3, generator=generator, dtype=torch.float64) - 0.5) * 0.85
    values = torch.randn(300, dtype=torch.complex128, generator=generator)
    transform = fourier.fft(torch.randn((size,) * 3, dtype=torch.float64, generator=generator), 3)
    total, _ = slices.insert(values, torch.ones(300).double(), points, size)
    left = (total * transform.conj()).real.sum()
    right = 2 * (values * slices.extract(transform, points).conj()).real.sum()
    torch.testing.assert_close(left, right)


def test_insert_conserves_weight_and_gives_a_real_volume():
    generator = torch.Generator().manual_seed(2)
    points = (torch.rand(300, 3, generator=generator, dtype=torch.float64) - 0.5) * 0.8
    values = torch.randn(300, dtype=torch.complex128, generator=generator)
    weights = torch.rand(300, generator=generator, dtype=torch.float64)
    total, weight = slices.insert(values, weights, points, 16)
    torch.testing.assert_close(weight.sum(), 2 * weights.sum())
    torch.testing.assert_close(total.sum().real, 2 * values.real.sum())
    assert fourier.ifft(total, 3).imag.abs().max() < 1e-15


def test_project_insert_divide_returns_the_molecule(molecule):
    size, n = 32, 400
    rotation = _rotations(n)
    lattice = half_lattice(size, 2)
    frequencies = lattice.frequencies.double()
    coordinates = slice_coordinates(frequencies, rotation)
    values = molecule.fourier(coordinates / 4.5)
    weights = torch.ones_like(values.real)
    total, weight = slices.insert(values.flatten(), weights.flatten(), coordinates.reshape(-1, 3), 2 * size)
    volume = fourier.ifft(total / weight.clamp_min(1e-3), 3).real
    volume = fourier.crop(volume, size, 3)  # the central box of the padded volume
    truth = molecule.density(size, 4.5)
    curve = fsc(volume, truth)
    assert curve[1:13].min() > 0.98
    assert resolution_A(curve, 4.5, 0.5) < 1.05 * 2 * 4.5
    assert fsc(volume.flip(0).roll(1, 0), truth)[4:13].max() < 0.6  # the other hand
