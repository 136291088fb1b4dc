"""B-factors and weights of shells in closed form."""

import math

import pytest
import torch

from drgn.physics import fourier, masks
from drgn.physics.fsc import fsc
from drgn.physics.grids import shells
from drgn.physics.sharpening import figure_of_merit, guinier, sharpened, weigh_shells

SIZE, PIXEL_A = 48, 2.0


def noise(seed=0):
    return torch.randn((SIZE,) * 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_fall_that_was_put_in_is_found_and_undone():
    blurred = masks.b_factor(noise(), PIXEL_A, 120.0)
    found = guinier(blurred, PIXEL_A, 15.0, 4.5)
    assert found == pytest.approx(-120, abs=4)
    sharp = sharpened(blurred, PIXEL_A, found, math.inf)
    assert guinier(sharp, PIXEL_A, 15.0, 4.5) == pytest.approx(0, abs=1)
    assert guinier(blurred, PIXEL_A, 6.0, 5.5) is None  # too few shells


def test_the_figure_of_merit_is_the_correlation_of_the_mean_with_the_truth():
    signal, power = noise(), 0.7
    one, two = (signal + math.sqrt(power) * noise(seed) for seed in (1, 2))
    expected = float(fsc((one + two) / 2, signal)[8 : SIZE // 2].mean())
    assert float(figure_of_merit(fsc(one, two))[8 : SIZE // 2].mean()) == pytest.approx(expected, abs=0.01)
    assert figure_of_merit(torch.tensor([-0.2]))[0] == 0


def test_shells_are_weighed_and_low_passed():
    factor = torch.zeros(SIZE // 2 + 1)
    factor[5] = 2
    only = weigh_shells(noise(), factor)
    assert float(fsc(only, noise())[5]) == pytest.approx(1)
    difference = fourier.fft(only, 3).abs() - 2 * fourier.fft(noise(), 3).abs() * (shells(SIZE, 3) == 5)
    assert difference.abs().max() < 1e-9
    filtered = sharpened(noise(), PIXEL_A, 0.0, 12.0)
    far = shells(SIZE, 3) > 1.1 * SIZE * PIXEL_A / 12 + 1
    assert fourier.fft(filtered, 3)[far].abs().max() < 1e-9
