"""What `plan=true` says beforehand, against what then happens."""

import time

import numpy as np
import pytest

from drgn.command import bind, compose
from drgn.data.building import in_bytes
from drgn.planning.forecast import Forecast, Row, line
from drgn.planning.measure import _Small, _warm_start
from drgn.run import Run
from drgn.train import train
from drgn.training.pace import Pace
from drgn.training.stages import Mark, Stages, duration
from drgn.training.warmstart import LATENT, REFIT, latent_steps


@pytest.mark.parametrize(
    ("few", "many", "at", "expected"),
    [
        (3.0, 5.0, 40, 17.0),  # 1 + 0.4 n
        (5.0, 5.0, 40, 5.0),
        (6.0, 5.0, 40, 5.0),  # noise: more images take no less
        (0.1, 5.0, 40, 20.0),  # noise: nothing takes less than no time at the start
        (3.0, 5.0, 10, 5.0),
    ],
)
def test_two_sizes_tell_a_third(few, many, at, expected):
    assert line((5, 10), (few, many), at) == pytest.approx(expected)


def test_one_size_tells_in_proportion():
    assert line((10, 10), (5.0, 5.0), 40) == pytest.approx(20)
    assert line((10, 10), (5.0, 5.0), 10) == pytest.approx(5)


def test_steps_of_the_latent_are_few_for_few_particles():
    assert sum(latent_steps(100_000)) == 3 * 1000 + 2 * 2000
    assert latent_steps(1280) == [3 * 1000, 1001, 1001]
    assert latent_steps(128) == [3 * 101, 101, 101]


def test_a_forecast_reads_as_a_sum():
    rows = [
        Row("start", np.array([3.0, 3.0])),
        Row("epochs", np.array([7200.0, 9000.0]), "20 of 1,000 images"),
    ]
    said = str(Forecast(rows, 2e9, "epochs", 3e9, 5e6, {"checkpoints": 1e6, "logs": 2e6}, ["A note."]))
    assert "about 2.0 h" in said
    assert "20 of 1,000 images" in said
    assert "2 GB" in said
    assert "3 GB                GPU memory" in said
    assert "8 MB                on disk" in said
    assert said.endswith("A note.")
    assert [duration(s) for s in (0, 89.4, 90, 5399, 5400)] == ["0 s", "89 s", "1.5 min", "90.0 min", "1.5 h"]
    assert [duration(s) for s in (0.3, 45, 300, 7200, 2e6)] == [
        "0.3 s",
        "45 s",
        "5.0 min",
        "2.0 h",
        "23.1 days",
    ]
    assert in_bytes(1.5e12) == "1.5 TB"


@pytest.fixture
def options(tiny, tmp_path):
    """Options of a run without warm start and analysis, in a cache of its own."""
    own = [f"dataset.cache={tmp_path / 'cache'}", f"output={tmp_path / 'run'}", "latent.zdim=2", "epochs=3"]
    own.append("warmstart=none")
    return [*(o for o in tiny if not o.startswith("dataset.cache")), *own]


def test_a_plan_leaves_no_run_and_tells_what_the_run_takes(options, tmp_path, capsys, monkeypatch):
    found = []
    monkeypatch.setattr("drgn.train.say", lambda *what, **how: found.extend(what))
    assert np.isnan(train(**bind(train, compose("train", [*options, "plan=true"]))))
    forecast = next(one for one in found if isinstance(one, Forecast))
    assert not (tmp_path / "run").exists()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["preflight"]
    assert "best" not in capsys.readouterr().out, "the small runs say nothing"

    began = time.perf_counter()
    train(**bind(train, compose("train", options)))
    took = time.perf_counter() - began
    assert forecast.seconds[0] / took == pytest.approx(1, rel=0.6)  # of seconds, on a machine that does more
    run = tmp_path / "run"
    facts = Run(run).info
    assert {"start", "preflight", "preparation", "warm start", "training", "encoding"} == set(
        facts["seconds_of"]
    )
    assert sum(facts["seconds_of"].values()) == pytest.approx(took, rel=0.4)
    written = sum(f.stat().st_size for f in run.rglob("*") if f.is_file())
    assert sum(forecast.run_B.values()) == pytest.approx(written, rel=0.25)
    stacks = [f for f in (tmp_path / "cache").rglob("*") if f.is_file() and f.parent.name != "preflight"]
    assert forecast.stack_B == pytest.approx(sum(f.stat().st_size for f in stacks), rel=0.25)
    assert forecast.memory_B / 1e9 == pytest.approx(facts["peak_memory_GB"], rel=0.25)


def small_run(n, seconds):
    """A run of n images whose warm start took these seconds in its passes, fits of the latent and refits."""
    stages, at = Stages(), np.zeros(2)
    begun = at
    for what, took in seconds:
        stages.marks.append(Mark(what, at))
        at = at + took
    stages.seconds["warm start"], stages.ends["warm start"] = at - begun, at
    return _Small(n, n, stages, Pace(0), None)


def test_a_warm_start_grows_by_passes_with_images_and_by_the_latent_with_steps():
    class Data:
        heldout = np.zeros(10_000, bool)

    def run(n, once=0.0):
        one_pass, step = 1 + 0.01 * n, 0.002
        latent = [step * steps for steps in latent_steps(n)]
        passes = [("mean map", once + 0.5), ("volumes", one_pass), ("volumes", one_pass), (LATENT, latent[0])]
        return small_run(
            n, [*passes, *((w, s) for t in latent[1:] for w, s in ((REFIT, one_pass), (LATENT, t)))]
        )

    row = _warm_start(run(48, once=7), run(256), run(1024), Data(), True)
    one_pass, latent = 1 + 0.01 * 10_000, 0.002 * sum(latent_steps(10_000))
    assert row.seconds[0] == pytest.approx(7 + 0.5 + 4 * one_pass + latent)
    assert _warm_start(run(48), run(256), run(1024), Data(), False).seconds[0] == 0


def test_a_warm_start_whose_refits_were_left_out_counts_them():
    class Data:
        heldout = np.zeros(10_000, bool)

    def run(n):
        return small_run(n, [("volumes", 1 + 0.01 * n), (LATENT, 0.002 * latent_steps(n)[0])])

    row = _warm_start(run(48), run(256), run(1024), Data(), True)
    assert row.seconds[0] == pytest.approx(3 * 101 + 0.002 * sum(latent_steps(10_000)))


def test_a_plan_knows_that_the_stack_is_there(tiny, train_tiny, tmp_path, monkeypatch):
    train_tiny()
    found = []
    monkeypatch.setattr("drgn.train.say", lambda *what, **how: found.extend(what))
    more = ["warmstart=none", "latent=none", "pixels=rising", f"output={tmp_path / 'run'}", "plan=true"]
    train(**bind(train, compose("train", [*tiny, *more])))
    forecast = next(one for one in found if isinstance(one, Forecast))
    assert forecast.stack_B == 0
    rows = {row.name: row for row in forecast.rows}
    assert rows["preparation"].note == "the prepared stack is there"
    assert rows["warm start"].seconds[0] == 0
    assert not (tmp_path / "run").exists()
