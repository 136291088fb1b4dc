import pytest

from drgn.benchmark import step
from drgn.command import compose
from drgn.physics.grids import half_lattice
from drgn.run import build_reconstructor


def test_operations_by_hand():
    config = compose("train", ["model=128x3", "model/encoder=mlp", "latent.zdim=2", "warmstart=none"])
    model = build_reconstructor(config, box_size=16, n_particles=4)
    n = len(half_lattice(16, 2))
    decoder = 2 * 48 * 128 + 3 * (3 * 128 * 128 + 128 * 2)
    encoder = 2 * 2 * n * 128 + 3 * (3 * 128 * 128 + 128 * 4)
    assert step.gemm_flop(model, 5) == pytest.approx(2 * 5 * (n * decoder + encoder))
