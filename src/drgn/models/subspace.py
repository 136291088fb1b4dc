"""The linear subspace: a mean map and K modes on a voxel grid, and a small latent model inside them (P42).

V(k, z) = mean(k) + sum_j c_j(z) mode_j(k). What an image says of the coefficients c is a Gaussian whose
parameters (see `physics.voxels.statistics`) know its pose and its CTF; the encoder starts from them. The
modes are found by expectation-maximisation (`training.subspace`), before the neural parts are trained.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from drgn.models.mlp import ResidualMLP
from drgn.physics import fourier
from drgn.physics.slices import padded_transform

_OVERSAMPLING = 2  # of the grid that slices are interpolated from


class Coefficients(NamedTuple):
    """Posterior of each image's coefficients under the prior N(0, I): mean (B, K), precision (B, K, K)."""

    mean: Tensor
    precision: Tensor


class Subspace(nn.Module):
    """Mean, modes, and the networks between their coefficients and the latent.

    Parameters
    ----------
    box_size
        D of training.
    zdim
        Z; 0 leaves the mean alone.
    modes
        K.
    radius_px
        Mean and modes are known at frequencies below radius_px / D cycles per pixel.
    hidden_dim, layers
        Size of both networks.
    """

    def __init__(
        self,
        *,
        box_size: int,
        zdim: int,
        modes: int = 8,
        radius_px: int = 24,
        hidden_dim: int = 128,
        layers: int = 1,
    ) -> None:
        super().__init__()
        self.box_size, self.zdim, self.n_modes = box_size, zdim, modes if zdim else 0
        self.radius_px = min(radius_px, box_size // 2 - 1)
        side = 2 * (self.radius_px + 1)
        self.register_buffer("density", torch.zeros(self.n_modes + 1, side, side, side))
        self.register_buffer("feature_mean", torch.zeros(2 * self.n_modes))
        self.register_buffer("feature_std", torch.ones(2 * self.n_modes))
        self.register_buffer("coefficient_std", torch.ones(self.n_modes))
        if zdim:
            self.encoder = ResidualMLP(
                in_dim=2 * modes, hidden_dim=hidden_dim, layers=layers, out_dim=2 * zdim
            )
            self.decoder = ResidualMLP(in_dim=zdim, hidden_dim=hidden_dim, layers=layers, out_dim=modes)
        self._grid: tuple[int, torch.device, Tensor] | None = None

    density: Tensor
    feature_mean: Tensor
    feature_std: Tensor
    coefficient_std: Tensor

    @property
    def side(self) -> int:
        """Box of `density`, whose field of view is that of the training box."""
        return self.density.shape[-1]

    def grid(self) -> Tensor:
        """Oversampled half transform (z, y, x, 2 (K + 1)) of mean and modes, made anew when they change."""
        state = (self.density._version, self.density.device)
        if self._grid is None or self._grid[:2] != state:
            with torch.no_grad():
                half = _OVERSAMPLING * self.side // 2
                parts = [torch.view_as_real(padded_transform(d, _OVERSAMPLING)[half:]) for d in self.density]
                self._grid = (*state, torch.cat(parts, dim=-1).contiguous())
        return self._grid[2]

    def n_known(self, frequencies: Tensor) -> int:
        """How many of a half lattice's frequencies (P, n), which ascend in radius, the subspace knows."""
        return int((frequencies.norm(dim=-1) * self.box_size < self.radius_px).sum())

    def slices(self, coordinates: Tensor, sign: Tensor) -> Tensor:
        """Values of mean and modes.

        Parameters
        ----------
        coordinates
            (B, P, 3), cycles per pixel, folded to z >= 0, below the radius.
        sign
            (B, P), of the imaginary part, from `imaging.fold`.

        Returns
        -------
        Tensor
            (B, P, K + 1) complex.
        """
        grid = self.grid()
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

    def coefficients(self, slices: Tensor, centred: Tensor, weight: Tensor, group: Tensor) -> Coefficients:
        """What the images of each particle say of its coefficients.

        Parameters
        ----------
        slices
            (B, P, K + 1).
        centred, weight
            (B, P), as in `Observation`.
        group
            (B,) int64: images of one particle share their posterior.
        """
        parts = torch.view_as_real(slices).transpose(-1, -2).flatten(1, 2)  # (B, 2 P, K + 1)
        weighted = parts * weight.repeat_interleave(2, dim=1).unsqueeze(-1)
        gram = parts.transpose(1, 2) @ weighted
        overlap = (parts * torch.view_as_real(centred).flatten(1).unsqueeze(-1)).sum(1)
        _, particle = torch.unique(group, return_inverse=True)
        gram, overlap = shared(gram, particle), shared(overlap, particle)
        return posterior(gram, overlap)

    def features(self, known: Coefficients) -> Tensor:
        """What the encoder is given, (B, 2 K): the posterior mean and the logarithm of its precisions."""
        diagonal = known.precision.diagonal(dim1=1, dim2=2)
        raw = torch.cat([known.mean, diagonal.log()], dim=1)
        return (raw - self.feature_mean) / self.feature_std

    def encode(self, known: Coefficients) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent, (B, Z) each."""
        mean, logvar = self.encoder(self.features(known)).float().chunk(2, dim=-1)
        return mean, logvar

    def decode(self, z: Tensor) -> Tensor:
        """Coefficients c(z), (B, K)."""
        return self.decoder(z).float() * self.coefficient_std

    def at(self, slices: Tensor, z: Tensor | None) -> Tensor:
        """Slices (B, P) of the volumes at z (B, Z) from those of mean and modes (B, P, K + 1)."""
        if z is None or not self.n_modes:
            return slices[..., 0]
        return slices[..., 0] + (slices[..., 1:] @ self.decode(z).to(slices.dtype).unsqueeze(-1)).squeeze(-1)

    def transform(self, z: Tensor | None) -> Tensor:
        """Centred transform (D, D, D) of the volume at z (Z,)."""
        density = self.density[0]
        if z is not None and self.n_modes:
            density = density + torch.tensordot(self.decode(z[None])[0], self.density[1:], dims=1)
        return fourier.pad(fourier.fft(density, 3), self.box_size, 3)


def shared(values: Tensor, particle: Tensor) -> Tensor:
    """Sum over the images of each particle, given to each of them; (B, ...) and (B,)."""
    n = int(particle.max()) + 1
    if n == len(particle):
        return values
    return values.new_zeros(n, *values.shape[1:]).index_add(0, particle, values)[particle]


def posterior(gram: Tensor, overlap: Tensor) -> Coefficients:
    """Posterior of the modes' coefficients under N(0, I), the mean's being 1.

    Parameters
    ----------
    gram, overlap
        G (B, K + 1, K + 1) and h (B, K + 1) of `physics.voxels.statistics`, the mean first.
    """
    precision = 2 * gram[:, 1:, 1:] + torch.eye(gram.shape[1] - 1, device=gram.device)
    right = 2 * (overlap[:, 1:] - gram[:, 1:, 0])
    return Coefficients(torch.linalg.solve(precision, right), precision)
