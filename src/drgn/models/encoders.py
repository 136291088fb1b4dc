"""Image encoders: from an image to the mean and log-variance of its latent."""

import torch
from torch import Tensor, nn

from drgn.models.mlp import ResidualMLP


class MLPEncoder(nn.Module):
    """Fully connected encoder q(z | X) with a diagonal Gaussian (P1).

    Parameters
    ----------
    n_pixels
        P, frequencies of an image.
    zdim
        Z.
    hidden_dim, layers
        Size of the network.
    """

    def __init__(self, *, n_pixels: int, zdim: int, hidden_dim: int, layers: int) -> None:
        super().__init__()
        self.network = ResidualMLP(
            in_dim=2 * n_pixels, hidden_dim=hidden_dim, layers=layers, out_dim=2 * zdim
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Encode features (B, P, 2) -> mean (B, Z) and log-variance (B, Z), float32."""
        out = self.network(features.flatten(-2)).float()
        mean, logvar = out.chunk(2, dim=-1)
        # e^-10 .. e^4: a standard deviation of 0.007 to 7 prior widths; beyond that only overflow lies
        return mean, torch.clamp(logvar, -10.0, 4.0)
