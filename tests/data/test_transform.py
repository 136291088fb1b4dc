"""The fast transform against the formula written out."""

import numpy as np
import pytest
import torch

from drgn.data import transform
from drgn.data.transform import FieldTransform
from drgn.physics import fourier, masks
from drgn.physics.grids import half_lattice


def images(n, size, seed=0):
    return 3 + torch.randn(n, size, size, generator=torch.Generator().manual_seed(seed))


def in_field(array, field_px):
    """Crop or pad about the centre."""
    inside = min(field_px, array.shape[-1])
    return fourier.pad(fourier.crop(array, inside, 2), field_px, 2)


def slow(array, field_px, box_size, window):
    """The whole complex transform, one step after the other, in double precision."""
    size = array.shape[-1]
    axis = torch.arange(size) - size // 2
    ring = (axis[:, None] ** 2 + axis[None, :] ** 2) > (0.9 * size / 2) ** 2
    array = array.double() - array.double()[:, ring].mean(1)[:, None, None]
    inside = min(size, field_px)
    array = fourier.crop(array, inside, 2)
    if window:
        array = array * masks.window(inside)
    return half_lattice(box_size, 2).gather(
        fourier.crop(fourier.fft(in_field(array, field_px), 2), box_size, 2)
    )


@pytest.mark.parametrize("window", [True, False])
@pytest.mark.parametrize(
    ("size", "field_px", "box_size"),
    [
        (32, 32, 16),
        (32, 32, 32),
        (33, 33, 16),
        (20, 20, 18),
        (32, 29, 16),
        (33, 30, 16),
        (24, 31, 16),
        (25, 30, 20),
    ],
)
def test_values_are_those_of_the_slow_formula(size, field_px, box_size, window):
    array = images(7, size)
    fast = FieldTransform(size, field_px, box_size, window)
    scale = np.linspace(-1, 2, 7, dtype=np.float32) / 10
    values, good = fast.prepared(array.clone(), scale)
    assert good.all()
    expected = slow(array, field_px, box_size, window) * torch.from_numpy(scale)[:, None]
    found = torch.view_as_complex(torch.from_numpy(values).float()).to(expected.dtype)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    taper = (
        masks.window(min(size, field_px)) if window else torch.ones(min(size, field_px), min(size, field_px))
    )
    assert fast.energy == pytest.approx(float(taper.square().sum()))


def test_blocks_and_threads_change_nothing(monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    array, scale = images(50, 24), np.ones(50, np.float32)
    fast = FieldTransform(24, 27, 16, True)
    whole, _ = fast.prepared(array.clone(), scale)
    monkeypatch.setattr(transform, "_BLOCK_BYTES", 3 * 4 * 27 * 27)
    with ThreadPoolExecutor(4) as pool:
        for values, _ in pool.map(lambda _: fast.prepared(array.clone(), scale), range(12)):
            np.testing.assert_allclose(values, whole, rtol=2e-3, atol=2e-3)


def test_images_that_cannot_be_used_are_zeros_and_leave_the_others_alone():
    array = images(6, 16)
    expected, _ = FieldTransform(16, 16, 12, True).prepared(array.clone(), np.ones(6, np.float32))
    array[1, 2, 3], array[2, 0, 0], array[4] = torch.nan, -torch.inf, 5.0
    array[5] *= 1e7
    values, good = FieldTransform(16, 16, 12, True).prepared(array, np.ones(6, np.float32))
    assert good.tolist() == [True, False, False, True, False, False]
    assert not values[~good].any()
    np.testing.assert_array_equal(values[good], expected[good])


@pytest.mark.parametrize(
    ("size", "field_px", "box_size"), [(32, 32, 16), (33, 33, 16), (32, 32, 32), (30, 33, 16), (33, 28, 20)]
)
def test_smaller_images_are_those_of_the_slow_formula(size, field_px, box_size):
    array = images(5, size)
    found = FieldTransform(size, field_px, box_size, False).downsampled(array)
    expected = fourier.downsample(in_field(array.double(), field_px), box_size, 2)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_variances():
    array = images(3, 40) * torch.tensor([1.0, 5.0, 0.2])[:, None, None] + 100
    ring, everything = FieldTransform(40, 40, 40, True).variances(array)
    axis = torch.arange(40) - 20
    outside = (axis[:, None] ** 2 + axis[None, :] ** 2) > 18**2
    torch.testing.assert_close(ring, array[:, outside].var(1, correction=0), rtol=1e-3, atol=0)
    torch.testing.assert_close(everything, array.flatten(1).var(1, correction=0), rtol=1e-3, atol=0)


def test_a_field_too_small_for_the_box():
    with pytest.raises(ValueError, match="a field of 15 pixels cannot be cropped to 16"):
        FieldTransform(32, 15, 16, True)
