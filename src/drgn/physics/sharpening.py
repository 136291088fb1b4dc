"""What is done to a map before it is looked at: weights of its shells, B-factor, low-pass filter."""

import numpy as np
import torch
from torch import Tensor

from drgn.physics import masks
from drgn.physics.grids import half_shells, shell_mean

_FEWEST = 4  # shells that a line is fitted to


def figure_of_merit(half_maps_fsc: Tensor) -> Tensor:
    """Expected correlation of the mean of two half maps with the truth, from theirs: sqrt(2 F / (1 + F)).

    Rosenthal and Henderson, J. Mol. Biol. 333, 721 (2003).
    """
    curve = half_maps_fsc.clamp(0, 1)
    return (2 * curve / (1 + curve)).sqrt()


def weigh_shells(volume: Tensor, factor: Tensor) -> Tensor:
    """Multiply each shell of a map (D, D, D) by a factor (D // 2 + 1,); shells beyond become 0."""
    shell, _ = half_shells(volume.shape[-1], 3)
    every = torch.zeros(int(shell.max()) + 1, dtype=volume.dtype)
    every[: len(factor)] = factor.to(volume.dtype)
    return torch.fft.irfftn(torch.fft.rfftn(volume) * every[shell], s=volume.shape)


def guinier(volume: Tensor, pixel_size_A: float, from_A: float, to_A: float) -> float | None:
    """B-factor in A^2 of the fall of the amplitudes with resolution (P25), negative for a blurred map.

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
    float or None
        From a line through the logarithm of the amplitudes against 1 / d^2; None where there are fewer than
        four shells between the two.
    """
    size = volume.shape[-1]
    amplitude = torch.fft.rfftn(volume.double()).abs()
    shell, times = half_shells(size, 3)
    count = times.expand(shell.shape).flatten()
    mean = shell_mean(amplitude.flatten(), shell.flatten(), count)[: size // 2]
    frequency = torch.arange(len(mean), dtype=torch.float64) / (size * pixel_size_A)
    fitted = (frequency >= 1 / from_A) & (frequency <= 1 / to_A) & (mean > 0)
    if int(fitted.sum()) < _FEWEST:
        return None
    slope, _ = np.polyfit(frequency[fitted].square().numpy(), mean[fitted].log().numpy(), 1)
    return 4 * float(slope)


def sharpened(volume: Tensor, pixel_size_A: float, b_factor_A2: float, low_pass_A: float) -> Tensor:
    """Sharpen a map and low-pass it.

    Parameters
    ----------
    volume
        (D, D, D), its shells weighed by the figure of merit.
    pixel_size_A
        Angstrom per voxel.
    b_factor_A2
        Negative sharpens.
    low_pass_A
        Resolution of the filter; infinity gives back the map without one.
    """
    made = masks.b_factor(volume, pixel_size_A, b_factor_A2)
    return masks.low_pass(made, pixel_size_A, low_pass_A) if np.isfinite(low_pass_A) else made
