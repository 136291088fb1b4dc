"""The subspace finds what varies: planted in simulated images, and nothing else."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from drgn.analysis.metrics import spearman
from drgn.command import compose
from drgn.data.dataset import ParticleDataset
from drgn.data.prepared import prepare
from drgn.formats.mrc import read_volume
from drgn.formats.particles import Particles
from drgn.models.subspace import Subspace
from drgn.physics import fourier
from drgn.physics.fsc import fsc
from drgn.physics.phantoms import toy_molecule
from drgn.simulate import simulate
from drgn.training.subspace import fit


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """1,500 images of the arm that swings, nothing else changing."""
    folder = tmp_path_factory.mktemp("moving")
    options = ["n_particles=1500", "box_size=32", "pixel_size_A=6", "snr=0.3", "attached_fraction=1"]
    star = simulate(**{**compose("simulate", options), "output": folder})
    particles = Particles.from_file(star)
    stack = prepare(particles, box_size=32, window=True, cache=Path(folder / "prepared"))
    return ParticleDataset(particles, stack), pd.read_csv(folder / "truth.csv"), folder


def latents(subspace, dataset, rows):
    from drgn.training.subspace import _Modes, posterior

    with torch.no_grad():
        known = posterior(*_Modes(subspace, dataset, rows, torch.Generator())._expect(subspace.radius_px))
        return subspace.encode(known)[0].numpy(), known


def test_the_motion_is_found_also_in_images_it_was_not_fitted_to(moving):
    dataset, truth, _ = moving
    torch.manual_seed(0)
    subspace = Subspace(box_size=32, zdim=1, modes=6)
    said = []
    fit(
        subspace,
        dataset,
        np.arange(0, 1000),
        beta=1.0,
        seed=0,
        progress=lambda what, done, n: said.append((what, done, n)),
    )
    unseen = np.arange(1000, 1500)
    z, known = latents(subspace, dataset, unseen)
    assert abs(spearman(z, truth["motion"].to_numpy()[unseen])) > 0.93
    assert known.mean.std(0)[0] > 0.5  # the first mode is used by the images
    assert said[0][0] == "mean map"
    assert said[-1][1] == said[-1][2]
    # modes are orthogonal, the strongest first
    flat = subspace.density[1:].flatten(1)
    products = flat @ flat.T
    power = products.diagonal()
    assert (power.diff() <= 0).all()
    assert (products - power.diag()).abs().max() < 1e-3 * power[0]


def test_the_map_at_either_end_is_the_molecule_there(moving):
    dataset, truth, folder = moving
    torch.manual_seed(0)
    subspace = Subspace(box_size=32, zdim=1, modes=6)
    fit(subspace, dataset, np.arange(1500), beta=1.0, seed=0)
    z, _ = latents(subspace, dataset, np.arange(1500))
    ends = [truth["motion"].to_numpy() < 0.15, truth["motion"].to_numpy() > 0.85]
    maps = [fourier.ifft(subspace.transform(torch.from_numpy(z[end]).mean(0)), 3).real for end in ends]
    true = [
        torch.from_numpy(read_volume(folder / "maps" / f"motion{state}_attached.mrc")[0])
        for state in ("0.0", "1.0")
    ]
    for i in (0, 1):
        own, other = (fsc(maps[i].detach(), true[j])[1:11].mean() for j in (i, 1 - i))
        assert own > other + 0.02
        assert own > 0.85


def test_the_mean_alone_is_the_map(moving):
    dataset, truth, _ = moving
    subspace = Subspace(box_size=32, zdim=0)
    fit(subspace, dataset, np.arange(1500), beta=1.0, seed=0)
    volume = fourier.ifft(subspace.transform(None), 3).real
    states = truth["motion"].sort_values().iloc[25::50]
    truth = sum(toy_molecule(float(state), True).density(32, 6.0) for state in states)
    curve = fsc(volume, truth)
    assert curve[1:10].min() > 0.9, curve
    flipped = volume.flip(0).roll(1, 0)
    assert fsc(flipped, truth)[5:10].mean() < 0.5
