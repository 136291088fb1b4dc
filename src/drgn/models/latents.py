"""Where a particle's latent comes from: an encoder, a table, or nowhere."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from drgn.models.draws import normal
from drgn.models.encoders import Observation


class Posterior(NamedTuple):
    """A diagonal Gaussian over the latent of each image; images of one physical particle share it.

    Attributes
    ----------
    mean, logvar
        (B, Z) float32, equal for the images of one particle.
    particle
        (B,) int64, which of the batch's particles each image shows, from 0.
    group
        (B,) int64, the same in the whole table.
    """

    mean: Tensor
    logvar: Tensor
    particle: Tensor
    group: Tensor

    def sample(self, draw: int) -> Tensor:
        """One latent for each particle, given to each of its images (B, Z); differentiable.

        Parameters
        ----------
        draw
            Numbers the draw: the same one for the same draw and particle, whatever else is in the batch.
        """
        noise = normal(draw, self.group, self.mean.shape[1])
        return self.mean + noise * (0.5 * self.logvar).exp()

    def kl(self) -> Tensor:
        """KL divergence in nats from the prior N(0, I) (P6), shared out over a particle's images, (B,)."""
        whole = 0.5 * (self.mean**2 + self.logvar.exp() - self.logvar - 1).sum(-1)
        return whole / torch.bincount(self.particle)[self.particle]


def pooled(mean: Tensor, logvar: Tensor, group: Tensor) -> Posterior:
    """Bring the posteriors of single images together into one for each particle: their product.

    For Gaussians the precisions add up. The encoder is trained through this product, so that what it says of
    one image already allows for the others.

    Parameters
    ----------
    mean, logvar
        (B, Z), from each image alone.
    group
        (B,) int64, equal for images of one particle.
    """
    groups, particle = torch.unique(group, return_inverse=True)
    if len(groups) == len(group):
        return Posterior(mean, logvar, particle, group)
    precision = (-logvar).exp()
    shape = (len(groups), mean.shape[1])
    total = mean.new_zeros(shape).index_add(0, particle, precision)
    weighted = mean.new_zeros(shape).index_add(0, particle, precision * mean)
    return Posterior((weighted / total)[particle], -total.log()[particle], particle, group)


def corrected(start: tuple[Tensor, Tensor], mean: Tensor, logvar: Tensor, group: Tensor) -> Posterior:
    """A particle's posterior from the basis, plus the mean of what its images' encodings add to it.

    Parameters
    ----------
    start
        Mean and log-variance, (B, Z) each, equal for the images of one particle.
    mean, logvar
        (B, Z), corrections.
    group
        (B,) int64, equal for images of one particle.
    """
    groups, particle = torch.unique(group, return_inverse=True)
    if len(groups) < len(group):
        count = torch.bincount(particle).unsqueeze(1)
        total = mean.new_zeros(len(groups), 2 * mean.shape[1])
        total = total.index_add(0, particle, torch.cat([mean, logvar], dim=1)) / count
        mean, logvar = total[particle].chunk(2, dim=1)
    return Posterior(start[0] + mean, (start[1] + logvar).clamp(-10.0, 4.0), particle, group)


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
        """Posterior of each image's particle."""
        mean, logvar = self.encoder(seen)
        if seen.start is not None:
            return corrected(seen.start, mean, logvar, seen.group)
        return pooled(mean, logvar, seen.group)


class TableLatent(nn.Module):
    """One free posterior per particle: the auto-decoder.

    Parameters
    ----------
    n_particles
        Rows of the particle table; `group` counts up to it at most.
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
        _, particle = torch.unique(seen.group, return_inverse=True)
        return Posterior(self.mean(seen.group), self.logvar(seen.group), particle, seen.group)


class PosteriorLatent(nn.Module):
    """The latent that the basis infers, as it is: coefficients of modes, or probabilities of classes.

    Parameters
    ----------
    zdim
        Z, as many as the basis has modes or classes.
    """

    def __init__(self, *, zdim: int) -> None:
        super().__init__()
        self.zdim = zdim

    def forward(self, seen: Observation) -> Posterior:
        """Posterior of each image's particle."""
        assert seen.start is not None, "Reconstructor requires a basis"
        _, particle = torch.unique(seen.group, return_inverse=True)
        return Posterior(*seen.start, particle, seen.group)


class NoLatent(nn.Module):
    """Homogeneous reconstruction (P10)."""

    zdim = 0

    def forward(self, seen: Observation) -> None:
        """There is no latent."""
        return None
