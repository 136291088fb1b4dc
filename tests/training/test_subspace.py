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
from drgn.physics import fourier, imaging
from drgn.physics.fsc import fsc
from drgn.physics.phantoms import toy_molecule
from drgn.run import Run, build_reconstructor
from drgn.simulate import simulate
from drgn.training.subspace import fit


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """1,500 images of the arm that swings, nothing else changing."""
    folder = tmp_path_factory.mktemp("moving")
    options = ["n_particles=1500", "box_size=32", "pixel_size_A=6", "snr=0.3", "molecule.attached_fraction=1"]
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


def test_a_run_starts_from_it_goes_on_and_can_be_used(train_tiny, capsys):
    folder = train_tiny("warmstart=subspace", "warmstart.modes=3")
    assert "subspace of 3 modes in" in capsys.readouterr().out
    run = Run.open(folder)
    first = run.info["best_loss"]
    assert first < Run.open(train_tiny()).info["best_loss"]  # which starts from nothing
    density = run.model().subspace.density
    assert density.abs().max() > 0
    assert next(run.volumes(run.latents().z[:1])).shape == (16, 16, 16)
    train_tiny("warmstart=subspace", "warmstart.modes=3", "epochs=2", output=folder)
    assert "subspace" not in capsys.readouterr().out  # found in the checkpoint, not anew
    torch.testing.assert_close(Run.open(folder).model().subspace.density, density)
    homogeneous = Run.open(train_tiny("latent=none", "warmstart=subspace"))
    assert next(homogeneous.volumes(np.zeros((1, 0)))).shape == (16, 16, 16)


def test_the_neural_parts_start_as_no_addition(make_started):
    model, batch = make_started
    z = model.posterior(batch).mean
    folded, sign = imaging.fold(imaging.slice_coordinates(model.frequencies, batch["rotation"]))
    basis = model._basis(folded, sign)
    contrast, phase = model._transfer(batch, batch["shift_px"])
    n = model.n_known
    expected = imaging.observe(model.subspace.at(basis, z), contrast[:, :n], phase[:, :n])
    multiplied = model._multiplier(batch)
    torch.testing.assert_close(model(batch).image[:, :n], expected * multiplied[:, :n])
    assert model(batch).image[:, n:].abs().max() == 0


@pytest.fixture
def make_started(moving):
    """A model with a subspace of random densities, and a batch."""
    dataset, *_ = moving
    torch.manual_seed(0)
    config = compose("train", ["model=128x3", "model.hidden_dim=16", "warmstart=subspace", "latent.zdim=2"])
    model = build_reconstructor(config, box_size=32, n_particles=1500).eval()
    model.subspace.density.normal_()
    return model, dataset[np.arange(4)]
