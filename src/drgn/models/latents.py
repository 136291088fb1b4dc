"""Where a particle's latent comes from: an encoder, a table, or nowhere."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from drgn.models.encoders import Observation


class Posterior(NamedTuple):
    """A diagonal Gaussian over the latent of each image.

    Attributes
    ----------
    mean, logvar
        (B, Z) float32.
    """

    mean: Tensor
    logvar: Tensor

    def sample(self) -> Tensor:
        """One draw (B, Z), differentiable in mean and logvar."""
        return self.mean + torch.randn_like(self.mean) * (0.5 * self.logvar).exp()

    def kl(self) -> Tensor:
        """KL divergence (B,) in nats from the prior N(0, I) (P6)."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - self.logvar - 1).sum(-1)


class VAELatent(nn.Module):
    """Amortised inference: q(z | X) from an encoder (P1).

    Parameters
    ----------
    encoder
        Module from an Observation to mean (B, Z) and log-variance (B, Z).
    zdim
        Z.
    """

    def __init__(self, *, encoder: nn.Module, zdim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.zdim = zdim

    def forward(self, seen: Observation) -> Posterior:
        """Posterior of each image."""
        return Posterior(*self.encoder(seen))


class TableLatent(nn.Module):
    """One free posterior per particle: the auto-decoder.

    Parameters
    ----------
    n_particles
        N, rows of the table.
    zdim
        Z.
    """

    def __init__(self, *, n_particles: int, zdim: int) -> None:
        super().__init__()
        self.zdim = zdim
        self.mean = nn.Embedding(n_particles, zdim)
        self.logvar = nn.Embedding(n_particles, zdim)
        nn.init.normal_(self.mean.weight, std=0.01)
        nn.init.constant_(self.logvar.weight, -2.0)

    def forward(self, seen: Observation) -> Posterior:
        """Posterior of each particle, whatever its image."""
        return Posterior(self.mean(seen.row), self.logvar(seen.row))


class NoLatent(nn.Module):
    """Homogeneous reconstruction (P10)."""

    zdim = 0

    def forward(self, seen: Observation) -> None:
        """There is no latent."""
        return None
