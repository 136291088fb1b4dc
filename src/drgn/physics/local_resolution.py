"""Local resolution: the Fourier shell correlation of two half maps around each voxel."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from drgn.physics import fourier
from drgn.physics.grids import radii

_BAND = 1.0  # half width of a band in shells


def local_resolution(
    a: Tensor,
    b: Tensor,
    pixel_size_A: float,
    window_A: float,
    threshold: float = 0.5,
    progress: Callable[[str], None] | None = None,
) -> Tensor:
    """Resolution in A at each voxel (D, D, D): where the correlation around it first falls below a threshold.

    The windowed FSC (Cardone, Heymann and Steven, J. Struct. Biol. 184, 226, 2013), for all voxels at once:
    both maps are filtered to one band of shells after the other, and what they have in common and their
    powers are averaged under a Gaussian window. Between shells it is interpolated, as of the whole map.

    Parameters
    ----------
    a, b
        Half maps (D, D, D).
    pixel_size_A
        Angstrom per voxel.
    window_A
        Width of the window at half of its height. Windows of few wavelengths tell little: it should be some
        five times the resolution.
    threshold
        0.5, or 0.143 where windows are large.
    progress
        Called with what is being done.

    Returns
    -------
    Tensor
        (D, D, D) float32, from the resolution of the first shell to Nyquist's.
    """
    size = a.shape[-1]
    radius = radii(size, 3)
    sigma_A = window_A / math.sqrt(8 * math.log(2))
    window = torch.exp(-2 * (math.pi * sigma_A * radius / (size * pixel_size_A)) ** 2)
    transforms = [fourier.fft(volume.float(), 3) for volume in (a, b)]

    def around(values: Tensor) -> Tensor:
        return fourier.ifft(fourier.fft(values, 3) * window, 3).real

    found = torch.full((size,) * 3, 2 * pixel_size_A)
    undecided = torch.ones((size,) * 3, dtype=torch.bool)
    before = torch.ones((size,) * 3)
    for shell in range(1, size // 2):
        if progress is not None:
            progress(f"local resolution, shell {shell} of {size // 2 - 1}")
        band = (1 - (radius - shell).abs() / (2 * _BAND)).clamp_min(0)
        one, two = (fourier.ifft(t * band, 3).real for t in transforms)
        power = (around(one * one).clamp_min(0) * around(two * two).clamp_min(0)).sqrt()
        curve = torch.where(power > 0, around(one * two) / power.clamp_min(1e-30), 0.0)
        falls = undecided & (curve < threshold)
        share = ((before - threshold) / (before - curve).clamp_min(1e-6)).clamp(0, 1)
        at = (shell - 1 + share[falls]).clamp_min(1)
        found[falls] = size * pixel_size_A / at
        undecided &= ~falls
        before = curve
        if not undecided.any():
            break
    return found
