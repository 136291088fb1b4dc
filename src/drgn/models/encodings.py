"""Positional encodings: frequencies (..., 3) to features (..., out_dim), always computed in float32."""

import math

import torch
from torch import Tensor, nn


class GeometricEncoding(nn.Module):
    """The paper's encoding (P3): wavelengths in geometric progression from 1 to Nyquist, for each axis.

    sin and cos of k_j D pi (2/D)^(i / (D/2 - 1)) / wavelength_factor, i = 0 .. D/2 - 1.

    Parameters
    ----------
    box_size
        D.
    wavelength_factor
        1 is the paper's default, 2 pi its option for noisy data (P4).
    """

    def __init__(self, *, box_size: int, wavelength_factor: float = 1.0) -> None:
        super().__init__()
        n = box_size // 2
        i = torch.arange(n, dtype=torch.float64)
        scale = box_size * math.pi * (2 / box_size) ** (i / (n - 1)) / wavelength_factor
        self.register_buffer("scale", scale.to(torch.float32))
        self.out_dim = 6 * n

    scale: Tensor

    def forward(self, coordinates: Tensor) -> Tensor:
        """Encode frequencies (..., 3) in cycles per pixel -> (..., 6 D/2)."""
        with torch.autocast(coordinates.device.type, enabled=False):
            phase = (coordinates.float().unsqueeze(-1) * self.scale).flatten(-2)
            return torch.cat([phase.sin(), phase.cos()], dim=-1)


class GaussianEncoding(nn.Module):
    """Random Fourier features: the transforms of point sources drawn from a Gaussian around the origin.

    sin and cos of 2 pi k.r with r ~ N(0, (sigma D / 2)^2) pixels: each feature pair is what one atom at r
    would contribute, so a linear layer on top already is a bead model.

    Parameters
    ----------
    box_size
        D.
    sigma
        Standard deviation of r along each axis, in half boxes.
    n_frequencies
        How many points; default 3 D / 2, the number of features of the geometric encoding.
    seed
        Of the draw.
    """

    def __init__(
        self, *, box_size: int, sigma: float = 0.25, n_frequencies: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        n = 3 * (box_size // 2) if n_frequencies is None else n_frequencies
        generator = torch.Generator().manual_seed(seed)
        points_px = torch.randn(3, n, generator=generator) * sigma * box_size / 2
        self.register_buffer("points_px", points_px)
        self.out_dim = 2 * n

    points_px: Tensor

    def forward(self, coordinates: Tensor) -> Tensor:
        """Encode frequencies (..., 3) in cycles per pixel -> (..., 2 n_frequencies)."""
        with torch.autocast(coordinates.device.type, enabled=False):
            phase = 2 * math.pi * (coordinates.float() @ self.points_px)
            return torch.cat([phase.sin(), phase.cos()], dim=-1)
