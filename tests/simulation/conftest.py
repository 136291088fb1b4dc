"""Small sets of a molecule made of atoms, without any file from outside."""

from pathlib import Path

import numpy as np
import pytest
import torch

from drgn.command import bind, compose
from drgn.formats.particles import Particles, read_images
from drgn.simulate import simulate


@pytest.fixture(scope="session")
def make(tmp_path_factory):
    """Overrides of drgn simulate -> the star of 200 images of the hinged complex of 32 px, 12 A."""

    def run(*overrides):
        size = ["n_particles=200", "box_size=32", "pixel_size_A=12", "shift_px=1.5"]
        few = [] if any(o.startswith("molecule=") for o in overrides) else ["molecule.n_maps=5"]
        small = ["molecule=complex", *few, *size]
        output = tmp_path_factory.mktemp("set")
        return simulate(**bind(simulate, compose("simulate", [*small, *overrides, f"output={output}"])))

    return run


@pytest.fixture(scope="session")
def images():
    """Star -> its images."""

    def read(star):
        particles = Particles.from_file(star)
        return read_images(particles, np.arange(len(particles)))

    return read


@pytest.fixture(scope="session")
def clean(make):
    """The set with noise far below rounding."""
    return make("snr=1e14")


@pytest.fixture(scope="session")
def one_atom(tmp_path_factory) -> Path:
    """One carbon atom, 40 A from a much heavier one that does not matter: an .npz."""
    path = tmp_path_factory.mktemp("atom") / "atom.npz"
    np.savez(path, coords=np.array([[40.0, 0, 0], [-40.0, 0, 0]]), element=["C", "C"], chain=["A", "B"])
    return path


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
