"""Volumes on a voxel grid that a latent weighs: V(k, z) = sum_a w_a(z) V_a(k).

What an image says of the weights is all in two small arrays, see `Statistics`, which know its pose and its
CTF. The volumes are found by expectation-maximisation (`training.expectation`) before a network is trained.
Beyond the radius up to which they are found, the mean of the particles stands for each.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from drgn.errors import InputError
from drgn.physics import fourier
from drgn.physics.grids import radii
from drgn.physics.slices import padded_half

_OVERSAMPLING = 2  # of the grid that slices are interpolated from
_LOW = 8  # Fourier pixels in which the volumes of two bases are compared
_PIECE = 4096  # images whose statistics are unpacked at a time


class Statistics(NamedTuple):
    """What images say of the weights w of A volumes: log-likelihood 2 h.w - w.G w, in units of the noise.

    Attributes
    ----------
    gram
        G, (B, A, A).
    overlap
        h, (B, A).
    """

    gram: Tensor
    overlap: Tensor


@dataclass(frozen=True)
class Packed:
    """`Statistics` of all images of a set, in little more than half the memory: G is symmetric.

    Attributes
    ----------
    lower
        Lower triangles of G, (N, A (A + 1) / 2), row by row.
    overlap
        h, (N, A).
    zeros
        Makes an array (N, W) of other numbers of these images: where they are many, not in memory.
    """

    lower: Tensor
    overlap: Tensor
    zeros: Callable[[int, int], Tensor] = torch.zeros

    def __len__(self) -> int:
        return len(self.overlap)

    def some(self, rows: slice | Tensor) -> Statistics:
        """Those of some images."""
        return Statistics(unpacked(self.lower[rows]), self.overlap[rows])

    def each(self, function: Callable[[Statistics], Sequence[Tensor]]) -> list[Tensor]:
        """What a function finds for the images, (N, W) each, a piece of them at a time."""
        found: list[Tensor] = []
        for piece in pieces(len(self)):
            parts = function(self.some(piece))
            found = found or [self.zeros(len(self), part.shape[1]) for part in parts]
            for whole, part in zip(found, parts, strict=True):
                whole[piece] = part
        return found


class Basis(nn.Module):
    """A volumes and their slices; subclasses say how a latent weighs them.

    A subclass has `encode` (statistics to latent), `weights` (latent to weights), and what
    expectation-maximisation asks of it: `moments`, `expected_power`, `mean_share`,
    `start`, `arrange`.

    Parameters
    ----------
    box_size
        D of training.
    zdim
        Z.
    volumes
        A.
    radius_px
        The volumes are known at frequencies below radius_px / D cycles per pixel; beyond, up to Nyquist, all
        are what the particles show in the mean.
    """

    def __init__(self, *, box_size: int, zdim: int, volumes: int, radius_px: int) -> None:
        super().__init__()
        if radius_px < 1:
            raise InputError(f"warmstart.radius_px={radius_px}: expected at least 1")
        self.box_size, self.zdim = box_size, zdim
        self.nyquist_px = box_size // 2 - 1
        self.radius_px = min(radius_px, self.nyquist_px)
        side = 2 * (self.radius_px + 1)
        self.register_buffer("density", torch.zeros(volumes, side, side, side))
        side = box_size if self.radius_px < self.nyquist_px else 0
        self.register_buffer("mean", torch.zeros(side, side, side))  # empty where the volumes reach Nyquist
        self._grids: dict[str, tuple[int, torch.device, Tensor]] = {}

    density: Tensor
    mean: Tensor

    def encode(self, known: Statistics) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent, (B, Z) each."""
        raise NotImplementedError

    def weights(self, z: Tensor | None) -> Tensor:
        """Weights (B, A) of the volumes at z (B, Z); (1, A) without a latent."""
        raise NotImplementedError

    def expected(self, known: Statistics) -> Tensor:
        """Weights (B, A) that the images show, without the latent."""
        raise NotImplementedError

    def moments(self, known: Packed) -> tuple[Tensor, Tensor]:
        """E[w] (N, A) and E[w w^T] of the images, which the next volumes are solved with.

        Of the second the lower triangles, (N, A (A + 1) / 2), row by row.
        """
        raise NotImplementedError

    def expected_power(self) -> Tensor:
        """Power of each volume in that of the mean, shell by shell, (A,): the prior of the volumes."""
        raise NotImplementedError

    def mean_share(self) -> Tensor:
        """Weights (A,) that give the mean of the particles, up to a factor."""
        raise NotImplementedError

    def start(self, mean: Tensor, noise: Tensor) -> Tensor:
        """First volumes (M, A) from the mean (M,) and noise (M, A), at M voxels of their transforms."""
        raise NotImplementedError

    def arrange(self) -> None:
        """Bring the volumes into an order, in place, when they are found."""
        raise NotImplementedError

    def turn_onto(self, other: Self) -> None:
        """Mix the volumes, in place, so that their weights mean what those of another basis mean.

        At most A^2 numbers are taken from the other, and found in `low` alone.
        """
        raise NotImplementedError

    def low(self) -> Tensor:
        """The volumes at the lowest resolution, the first eight Fourier pixels, flat, (A, side^3)."""
        transform = fourier.fft(self.density, 3)
        near = radii(self.side, 3).to(self.density.device) < _LOW
        return fourier.ifft(transform * near, 3).real.flatten(1)

    @property
    def side(self) -> int:
        """Box of `density`, whose field of view is that of the training box."""
        return self.density.shape[-1]

    def grid(self) -> Tensor:
        """Oversampled half transform (z, y, x, 2 A) of the volumes, made anew when they change."""
        return self._half_transform("density", self.density)

    def _half_transform(self, name: str, densities: Tensor) -> Tensor:
        state = (densities._version, densities.device)
        if name not in self._grids or self._grids[name][:2] != state:
            with torch.no_grad():
                half = _OVERSAMPLING * densities.shape[-1] // 2
                grid = densities.new_zeros(half, 2 * half, 2 * half, 2 * len(densities))
                for a, density in enumerate(densities):
                    transform = padded_half(density, _OVERSAMPLING, half - 1)
                    grid[:, 1:, 1:, 2 * a : 2 * a + 2] = torch.view_as_real(transform)
                self._grids[name] = (*state, grid)
        return self._grids[name][2]

    def n_known(self, frequencies: Tensor) -> int:
        """How many of a half lattice's frequencies (P, n), which ascend in radius, the volumes know."""
        return int((frequencies.norm(dim=-1) * self.box_size < self.radius_px).sum())

    def n_reached(self, frequencies: Tensor) -> int:
        """How many of them are known at least in the mean."""
        return int((frequencies.norm(dim=-1) * self.box_size < self.nyquist_px).sum())

    def slices(self, coordinates: Tensor, sign: Tensor) -> Tensor:
        """Values of the volumes.

        Parameters
        ----------
        coordinates
            (B, P, 3), cycles per pixel, folded to z >= 0, below the radius.
        sign
            (B, P), of the imaginary part, from `imaging.fold`.

        Returns
        -------
        Tensor
            (B, P, A) complex.
        """
        return self._interpolated(self.grid(), coordinates, sign)

    def slices_of_mean(self, coordinates: Tensor, sign: Tensor) -> Tensor:
        """Values (B, P) complex of the mean, which stands for the volumes beyond; as `slices`."""
        return self._interpolated(self._half_transform("mean", self.mean[None]), coordinates, sign)[..., 0]

    def _interpolated(self, grid: Tensor, coordinates: Tensor, sign: Tensor) -> Tensor:
        """Values (B, P, A) complex of a half transform (z, y, x, 2 A)."""
        _, n_y, n_x, channels = grid.shape
        position = coordinates * (self.box_size * _OVERSAMPLING)
        x, y, z = position.flatten(0, -2).unbind(-1)
        x, y = x + n_x // 2, y + n_y // 2
        low = torch.stack([z, y, x], dim=-1)
        corner = low.floor()
        fraction = low - corner
        at = corner.long()
        index, share = [], []
        for i in range(8):
            bits = (i >> 2, i >> 1 & 1, i & 1)
            index.append(((at[:, 0] + bits[0]) * n_y + at[:, 1] + bits[1]) * n_x + at[:, 2] + bits[2])
            parts = [fraction[:, j] if bit else 1 - fraction[:, j] for j, bit in enumerate(bits)]
            share.append(parts[0] * parts[1] * parts[2])
        values = functional.embedding_bag(
            torch.stack(index, dim=1),
            grid.view(-1, channels),
            per_sample_weights=torch.stack(share, dim=1),
            mode="sum",
        )
        values = values.view(*sign.shape, channels // 2, 2)
        return torch.complex(values[..., 0], values[..., 1] * sign.unsqueeze(-1))

    def statistics(self, slices: Tensor, centred: Tensor, weight: Tensor, group: Tensor) -> Statistics:
        """What the images of each particle say of the weights.

        Parameters
        ----------
        slices
            (B, P, A) complex.
        centred, weight
            (B, P), as in `Observation`.
        group
            (B,) int64: images of one particle share their statistics.
        """
        parts = torch.view_as_real(slices).transpose(-1, -2).flatten(1, 2)  # (B, 2 P, A)
        weighted = parts * weight.repeat_interleave(2, dim=1).unsqueeze(-1)
        gram = parts.transpose(1, 2) @ weighted
        overlap = (parts * torch.view_as_real(centred).flatten(1).unsqueeze(-1)).sum(1)
        _, particle = torch.unique(group, return_inverse=True)
        return Statistics(shared(gram, particle), shared(overlap, particle))

    def at(self, slices: Tensor, z: Tensor | None) -> Tensor:
        """Slices (B, P) at z (B, Z) from those of the volumes (B, P, A)."""
        return (slices * self.weights(z).unsqueeze(1)).sum(-1)

    def transform(self, z: Tensor | None) -> Tensor:
        """Centred transform (D, D, D) of the volume at z (Z,)."""
        weights = self.weights(None if z is None else z[None])[0]
        density = torch.tensordot(weights, self.density, dims=1)
        transform = fourier.pad(fourier.fft(density, 3), self.box_size, 3)
        if not self.mean.numel():
            return transform
        inside = radii(self.box_size, 3).to(transform.device) < self.radius_px
        return torch.where(inside, transform, fourier.fft(self.mean, 3))


def pieces(n: int) -> Iterator[slice]:
    """Yield slices of a few thousand of n images."""
    for start in range(0, n, _PIECE):
        yield slice(start, min(start + _PIECE, n))


def packed(values: Tensor) -> Tensor:
    """Lower triangles (B, A (A + 1) / 2), row by row, of matrices (B, A, A)."""
    row, column = torch.tril_indices(values.shape[1], values.shape[1])
    return values[:, row, column]


def unpacked(values: Tensor) -> Tensor:
    """Symmetric matrices (B, A, A) from their lower triangles (B, A (A + 1) / 2)."""
    size = int((2 * values.shape[1]) ** 0.5)
    i = torch.arange(size)
    row, column = torch.maximum(i[:, None], i), torch.minimum(i[:, None], i)
    return values[:, row * (row + 1) // 2 + column]


def shared(values: Tensor, particle: Tensor) -> Tensor:
    """Sum over the images of each particle, given to each of them; (B, ...) and (B,)."""
    n = int(particle.max()) + 1
    if n == len(particle):
        return values
    return values.new_zeros(n, *values.shape[1:]).index_add(0, particle, values)[particle]
