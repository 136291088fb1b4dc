from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from drgn.run import Run
from drgn.training import callbacks


def draws(seed, epoch, process, batch=0, pieces=1):
    """Return what is drawn for a batch."""
    trainer = SimpleNamespace(current_epoch=epoch, global_rank=process, accumulate_grad_batches=pieces)
    callbacks.Draws(seed).on_train_batch_start(trainer, None, None, batch)
    return torch.randn(4).tolist()


def test_draws_are_of_the_seed_the_epoch_and_the_step():
    first = draws(0, 0, 0)
    torch.randn(7)
    assert draws(0, 0, 0) == first
    assert draws(0, 0, 1) == first, "of any process"
    assert len({tuple(draws(*which)) for which in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 0, 1)]}) == 4
    assert draws(0, 0, 0, batch=2, pieces=3) == first, "of all pieces of a batch"
    assert draws(0, 0, 0, batch=3, pieces=3) != first


def test_every_process_comes_to_the_means_that_the_first_prints(capsys):
    """Means over the processes are an exchange: where one asks alone, it waits for the others' next."""

    class Trainer(SimpleNamespace):
        @property
        def callback_metrics(self):
            self.asked.append(self.is_global_zero)
            return {"train/loss_epoch": torch.tensor(1.5)}

    asked = []
    for first in (True, False):
        trainer = Trainer(is_global_zero=first, asked=asked, current_epoch=0, max_epochs=2, callbacks=[])
        callbacks.EpochLine().on_train_epoch_end(trainer, None)
    assert asked == [True, False]
    assert capsys.readouterr().out == "epoch 1/2  train/loss 1.50000\n"


@pytest.mark.parametrize("zdim", [1, 2, 5])
def test_the_picture_of_the_latents_shows_where_they_are(zdim):
    z = torch.zeros(100, zdim)
    z[:50, 0], z[50:, 0] = 3, -3
    picture = callbacks._scatter(z)
    assert picture.shape == (256, 256)
    assert picture.max() == 1
    rows, columns = torch.nonzero(picture > 0.5, as_tuple=True)
    assert 110 < rows.float().mean() < 145
    assert columns.min() < 40
    assert columns.max() > 215


def test_an_empty_or_broken_picture_is_grey():
    assert callbacks._grey(torch.zeros(3, 3)).tolist() == torch.zeros(3, 3).tolist()
    assert callbacks._grey(torch.tensor([[0.0, float("nan")], [1.0, 2.0]])).isfinite().all()


@pytest.mark.parametrize("first", [True, False])
def test_held_out_latents_are_kept_only_where_they_are_drawn(tmp_path, first):
    loggers = [] if first else [TensorBoardLogger(tmp_path)]
    trainer = SimpleNamespace(loggers=loggers, is_global_zero=first, sanity_checking=False, current_epoch=0)
    module = SimpleNamespace(
        reconstructor=SimpleNamespace(posterior=lambda batch: SimpleNamespace(mean=batch["image"]))
    )
    pictures = callbacks.Pictures()
    for i in range(3):
        pictures.on_validation_batch_end(trainer, module, None, {"image": torch.zeros(5, 2)}, i)
    assert pictures._z == []
    assert pictures._batch is None
    pictures._z = [torch.zeros(5, 2)]
    pictures.on_train_epoch_end(trainer, module)
    assert pictures._z == []


def test_a_turn_of_the_latents_is_no_drift():
    before = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 2]])
    assert callbacks._drift(before, before @ turn + 5) < 1e-10
    other = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    assert callbacks._drift(before, other) > 0.9
    assert callbacks._drift(before, before + other) == pytest.approx(0.5, abs=0.1)


def test_tensorboard_has_the_options_beside_the_best_loss(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    losses, options, metrics = [], {}, set()
    for path in (trained / "tensorboard").glob("events*"):
        log = EventAccumulator(str(path)).Reload()
        if "best_heldout/loss" in log.Tags()["scalars"]:
            losses += [event.value for event in log.Scalars("best_heldout/loss")]
        with suppress(KeyError):
            for value in log.PluginTagToContent(metadata.PLUGIN_NAME).values():
                data = plugin_data_pb2.HParamsPluginData.FromString(value)
                options |= dict(data.session_start_info.hparams)
                metrics |= {info.name.tag for info in data.experiment.metric_infos}
    assert losses == [pytest.approx(Run.open(trained).info["best_loss"])]
    assert options["optimizer.lr"].number_value == 0.002
    assert {"best_heldout/loss", "heldout/loss"} <= metrics
