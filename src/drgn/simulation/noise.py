"""Noise of a stated spectrum."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from drgn.errors import InputError


def noise_filter(spectrum: Sequence[float] | None, box_size: int) -> Tensor | None:
    """Return what white noise's transform is multiplied by, (D, D // 2 + 1) as of torch.fft.rfft2.

    Parameters
    ----------
    spectrum
        Power of the noise at even steps from frequency 0 to Nyquist, in any unit; straight between the steps,
        and beyond Nyquist what it is there. None: white.
    box_size
        D.

    Returns
    -------
    Tensor or None
        Of mean square 1 over the whole transform, so that the variance of the pixels stays what it was.

    Raises
    ------
    InputError
        Fewer than two numbers, or a negative one.
    """
    if spectrum is None:
        return None
    if len(spectrum) < 2 or min(spectrum) < 0 or max(spectrum) == 0:
        raise InputError(
            f"noise_spectrum={list(spectrum)}: expected at least two powers of 0 or more, from frequency 0 to"
            " Nyquist"
        )
    axis = torch.fft.fftfreq(box_size, dtype=torch.float64)
    radius = torch.hypot(axis[:, None], axis[None, :])  # (D, D), cycles per pixel
    steps = np.linspace(0, 0.5, len(spectrum))
    power = torch.from_numpy(np.interp(radius.numpy(), steps, np.asarray(spectrum, dtype=np.float64)))
    return (power / power.mean()).sqrt()[:, : box_size // 2 + 1]


def draw_noise(n: int, box_size: int, colour: Tensor | None, generator: torch.Generator) -> Tensor:
    """Draw images (n, D, D) of normal noise with a variance of 1 a pixel; `colour` from `noise_filter`."""
    white = torch.randn(n, box_size, box_size, generator=generator, dtype=torch.float64)
    if colour is None:
        return white
    return torch.fft.irfft2(torch.fft.rfft2(white) * colour, s=(box_size, box_size))
