"""A sweep that is started again does what is left of it."""

import json

import pytest

from drgn import train as verb
from drgn.errors import InputError
from drgn.run import Run


@pytest.fixture
def sweep(train_tiny, tmp_path, monkeypatch):
    """Return a function that trains as a job of a sweep would, and says whether it trained at all."""
    monkeypatch.setattr(verb, "_in_sweep", lambda: True)
    trained = []
    real = verb._trained
    monkeypatch.setattr(verb, "_trained", lambda *args: trained.append(1) or real(*args))

    def job(*options):
        trained.clear()
        train_tiny(*options, output=tmp_path / "0")
        return bool(trained)

    return job


def test_a_finished_job_is_told_and_not_trained_again(sweep, tmp_path, capsys):
    assert sweep()
    loss = Run.facts(tmp_path / "0")["best_loss"]
    capsys.readouterr()
    assert not sweep()
    assert f"is finished, best heldout/loss {loss:.5f}: not trained again" in capsys.readouterr().out
    # what changes no number is no other run
    assert not sweep("checkpoint_minutes=3")
    assert sweep("epochs=2"), "a longer run goes on"
    assert Run.facts(tmp_path / "0")["epochs"] == 2
    with pytest.raises(InputError, match=r"holds a run with optimizer.lr=0.002, where this job has 0.1: new"):
        sweep("optimizer.lr=0.1", "epochs=2")


def test_an_unfinished_job_goes_on(sweep, tmp_path):
    assert sweep()
    facts = json.loads((tmp_path / "0" / "run.json").read_text())
    (tmp_path / "0" / "run.json").write_text(json.dumps({**facts, "complete": False}))
    assert sweep()
