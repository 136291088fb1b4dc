"""Centred Fourier and Hartley transforms, Fourier crop and pad, shifts."""

import math

import torch
from torch import Tensor


def _axes(ndim: int) -> tuple[int, ...]:
    return tuple(range(-ndim, 0))


def fft(array: Tensor, ndim: int) -> Tensor:
    """Centred transform over the last `ndim` axes, unnormalised: F(k) = sum_r f(r) exp(-2 pi i k.r)."""
    axes = _axes(ndim)
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(array, dim=axes), dim=axes), dim=axes)


def ifft(transform: Tensor, ndim: int) -> Tensor:
    """Inverse of `fft`, complex; take `.real` for a Hermitian transform."""
    axes = _axes(ndim)
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(transform, dim=axes), dim=axes), dim=axes)


def hartley(array: Tensor, ndim: int) -> Tensor:
    """Centred Hartley transform, H = Re F - Im F = sum_r f(r) cas(2 pi k.r)."""
    transform = fft(array, ndim)
    return transform.real - transform.imag


def ihartley(transform: Tensor, ndim: int) -> Tensor:
    """Inverse of `hartley`: the Hartley transform is its own inverse up to the factor 1/D^n."""
    return hartley(transform, ndim) / math.prod(transform.shape[-ndim:])


def crop(transform: Tensor, box_size: int, ndim: int) -> Tensor:
    """Keep the central box_size^n of a centred transform (Fourier clipping, P33). Values are unchanged."""
    for axis in _axes(ndim):
        size = transform.shape[axis]
        if box_size > size:
            raise ValueError(f"cannot crop a transform of size {size} to {box_size}; use pad")
        transform = transform.narrow(axis, size // 2 - box_size // 2, box_size)
    return transform


def pad(transform: Tensor, box_size: int, ndim: int) -> Tensor:
    """Embed a centred transform (or a centred real array) in zeros of size box_size^n."""
    padding: list[int] = []
    for axis in reversed(_axes(ndim)):
        size = transform.shape[axis]
        if box_size < size:
            raise ValueError(f"cannot pad a transform of size {size} to {box_size}; use crop")
        before = box_size // 2 - size // 2
        padding += [before, box_size - size - before]
    return torch.nn.functional.pad(transform, padding)


def downsample(array: Tensor, box_size: int, ndim: int) -> Tensor:
    """Fourier-crop real arrays (..., D, D[, D]) to a smaller box, keeping grey values.

    The Nyquist planes of an even box have no partner after cropping and are dropped.
    """
    old = array.shape[-1]
    cropped = crop(fft(array, ndim), box_size, ndim).clone()
    if box_size % 2 == 0 and box_size < old:
        for axis in _axes(ndim):
            cropped.select(axis, 0).zero_()
    return ifft(cropped, ndim).real * (box_size / old) ** ndim


def shift_phase(frequencies: Tensor, shift_px: Tensor) -> Tensor:
    """Factors that move an image by -shift, as the model is moved to meet the data (see `drgn.physics`).

    Parameters
    ----------
    frequencies
        (P, 2), cycles per pixel.
    shift_px
        (..., 2), pixels (x, y).

    Returns
    -------
    Tensor
        (..., P) complex, exp(+2 pi i k.shift).
    """
    # no matrix product: autocast would take it in bfloat16
    x, y = shift_px[..., :1], shift_px[..., 1:]
    phase = 2 * math.pi * (x * frequencies[:, 0] + y * frequencies[:, 1])
    return torch.polar(torch.ones_like(phase), phase)
