import os

import numpy as np
import pandas as pd
import pytest
from torch.utils.tensorboard import SummaryWriter

from drgn.analysis.history import losses, verdict


def events(folder, first_epoch, values):
    """A log as Lightning writes it: the epoch beside every value, losses at the last step of each epoch."""
    with SummaryWriter(folder) as board:
        for epoch, value in enumerate(values, first_epoch):
            for step in (10 * epoch + 4, 10 * epoch + 9):
                board.add_scalar("train/loss_step", 100.0, step)
                board.add_scalar("epoch", epoch, step)
            board.add_scalar("train/loss_epoch", value, 10 * epoch + 9)
            board.add_scalar("heldout/loss", value + 1, 10 * epoch + 9)
            board.add_scalar("lr-Adam", 1e-4, 10 * epoch + 9)
    return folder


def test_tensorboard(tmp_path):
    table = losses(events(tmp_path / "version_0", 0, [3.0, 2, 1]).parent)
    assert table.index.tolist() == [1, 2, 3]
    assert sorted(table.columns) == ["heldout/loss", "train/loss"]
    np.testing.assert_allclose(table["train/loss"], [3, 2, 1])
    np.testing.assert_allclose(table["heldout/loss"], [4, 3, 2])


def test_a_resumed_run_has_several_logs(tmp_path):
    old = events(tmp_path / "version_0", 0, [3.0, 2, 9])
    for path in old.iterdir():
        os.utime(path, (1, 1))
    events(tmp_path / "version_1", 2, [1.0, 0.5])  # went on from the end of the second epoch
    np.testing.assert_allclose(losses(tmp_path)["train/loss"], [3, 2, 1, 0.5])


def test_csv(tmp_path):
    (tmp_path / "version_0").mkdir()
    (tmp_path / "version_0" / "metrics.csv").write_text(
        "epoch,heldout/loss,lr-Adam,step,train/loss_epoch,train/loss_step\n"
        "0,,,4,,100\n0,4,,9,,\n0,,,9,3,\n1,,0.1,14,,100\n1,3,,19,,\n1,,,19,2,\n"
    )
    table = losses(tmp_path)
    assert table.index.tolist() == [1, 2]
    assert table["train/loss"].tolist() == [3, 2]
    assert table["heldout/loss"].tolist() == [4, 3]
    assert "train/loss_step" not in table


def test_nothing_was_logged(tmp_path):
    assert losses(tmp_path).empty
    (tmp_path / "metrics.csv").write_text("")
    assert losses(tmp_path).empty


def told(values, warm=False, **more):
    columns = {"heldout/loss": values, **{f"heldout/{name}": column for name, column in more.items()}}
    return verdict(pd.DataFrame(columns, index=range(1, len(values) + 1)), warm=warm)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([2, 1.5, 1.2, 1.1, 1.05, 1.02, 1.0], "Not converged"),
        ([2, 1.2, 1.001, 1.0, 1.0, 1.0, 1.0], "Converged"),
        ([2, 1.2, 1.0, 1.0, 1.1, 1.2], "Over-fitted: the held-out loss was lowest after epoch 3"),
        ([1, 1.1, 1.2], "has not fallen"),
        ([2, 1], "Too few epochs"),
    ],
)
def test_the_verdict_in_words(values, word):
    assert word in told(values)


def test_the_verdict_tells_what_still_moves():
    said = told([2, 1, 1, 1], latent_drift=[np.nan, 0.5, 0.1, 0.031], map_change=[np.nan, 0.1, 0.1, 0.0042])
    assert (
        "In the last 2 epochs the latents changed by up to 10 % an epoch and the map changed by up to 10 %"
        in said
    )
    assert verdict(pd.DataFrame({"train/loss": [1.0, 2.0]}), warm=True) is None


def test_what_a_warm_start_had_found_is_not_called_unconverged():
    """Losses and changes of a real run of 5 epochs, stopped and resumed once."""
    values = [1.04127, 1.03871, 1.03724, 1.03706, 1.03682]
    changes = {
        "latent_drift": [np.nan, 9.6e-4, 8.7e-4, 1.1e-4, np.nan],
        "map_change": [np.nan, 2.5e-4, 2.3e-4, 1.0e-5, np.nan],
    }
    said = told(values, warm=True, **changes)
    assert said.startswith("Converged: the warm start had found latents and maps")
    assert "latents changed by up to 0.096 % an epoch and the map changed by up to 0.025 %" in said
    assert "still falls, by 0.00042 of 1.037 in the last 2 epochs" in said
    assert told(values, **changes).startswith("Not converged")  # a low rate from random weights
    changes["latent_drift"][2] = 0.02
    assert told(values, warm=True, **changes).startswith("Not converged")
    assert told(values, warm=True).startswith("Not converged")


def test_one_epoch_after_a_warm_start_may_be_all():
    assert "the warm start found before the first may be all" in told([1.0], warm=True)
    assert "warm start" not in told([1.0])
    assert told([1.0]).endswith("Go on: the same command with epochs=3 and this run folder as output=.")
