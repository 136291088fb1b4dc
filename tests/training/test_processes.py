"""Several processes train as one does on the same batches."""

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from drgn.errors import InputError
from drgn.run import Run
from drgn.training.processes import told_when_lost

RECORDER = '''
import json, os
import pytorch_lightning as pl

class Steps(pl.Callback):
    """Write the loss of each step, this process's share of it."""

    def __init__(self, path):
        self.path, self.found, self.rows = path, [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.found.append(float(outputs["loss"]))
        self.rows.append(batch["row"].tolist())

    def on_train_end(self, trainer, module):
        with open(f"{self.path}.{trainer.global_rank}", "w") as file:
            json.dump({"losses": self.found, "rows": self.rows}, file)
'''


@pytest.fixture
def trained_by(tiny, tmp_path, environment):
    """Return a function: train by so many processes; the run folder, the losses and the rows of each."""
    (tmp_path / "recorder.py").write_text(RECORDER)
    paths = [str(tmp_path), environment["PYTHONPATH"]]

    def train(n, *options):
        name = f"run{len(list(tmp_path.glob('run*')))}"
        command = [sys.executable, "-m", "drgn.train", *tiny, f"output={tmp_path / name}", "trust=[recorder]"]
        command += ["latent.zdim=2", "epochs=4", f"trainer.devices={n}", f"dataset.batch_size={16 // n}"]
        command += ["+callbacks.steps._target_=recorder.Steps", f"+callbacks.steps.path={tmp_path / 'steps'}"]
        command += ["trainer.strategy=ddp"] * (n > 1)
        done = subprocess.run(
            [*command, *options],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": ":".join(paths)},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("run folder") == 1, "one of the processes speaks"
        found = [json.loads((tmp_path / f"steps.{rank}").read_text()) for rank in range(n)]
        return tmp_path / name, *([one[what] for one in found] for what in ("losses", "rows"))

    return train


def equal(one, other):
    (run, (losses,), (rows,)), (other_run, shares, other_rows) = one, other
    assert len(losses) >= 50
    # a learning rate 1 % off makes 8e-5
    np.testing.assert_allclose(np.mean(shares, axis=0)[:50], losses[:50], atol=1e-6, rtol=0)
    for step, *shared in zip(rows, *other_rows, strict=True):
        assert sorted(step) == sorted(chain(*shared))
    z, other_z = (Run.open(path).latents().z for path in (run, other_run))
    assert np.sqrt(np.square(z - other_z).mean()) < 0.01 * z.std()
    assert sorted(p.name for p in other_run.iterdir()) == sorted(p.name for p in run.iterdir())


# Where a pixel falls on the other side of a ReLU's kink with the other order of summation, 1e-7 grows
# to 1e-4 within 40 steps: at ten times this rate with two seeds of four, at this one with none of six.
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["optimizer.lr=0.0002"], id="start"),
        pytest.param(
            ["warmstart=none", "half_sets=random", "pixels=rising", "seed=1"],
            marks=pytest.mark.full,
            id="halves",
        ),
    ],
)
@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.full)])
def test_several_processes_train_as_one(trained_by, options, n):
    equal(trained_by(1, *options), trained_by(n, *options))


@pytest.mark.full
def test_a_process_reads_its_own_stretch_alone(trained_by):
    _, _, rows = other = trained_by(2, "warmstart=none", "dataset.shards=2")
    one, two = (set(chain(*found)) for found in rows)
    assert max(one) < min(two)
    assert len(one | two) == 240
    equal(trained_by(1, "warmstart=none", "dataset.shards=2"), other)


def test_a_batch_in_parts_is_the_same_step(trained_by):
    options = ["warmstart=none", "model.hidden_dim=128", "pixels=rising"]
    _, (losses,), _ = trained_by(1, *options)
    _, (parts,), rows = trained_by(1, *options, "+trainer.accumulate_grad_batches=3")
    assert {len(row) for row in rows[0]} == {5, 6}
    steps = np.array(parts).reshape(-1, 3).sum(1)  # Lightning has divided each by their number
    np.testing.assert_allclose(steps[:50], losses[:50], atol=1e-5, rtol=0)


@pytest.mark.full
def test_parts_and_processes_together(trained_by):
    options = ["warmstart=none", "half_sets=random"]
    one = trained_by(1, *options)
    _, (first, second), _ = trained_by(2, *options, "+trainer.accumulate_grad_batches=2")
    steps = (np.array(first) + np.array(second)).reshape(-1, 2).sum(1) / 2
    np.testing.assert_allclose(steps[:50], one[1][0][:50], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("error", "world_size", "told"),
    [
        (torch.distributed.DistStoreError("wait timeout after 20000ms"), 1, True),
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:1] Connection closed"), 1, True),
        (RuntimeError("Connection reset by peer"), 2, True),
        (RuntimeError("Socket Timeout"), 2, True),
        (RuntimeError("Connection reset by peer"), 1, False),
        (RuntimeError("shape [3] is invalid"), 2, False),
    ],
)
def test_the_loss_of_another_process_is_a_sentence(monkeypatch, error, world_size, told):
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    expected = InputError if told else RuntimeError
    with pytest.raises(expected) as raised, told_when_lost(Path("run")):
        raise error
    assert (type(raised.value) is InputError) == told
    assert ("goes on from the last checkpoint in output=run" in str(raised.value)) == told
