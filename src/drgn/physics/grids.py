"""Frequency lattices: the independent half of the Fourier transform of a real image or volume, and shells."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class HalfLattice:
    """The frequencies that determine a real D^n array inside a sphere, one of each Friedel pair.

    Sorted by radius, so that a prefix is a low-pass filter. The zero frequency and everything at or beyond
    Nyquist are left out.

    Attributes
    ----------
    box_size
        D.
    frequencies
        (P, n) float32, cycles per pixel, components in the order (x, y[, z]).
    index, mirror
        (P,) int64, positions of k and of -k in the flattened, centred transform ([y, x] or [z, y, x]).
    """

    box_size: int
    frequencies: Tensor
    index: Tensor
    mirror: Tensor

    @property
    def ndim(self) -> int:
        """Dimension of the array, 2 or 3."""
        return self.frequencies.shape[1]

    def __len__(self) -> int:
        return self.frequencies.shape[0]

    def gather(self, transform: Tensor) -> Tensor:
        """Take the lattice's values (..., P) from centred transforms (..., D, D[, D])."""
        return transform.flatten(-self.ndim)[..., self.index.to(transform.device)]

    def scatter(self, values: Tensor) -> Tensor:
        """Centred Hermitian transforms (..., D, D[, D]) from the lattice's values (..., P); others 0."""
        flat = values.new_zeros(*values.shape[:-1], self.box_size**self.ndim)
        flat[..., self.index.to(values.device)] = values
        flat[..., self.mirror.to(values.device)] = values.conj()
        return flat.unflatten(-1, (self.box_size,) * self.ndim)

    def real(self, values: Tensor) -> Tensor:
        """Real arrays (..., D, D[, D]) whose centred transforms have the values (..., P), and 0 elsewhere.

        The same as the inverse transform of `scatter`, by half of it: the first axis of the array is the last
        of the vector, which is nowhere negative on the lattice.
        """
        size, n = self.box_size, self.ndim
        half = values.new_zeros(*values.shape[:-1], (size // 2 + 1) * size ** (n - 1))
        for index, own in ((self.index, values), (self.mirror, values.conj())):
            axes = [index // size**i % size - size // 2 for i in reversed(range(n))]
            inside = axes[0] >= 0
            place = axes[0]
            for axis in axes[1:]:
                place = place * size + axis % size
            half[..., place[inside].to(values.device)] = own[..., inside.to(values.device)]
        half = half.unflatten(-1, (size // 2 + 1, *(size,) * (n - 1)))
        across = tuple(range(-n, 0))
        array = torch.fft.irfftn(half, s=(size,) * n, dim=across[::-1])
        return torch.fft.fftshift(array, dim=across)


@lru_cache(maxsize=16)
def half_lattice(box_size: int, ndim: int, radius_px: float | None = None) -> HalfLattice:
    """Build the half lattice of a box.

    Parameters
    ----------
    box_size
        D, even or odd.
    ndim
        2 for images, 3 for volumes.
    radius_px
        Keep frequencies with |k| D < radius_px. Default and upper limit: D/2, everything inside Nyquist.
    """
    limit = box_size / 2 if radius_px is None else min(radius_px, box_size / 2)
    axis = torch.arange(box_size) - box_size // 2
    grids = torch.meshgrid(*(axis,) * ndim, indexing="ij")  # array order: [z,] y, x
    k = torch.stack([g.flatten() for g in reversed(grids)], dim=1)  # vector order: x, y[, z]
    r2 = (k**2).sum(1)
    # One of each pair k, -k: the last non-zero component decides.
    positive = k[:, -1] > 0
    for i in range(ndim - 1):
        positive |= (k[:, i + 1 :] == 0).all(1) & (k[:, i] > 0)
    keep = torch.nonzero(positive & (r2 < limit**2)).squeeze(1)
    keep = keep[torch.argsort(r2[keep], stable=True)]
    strides = torch.tensor([box_size**i for i in range(ndim)])
    origin = box_size // 2 * int(strides.sum())
    return HalfLattice(
        box_size=box_size,
        frequencies=(k[keep] / box_size).to(torch.float32),
        index=origin + (k[keep] * strides).sum(1),
        mirror=origin - (k[keep] * strides).sum(1),
    )


def shells(box_size: int, ndim: int) -> Tensor:
    """Return |k| D rounded to the nearest integer, int64, for every element of a centred D^n transform."""
    axis = torch.arange(box_size) - box_size // 2
    grids = torch.meshgrid(*(axis,) * ndim, indexing="ij")
    return torch.stack(grids).square().sum(0).to(torch.float64).sqrt().round().to(torch.int64)


def half_shells(box_size: int, ndim: int) -> tuple[Tensor, Tensor]:
    """Shells as of `shells` of the elements of torch.fft.rfftn, and how many of the whole each stands for.

    Both have the shape (D, ..., D // 2 + 1); the second broadcasts to it.
    """
    axis = torch.fft.fftfreq(box_size, 1 / box_size).round().to(torch.int64)
    last = torch.arange(box_size // 2 + 1)
    r2 = last.square()
    for _ in range(ndim - 1):
        r2 = axis.square().reshape(-1, *(1,) * r2.ndim) + r2
    times = torch.full((box_size // 2 + 1,), 2.0, dtype=torch.float64)
    times[0] = 1
    if box_size % 2 == 0:
        times[-1] = 1
    of_r2 = torch.arange(int(r2.max()) + 1).to(torch.float64).sqrt().round().to(torch.int64)
    return of_r2[r2], times


def radii(box_size: int, ndim: int) -> Tensor:
    """|k| D, or the distance from the centre in pixels, float32, for every element of a centred array."""
    axis = torch.arange(box_size, dtype=torch.float32) - box_size // 2
    return torch.stack(torch.meshgrid(*(axis,) * ndim, indexing="ij")).square().sum(0).sqrt()


def shell_mean(values: Tensor, shell: Tensor, times: Tensor | None = None) -> Tensor:
    """Mean of values (M,) over each shell, (S,), each counted so many times (M,); None: once."""
    total = torch.zeros(int(shell.max()) + 1, dtype=values.dtype)
    total.index_add_(0, shell, values if times is None else values * times)
    return total / torch.bincount(shell, times).clamp_min(1)
