"""What the physics tests share: reproducible random examples, and a molecule with detail up to Nyquist."""

import pytest
import torch
from hypothesis import settings

from drgn.physics.phantoms import GaussianPhantom

settings.register_profile("drgn", deadline=None, derandomize=True, database=None, max_examples=100)
settings.load_profile("drgn")


@pytest.fixture(scope="session")
def molecule() -> GaussianPhantom:
    """Return 60 blobs in an ellipsoid of 110 A, chiral, whose amplitude at 6 A is still 3 % (sigma 2.5 A)."""
    generator = torch.Generator().manual_seed(5)
    centre = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    centre *= torch.rand(60, 1, generator=generator, dtype=torch.float64) ** (1 / 3) / centre.norm(
        dim=1, keepdim=True
    )
    return GaussianPhantom(
        centre_A=centre * torch.tensor([55.0, 38.0, 26.0], dtype=torch.float64),
        sigma_A=torch.full((60,), 2.5, dtype=torch.float64),
        weight=torch.rand(60, generator=generator, dtype=torch.float64) + 0.5,
    )
