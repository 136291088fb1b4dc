"""The half lattice and the shells."""

import pytest
import torch

from drgn.physics import fourier
from drgn.physics.grids import half_lattice, shells

BOXES = [(8, 2), (9, 2), (16, 2), (31, 2), (8, 3), (9, 3)]


def _plane(size, ndim):
    """Frequencies (D^n, n) (x, y[, z]) of a centred transform, from torch's own fftfreq."""
    axis = torch.fft.fftshift(torch.fft.fftfreq(size, dtype=torch.float64))
    return torch.stack(torch.meshgrid(*(axis,) * ndim, indexing="ij")[::-1], dim=-1).reshape(-1, ndim)


@pytest.mark.parametrize(("size", "ndim"), BOXES)
def test_lattice_and_its_mirror_are_the_ball_without_the_origin(size, ndim):
    lattice = half_lattice(size, ndim)
    both = torch.cat([lattice.index, lattice.mirror])
    assert len(both.unique()) == len(both) == 2 * len(lattice)
    radius = _plane(size, ndim).norm(dim=1) * size
    ball = torch.nonzero((radius > 0.5) & (radius < size / 2 - 1e-9)).squeeze(1)
    torch.testing.assert_close(both.sort().values, ball)


@pytest.mark.parametrize(("size", "ndim"), BOXES)
def test_frequencies_are_those_of_their_elements(size, ndim):
    lattice = half_lattice(size, ndim)
    plane = _plane(size, ndim)
    torch.testing.assert_close(plane[lattice.index].float(), lattice.frequencies)
    torch.testing.assert_close(plane[lattice.mirror].float(), -lattice.frequencies)


@pytest.mark.parametrize(("size", "ndim"), BOXES)
def test_a_prefix_of_the_lattice_is_a_low_pass(size, ndim):
    full = half_lattice(size, ndim)
    low = half_lattice(size, ndim, size / 3)
    assert 0 < len(low) < len(full)
    torch.testing.assert_close(low.index, full.index[: len(low)])
    assert (low.frequencies.norm(dim=1) * size).max() < size / 3
    assert (full.frequencies[len(low) :].norm(dim=1) * size).min() >= size / 3 - 1e-6


def test_radius_never_passes_nyquist():
    assert half_lattice(16, 2, 100.0).box_size == 16
    torch.testing.assert_close(half_lattice(16, 2, 100.0).index, half_lattice(16, 2).index)


@pytest.mark.parametrize(("size", "ndim"), BOXES)
def test_scatter_and_gather_are_inverse_and_hermitian(size, ndim):
    lattice = half_lattice(size, ndim)
    generator = torch.Generator().manual_seed(size)
    values = torch.randn(3, len(lattice), dtype=torch.complex128, generator=generator)
    transform = lattice.scatter(values)
    assert transform.shape == (3, *(size,) * ndim)
    torch.testing.assert_close(lattice.gather(transform), values)
    array = fourier.ifft(transform, ndim)
    assert array.imag.abs().max() < 1e-14
    torch.testing.assert_close(lattice.gather(fourier.fft(array.real, ndim)), values)


@pytest.mark.parametrize("size", [12, 13])
def test_a_band_limited_image_is_its_lattice_values(size):
    image = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    radius = _plane(size, 2).norm(dim=1).reshape(size, size) * size
    inside = (radius > 0.5) & (radius < size / 2 - 1e-9)
    image = fourier.ifft(fourier.fft(image, 2) * inside, 2).real
    lattice = half_lattice(size, 2)
    back = fourier.ifft(lattice.scatter(lattice.gather(fourier.fft(image, 2))), 2).real
    torch.testing.assert_close(back, image)


def test_shells_count_whole_pixels_from_the_origin():
    expected = [[3, 2, 2, 2], [2, 1, 1, 1], [2, 1, 0, 1], [2, 1, 1, 1]]
    assert shells(4, 2).tolist() == expected
    assert int(shells(5, 3)[2, 2, 2]) == 0
    assert int(shells(5, 3)[2, 4, 2]) == 2
    assert shells(9, 3).flatten().bincount()[1] == 18  # 6 faces and 12 edges; the 8 corners are at 1.73


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("box_size", [9, 12])
def test_real_arrays_come_from_half_of_the_transform(box_size, ndim):
    lattice = half_lattice(box_size, ndim)
    values = torch.randn(2, len(lattice), dtype=torch.complex64)
    expected = fourier.ifft(lattice.scatter(values), ndim)
    assert expected.imag.abs().max() < 1e-6
    torch.testing.assert_close(lattice.real(values), expected.real, rtol=1e-5, atol=1e-6)
