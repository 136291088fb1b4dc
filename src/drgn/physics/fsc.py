"""Fourier shell correlation."""

import torch
from torch import Tensor

from drgn.physics import fourier
from drgn.physics.grids import shells


def fsc(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Correlation of two volumes (or images) shell by shell.

    Parameters
    ----------
    a, b
        (D, D, D) or (D, D), real.
    mask
        Same shape, multiplied on both first.

    Returns
    -------
    Tensor
        (D // 2 + 1,) float64; element i belongs to the spatial frequency i / (D * pixel size). 0 where a
        shell is empty of power.
    """
    if a.shape != b.shape:
        raise ValueError(f"the maps differ in shape: {tuple(a.shape)} and {tuple(b.shape)}")
    if mask is not None:
        a, b = a * mask, b * mask
    size, ndim = a.shape[-1], a.ndim
    fa, fb = fourier.fft(a.to(torch.float64), ndim), fourier.fft(b.to(torch.float64), ndim)
    shell = shells(size, ndim).flatten().to(a.device)
    n = int(shell.max()) + 1

    def total(values: Tensor) -> Tensor:
        return torch.zeros(n, dtype=torch.float64, device=a.device).index_add_(0, shell, values.flatten())

    cross = total((fa * fb.conj()).real)
    power = (total(fa.abs() ** 2) * total(fb.abs() ** 2)).sqrt()
    curve = torch.where(power > 0, cross / power.clamp_min(1e-300), torch.zeros_like(cross))
    return curve[: size // 2 + 1]


def resolution_A(
    curve: Tensor, pixel_size_A: float, threshold: float, *, box_size: int | None = None
) -> float:
    """Resolution in Angstrom at which a curve from `fsc` first falls below a threshold.

    Linear interpolation between shells; the Nyquist resolution when it never does, infinity when it starts
    below.

    Parameters
    ----------
    curve
        (D // 2 + 1,), from `fsc`.
    pixel_size_A
        Angstrom per voxel.
    threshold
        0.5 between a map and its truth, 0.143 between half maps.
    box_size
        D; default the even box that has this many shells.
    """
    size = 2 * (len(curve) - 1) if box_size is None else box_size
    values = curve.tolist()
    for i in range(1, len(values)):
        if values[i] < threshold:
            if i == 1:
                return float("inf")
            shell = i - 1 + (values[i - 1] - threshold) / (values[i - 1] - values[i])
            return size * pixel_size_A / shell
    return 2 * pixel_size_A
