"""Names that would steer a terminal or a spreadsheet, or that Python would take for its own modules."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import drgn
from drgn.errors import InputError, say, visible
from drgn.formats.atomic import for_spreadsheets, write_table
from drgn.formats.particles import Particles

CLEAR, C1, TURNED = "\x1b[2J\x1b]0;owned\x07", "\x9b2J", "\u202egnp.exe"


@pytest.mark.parametrize("name", [CLEAR, C1, TURNED, "a\nb", "\r", "\u2028", "\ud800"])
def test_a_sentence_shows_control_characters(name):
    text = str(InputError(f"{name} is not there; give another."))
    assert text.isprintable()
    assert text.endswith("is not there; give another.")
    assert str(InputError(text)) == text  # once more changes nothing


def test_what_can_be_read_is_left_as_it_is():
    text = "/data/Ångström 5 µm/粒子.mrcs: 3 × 4"
    assert visible(text) == text
    assert str(InputError(text)) == text


def test_a_flood_is_cut():
    assert len(str(InputError("x" * 10**7))) < 3000


def test_what_is_said_keeps_its_lines(capsys):
    say(f"one {CLEAR}\ntwo", 3, flush=True)
    assert capsys.readouterr().out == "one \\x1b[2J\\x1b]0;owned\\x07\ntwo 3\n"


def test_everything_is_said_through_say():
    """Names from files stand in what verbs print."""
    found = []
    root = Path(drgn.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(path.relative_to(root).as_posix())
    assert set(found) == {"errors.py", "cli.py"}  # the second prints its own words alone


def run(words, environment, cwd, **more):
    return subprocess.run(
        [sys.executable, *words],
        env={**environment, **more},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", [CLEAR, C1, TURNED])
def test_no_verb_prints_a_control_character(stranger, tmp_path, environment, name):
    folder = (stranger / "run").rename(stranger / f"run{name}")
    words = ["-m", "drgn.filter", f'run="{folder}"', "output=kept.star", "kmeans=2", "clusters=[0]"]
    done = run(words, environment, tmp_path)
    assert done.returncode == 0, done.stderr
    (folder / "config.yaml").write_text("a: [")
    done = run([*words, "kmeans=3"], environment, tmp_path)
    assert done.returncode == 2
    for text in (done.stdout, done.stderr):
        assert all(line.isprintable() for line in text.splitlines())


def test_a_star_and_a_cs_with_control_characters(stranger):
    table = stranger / "formats" / "p.star"
    table.write_text(table.read_text().replace("s.mrcs", f"s{C1}.mrcs"))
    with pytest.raises(InputError) as told:
        Particles.from_file(table).require_images()
    assert "\\x9b2J" in str(told.value)
    records = np.zeros(2, [("uid", "u8"), ("blob/path", "S40"), ("blob/idx", "u4")])
    records["uid"], records["blob/idx"] = [5, 6], [0, 1]
    records["blob/path"] = CLEAR.encode()
    np.save(stranger / "formats" / "q.npy", records)
    path = (stranger / "formats" / "q.npy").rename(stranger / "formats" / "q.cs")
    with pytest.raises(InputError) as told:
        Particles.from_file(path).require_images()
    assert "\\x1b[2J" in str(told.value)


def test_a_cell_is_no_formula(tmp_path):
    table = pd.DataFrame({"key": ["=1+1", "+1", "-x", "@sum", "\tx", "1@s.mrcs", ""], "z": -1.5, "=head": 1})
    write_table(table, tmp_path / "x.csv")
    again = pd.read_csv(tmp_path / "x.csv", dtype=str, keep_default_na=False)
    assert list(again.columns) == ["key", "z", "'=head"]
    assert list(again["key"]) == ["'=1+1", "'+1", "'-x", "'@sum", "'\tx", "1@s.mrcs", ""]
    assert set(again["z"]) == {"-1.5"}  # numbers stay numbers
    assert for_spreadsheets(table[["z"]]).equals(table[["z"]])


@pytest.mark.parametrize("trusted", [False, True])
def test_modules_of_the_current_folder_are_not_imported(stranger, harm, environment, trusted):
    """The program `drgn`, started in a folder of data that holds a numpy.py."""
    program = stranger.parent / "bin" / "drgn"
    program.parent.mkdir()
    program.write_text("from drgn.cli import main\n\nmain()\n")
    for name in ("numpy", "gemmi", "yaml"):
        (stranger / f"{name}.py").write_text(f"import os\nos.system({harm.command!r})\n")
    words = [str(program), "filter", "run=run", "output=kept.star", "kmeans=2", "clusters=[0]"]
    done = run([*words, *(["trust=[mine]"] if trusted else [])], environment, stranger)
    assert harm.exists() == trusted
    assert trusted or done.returncode == 0, done.stderr


def test_jobs_of_the_explorer_do_not_import_from_the_current_folder(stranger, harm, monkeypatch, environment):
    from drgn.explorer.jobs import Jobs

    (stranger / "numpy.py").write_text(f"import os\nos.system({harm.command!r})\n")
    monkeypatch.chdir(stranger)
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    jobs = Jobs()
    options = {"run": "run", "output": "kept.star", "kmeans": 2, "clusters": [0]}
    job = jobs.start("x", "filter", options, stranger / "kept.star")
    assert job.process.wait(timeout=60) == 0, job.lines
    assert not harm.exists()
    assert os.path.exists("kept.star")
