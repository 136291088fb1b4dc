import os

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from drgn.analysis.history import losses


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
