"""The subspace finds what varies: planted in simulated images, and nothing else."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from drgn.analysis.metrics import adjusted_rand, spearman
from drgn.command import compose
from drgn.data.dataset import ParticleDataset
from drgn.data.prepared import prepare
from drgn.errors import InputError
from drgn.formats.mrc import read_volume
from drgn.formats.particles import Particles
from drgn.models.classes import Classes
from drgn.models.latents import TableLatent
from drgn.models.modes import LinearModes, Subspace, posterior
from drgn.physics import fourier, imaging
from drgn.physics.fsc import fsc
from drgn.physics.phantoms import toy_molecule
from drgn.run import Run, build_reconstructor
from drgn.simulate import simulate
from drgn.training.expectation import Expectation
from drgn.training.warmstart import fill, fit


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """1,500 images of the arm that swings, nothing else changing."""
    folder = tmp_path_factory.mktemp("moving")
    options = ["n_particles=1500", "box_size=32", "pixel_size_A=6", "snr=0.3", "molecule.attached_fraction=1"]
    star = simulate(**{**compose("simulate", options), "output": folder})
    particles = Particles.from_file(star)
    stack = prepare(particles, box_size=32, window=True, cache=Path(folder / "prepared"))
    return ParticleDataset(particles, stack), pd.read_csv(folder / "truth.csv"), folder


def statistics(basis, dataset, rows):
    with torch.no_grad():
        return Expectation(basis, dataset, rows, torch.Generator()).statistics()


def latents(subspace, dataset, rows):
    with torch.no_grad():
        known = statistics(subspace, dataset, rows)
        return subspace.encode(known)[0].numpy(), posterior(known)


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


def test_the_mean_alone_keeps_shells_that_are_weaker_than_the_noise(tmp_path):
    options = [
        "n_particles=400",
        "box_size=32",
        "pixel_size_A=12",
        "snr=0.03",
        "molecule.attached_fraction=1",
    ]
    particles = Particles.from_file(simulate(**{**compose("simulate", options), "output": tmp_path}))
    stack = prepare(particles, box_size=32, window=True, cache=tmp_path / "prepared")
    subspace = Subspace(box_size=32, zdim=0)
    fit(subspace, ParticleDataset(particles, stack), np.arange(400), beta=1.0, seed=0)
    states = pd.read_csv(tmp_path / "truth.csv")["motion"].sort_values().iloc[10::20]
    truth = sum(toy_molecule(float(state), True).density(32, 12.0) for state in states)
    curve = fsc(fourier.ifft(subspace.transform(None), 3).real, truth)
    assert curve[1:15].min() > 0.6, curve  # no shell is cut off


def test_a_run_starts_from_it_goes_on_and_can_be_used(train_tiny, capsys):
    folder = train_tiny("warmstart=subspace", "warmstart.modes=3")
    assert "warm start: 4 volumes in" in capsys.readouterr().out
    run = Run.open(folder)
    first = run.info["best_loss"]
    assert first < Run.open(train_tiny()).info["best_loss"]  # which starts from nothing
    density = run.model().basis.density
    assert density.abs().max() > 0
    assert next(run.volumes(run.latents().z[:1])).shape == (16, 16, 16)
    train_tiny("warmstart=subspace", "warmstart.modes=3", "epochs=2", output=folder)
    assert "warm start" not in capsys.readouterr().out  # found in the checkpoint, not anew
    torch.testing.assert_close(Run.open(folder).model().basis.density, density)
    homogeneous = Run.open(train_tiny("latent=none", "warmstart=subspace"))
    assert next(homogeneous.volumes(np.zeros((1, 0)))).shape == (16, 16, 16)


def test_the_neural_parts_start_as_no_addition(make_started):
    model, batch = make_started
    z = model.posterior(batch).mean
    folded, sign = imaging.fold(imaging.slice_coordinates(model.frequencies, batch["rotation"]))
    known = model._known(folded, sign)
    contrast, phase = model._transfer(batch, batch["shift_px"])
    n = model.n_known
    expected = imaging.observe(model.basis.at(known, z), contrast[:, :n], phase[:, :n])
    factor = model._multiplied(batch).factor
    torch.testing.assert_close(model(batch).image[:, :n], expected * factor[:, :n])
    assert model(batch).image[:, n:].abs().max() == 0


def test_beyond_the_radius_of_the_modes_the_mean_is_found(moving):
    dataset, truth, _ = moving
    subspace = Subspace(box_size=32, zdim=1, modes=3, radius_px=6)
    fit(subspace, dataset, np.arange(1500), beta=1.0, seed=0)
    states = truth["motion"].sort_values().iloc[25::50]
    true = sum(toy_molecule(float(state), True).density(32, 6.0) for state in states)
    curve = fsc(fourier.ifft(subspace.transform(torch.zeros(1)), 3).real, true)
    assert curve[7:10].min() > 0.9, curve
    torch.manual_seed(0)
    words = ["model=128x3", "model.hidden_dim=16", "warmstart=subspace", "latent.zdim=1"]
    config = compose("train", [*words, "warmstart.modes=3", "warmstart.radius_px=6"])
    model = build_reconstructor(config, box_size=32, n_particles=1500).eval()
    model.basis.load_state_dict(subspace.state_dict())
    batch = dataset[np.arange(20)]
    image = model(batch).image
    n, reached = model.n_known, model.n_reached
    seen, shown = batch["image"][:, n:reached], image[:, n:reached]
    overlap = (seen * shown.conj()).real.sum() / (
        seen.abs().square().sum() * shown.abs().square().sum()
    ).sqrt()
    assert overlap > 0.2  # where noise is stronger
    some = torch.tensor([3, n - 1, n, n + 40, reached - 1, reached, reached + 2])
    torch.testing.assert_close(model(batch, some).image, image[:, some])
    assert image[:, reached:].abs().max() == 0


@pytest.fixture
def make_started(moving):
    """A model with a subspace of random densities, and a batch."""
    dataset, *_ = moving
    torch.manual_seed(0)
    config = compose("train", ["model=128x3", "model.hidden_dim=16", "warmstart=subspace", "latent.zdim=2"])
    model = build_reconstructor(config, box_size=32, n_particles=1500).eval()
    model.basis.density.normal_()
    return model, dataset[np.arange(4)]


def test_linear_modes_alone_are_a_model(moving, train_tiny):
    dataset, truth, _ = moving
    modes = LinearModes(box_size=32, zdim=4)
    fit(modes, dataset, np.arange(1500), beta=1.0, seed=0)
    with torch.no_grad():
        mean, logvar = modes.encode(
            Expectation(modes, dataset, np.arange(1500), torch.Generator()).statistics()
        )
    assert spearman(mean.numpy(), truth["motion"].to_numpy()) > 0.93
    assert (logvar <= 1e-5).all()  # no image makes a coefficient less certain than its prior
    assert mean.var(0) + logvar.exp().mean(0) == pytest.approx(1, abs=0.3)  # which they have as a whole
    # orthogonal, the strongest first
    flat = modes.density[1:].flatten(1)
    products = flat @ flat.T
    power = products.diagonal()
    assert (power.diff() <= 0).all()
    assert (products - power.diag()).abs().max() < 1e-3 * power[0]

    run = Run.open(train_tiny("model=linear", "latent.zdim=3"))
    assert list(run.model().parameters()) == []
    assert run.latents().z.shape[1] == 3
    assert np.isfinite(run.info["best_loss"])
    middle, end = run.volumes(np.array([[0.0, 0, 0], [2.0, 0, 0]]))
    assert np.abs(end - middle).max() > 0


def test_classes_are_found(moving, tmp_path_factory, train_tiny):
    """With and without the part that comes off."""
    *_, toy = moving
    folder = tmp_path_factory.mktemp("classes")
    maps = [str(toy / "maps" / f"motion0.5_{state}.mrc") for state in ("attached", "detached")]
    options = [f"molecule.files={maps}", "n_particles=1500", "box_size=32", "pixel_size_A=6", "snr=0.3"]
    star = simulate(**{**compose("simulate", ["molecule=maps", *options]), "output": folder})
    particles = Particles.from_file(star)
    stack = prepare(particles, box_size=32, window=True, cache=folder / "prepared")
    dataset = ParticleDataset(particles, stack)
    classes = Classes(box_size=32, zdim=2)
    fit(classes, dataset, np.arange(1500), beta=1.0, seed=0)
    probability = classes.encode(
        Expectation(classes, dataset, np.arange(1500), torch.Generator()).statistics()
    )[0]
    truth = pd.read_csv(folder / "truth.csv")
    torch.testing.assert_close(probability.sum(1), torch.ones(1500))
    found = probability.argmax(1).numpy()
    assert adjusted_rand(found, truth["map"].to_numpy()) > 0.8
    assert classes.share.tolist() == sorted(classes.share.tolist(), reverse=True)
    assert classes.share[0] == pytest.approx((found == 0).mean(), abs=0.03)

    run = Run.open(train_tiny("model=classes", "latent.zdim=2"))
    z = run.latents().z
    np.testing.assert_allclose(z.sum(1), 1, atol=1e-5)
    assert next(run.volumes(np.array([[1.0, 0.0]]))).shape == (16, 16, 16)


def test_a_table_starts_from_the_modes(moving):
    dataset, truth, _ = moving
    modes = LinearModes(box_size=32, zdim=4)
    fit(modes, dataset, np.arange(1000), beta=1.0, seed=0)
    table = TableLatent(n_particles=1500, zdim=4)
    fill(table, [modes], dataset)
    assert spearman(table.mean.weight.detach().numpy()[1000:], truth["motion"].to_numpy()[1000:]) > 0.9


@pytest.mark.parametrize(
    "words", [["latent=posterior", "warmstart=none"], ["model=linear", "warmstart=none"]]
)
def test_what_needs_volumes_says_so(words):
    config = compose("train", words)
    with pytest.raises(InputError, match="warmstart=linear"):
        build_reconstructor(config, box_size=32, n_particles=10)


def test_classes_without_a_latent_are_refused():
    config = compose("train", ["model=classes", "latent=none"])
    with pytest.raises(InputError, match=r"^latent=none .* latent\.zdim=4 is given .* leave out latent=none"):
        build_reconstructor(config, box_size=32, n_particles=10)
