"""Finished run folders made without training: random weights, latents that are the truth with noise."""

import numpy as np
import pytest
import torch

from drgn.command import compose
from drgn.formats.particles import Particles
from drgn.run import Run, build_reconstructor
from drgn.simulate import simulate
from drgn.training.encode import Encoded

N = 120


@pytest.fixture(scope="session")
def star(tmp_path_factory):
    """A simulated particle set of N images."""
    folder = tmp_path_factory.mktemp("particles")
    options = compose("simulate", [f"n_particles={N}", "box_size=16", "pixel_size_A=12"])
    return simulate(**{**options, "output": folder})


@pytest.fixture(scope="session")
def make_run(star, tmp_path_factory):
    """A function: zdim -> run folder on the simulated set; more overrides of drgn train may follow."""

    def make(zdim, *overrides):
        latent = ["latent=none"] if zdim == 0 else [f"latent.zdim={zdim}"]
        start = [] if any(o.startswith("model=") for o in overrides) else ["warmstart=none"]
        path = tmp_path_factory.mktemp(f"run{zdim}")
        config = compose(
            "train",
            [
                "dataset=custom",
                f"dataset.particles={star}",
                "model=128x3",
                f"output={path}",
                *latent,
                *start,
                *overrides,
            ],
        )
        particles = Particles.from_file(star)
        run = Run.create(path, config, box_size=16, pixel_size_A=12.0, particles=particles)
        torch.manual_seed(zdim)
        model = build_reconstructor(config, box_size=16, n_particles=N)
        weights = {f"reconstructor.{name}": value for name, value in model.state_dict().items()}
        torch.save({"state_dict": weights}, run.folder("checkpoints") / "best.ckpt")
        truth = run.truth()
        rng = np.random.default_rng(0)
        z = 0.05 * rng.normal(size=(N, zdim))
        if zdim:
            z[:, 0] += 4 * truth["motion"]
        if zdim > 1:
            z[:, 1] += 2 * truth["attached"]
        zeros = np.zeros((N, zdim), np.float32)
        run.save_latents(Encoded(z.astype(np.float32), zeros, np.ones(N, np.float32)), np.arange(N) % 10 == 0)
        return path

    return make


@pytest.fixture(scope="session")
def finished(make_run):
    """A run with three latent dimensions."""
    return make_run(3)
