"""What the physics tests share: reproducible random examples, and a phantom with detail up to Nyquist."""

import pytest
from hypothesis import settings

from drgn.physics.phantoms import GaussianPhantom, toy_molecule

settings.register_profile("drgn", deadline=None, derandomize=True, database=None, max_examples=100)
settings.load_profile("drgn")


@pytest.fixture(scope="session")
def molecule() -> GaussianPhantom:
    """Return a chiral molecule whose transform is still 3 % of its height at 6 A (sigma 2.5 A)."""
    soft = toy_molecule(0.3, attached=True)
    return GaussianPhantom(soft.centre_A, soft.sigma_A * 0.5, soft.weight)
