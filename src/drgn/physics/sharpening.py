"""What is done to a map before it is looked at: weights of its shells, B-factor, low-pass filter."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from drgn.physics import fourier, masks
from drgn.physics.grids import shells

_FEWEST = 4  # shells that a line is fitted to


class Guinier(NamedTuple):
    """A line through the logarithm of the amplitudes against 1 / d^2.

    b_factor_A2: minus what sharpening must undo, negative for a map that is blurred. s2_1_A2: (S,) 1 / d^2 of
    the shells. log_amplitude: (S,). fitted: (S,) bool, the shells that the line was fitted to. at_zero: of
    the line.
    """

    b_factor_A2: float
    s2_1_A2: Tensor
    log_amplitude: Tensor
    fitted: Tensor
    at_zero: float


def figure_of_merit(half_maps_fsc: Tensor) -> Tensor:
    """Expected correlation of the mean of two half maps with the truth, from theirs: sqrt(2 F / (1 + F)).

    Rosenthal and Henderson, J. Mol. Biol. 333, 721 (2003).
    """
    curve = half_maps_fsc.clamp(0, 1)
    return (2 * curve / (1 + curve)).sqrt()


def weigh_shells(volume: Tensor, factor: Tensor) -> Tensor:
    """Multiply each shell of a map (D, D, D) by a factor (D // 2 + 1,); shells beyond become 0."""
    shell = shells(volume.shape[-1], 3)
    every = torch.zeros(int(shell.max()) + 1, dtype=volume.dtype)
    every[: len(factor)] = factor.to(volume.dtype)
    return fourier.ifft(fourier.fft(volume, 3) * every[shell], 3).real


def guinier(volume: Tensor, pixel_size_A: float, from_A: float, to_A: float) -> Guinier | None:
    """Fit the fall of the amplitudes with resolution (P25).

    Parameters
    ----------
    volume
        (D, D, D), its shells weighed by the figure of merit.
    pixel_size_A
        Angstrom per voxel.
    from_A, to_A
        Resolutions between which the line is fitted: below about 10 A the amplitudes of a protein fall as
        those of random atoms do, before that they show its shape.

    Returns
    -------
    Guinier or None
        None where there are fewer than four shells between the two.
    """
    size = volume.shape[-1]
    shell = shells(size, 3).flatten()
    amplitude = fourier.fft(volume.double(), 3).abs().flatten()
    mean = torch.zeros(int(shell.max()) + 1, dtype=torch.float64).index_add_(0, shell, amplitude)
    mean = (mean / torch.bincount(shell))[: size // 2]
    frequency = torch.arange(len(mean), dtype=torch.float64) / (size * pixel_size_A)
    fitted = (frequency >= 1 / from_A) & (frequency <= 1 / to_A) & (mean > 0)
    if int(fitted.sum()) < _FEWEST:
        return None
    s2, log = frequency.square(), mean.clamp_min(1e-300).log()
    slope, at_zero = np.polyfit(s2[fitted].numpy(), log[fitted].numpy(), 1)
    return Guinier(4 * float(slope), s2, log, fitted, float(at_zero))


def sharpened(
    volume: Tensor, pixel_size_A: float, curve: Tensor, b_factor_A2: float, low_pass_A: float
) -> Tensor:
    """Weigh the mean of two half maps by their correlation, sharpen it and low-pass it.

    Parameters
    ----------
    volume
        (D, D, D), unfiltered.
    pixel_size_A
        Angstrom per voxel.
    curve
        (D // 2 + 1,), of the half maps.
    b_factor_A2
        Negative sharpens.
    low_pass_A
        Resolution of the filter; infinity gives back the map without one.
    """
    weighed = weigh_shells(volume, figure_of_merit(curve))
    made = masks.b_factor(weighed, pixel_size_A, b_factor_A2)
    return masks.low_pass(made, pixel_size_A, low_pass_A) if np.isfinite(low_pass_A) else made
