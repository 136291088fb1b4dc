"""The page of a sweep."""

import json
import re
import shutil

import pytest
import yaml

from drgn.sweeps.hook import Page
from drgn.sweeps.page import write_page


@pytest.fixture
def folder(trained, tmp_path):
    """Return the folder of a sweep of three runs, the last of which has not finished."""
    evil = "</td><script>alert(1)</script>"
    for number, (lr, loss) in enumerate([("0.001", 1.3), ("0.002", 1.2), (evil, None)]):
        run = tmp_path / "sweep" / str(number)
        shutil.copytree(trained, run)
        facts = json.loads((run / "run.json").read_text())
        facts["command"] = ["train.py", "seed=1", f"optimizer.lr={lr}", f"output={run}"]
        facts |= {"best_loss": loss, "complete": loss is not None}
        (run / "run.json").write_text(json.dumps({k: v for k, v in facts.items() if v is not None}))
    (tmp_path / "sweep" / "1" / "analysis").mkdir()
    (tmp_path / "sweep" / "1" / "analysis" / "report.html").write_text("report")
    (tmp_path / "sweep" / "2" / "latents.npz").unlink()
    return tmp_path / "sweep"


def test_the_page_compares(folder):
    page = write_page(folder).read_text()
    header = re.findall(r"<th>(.*?)</th>", page)
    assert header[:3] == ["run", "optimizer.lr", "held-out loss"], "what is the same for all is not shown"
    assert "ari_arm" in header or any(name.startswith(("spearman", "ari")) for name in header)
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)][1:]
    by_run = {row[0]: row for row in rows}
    assert [row[1] for row in rows if row[1] in ("0.001", "0.002")] == ["0.002", "0.001"], "the best first"
    assert by_run["1"][2] == "1.20000"
    assert by_run["2"][header.index("epochs")] == "1 of 1, not finished"
    assert '<a href="1/analysis/report.html">' in by_run["1"][-1]
    assert page.count("<img") == 2
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")


def test_runs_that_were_started_alike_differ_by_their_options(folder):
    for number in range(3):
        path = folder / str(number) / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "command": ["train.py"]}))
        path = path.with_name("config.yaml")
        config = yaml.safe_load(path.read_text())
        config["seed"] = config["dataset"]["seed"] = number
        path.write_text(yaml.safe_dump(config))
    header = re.findall(r"<th>(.*?)</th>", write_page(folder).read_text())
    assert header[:3] == ["run", "seed", "held-out loss"], "options that go together are one column"


@pytest.fixture(scope="module")
def nothing_held_out(train_tiny):
    return train_tiny("dataset.heldout_fraction=0")


def copied(run, folder, **facts):
    """Copy a run into a sweep, with other facts in its run.json; None: without that fact."""
    shutil.copytree(run, folder)
    facts = {**json.loads((folder / "run.json").read_text()), **facts}
    (folder / "run.json").write_text(json.dumps({k: v for k, v in facts.items() if v is not None}))


def table_of(page):
    """The table as a dict for each run, best first, by the words of its header."""
    header = re.findall(r"<th>(.*?)</th>", page)
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)][1:]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_where_nothing_was_held_out_the_loss_is_named_by_what_it_is(nothing_held_out, tmp_path):
    facts = json.loads((nothing_held_out / "run.json").read_text())
    copied(nothing_held_out, tmp_path / "0", best_loss=facts["best_loss"] + 1)
    copied(nothing_held_out, tmp_path / "1", best_loss=None, monitor=None, complete=None)  # it has not ended
    page = write_page(tmp_path).read_text()
    first, second = table_of(page)
    assert (first["run"], second["run"]) == ("1", "0")
    assert float(first["training loss"]) == pytest.approx(facts["best_loss"], abs=1e-4)
    assert float(second["training loss"]) == pytest.approx(facts["best_loss"] + 1, abs=1e-4)
    assert float(first["reconstruction"]) > 0
    assert "The lowest training loss" in page
    assert "held-out" not in page
    assert "Loss of the training particles after" in page


def test_runs_with_and_without_held_out_particles_do_not_compete(nothing_held_out, trained, tmp_path):
    copied(nothing_held_out, tmp_path / "0", best_loss=0.5)
    copied(trained, tmp_path / "1", best_loss=0.9)
    page = write_page(tmp_path).read_text()
    first, second = table_of(page)
    assert (first["run"], first["held-out loss"], first["training loss"]) == ("1", "0.90000", "")
    assert (second["run"], second["held-out loss"], second["training loss"]) == ("0", "", "0.50000")
    assert "The lowest held-out loss, 0.90000, is that of run 1" in page
    assert "does not compare with a held-out loss" in page


def test_without_runs_there_is_no_page(tmp_path):
    assert write_page(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_hydra_may_call_the_hook_at_any_time():
    Page().on_job_start(config=None, task_function=None)
    with pytest.raises(AttributeError):
        Page().something_else()
