import json
import os
import shutil

import numpy as np
import pytest

from drgn.analyze import analyze
from drgn.command import compose
from drgn.encode import encode
from drgn.errors import InputError
from drgn.formats.particles import Particles
from drgn.run import Run
from drgn.simulate import simulate


def again(run, **options):
    return encode(**{**compose("encode"), "run": run, **options})


@pytest.fixture
def run(trained, tmp_path):
    """Return a copy of the trained run, to write to."""
    return shutil.copytree(trained, tmp_path / "run")


def arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def assert_same(a, b):
    assert list(a) == list(b)
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name], err_msg=name)


def test_encode_gives_exactly_what_training_ended_with(run, capsys):
    before = arrays(run / "latents.npz")
    assert set(before) == {"key", "z", "logvar", "reconstruction_loss", "heldout"}
    (run / "latents.npz").unlink()
    with pytest.raises(InputError, match=r"latents\.npz is not there: run `drgn encode run=.*run` first"):
        Run.open(run).latents()
    assert again(run) == run / "latents.npz"
    assert "latents of 300 particles" in capsys.readouterr().out
    assert_same(arrays(run / "latents.npz"), before)
    assert not list(run.glob("*tmp*"))


def test_encode_fits_a_table_the_same_way_again(train_tiny):
    run = train_tiny("latent=table")
    before = arrays(run / "latents.npz")
    again(run)
    assert_same(arrays(run / "latents.npz"), before)


def test_encode_prepares_the_images_again_where_they_are_gone(run, tmp_path):
    before = arrays(run / "latents.npz")
    config = (run / "config.yaml").read_text()
    cache = Run.open(run).config["dataset"]["cache"]
    (run / "config.yaml").write_text(config.replace(cache, str(tmp_path / "elsewhere")))
    again(run)
    assert list((tmp_path / "elsewhere").iterdir())
    assert_same(arrays(run / "latents.npz"), before)


def test_latents_are_those_of_the_rows(run):
    latents, opened = Run.open(run).latents(), Run.open(run)
    model, dataset = opened.model(), opened.datamodule.dataset
    rows = np.array([299, 5])
    posterior = model.posterior(dataset[rows])
    np.testing.assert_allclose(posterior.mean.detach(), latents.z[rows], atol=1e-5)
    loss = model.loss(dataset[rows]).reconstruction.detach() / dataset.stack.lattice.frequencies.shape[0]
    np.testing.assert_allclose(loss, latents.reconstruction_loss[rows], rtol=1e-4)


def test_the_newest_run_that_has_something_is_found(run, tmp_path, monkeypatch, capsys):
    target = tmp_path / "outputs" / "train" / "toy"
    target.mkdir(parents=True)
    run.rename(target / "2026")
    failed = shutil.copytree(target / "2026", target / "2027")  # newer, and it ended at its start
    shutil.rmtree(failed / "checkpoints")
    (failed / "latents.npz").unlink()
    os.utime(failed / "run.json", (2e9, 2e9))
    monkeypatch.chdir(tmp_path)
    assert again("latest").resolve() == (target / "2026" / "latents.npz").resolve()
    assert "run=latest: outputs/train/toy/2026\n" in capsys.readouterr().err
    before = sorted(failed.iterdir())
    with pytest.raises(InputError, match="checkpoints holds no checkpoint: train first"):
        analyze(**{**compose("analyze"), "run": failed})
    assert sorted(failed.iterdir()) == before
    shutil.rmtree(target / "2026")
    with pytest.raises(
        InputError, match="run=latest: no run below outputs/train has got to its first checkp"
    ):
        again("latest")


def test_particles_that_have_changed_are_refused(train_tiny, toy, tmp_path):
    star = shutil.copytree(toy.parent, tmp_path / "set") / toy.name
    options = [f"dataset.particles={star}", f"dataset.cache={tmp_path / 'prepared'}"]
    run = train_tiny(*options, output=tmp_path / "run")
    shutil.rmtree(star.parent)
    size = ["n_particles=300", "box_size=16", "pixel_size_A=12", "snr=1", "seed=1"]
    simulate(**{**compose("simulate", size), "output": star.parent})  # the same names of other images
    with pytest.raises(
        InputError, match=r"has other poses, or another CTF, than when \S*run was trained on it"
    ):
        Run.open(run).particles()
    with pytest.raises(InputError, match=r"holds a run of other poses, or another CTF, than \S*star has now"):
        train_tiny(*options, output=run)
    few = Particles.from_file(star)
    few.select(np.arange(299)).save(tmp_path / "few.star")
    (tmp_path / "few.star").rename(star)
    with pytest.raises(InputError, match=r"has other particles than when \S*run was trained on it: put back"):
        Run.open(run).particles()


def test_mistakes_are_one_sentence(run, tmp_path):
    with pytest.raises(InputError, match=r"run=nowhere: expected a folder that drgn train made"):
        again("nowhere")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("hidden_dim: 32", "hidden_dim: 48"))
    with pytest.raises(InputError, match=r"best\.ckpt does not fit the run's config\.yaml: .*size mismatch"):
        again(run)
    (run / "config.yaml").write_text(config.replace("drgn.models.latents", "os.path"))
    with pytest.raises(InputError, match=r"latent\._target_=os\.path\.VAELatent is outside .*trust=\[os\]"):
        again(run)
    (run / "config.yaml").write_text(config.replace("particles.star", "gone.star"))
    with pytest.raises(InputError, match=r"gone\.star"):
        again(run)
    (run / "config.yaml").write_text("model: [")
    with pytest.raises(InputError, match=r"config\.yaml is not YAML"):
        again(run)
    (run / "config.yaml").write_text(config)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match=r"checkpoints holds no checkpoint: train first"):
        again(run)


def test_images_that_are_gone_are_named(train_tiny, toy, tmp_path):
    for file in (toy, toy.with_suffix(".mrcs")):
        shutil.copy(file, tmp_path)
    options = [f"dataset.particles={tmp_path / toy.name}", f"dataset.cache={tmp_path / 'prepared'}"]
    run = train_tiny(*options, output=tmp_path / "run")
    toy_copy = tmp_path / toy.with_suffix(".mrcs").name
    toy_copy.unlink()
    with pytest.raises(InputError, match=r"particles.mrcs was not found"):
        again(run)


def test_run_json_can_be_read_by_people_and_programs(run):
    text = (run / "run.json").read_text()
    assert json.loads(text)["n_particles"] == 300
    assert text.count("\n") > 10
