"""Whole sweeps, as they are started on a command line."""

import json
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.full


@pytest.fixture
def sweep(tiny, tmp_path, environment):
    """Return a function that starts a sweep below tmp_path / "sweep"."""
    known = [
        sys.executable,
        "-m",
        "drgn.train",
        "-m",
        *tiny,
        f"output={tmp_path / 'sweep'}",
        "warmstart=none",
    ]

    def start(*options: str) -> subprocess.Popen[str]:
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*known, *options], cwd=tmp_path, env=environment, **piped)

    return start


def said_by(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return out


def facts(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_a_killed_sweep_goes_on_where_it_was(sweep, tmp_path):
    options = ["latent.zdim=1,2", "epochs=60"]
    killed = sweep(*options)
    last = (
        tmp_path / "sweep" / "1" / "checkpoints" / "previous.ckpt"
    )  # there after an epoch of the second job
    end = time.monotonic() + 400
    while not last.is_file() and time.monotonic() < end:
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    first = facts(tmp_path / "sweep" / "0")
    assert first["complete"]
    assert not facts(tmp_path / "sweep" / "1")["complete"]
    assert not (tmp_path / "sweep" / "sweep.html").exists()

    said = said_by(sweep(*options))
    assert said.count("not trained again") == 1
    assert facts(tmp_path / "sweep" / "0") == first
    epochs = [int(n) for n in re.findall(r"^epoch (\d+)/60", said, flags=re.MULTILINE)]
    assert epochs[0] > 1
    assert epochs == list(range(epochs[0], 61)), "from its checkpoint"
    assert (tmp_path / "sweep" / "sweep.html").is_file()
    assert said_by(sweep(*options)).count("not trained again") == 2


def test_each_job_of_a_sweep_has_its_own_processes(sweep, tmp_path):
    said = said_by(sweep("latent.zdim=1,2", "trainer.devices=2", "trainer.strategy=ddp"))
    assert len(re.findall(r"^best heldout/loss", said, flags=re.MULTILINE)) == 2
    commands = [facts(tmp_path / "sweep" / str(i))["command"][1:] for i in (0, 1)]
    for number, command in enumerate(commands):
        assert f"latent.zdim={number + 1}" in command
        assert "-m" not in command
    assert sorted(p.name for p in (tmp_path / "sweep").iterdir()) == [
        "0",
        "1",
        "multirun.yaml",
        "sweep",
        "sweep.html",
    ]


def test_a_search_goes_on_where_it_stopped(sweep, tmp_path):
    pytest.importorskip("optuna", reason="pip install drgn[sweep]")
    options = ["hydra/sweeper=search", "optimizer.lr=tag(log,interval(1e-4,1e-2))", "latent.zdim=choice(1,2)"]
    said_by(sweep(*options, "hydra.sweeper.n_trials=2"))
    said = said_by(sweep(*options, "hydra.sweeper.n_trials=3"))
    assert said.count("not trained again") == 2, "the same trials are proposed again"
    losses = [facts(tmp_path / "sweep" / str(i))["best_loss"] for i in range(3)]
    with sqlite3.connect(tmp_path / "sweep" / "study.db") as study:
        told = study.execute(
            "SELECT study_id, value FROM trials JOIN trial_values USING (trial_id)"
        ).fetchall()
    assert [value for number, value in told if number == max(told)[0]] == pytest.approx(losses)
    best = (tmp_path / "sweep" / "optimization_results.yaml").read_text()
    assert float(re.search(r"best_value: (\S+)", best)[1]) == pytest.approx(min(losses))
