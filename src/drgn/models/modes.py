"""Linear modes about a mean (P42), and a non-linear latent inside the subspace that they span.

V(k, z) = mean(k) + sum_j c_j(z) mode_j(k). The coefficients' prior is N(0, I); what an image says of them is
a Gaussian. `LinearModes` takes them as the latent: 3D variability analysis. In `Subspace` two small networks
lie between the coefficients and a latent of any dimension, which the neural parts then add to.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from drgn.errors import InputError
from drgn.models.basis import Basis, Packed, Statistics, packed, pieces, unpacked
from drgn.models.mlp import ResidualMLP

_MODE_POWER = 0.2  # prior: power of a mode in that of the mean, shell by shell


class Coefficients(NamedTuple):
    """Posterior of each image's coefficients under the prior N(0, I): mean (B, K), precision (B, K, K)."""

    mean: Tensor
    precision: Tensor


class LinearModes(Basis):
    """A mean and as many modes as the latent has dimensions; the latent is the coefficients.

    Parameters
    ----------
    box_size
        D of training.
    zdim
        Z; 0 leaves the mean alone.
    radius_px
        Modes are known at frequencies below radius_px / D cycles per pixel, the mean up to Nyquist.
    """

    def __init__(self, *, box_size: int, zdim: int, radius_px: int = 64) -> None:
        super().__init__(box_size=box_size, zdim=zdim, volumes=zdim + 1, radius_px=radius_px)

    @property
    def n_modes(self) -> int:
        """K."""
        return len(self.density) - 1

    def encode(self, known: Statistics) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the coefficients, (B, K) each.

        The variances are those of the best diagonal Gaussian, one over the precisions.
        """
        coefficients = posterior(known)
        return coefficients.mean, -coefficients.precision.diagonal(dim1=1, dim2=2).log()

    def decode(self, z: Tensor) -> Tensor:
        """Coefficients (B, K) at z (B, Z)."""
        return z

    def weights(self, z: Tensor | None) -> Tensor:
        """Weights (B, K + 1): 1 for the mean, then the coefficients."""
        if z is None or not self.n_modes:
            return self.density.new_ones(1, 1)
        coefficients = self.decode(z).float()
        return torch.cat([coefficients.new_ones(len(z), 1), coefficients], dim=1)

    def expected(self, known: Statistics) -> Tensor:
        """1 for the mean, then the posterior mean of the coefficients, (B, K + 1)."""
        return torch.cat([known.overlap.new_ones(len(known.overlap), 1), posterior(known).mean], dim=1)

    def moments(self, known: Packed) -> tuple[Tensor, Tensor]:
        """E[w] and E[w w^T] of w = (1, coefficients), these whitened over the particles."""
        n, k = len(known), self.n_modes
        first, second = (known.zeros(n, part.shape[1]) for part in (known.overlap, known.lower))
        if not k:
            return first.fill_(1), second.fill_(1)
        row, column = torch.tril_indices(k + 1, k + 1)
        inside = column > 0  # of the lower triangle: the coefficients, without the mean
        total, square = torch.zeros(k, dtype=torch.float64), torch.zeros(k, k, dtype=torch.float64)
        for piece in pieces(n):  # mean and covariance of each image, in the place of the moments
            found = posterior(known.some(piece))
            mean, covariance = found.mean.double(), torch.linalg.inv(found.precision.double())
            total += mean.sum(0)
            square += mean.T @ mean + covariance.sum(0)
            first[piece, 1:], second[piece, inside] = found.mean, packed(covariance).float()
        centre = total / n
        spread = square / n - centre[:, None] * centre
        whiten = torch.linalg.inv(torch.linalg.cholesky(spread))
        for piece in pieces(n):
            mean = (first[piece, 1:].double() - centre) @ whiten.T
            covariance = whiten @ unpacked(second[piece, inside]).double() @ whiten.T
            weights = torch.cat([mean.new_ones(len(mean), 1), mean], dim=1)
            products = weights[:, row] * weights[:, column]
            products[:, inside] += packed(covariance)
            first[piece], second[piece] = weights.float(), products.float()
        return first, second

    def expected_power(self) -> Tensor:
        """1 for the mean, less for the modes, (K + 1,)."""
        power = torch.full((self.n_modes + 1,), _MODE_POWER)
        power[0] = 1
        return power

    def mean_share(self) -> Tensor:
        """The first is the mean, (K + 1,)."""
        share = torch.zeros(self.n_modes + 1)
        share[0] = 1
        return share

    def start(self, mean: Tensor, noise: Tensor) -> Tensor:
        """The mean, and noise as the modes, (M, K + 1)."""
        return torch.cat([mean[:, None], noise[:, 1:]], dim=1)

    def arrange(self) -> None:
        """Turn the modes so that they are orthogonal, the strongest first; their span and prior stay."""
        flat = self.density[1:].flatten(1)
        if len(flat):
            _, vectors = torch.linalg.eigh(flat @ flat.T)
            self.density[1:] = (vectors.flip(1).T @ flat).unflatten(1, self.density.shape[1:])

    def turn_onto(self, other: Self) -> None:
        """Turn the modes by the rotation that lays them best on those of another; coefficients turn too.

        Orthogonal (Schönemann, Psychometrika 31, 1, 1966), so that the coefficients' prior stays N(0, I).
        """
        if self.n_modes:
            left, _, right = torch.linalg.svd(other.low()[1:] @ self.low()[1:].T)
            turned = (left @ right) @ self.density[1:].flatten(1)
            self.density[1:] = turned.unflatten(1, self.density.shape[1:])


class Subspace(LinearModes):
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
        Modes are known at frequencies below radius_px / D cycles per pixel, the mean up to Nyquist.
    hidden_dim, layers
        Size of both networks.
    """

    def __init__(
        self,
        *,
        box_size: int,
        zdim: int,
        modes: int = 8,
        radius_px: int = 64,
        hidden_dim: int = 128,
        layers: int = 1,
    ) -> None:
        for name, value in (("modes", modes), ("hidden_dim", hidden_dim)):
            if value < 1:
                raise InputError(f"warmstart.{name}={value}: expected at least 1")
        n = modes if zdim else 0
        super().__init__(box_size=box_size, zdim=n, radius_px=radius_px)
        self.zdim = zdim
        self.register_buffer("feature_mean", torch.zeros(2 * n))
        self.register_buffer("feature_std", torch.ones(2 * n))
        self.register_buffer("coefficient_std", torch.ones(n))
        if zdim:
            self.encoder = ResidualMLP(in_dim=2 * n, hidden_dim=hidden_dim, layers=layers, out_dim=2 * zdim)
            self.decoder = ResidualMLP(in_dim=zdim, hidden_dim=hidden_dim, layers=layers, out_dim=n)

    feature_mean: Tensor
    feature_std: Tensor
    coefficient_std: Tensor

    def features(self, known: Coefficients) -> Tensor:
        """What the encoder is given, (B, 2 K): the posterior mean and the logarithm of its precisions."""
        diagonal = known.precision.diagonal(dim1=1, dim2=2)
        raw = torch.cat([known.mean, diagonal.log()], dim=1)
        return (raw - self.feature_mean) / self.feature_std

    def encode(self, known: Statistics) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent, (B, Z) each."""
        return self.infer(posterior(known))

    def infer(self, known: Coefficients) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent, (B, Z) each, from the coefficients' posterior."""
        mean, logvar = self.encoder(self.features(known)).float().chunk(2, dim=-1)
        return mean, logvar

    def decode(self, z: Tensor) -> Tensor:
        """Coefficients c(z), (B, K)."""
        return self.decoder(z).float() * self.coefficient_std


def posterior(known: Statistics) -> Coefficients:
    """Posterior of the modes' coefficients under N(0, I), the mean's weight being 1."""
    gram, overlap = known
    precision = 2 * gram[:, 1:, 1:] + torch.eye(gram.shape[1] - 1, device=gram.device)
    right = 2 * (overlap[:, 1:] - gram[:, 1:, 0])
    return Coefficients(torch.linalg.solve(precision, right), precision)
