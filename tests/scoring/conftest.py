"""A small set of a hinged complex, and a run on it made without training."""

import numpy as np
import pytest
import torch

from drgn.command import bind, compose
from drgn.formats.particles import Particles
from drgn.run import Run, build_reconstructor
from drgn.simulate import simulate
from drgn.training.encode import Encoded

SIZE = ["molecule=complex", "molecule.n_maps=5", "box_size=16", "pixel_size_A=24", "shift_px=0.5"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """Overrides of drgn simulate -> the folder of a set of 200 images of 16 px, 24 A."""

    def make(*overrides):
        folder = tmp_path_factory.mktemp("set")
        options = compose("simulate", [*SIZE, "n_particles=200", *overrides, f"output={folder}"])
        simulate(**bind(simulate, options))
        return folder

    return make


@pytest.fixture(scope="session")
def noisy(simulated):
    """A set whose images tell their state in part."""
    return simulated("snr=1")


@pytest.fixture(scope="session")
def run(noisy, tmp_path_factory):
    """A run folder on `noisy` with random weights, whose latent is the truth with noise."""
    path = tmp_path_factory.mktemp("run")
    config = compose(
        "train",
        [
            "dataset=custom",
            f"dataset.particles={noisy / 'particles.star'}",
            "model=128x3",
            "warmstart=none",
            "latent.zdim=2",
            f"output={path}",
        ],
    )
    particles = Particles.from_file(noisy / "particles.star")
    made = Run.create(path, config, box_size=16, pixel_size_A=24.0, particles=particles)
    torch.manual_seed(0)
    model = build_reconstructor(config, box_size=16, n_particles=200)
    weights = {f"reconstructor.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights}, made.folder("checkpoints") / "best.ckpt")
    z = 0.3 * np.random.default_rng(0).normal(size=(200, 2))
    z[:, 0] += 2 * made.truth()["motion"]
    zeros = np.zeros((200, 2), np.float32)
    made.save_latents(Encoded(z.astype(np.float32), zeros, np.ones(200, np.float32)), np.zeros(200, bool))
    return path
