"""The Fourier shell correlation of maps whose correlation is known."""

import math

import pytest
import torch

from drgn.physics import fourier
from drgn.physics.fsc import Correlations, fsc, randomise_phases, resolution_A
from drgn.physics.grids import shells
from drgn.physics.masks import window


def _noise(size, seed, ndim=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((size,) * ndim, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("size", "ndim"), [(16, 3), (17, 3), (32, 2), (33, 2)])
def test_a_map_agrees_with_itself_at_any_scale_and_sign(size, ndim):
    a = _noise(size, 0, ndim)
    ones = torch.ones(size // 2 + 1, dtype=torch.float64)
    torch.testing.assert_close(fsc(a, a), ones)
    torch.testing.assert_close(fsc(a, 3 * a), ones)
    torch.testing.assert_close(fsc(a, -a), -ones)


@pytest.mark.parametrize("size", [32, 33])
def test_independent_noise_does_not_correlate(size):
    # a shell of n voxels holds n / 2 independent complex numbers: standard deviation 1 / sqrt(n)
    n = shells(size, 3).flatten().bincount()[: size // 2 + 1]
    curves = torch.stack([fsc(_noise(size, seed), _noise(size, seed + 1)) for seed in range(0, 20, 2)])
    scores = (curves * n.sqrt())[:, 2 : size // 2]
    assert scores.abs().max() < 4
    assert scores.square().mean().item() == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("snr", [0.25, 1.0, 4.0])
def test_half_maps_correlate_by_snr_over_one_plus_snr(snr):
    signal = _noise(48, 1) * math.sqrt(snr)
    curve = fsc(signal + _noise(48, 2), signal + _noise(48, 3))
    n = shells(48, 3).flatten().bincount()[:25]
    assert (curve - snr / (1 + snr)).abs()[3:24].max() < (4 / n.sqrt())[3]
    assert curve[3:24].mean().item() == pytest.approx(snr / (1 + snr), abs=0.02)


def test_each_shell_has_its_own_correlation():
    a, b = _noise(32, 1), _noise(32, 2)
    shell = shells(32, 3)
    mixed = fourier.ifft(torch.where(shell <= 7, fourier.fft(a, 3), fourier.fft(b, 3)), 3).real
    curve = fsc(a, mixed)
    assert curve[:8].min() > 1 - 1e-9
    assert curve[8:16].abs().max() < 0.2


def test_an_empty_shell_is_zero_and_not_nan():
    flat = torch.full((8, 8, 8), 2.0)
    assert fsc(flat, flat).tolist() == pytest.approx([1, 0, 0, 0, 0])


def test_a_shift_lowers_the_correlation():
    a = _noise(32, 1)
    curve = fsc(a, a.roll(1, 2))
    assert curve[1] > 0.95
    # the mean of cos(k.s) over a shell is sinc(2 k s) for a shift s
    assert curve[10].item() == pytest.approx(math.sin(20 * math.pi / 32) / (20 * math.pi / 32), abs=0.08)


def test_the_mask_removes_what_is_outside():
    common = _noise(32, 1)
    mask = window(32, 0.4, 0.6, ndim=3).double()
    a, b = (torch.where(mask > 0, common, 5 * _noise(32, seed)) for seed in (2, 3))
    assert fsc(a, b)[2:16].mean() < 0.3
    assert fsc(a, b, mask).min() > 0.999


def test_maps_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"differ in shape: \(8, 8, 8\) and \(9, 9, 9\)"):
        fsc(torch.zeros(8, 8, 8), torch.zeros(9, 9, 9))


def test_resolution_is_interpolated_between_shells():
    curve = torch.tensor([1.0, 1.0, 0.9, 0.7, 0.3, 0.1, 0.0, 0.0, 0.0])  # D = 16
    assert resolution_A(curve, 2.0, 0.5) == pytest.approx(32 / 3.5)
    assert resolution_A(curve, 2.0, 0.143) == pytest.approx(32 / (4 + 0.157 / 0.2))
    assert resolution_A(curve, 2.0, 0.7 - 1e-6) == pytest.approx(32 / 3, rel=1e-5)


def test_resolution_stops_at_the_first_crossing():
    curve = torch.tensor([1.0, 1.0, 0.4, 0.9, 0.9])
    assert resolution_A(curve, 1.0, 0.5) == pytest.approx(8 / (1 + 0.5 / 0.6))


def test_resolution_at_its_limits():
    assert resolution_A(torch.ones(9), 2.0, 0.5) == 4.0  # Nyquist
    assert resolution_A(torch.tensor([1.0, 0.4, 0.9]), 2.0, 0.5) == math.inf


def test_resolution_of_an_odd_box():
    a = _noise(33, 1)
    shell = shells(33, 3)
    cut = fourier.ifft(fourier.fft(a, 3) * (shell <= 8) + fourier.fft(_noise(33, 2), 3) * (shell > 8), 3).real
    curve = fsc(a, cut)
    assert 8 < 33 * 2.0 / resolution_A(curve, 2.0, 0.5, box_size=33) < 9
    assert resolution_A(curve, 2.0, 0.5, box_size=33) == pytest.approx(
        resolution_A(curve, 2.0, 0.5) * 33 / 32
    )


def test_random_phases_keep_amplitudes_and_what_is_coarse():
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn(16, 16, 16, generator=generator, dtype=torch.float64)
    changed = fourier.fft(randomise_phases(volume, 5, generator), 3)
    before = fourier.fft(volume, 3)
    near = shells(16, 3) < 5
    torch.testing.assert_close(changed[near], before[near])
    torch.testing.assert_close(changed.abs(), before.abs())
    assert not torch.isclose(changed, before)[~near].all()
    assert fsc(volume, fourier.ifft(changed, 3).real)[6:8].abs().max() < 0.3


@pytest.mark.parametrize(
    ("randomised", "misled"),
    [
        ([1, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.4, 0.4], [4, 5]),  # from_shell + 2 to where no mask finds signal
        ([1, 1, 1, 0.9, 0.8, 0.1, 0.1, 0.4, 0.4], []),  # one shell may be noise
        ([1, 1, 1, 0.9, 0.1, 0.1, 0.6, 0.6, 0.6], []),  # maps that do not agree are not told by a mask
    ],
)
def test_a_mask_that_agrees_as_well_as_the_maps_is_not_read(randomised, misled):
    unmasked = torch.tensor([1, 1, 0.7, 0.6, 0.5, 0.3, 0.1, 0.2, 0.0])
    masked = torch.tensor([1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.3])
    randomised = torch.tensor(randomised)
    corrected = (masked - randomised) / (1 - randomised)
    found = Correlations(unmasked, masked, masked, randomised, corrected, 2)
    assert found.misled.tolist() == misled
    assert found.read is (unmasked if misled else corrected)
