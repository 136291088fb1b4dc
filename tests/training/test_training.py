"""What a run leaves behind, and what may not stop or spoil it."""

import json

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from drgn.analysis.history import losses
from drgn.errors import InputError
from drgn.run import Run
from drgn.training.loaders import Loaders
from drgn.training.module import ReconstructionModule


def weights(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def test_checkpoints_are_plain_weights(trained):
    for name in ("best", "last"):
        state = weights(trained, name)
        assert all(isinstance(value, torch.Tensor) for value in state.values())
        assert state["images_seen"] == 240


@pytest.fixture(scope="module")
def log(trained):
    log = EventAccumulator(str(trained / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    log.Reload()
    return log


def test_tensorboard_has_the_losses_the_speed_and_the_learning_rate(log, trained):
    tags = set(log.Tags()["scalars"])
    for name in ("loss", "reconstruction", "kl"):
        assert {f"train/{name}_step", f"train/{name}_epoch", f"heldout/{name}"} <= tags
    assert {"images_per_second", "lr-Adam", "skipped_images", "epoch"} <= tags
    assert log.Scalars("images_per_second")[0].value > 1
    assert log.Scalars("lr-Adam")[0].value == pytest.approx(0.002)
    assert log.Scalars("skipped_images")[0].value == 0
    assert log.Scalars("heldout/loss")[-1].value == pytest.approx(json_of(trained)["best_loss"])
    assert len(log.Scalars("train/loss_step")) == 4  # 240 images in batches of 32, every second step


def test_tensorboard_has_pictures(log):
    tags = {"map/slices", "map/projections", "latent/pca", "images/data_and_model"}
    assert set(log.Tags()["images"]) == tags
    sizes = {tag: (log.Images(tag)[0].width, log.Images(tag)[0].height) for tag in tags}
    assert sizes["map/slices"] == sizes["map/projections"] == (48, 16)  # three planes
    assert sizes["images/data_and_model"] == (64, 32)  # four images above their models


def test_how_far_latents_and_map_still_move_is_logged(train_tiny):
    table = losses(train_tiny("epochs=3"))
    assert table["heldout/latent_drift"].iloc[1:].between(0, 1.001).all()
    assert table["heldout/map_change"].iloc[1:].between(0, 2).all()
    assert (table["heldout/map_change"].iloc[1:] > 0).all()


def test_tensorboard_has_the_hyperparameters(log, trained):
    content = log.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    for word in (b"model.decoder.hidden_dim", b"optimizer.lr", b"seed"):
        assert word in content
    assert b"heldout/loss" in log.summary_metadata["_hparams_/experiment"].plugin_data.content
    assert (trained / "tensorboard" / "hparams.yaml").is_file()


def json_of(run):
    return json.loads((run / "run.json").read_text())


def interrupt(monkeypatch, epoch):
    """Press Ctrl-C at the start of an epoch."""
    original = ReconstructionModule.on_train_epoch_start

    def stop(self):
        if self.current_epoch == epoch:
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(ReconstructionModule, "on_train_epoch_start", stop)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(train_tiny, monkeypatch, tmp_path, capsys):
    # the learning rate and the KL weight change all the time, latents are drawn, the order changes
    options = ("epochs=2", "schedule=cosine", "schedule.warmup_steps=3", "loss.warmup_images=400")
    straight = train_tiny(*options)
    with monkeypatch.context() as patch:
        interrupt(patch, epoch=1)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(*options, output=tmp_path)
    assert f"interrupted; the same command with output={tmp_path} goes on" in capsys.readouterr().err
    assert weights(tmp_path)["images_seen"] == 240
    assert not (tmp_path / "latents.npz").exists()
    train_tiny(*options, output=tmp_path)
    assert weights(tmp_path)["images_seen"] == 480
    for name, value in weights(straight).items():
        assert torch.equal(weights(tmp_path)[name], value), name
    np.testing.assert_array_equal(Run.open(tmp_path).latents().z, Run.open(straight).latents().z)
    assert json_of(tmp_path)["best_loss"] == json_of(straight)["best_loss"]


def plant(monkeypatch, *rows):
    """Give images NaN on their way to the model, where no check of the data can see them."""

    def spoil(self, batch, dataloader_idx):
        batch["image"][torch.isin(batch["row"], torch.tensor(rows))] = torch.nan
        return batch

    monkeypatch.setattr(Loaders, "on_before_batch_transfer", spoil)


def rows_of(run, heldout):
    return np.flatnonzero(Run.open(run).latents().heldout == heldout)


def test_a_bad_image_costs_its_batch_and_is_named(train_tiny, trained, monkeypatch):
    bad = int(rows_of(trained, heldout=False)[17])
    key = f"{bad + 1:06d}@particles.mrcs"
    plant(monkeypatch, bad)
    message = rf"32 images were left out this epoch: .*own loss is not finite: {key}$"
    with pytest.warns(UserWarning, match=message) as caught:
        run = train_tiny("dataset.batch_size=32")
    assert len(caught) == 1, [str(w.message) for w in caught]
    assert all(value.isfinite().all() for value in weights(run).values())
    start = weights(trained)  # the same seed: what differs was trained without the batch
    assert any(not torch.equal(value, start[name]) for name, value in weights(run).items())
    info = json_of(run)
    assert info["skipped_images"] == 32
    assert np.isfinite(info["best_loss"])
    assert Run.open(run).latents().z[np.arange(300) != bad].std() > 0.01


def test_a_bad_heldout_image_does_not_spoil_the_choice_of_the_best_epoch(train_tiny, trained, monkeypatch):
    bad = int(rows_of(trained, heldout=True)[0])
    plant(monkeypatch, bad)
    with pytest.warns(UserWarning, match=rf"^1 images were left out .*: {bad + 1:06d}@particles\.mrcs$"):
        run = train_tiny()
    assert json_of(run)["best_loss"] == pytest.approx(json_of(trained)["best_loss"], rel=0.1)
    assert json_of(run)["best_loss"] != json_of(trained)["best_loss"]


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(train_tiny, monkeypatch):
    original = ReconstructionModule.on_before_optimizer_step
    spoilt = []

    def spoil(self, optimizer):
        if self.global_step == 2:
            next(iter(self.parameters())).grad[:] = torch.inf
            spoilt.extend(torch.cat(self._rows).tolist())
        original(self, optimizer)

    monkeypatch.setattr(ReconstructionModule, "on_before_optimizer_step", spoil)
    with pytest.warns(UserWarning, match="32 images were left out this epoch.*: none"):
        run = train_tiny()
    assert len(spoilt) == 32
    assert all(value.isfinite().all() for value in weights(run).values())


def test_heldout_particles_of_a_table_are_found_by_their_images(train_tiny):
    run = train_tiny("latent=table", "epochs=3", "optimizer.lr=0.01")
    latents = Run.open(run).latents()
    held = latents.heldout
    start = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    never = start["reconstructor.latent.mean.weight"].numpy()
    group = np.argsort(np.argsort(latents.key))
    assert np.abs(never[group[held]]).max() < 0.05, "the table's entries of held-out particles were trained"
    assert np.abs(latents.z[held] - never[group[held]]).mean() > 0.2
    np.testing.assert_array_equal(latents.z[~held], never[group[~held]])
    # their latents explain the images better than where the table started
    model, data = Run.open(run).model(), Run.open(run).datamodule
    data.prepare_data()
    batch = data.dataset[np.flatnonzero(held)]
    with torch.no_grad():
        before = model.loss(batch).reconstruction.numpy() / batch["image"].shape[1]
    assert latents.reconstruction_loss[held].mean() < before.mean()
    # the variance is that of a particle seen once, not the prior's
    assert latents.logvar[held].mean() < -1
    np.testing.assert_array_equal(Run.open(run).latents().z, latents.z)


@pytest.mark.parametrize(
    "options", [["warmstart=none"], ["warmstart=subspace"], ["latent=table"], ["half_sets=random"]]
)
def test_training_with_a_penalty_on_nuisance_variables(train_tiny, options):
    run = Run.open(train_tiny("nuisance=independent", *options))
    penalties = run.model().nuisances
    assert len(penalties) == (2 if "half_sets=random" in options else 1)
    for penalty in penalties:
        assert penalty.whiten.abs().max() > 0
        assert penalty.correlation.abs().max() > 0
    assert np.isfinite(run.latents().z).all()


@pytest.mark.parametrize(
    "words", [["optimizer.lr=-1"], ["optimizer.lr=nan"], ["optimizer=adamw", "optimizer.weight_decay=-1"]]
)
def test_an_optimizer_that_cannot_be_made_is_told_before_the_images_are_prepared(train_tiny, tmp_path, words):
    cache = tmp_path / "prepared"
    with pytest.raises(InputError, match=r"^optimizer: Invalid (learning rate|weight_decay value): (-1|nan)"):
        train_tiny(*words, f"dataset.cache={cache}", output=tmp_path / "run")
    assert not cache.exists()
