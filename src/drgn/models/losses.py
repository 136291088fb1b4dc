"""The objective."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Loss(NamedTuple):
    """Parts of the objective for each image, (B,), in nats.

    Attributes
    ----------
    total
        reconstruction + weight * kl, and in training the penalty of `nuisance`: what is minimised.
    reconstruction
        Squared residual in units of the noise: the negative log-likelihood up to a constant (P5).
    kl
        Divergence of the posterior from the prior; zero without a latent.
    """

    total: Tensor
    reconstruction: Tensor
    kl: Tensor


class BetaKL(nn.Module):
    """Squared error plus beta KL, the evidence lower bound for beta = 1 (P6).

    Parameters
    ----------
    zdim
        Z.
    beta
        Weight of the KL term; None is the paper's 1/Z.
    warmup_images
        The weight rises linearly from 0 over the first `warmup_images` images.
    """

    def __init__(self, *, zdim: int, beta: float | None = None, warmup_images: int = 0) -> None:
        super().__init__()
        self.beta = beta if beta is not None else 1 / max(zdim, 1)
        self.warmup_images = warmup_images

    def weight(self, images_seen: int) -> float:
        """Beta after this many images of training."""
        if images_seen >= self.warmup_images:
            return self.beta
        return self.beta * images_seen / self.warmup_images

    def forward(self, residual: Tensor, kl: Tensor | None, images_seen: int) -> Loss:
        """Combine whitened residuals (B, P) complex and KL (B,) or None."""
        reconstruction = torch.view_as_real(residual).square().sum((-1, -2))
        if kl is None:
            return Loss(reconstruction, reconstruction, torch.zeros_like(reconstruction))
        return Loss(reconstruction + self.weight(images_seen) * kl, reconstruction, kl)
