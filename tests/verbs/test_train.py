"""drgn train from its options to the run folder, and the sentences that answer mistakes."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import yaml

from drgn.errors import InputError
from drgn.formats.particles import Particles
from drgn.formats.star import write_blocks
from drgn.run import Run

CHECKPOINTS = ["best.ckpt", "last.ckpt", "previous.ckpt"]
CONTENT = [".lock", "checkpoints", "config.yaml", "latents.npz", "run.json", "tensorboard"]


@pytest.mark.parametrize("latent", ["vae", "table", "none"])
def test_every_latent_trains_to_a_run_that_can_be_used(train_tiny, latent):
    path = train_tiny(f"latent={latent}")
    assert sorted(p.name for p in path.iterdir()) == CONTENT
    assert sorted(p.name for p in (path / "checkpoints").iterdir()) == CHECKPOINTS
    run, zdim = Run.open(path), 0 if latent == "none" else 2
    latents = run.latents()
    assert latents.z.shape == latents.logvar.shape == (300, zdim)
    assert latents.heldout.sum() == 60
    assert latents.key.tolist() == run.particles().table["key"].tolist()
    assert all(np.isfinite(values).all() for values in (latents.z, latents.logvar))
    # white noise is 1, and SNR 1 is more than the model has learnt in an epoch
    assert 1 < np.median(latents.reconstruction_loss) < 10
    volumes = list(run.volumes(latents.z[:2]))
    assert [v.shape for v in volumes] == [(16, 16, 16)] * 2
    assert all(np.isfinite(v).all() and v.std() > 0 for v in volumes)
    assert (zdim == 0) == bool((volumes[0] == volumes[1]).all())


def test_the_model_learns(trained, train_tiny):
    first, later = (json.loads((p / "run.json").read_text()) for p in (trained, train_tiny("epochs=4")))
    assert later["best_loss"] < first["best_loss"] < 3.5


def test_the_run_folder_says_what_made_it(trained, toy):
    info = json.loads((trained / "run.json").read_text())
    assert info["box_size"] == 16
    assert info["pixel_size_A"] == 12.0
    assert info["n_particles"] == 300
    assert info["epochs"] == 1
    assert info["monitor"] == "heldout/loss"
    assert info["precision"] == "32-true"
    assert info["skipped_images"] == 0
    assert info["rejected"] == []
    assert {"drgn", "torch", "python", "host", "command", "started", "finished"} <= set(info)
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["dataset"]["particles"] == str(toy)
    assert config["model"]["decoder"]["hidden_dim"] == 32
    assert config["seed"] == 0
    run = Run.open(trained)
    assert run.config == config
    assert (run.name, run.box_size, run.pixel_size_A) == ("custom", 16, 12.0)


def test_the_same_command_gives_the_same_run(trained, train_tiny):
    again = train_tiny()
    for name in ("z", "logvar", "reconstruction_loss"):
        np.testing.assert_array_equal(
            getattr(Run.open(again).latents(), name), getattr(Run.open(trained).latents(), name)
        )
    other = train_tiny("seed=1")
    assert not np.array_equal(Run.open(other).latents().z, Run.open(trained).latents().z)
    assert not np.array_equal(Run.open(other).latents().heldout, Run.open(trained).latents().heldout)


def test_the_model_of_a_run_is_the_best_epoch(train_tiny, monkeypatch):
    from drgn.training.module import ReconstructionModule

    original = ReconstructionModule.on_train_epoch_start

    def spoil(self):
        original(self)
        if self.current_epoch == 1:  # the second epoch starts from noise
            with torch.no_grad():
                for p in self.parameters():
                    p.copy_(torch.randn_like(p))

    monkeypatch.setattr(ReconstructionModule, "on_train_epoch_start", spoil)
    run = train_tiny("epochs=2")
    states = {
        name: torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last")
    }
    assert (states["best"]["epoch"], states["last"]["epoch"]) == (0, 1)
    model = Run.open(run).model()
    expected = states["best"]["state_dict"]["reconstructor.decoder.network.first.weight"]
    assert torch.equal(model.decoder.network.first.weight, expected)


def test_nothing_held_out(train_tiny):
    run = train_tiny("dataset.heldout_fraction=0")
    assert json.loads((run / "run.json").read_text())["monitor"] == "train/loss_epoch"
    assert not Run.open(run).latents().heldout.any()


def test_other_loggers_callbacks_and_trainers(train_tiny):
    run = train_tiny("logger=csv", "callbacks=early_stopping", "trainer=debug", "schedule=warmup")
    assert (run / "csv" / "version_0" / "metrics.csv").is_file()
    assert json.loads((run / "run.json").read_text())["epochs"] == 1
    assert Run.open(train_tiny("trainer.precision=bf16-mixed")).latents().z.std() > 0
    assert "tensorboard" not in [p.name for p in train_tiny("logger=none").iterdir()]


def test_bad_images_are_left_out_and_named(tiny, toy, train_tiny, tmp_path, capsys):
    content = bytearray((toy.parent / "particles.mrcs").read_bytes())
    image = 16 * 16 * 4
    for i in (3, 250):
        content[1024 + i * image : 1024 + (i + 1) * image] = bytes(image)
    (tmp_path / "particles.mrcs").write_bytes(content)
    star = tmp_path / "particles.star"
    star.write_text(toy.read_text())
    run = train_tiny(f"dataset.particles={star}")
    named = ["000004@particles.mrcs", "000251@particles.mrcs"]
    assert (
        f"2 images are constant or not finite and are left out: {', '.join(named)}" in capsys.readouterr().err
    )
    assert json.loads((run / "run.json").read_text())["rejected"] == named
    latents, bad = Run.open(run).latents(), [3, 250]
    assert len(latents.z) == 300
    assert not latents.z[bad].any()  # the prior's: nothing is known of them
    assert not latents.logvar[bad].any()
    assert (latents.reconstruction_loss[bad] == latents.reconstruction_loss.max()).all()
    assert len(np.unique(latents.reconstruction_loss)) > 290


def test_a_latent_table_is_judged_by_what_it_is_trained_for(train_tiny):
    """Held-out entries keep the latents of the start, and their loss would choose an early epoch."""
    run = Run.open(train_tiny("latent=table"))
    assert run.info["monitor"] == "train/loss_epoch"
    assert Run.open(train_tiny()).info["monitor"] == "heldout/loss"


def test_a_run_goes_on_with_more_epochs(train_tiny, tmp_path):
    train_tiny(output=tmp_path)
    train_tiny("epochs=2", "optimizer.lr=0.0005", output=tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["epochs"] == 2
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["state_dict"]["images_seen"] == 480
    before = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    train_tiny("epochs=2", output=tmp_path)  # nothing is left to do
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == before
    train_tiny("resume=false", output=tmp_path)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["state_dict"]["images_seen"] == 240


def test_a_run_is_opened_from_another_folder(train_tiny, trained, tmp_path, monkeypatch):
    folder, name = os.path.split(Run.open(trained).particles().source.path)
    monkeypatch.chdir(folder)
    run = train_tiny(f"dataset.particles={name}", "dataset.preflight=false")
    monkeypatch.chdir(tmp_path)
    assert len(Run.open(run).particles()) == len(Run.open(run).latents().z)


def test_a_run_that_starts_over_keeps_no_latents_of_the_old_network(train_tiny, tmp_path, monkeypatch):
    train_tiny(output=tmp_path)

    def ended(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("drgn.training.encode.encode", ended)
    with pytest.raises(KeyboardInterrupt):
        train_tiny("resume=false", "seed=5", output=tmp_path)
    with pytest.raises(InputError, match="run `drgn encode"):
        Run.open(tmp_path).latents()


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")
@pytest.mark.parametrize("n", [1, 5])
def test_a_few_particles_are_enough(train_tiny, tmp_path, n):
    np.save(tmp_path / "few.npy", np.arange(n))
    few = [f"dataset.indices={tmp_path / 'few.npy'}", "dataset.heldout_fraction=0", "dataset.preflight=false"]
    run = train_tiny("warmstart=subspace", *few, f"analyze={n > 1}", "trainer.log_every_n_steps=1")
    z = Run.open(run).latents().z
    assert len(z) == n
    assert np.isfinite(z).all()
    assert (run / "analysis" / "report.html").is_file() == (n > 1)
    assert json.loads((run / "run.json").read_text())["complete"]


def test_no_image_of_a_half_is_left(train_tiny, tmp_path):
    np.save(tmp_path / "few.npy", np.arange(4))
    few = [f"dataset.indices={tmp_path / 'few.npy'}", "half_sets=random", "model=linear"]
    with pytest.raises(InputError, match=r"no image of half set \d is left .*heldout_fraction=0\.5"):
        train_tiny(*few, "dataset.heldout_fraction=0.5", "dataset.seed=1")


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("model.hidden_dim=16", "model.hidden_dim=32, which cannot go on with 16"),
        ("latent.zdim=3", "latent.zdim=2, which cannot go on with 3"),
        ("model/encoder=mlp", "model.encoder._target_=.*BackProjectingEncoder, which cannot .*MLPEncoder"),
        ("latent=none", "latent._target_="),
        ("dataset.box_size=12", "box_size=16, which cannot go on with 12"),
    ],
)
def test_a_run_does_not_go_on_with_another_model(train_tiny, trained, option, key):
    before = (trained / "config.yaml").read_bytes()
    with pytest.raises(InputError, match=rf"holds a run with {key}.*resume=false"):
        train_tiny(option, output=trained)
    assert (trained / "config.yaml").read_bytes() == before


def test_a_run_does_not_go_on_with_other_particles(train_tiny, trained, toy, tmp_path):
    (tmp_path / "others.mrcs").write_bytes(toy.with_suffix(".mrcs").read_bytes())
    (tmp_path / "others.star").write_text(toy.read_text().replace("@particles.mrcs", "@others.mrcs"))
    with pytest.raises(InputError, match=r"of other particles, if as many, than .*others\.star has now"):
        train_tiny(f"dataset.particles={tmp_path / 'others.star'}", output=trained)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["epochs=0"], r"epochs=0 seed=0: expected at least one epoch"),
        (["seed=-1"], r"epochs=1 seed=-1: expected .* a seed of 0 or more"),
        (
            ["dataset.box_size=15"],
            r"dataset\.box_size=15: expected an even number from 8 to the images' box, 16",
        ),
        (["dataset.box_size=32"], r"dataset\.box_size=32: expected an even number"),
        (["dataset.particles=none.star"], r"none\.star"),
        (["dataset.poses=none.pkl"], r"none\.pkl"),
        (["dataset.heldout_fraction=1.5"], r"dataset\.heldout_fraction=1\.5"),
        (["trainer=gpu"], r"trainer\.accelerator=gpu .* sees no GPUs here; give trainer=auto"),
        (["trainer.precision=fine"], r"trainer\.precision=fine: expected one of"),
        (["trainer.precision=64-true"], r"trainer\.precision=64-true: expected auto, 32-true or bf16-mixed"),
        (["model.decoder.hidden_dim=wide"], r"model\.decoder\.hidden_dim=wide: expected a whole number"),
        (["optimizer.lr=fast"], r"optimizer\.lr=fast: expected"),
        (["schedule=cosine", "schedule.warmup_steps=1.5"], r"schedule\.warmup_steps=1\.5: expected a whole"),
        (["latent.zdim=0"], r"latent\.zdim=0: expected a whole number of at least 1; .* latent=none"),
        (["latent.zdim=2.5"], r"latent\.zdim=2\.5: expected a whole number of at least 1"),
        (["latent.zdim=two"], r"latent\.zdim=two: expected a whole number of at least 1"),
        (
            ["dataset=toy", "dataset.particles=mine.star"],
            r"dataset\.particles=mine\.star, where dataset=toy is simulated; .* dataset=custom",
        ),
        (["model.encoder.radius_px=null"], r"model\.encoder\.radius_px=null: expected a number"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_one_sentence(train_tiny, tmp_path, options, sentence):
    if options == ["trainer=gpu"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    new = f"dataset.cache={tmp_path / 'prepared'}"
    with pytest.raises(InputError, match=sentence) as error:
        train_tiny(new, *options, output=tmp_path / "run")
    assert "\n" not in str(error.value)
    if "trainer" not in options[0]:  # a trainer is made last
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("heldout", ["0.2", "0"])
def test_a_training_that_diverges_says_so(train_tiny, heldout):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the batches that were left out
        with pytest.raises(InputError, match=r"diverged; give a smaller optimizer\.lr"):
            train_tiny("optimizer.lr=1e20", "epochs=2", f"dataset.heldout_fraction={heldout}")


def test_images_without_poses_are_refused_before_they_are_prepared(train_tiny, toy, tmp_path):
    particles = Particles.from_file(toy)
    blocks = {"optics": particles.source.blocks["optics"], "particles": particles.source.rows}
    blocks["particles"] = blocks["particles"].drop(columns=["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"])
    write_blocks(tmp_path / "bare.star", blocks)
    options = [f"dataset.datadir={toy.parent}", f"dataset.cache={tmp_path / 'prepared'}"]
    with pytest.raises(InputError, match=r"bare\.star has no poses: .*dataset\.poses="):
        train_tiny(f"dataset.particles={tmp_path / 'bare.star'}", *options)
    assert not (tmp_path / "prepared").exists()


def test_the_command_line_answers_a_mistake_with_one_sentence(tiny, tmp_path, environment):
    def run(*options):
        command = [sys.executable, "-m", "drgn.train", *tiny, f"output={tmp_path / 'run'}", *options]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    wrong = run("dataset.particles=none.star")
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert wrong.stderr.startswith("drgn train: ")
    assert "none.star" in wrong.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_toy_set_is_simulated_on_first_use_and_found_as_latest(tiny, tmp_path, environment, monkeypatch):
    small = [o for o in tiny if not o.startswith(("dataset=", "dataset.particles", "dataset.cache"))]
    size = [
        "dataset.simulate.n_particles=64",
        "dataset.simulate.box_size=16",
        "dataset.simulate.pixel_size_A=12",
    ]
    command = [sys.executable, "-m", "drgn", "train", *small, *size]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "simulated 64 images" in done.stdout
    assert "Warning" not in done.stderr
    assert sorted(p.name for p in (tmp_path / "outputs").iterdir()) == ["prepared", "simulate", "train"]
    monkeypatch.chdir(tmp_path)
    run = Run.open("latest")
    (folder,) = (tmp_path / "outputs" / "train" / "toy").iterdir()
    assert run.path.resolve() == folder
    assert run.name == "toy"
    truth = run.truth()
    assert truth["motion"].between(0, 1).all()
    assert set(truth["attached"]) == {0, 1}


def test_a_folder_that_is_no_run_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="expected a folder that drgn train made"):
        Run.open(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="run=latest: there is no run"):
        Run.open("latest")
