"""Centred transforms, for odd and for even boxes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drgn.physics import fourier
from drgn.physics.grids import half_lattice

BOXES = [(8, 2), (9, 2), (6, 3), (7, 3)]


def _array(size, ndim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *(size,) * ndim, dtype=torch.float64, generator=generator)


def _kernel(size, ndim):
    """k.r (D^n, D^n) in cycles, k and r counted from the element D // 2."""
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    points = torch.stack(torch.meshgrid(*(axis,) * ndim, indexing="ij"), dim=-1).reshape(-1, ndim)
    return points @ points.T / size


@pytest.mark.parametrize(("size", "ndim"), BOXES)
def test_fft_is_the_sum_that_defines_it(size, ndim):
    array = _array(size, ndim)
    wave = torch.polar(torch.ones(()).double(), -2 * math.pi * _kernel(size, ndim))
    expected = (wave @ array.flatten(1).to(torch.complex128).T).T.reshape(array.shape)
    torch.testing.assert_close(fourier.fft(array, ndim), expected)


@pytest.mark.parametrize(("size", "ndim"), BOXES)
def test_fft_round_trip(size, ndim):
    array = _array(size, ndim)
    back = fourier.ifft(fourier.fft(array, ndim), ndim)
    torch.testing.assert_close(back.real, array)
    assert back.imag.abs().max() < 1e-14


@pytest.mark.parametrize(("size", "ndim"), BOXES)
def test_hartley_is_the_sum_with_cas_and_its_own_inverse(size, ndim):
    array = _array(size, ndim)
    phase = 2 * math.pi * _kernel(size, ndim)
    expected = (array.flatten(1) @ (phase.cos() + phase.sin()).T).reshape(array.shape)
    transform = fourier.hartley(array, ndim)
    torch.testing.assert_close(transform, expected)
    torch.testing.assert_close(fourier.ihartley(transform, ndim), array)
    torch.testing.assert_close(fourier.hartley(transform, ndim), array * size**ndim)


@pytest.mark.parametrize(("size", "ndim"), BOXES)
def test_parseval(size, ndim):
    array = _array(size, ndim)
    power = array.square().sum() * size**ndim
    torch.testing.assert_close(fourier.fft(array, ndim).abs().square().sum(), power)
    torch.testing.assert_close(fourier.hartley(array, ndim).square().sum(), power)


@pytest.mark.parametrize("size", [16, 17])
def test_half_the_power_is_on_the_half_lattice(size):
    lattice = half_lattice(size, 2)
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(len(lattice), dtype=torch.complex128, generator=generator)
    image = fourier.ifft(lattice.scatter(values), 2).real
    torch.testing.assert_close(image.square().sum() * size**2, 2 * values.abs().square().sum())


@pytest.mark.parametrize(("size", "ndim"), BOXES)
def test_a_point_at_the_origin_is_flat(size, ndim):
    array = torch.zeros((size,) * ndim, dtype=torch.float64)
    array[(size // 2,) * ndim] = 1.0
    torch.testing.assert_close(
        fourier.fft(array, ndim), torch.ones((size,) * ndim, dtype=torch.complex128), atol=1e-14, rtol=0
    )


@pytest.mark.parametrize("size", [16, 17])
def test_shift_theorem(size):
    lattice = half_lattice(size, 2)
    image = _array(size, 2)
    moved = image.roll((2, -3), dims=(1, 2))  # by (x, y) = (-3, +2)
    # `shift_phase` moves by minus its argument
    phase = fourier.shift_phase(lattice.frequencies.double(), torch.tensor([3.0, -2.0]).double())
    before, after = (lattice.gather(fourier.fft(x, 2)) for x in (image, moved))
    torch.testing.assert_close(before * phase, after, atol=1e-5, rtol=1e-6)  # the lattice is float32


@given(*[st.floats(-9, 9) for _ in range(4)])
def test_shifts_add_and_undo(ax, ay, bx, by):
    frequencies = half_lattice(16, 2).frequencies.double()
    a, b = torch.tensor([ax, ay]).double(), torch.tensor([bx, by]).double()
    of_a, of_b = fourier.shift_phase(frequencies, a), fourier.shift_phase(frequencies, b)
    torch.testing.assert_close(of_a * of_b, fourier.shift_phase(frequencies, a + b))
    torch.testing.assert_close(fourier.shift_phase(frequencies, -a), of_a.conj())
    torch.testing.assert_close(of_a.abs(), torch.ones(len(frequencies)).double())


def test_shift_of_a_fraction_of_a_pixel():
    size, shift = 32, torch.tensor([[0.3, -1.7], [-4.25, 2.5]], dtype=torch.float64)
    axis = torch.arange(size, dtype=torch.float64) - size // 2

    def spot(x, y):
        return torch.exp(-((axis[:, None] - y) ** 2 + (axis - x) ** 2) / (2 * 2.0**2))

    lattice = half_lattice(size, 2)
    values = lattice.gather(fourier.fft(spot(1.0, 2.0), 2)) * fourier.shift_phase(
        lattice.frequencies.double(), shift
    )
    moved = fourier.ifft(lattice.scatter(values), 2).real
    for image, (x, y) in zip(moved, shift.tolist(), strict=True):
        expected = spot(1.0 - x, 2.0 - y)
        torch.testing.assert_close(image, expected - expected.mean(), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("large", "small"), [(16, 8), (16, 9), (17, 8), (17, 9), (16, 16)])
def test_crop_undoes_pad(large, small):
    array = _array(small, 3)
    padded = fourier.pad(array, large, 3)
    assert padded.shape[1:] == (large,) * 3
    centre, small_centre = large // 2, small // 2
    assert torch.equal(padded[:, centre, centre, centre], array[:, small_centre, small_centre, small_centre])
    assert torch.equal(fourier.crop(padded, small, 3), array)
    torch.testing.assert_close(padded.sum(), array.sum())


def test_crop_and_pad_refuse_the_wrong_direction():
    with pytest.raises(ValueError, match="cannot crop a transform of size 8 to 9"):
        fourier.crop(torch.zeros(8, 8), 9, 2)
    with pytest.raises(ValueError, match="cannot pad a transform of size 8 to 7"):
        fourier.pad(torch.zeros(8, 8), 7, 2)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(("large", "small"), [(24, 12), (25, 12), (24, 13), (25, 15), (20, 20), (21, 21)])
def test_downsampling_a_band_limited_image_keeps_its_grey_values(large, small, ndim):
    # Waves that both boxes hold, at the same places of the same field of view. The origin of the two boxes
    # coincides, and so do the points r D' / D.
    generator = torch.Generator().manual_seed(large + small)
    waves = torch.randint(-(small // 2 - 1), small // 2, (12, ndim), generator=generator).double()
    phases = torch.rand(12, generator=generator, dtype=torch.float64)

    def sampled(size):
        axis = (torch.arange(size, dtype=torch.float64) - size // 2) / size
        points = torch.stack(torch.meshgrid(*(axis,) * ndim, indexing="ij"), dim=-1)
        return 3.0 + torch.cos(2 * math.pi * (points @ waves.T + phases)).sum(-1)

    torch.testing.assert_close(fourier.downsample(sampled(large), small, ndim), sampled(small))


def test_downsampling_removes_what_the_smaller_box_cannot_hold():
    axis = torch.arange(32, dtype=torch.float64) - 16
    fine = torch.cos(2 * math.pi * 9 / 32 * axis).expand(32, 32)  # beyond Nyquist of a box of 16
    at_nyquist = torch.cos(2 * math.pi * 8 / 32 * axis).expand(32, 32)
    assert fourier.downsample(fine, 16, 2).abs().max() < 1e-14
    assert fourier.downsample(at_nyquist, 16, 2).abs().max() < 1e-14
