"""Windows, masks and filters."""

import math
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from drgn.errors import InputError
from drgn.physics.grids import radii


def window(box_size: int, inner: float = 0.85, outer: float = 0.99, ndim: int = 2) -> Tensor:
    """Round window (D, D[, D]): 1 inside `inner`, a cosine to 0 at `outer`, in fractions of the half box."""
    fraction = radii(box_size, ndim) / (box_size / 2)
    ramp = ((fraction - inner) / (outer - inner)).clamp(0, 1)
    return 0.5 * (1 + torch.cos(math.pi * ramp))


@lru_cache(maxsize=8)
def _overlaps(dtype: torch.dtype, device: torch.device) -> Tensor:
    """What the round window moved by 0, 1/256, ... 1 of its width has in common with itself, (257,)."""
    spectrum = torch.fft.rfft2(window(256).double(), s=(512, 512)).abs().square()
    common = torch.fft.irfft2(spectrum, s=(512, 512))[0, :257]
    return (common / common[0]).to(dtype).to(device)


def overlap(moved: Tensor) -> Tensor:
    """Share of its energy that the round window has in common with itself moved by a part of its width.

    White noise in the window has this correlation between frequencies, and what varies along frequencies as
    exp(2 pi i k moved) is damped by it where the window spreads it.
    """
    table = _overlaps(moved.dtype, moved.device)
    position = moved.clamp(0, 1) * 256
    lower = position.detach().long().clamp_max(255)
    return torch.lerp(table[lower], table[lower + 1], position - lower)


def soft_mask(
    volume: Tensor,
    pixel_size_A: float,
    *,
    dilate_A: float = 25.0,
    edge_A: float = 15.0,
    threshold: float | None = None,
) -> Tensor:
    """Mask of the paper's map-to-map FSC (P23), cryoSPARC's loose one: threshold, dilate, soft cosine edge.

    Parameters
    ----------
    volume
        (D, D, D) density.
    pixel_size_A
        Angstrom per voxel.
    dilate_A
        How far the thresholded region grows.
    edge_A
        Width of the edge outside that, from 1 to 0.
    threshold
        Density; default half of the 99.99th percentile.

    Returns
    -------
    Tensor
        (D, D, D) float32 in [0, 1].

    Raises
    ------
    InputError
        No voxel is above the threshold.
    """
    density = volume.detach().cpu().numpy()
    level = float(np.percentile(density, 99.99)) / 2 if threshold is None else threshold
    core = density > level
    if not core.any():
        raise InputError(f"the mask is empty: no voxel is above the threshold {level:g}")
    distance_A = ndimage.distance_transform_edt(~core) * pixel_size_A
    ramp = np.clip((distance_A - dilate_A) / max(edge_A, 1e-6), 0, 1)
    return torch.from_numpy((0.5 * (1 + np.cos(np.pi * ramp))).astype(np.float32))


def tight_mask(volume: Tensor, pixel_size_A: float) -> Tensor:
    """Mask close to the molecule, as cryoSPARC's tight one: 1 up to 6 A from it, 0 from 12 A on.

    Where voxels are coarse, 1 up to a voxel and 0 from 4 voxels on: a sharper edge would itself correlate.
    Arguments, result and errors as of `soft_mask`.
    """
    dilate_A, edge_A = max(6.0, pixel_size_A), max(6.0, 3 * pixel_size_A)
    return soft_mask(volume, pixel_size_A, dilate_A=dilate_A, edge_A=edge_A)


def _filtered(volume: Tensor, factor: Tensor) -> Tensor:
    """Multiply the transform by a factor that is the same at k and -k, of the elements of rfftn."""
    return torch.fft.irfftn(torch.fft.rfftn(volume) * factor, s=volume.shape).to(volume.dtype)


def _spatial_frequency(volume: Tensor, pixel_size_A: float) -> Tensor:
    size = volume.shape[-1]
    s = torch.fft.fftfreq(size, pixel_size_A, device=volume.device)
    last = torch.fft.rfftfreq(size, pixel_size_A, device=volume.device)
    return (s[:, None, None].square() + s[:, None].square() + last.square()).sqrt()


def low_pass(volume: Tensor, pixel_size_A: float, resolution_A: float) -> Tensor:
    """Low-pass a volume at a resolution, with a cosine edge of 10 % of the cut-off on either side (P25)."""
    s = _spatial_frequency(volume, pixel_size_A) * resolution_A
    ramp = ((s - 0.9) / 0.2).clamp(0, 1)
    return _filtered(volume, 0.5 * (1 + torch.cos(math.pi * ramp)))


def b_factor(volume: Tensor, pixel_size_A: float, b_factor_A2: float) -> Tensor:
    """Multiply the transform by exp(-B s^2 / 4): negative B sharpens (P25), positive B blurs."""
    s = _spatial_frequency(volume, pixel_size_A)
    return _filtered(volume, torch.exp(-b_factor_A2 * s**2 / 4))


def local_weight(volume: Tensor, noise_power: Tensor, sd_px: float) -> Tensor:
    """Wiener weight of each voxel: how far the power of its neighbourhood stands out of the noise.

    Parameters
    ----------
    volume
        (D, D, D) with white noise in it, which the weights take no part of where there is nothing else.
    noise_power
        Variance of the noise, (D, D, D) or a number.
    sd_px
        Standard deviation of the Gaussian that a neighbourhood is, in pixels.

    Returns
    -------
    Tensor
        (D, D, D): 1 - 2 N / P of the local power P and that of the noise N, 0 below that: twice
        the noise, since P of noise alone scatters about N.
    """
    power = _smoothed(volume.square(), sd_px)
    return (1 - 2 * noise_power / power.clamp_min(1e-30)).clamp_min(0)


def _smoothed(volume: Tensor, sd_px: float) -> Tensor:
    """A volume (D, D, D) under a Gaussian to four standard deviations, nothing beyond the volume's edges.

    As products of matrices, which take the same time for a wide Gaussian as for a narrow one.
    """
    reach = int(4 * sd_px + 0.5)
    at = torch.arange(-reach, reach + 1, dtype=volume.dtype)
    gaussian = torch.exp(-0.5 * (at / sd_px).square())
    wide = torch.nn.functional.pad(gaussian / gaussian.sum(), (len(volume), len(volume)))
    centre = torch.arange(len(volume))
    share = wide[len(volume) + reach + centre - centre[:, None]]
    volume = (share @ volume.flatten(1)).view_as(volume)
    return share @ volume @ share
