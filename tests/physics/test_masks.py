"""Windows, masks and filters at known points."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from drgn.physics import fourier, masks
from drgn.physics.phantoms import GaussianPhantom


def _radius(size, ndim):
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    return torch.stack(torch.meshgrid(*(axis,) * ndim, indexing="ij")).square().sum(0).sqrt()


@pytest.mark.parametrize(("size", "ndim"), [(200, 2), (201, 2), (40, 3), (41, 3)])
def test_window(size, ndim):
    window = masks.window(size, ndim=ndim)
    fraction = _radius(size, ndim) / (size / 2)
    assert window.shape == (size,) * ndim
    assert (window[fraction <= 0.85] == 1).all()
    assert (window[fraction >= 0.99] < 1e-7).all()
    middle = (fraction - 0.92).abs() < 0.002
    assert (window[middle] - 0.5).abs().max() < 0.03
    order = fraction.flatten().argsort()
    assert (window.flatten()[order].diff() <= 1e-6).all()


def test_overlap_is_that_of_a_window_with_itself():
    window = masks.window(100).double()
    for moved in (0, 10, 37, 80):
        common = (window[:, moved:] * window[:, : 100 - moved]).sum() / window.square().sum()
        assert masks.overlap(torch.tensor(moved / 100)).item() == pytest.approx(common.item(), abs=2e-3)
    assert masks.overlap(torch.tensor([0.0, 1.0, 5.0])).tolist() == pytest.approx([1, 0, 0], abs=1e-6)


def test_window_values_on_an_axis():
    # half box 10: edges at 5 and 10, a quarter of the ramp is (1 + cos 45 deg) / 2
    window = masks.window(20, inner=0.5, outer=0.9)
    assert window[10, 15].item() == 1
    assert window[10, 16].item() == pytest.approx(0.853553, abs=1e-5)
    assert window[17, 10].item() == pytest.approx(0.5, abs=1e-5)
    assert window[10, 1].item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("size", [48, 49])
def test_the_mask_of_a_ball_is_a_ball_with_a_soft_edge(size):
    pixel_A, ball_A, dilate_A, edge_A = 2.5, 20.0, 10.0, 12.0
    radius_A = _radius(size, 3) * pixel_A
    mask = masks.soft_mask((radius_A <= ball_A).float(), pixel_A, dilate_A=dilate_A, edge_A=edge_A)
    # the distance is to the nearest voxel of the ball, so a voxel's diagonal of rounding is allowed
    assert (mask[radius_A <= ball_A + dilate_A - 1e-6] > 0.88).all()
    assert (mask[radius_A <= ball_A + dilate_A - pixel_A] == 1).all()
    assert (mask[radius_A >= ball_A + dilate_A + edge_A] == 0).all()
    along_x = mask[size // 2, size // 2, size // 2 :].double()
    distance = radius_A[size // 2, size // 2, size // 2 :] - ball_A  # exact along an axis
    ramp = ((distance - dilate_A) / edge_A).clamp(0, 1)
    torch.testing.assert_close(along_x, 0.5 * (1 + torch.cos(torch.pi * ramp)), atol=1e-6, rtol=0)


def test_the_default_threshold_is_half_the_highest_densities():
    volume = torch.zeros(32, 32, 32)
    volume[10:20, 10:20, 10:20] = 1.0
    volume[2:5, 2:5, 2:5] = 0.4  # below half
    mask = masks.soft_mask(volume, 1.0, dilate_A=0.0, edge_A=0.0)
    assert torch.equal(mask, (volume == 1).float())
    everything = masks.soft_mask(volume, 1.0, dilate_A=0.0, edge_A=0.0, threshold=0.3)
    assert torch.equal(everything, (volume > 0).float())


def test_an_empty_mask_is_an_error():
    with pytest.raises(ValueError, match="the mask is empty: no voxel is above the threshold 2"):
        masks.soft_mask(torch.ones(8, 8, 8), 1.0, threshold=2.0)


@pytest.mark.parametrize("size", [40, 41])
def test_low_pass_of_a_point(size):
    point = torch.zeros((size,) * 3, dtype=torch.float64)
    point[(size // 2,) * 3] = 1.0
    transform = fourier.fft(masks.low_pass(point, 2.0, 10.0), 3)
    s = _radius(size, 3) / (size * 2.0)
    assert transform.imag.abs().max() < 1e-6
    passed = transform.real
    assert (passed[s <= 0.09] - 1).abs().max() < 1e-6
    assert passed[s >= 0.11].abs().max() < 1e-6
    at_cutoff = (s - 0.1).abs() < 1e-9
    assert not at_cutoff.any() or (passed[at_cutoff] - 0.5).abs().max() < 1e-5
    edge = (s > 0.09) & (s < 0.11)
    order = s[edge].argsort()
    assert (passed[edge][order].diff() < 1e-6).all()
    assert 0.2 < passed[edge].mean() < 0.8


def test_b_factor_of_a_point_is_a_gaussian_in_frequency():
    point = torch.zeros(24, 24, 24, dtype=torch.float64)
    point[12, 12, 12] = 1.0
    transform = fourier.fft(masks.b_factor(point, 1.5, 80.0), 3).real
    s = _radius(24, 3) / (24 * 1.5)
    torch.testing.assert_close(transform, torch.exp(-80.0 * s**2 / 4), atol=1e-6, rtol=0)


def test_b_factor_widens_a_gaussian_by_B_over_8_pi_squared():
    def blob(sigma_A):
        return GaussianPhantom(
            torch.tensor([[4.0, -3.0, 1.5]]).double(),
            torch.tensor([sigma_A]).double(),
            torch.ones(1).double(),
        )

    blurred = masks.b_factor(blob(4.0).density(32, 2.0), 2.0, 8 * torch.pi**2 * 9.0)
    torch.testing.assert_close(blurred, blob(5.0).density(32, 2.0), atol=1e-6, rtol=0)
    sharpened = masks.b_factor(blurred, 2.0, -8 * torch.pi**2 * 9.0)
    torch.testing.assert_close(sharpened, blob(4.0).density(32, 2.0), atol=1e-6, rtol=0)


def test_filters_keep_the_type():
    volume = torch.randn(8, 8, 8)
    assert masks.low_pass(volume, 1.0, 4.0).dtype == torch.float32
    assert masks.b_factor(volume, 1.0, -10.0).dtype == torch.float32


@pytest.mark.parametrize(("size", "sd_px"), [(24, 1.5), (31, 3.0), (12, 4.0)])
def test_a_local_weight_tells_density_from_its_noise(size, sd_px):
    volume = torch.randn(size, size, size, generator=torch.Generator().manual_seed(0))
    volume[size // 2 :] *= 4
    power = ndimage.gaussian_filter(volume.square().numpy(), sd_px, mode="constant")
    weight = masks.local_weight(volume, torch.full_like(volume, 1.5), sd_px)
    np.testing.assert_allclose(weight, np.clip(1 - 3 / power, 0, None), atol=1e-5)
    assert weight[-2].mean() > weight[0].mean() + 0.3
