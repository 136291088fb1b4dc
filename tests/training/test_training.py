"""What a run leaves behind, and what may not stop or spoil it."""

import json

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from drgn.run import Run
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
