"""Fourier shell correlation."""

from typing import NamedTuple

import torch
from torch import Tensor

from drgn.physics.grids import half_shells

_RANDOMISE = 0.8  # unmasked correlation below which phases are randomised
_SIGNAL = 0.143  # unmasked correlation down to which maps agree
_MISLED = 2  # shells in which a mask agrees as well as the maps, from which on it is of no use


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
    # where the origin is does not matter, and half of the transform tells the other
    fa, fb = (torch.view_as_real(torch.fft.rfftn(x.to(torch.float64))) for x in (a, b))
    shell, times = (part.to(a.device) for part in half_shells(size, ndim))
    shell, n = shell.flatten(), int(shell.max()) + 1

    def total(values: Tensor) -> Tensor:
        weighed = (values.sum(-1) * times).flatten()
        return torch.zeros(n, dtype=torch.float64, device=a.device).index_add_(0, shell, weighed)

    cross = total(fa * fb)
    power = (total(fa.square()) * total(fb.square())).sqrt()
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


class Correlations(NamedTuple):
    """Curves (D // 2 + 1,) of two maps.

    unmasked: of the maps as they are. loose: of the maps times a mask far from the molecule. masked: of the
    maps times a tight one, or one that a person made. randomised: masked, after the phases of both were made
    random from `from_shell` on. corrected: masked, less what the mask itself brings.
    """

    unmasked: Tensor
    loose: Tensor
    masked: Tensor
    randomised: Tensor
    corrected: Tensor
    from_shell: int

    @property
    def misled(self) -> Tensor:
        """Shells where maps agree without mask, yet with random phases as well in the mask as with their own.

        Looked for where `corrected` is corrected, up to the first shell whose unmasked correlation is below
        0.143. Empty where they are fewer than two: what is left may be noise.
        """
        below = torch.nonzero(self.unmasked[1:] < _SIGNAL)
        end = int(below[0]) + 1 if len(below) else len(self.unmasked) - 1
        shells = torch.arange(self.from_shell + 2, max(end, self.from_shell + 2))
        found = shells[self.randomised[shells] >= self.masked[shells]]
        return found if len(found) >= _MISLED else found[:0]

    @property
    def read(self) -> Tensor:
        """The curve that tells the resolution: corrected, or unmasked where the mask misleads."""
        return self.unmasked if len(self.misled) else self.corrected


def correlations(a: Tensor, b: Tensor, mask: Tensor, loose: Tensor, seed: int = 0) -> Correlations:
    """Correlate two maps without mask, with two, and corrected for one (Chen et al., Ultramicroscopy, 2013).

    Phases are randomised from the first shell on whose unmasked correlation is below 0.8; the corrected
    curve is (masked - randomised) / (1 - randomised) from two shells further on, and the masked one before.
    RELION's postprocessing does the same.

    Parameters
    ----------
    a, b
        (D, D, D).
    mask, loose
        (D, D, D), for instance `masks.tight_mask` and `masks.soft_mask`; the first is corrected for.
    seed
        Of the random phases.
    """
    unmasked, far, masked = fsc(a, b), fsc(a, b, loose), fsc(a, b, mask)
    low = torch.nonzero(unmasked[1:] < _RANDOMISE)
    if len(low) == 0:
        return Correlations(unmasked, far, masked, masked, masked, len(unmasked))
    start = int(low[0]) + 1
    generator = torch.Generator().manual_seed(seed)
    one, two = (randomise_phases(volume, start, generator) for volume in (a, b))
    randomised = fsc(one, two, mask)
    corrected = (masked - randomised) / (1 - randomised).clamp_min(1e-6)
    corrected[: start + 2] = masked[: start + 2]
    return Correlations(unmasked, far, masked, randomised, corrected, start)


def randomise_phases(volume: Tensor, from_shell: int, generator: torch.Generator) -> Tensor:
    """A map (D, D, D) with its amplitudes, and with random phases from a shell on."""
    transform = torch.fft.rfftn(volume.double())
    # the phases of a real map, so that the result is real
    noise = torch.fft.rfftn(torch.randn(volume.shape, generator=generator, dtype=torch.float64))
    far = half_shells(volume.shape[-1], 3)[0] >= from_shell
    changed = noise.mul_(transform.abs() / noise.abs().clamp_min(1e-30))
    return torch.fft.irfftn(torch.where(far, changed, transform), s=volume.shape)
