"""The tables of docs/reliability.md and docs/threat_model.md name tests that there are, in every line."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FOLDERS = {"reliability": "reliability", "threat_model": "safety"}
TEXTS = {name: (TESTS.parent / "docs" / f"{name}.md").read_text() for name in FOLDERS}
NAMED = {name: sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", text))) for name, text in TEXTS.items()}
OF_ALL = [(name, file, test) for name in FOLDERS for file, test in NAMED[name]]


@pytest.mark.parametrize(("name", "file", "test"), OF_ALL)
def test_a_named_test_is_there(name, file, test):
    path = TESTS.parent / file if "/" in file else TESTS / FOLDERS[name] / file
    assert f"\ndef {test}(" in path.read_text()


@pytest.mark.parametrize(("name", "last_column_alone"), [("reliability", True), ("threat_model", False)])
def test_every_line_of_a_table_names_a_test(name, last_column_alone):
    rows = [line for line in TEXTS[name].splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    said = [row.rsplit("|", 2)[1] if last_column_alone else row for row in rows]
    assert [row for row, part in zip(rows, said, strict=True) if "::test_" not in part] == []


def test_every_test_of_the_faults_stands_in_the_table():
    files = (TESTS / "reliability").glob("test_*.py")
    tests = {
        (path.name, name) for path in files for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert tests == {(file, test) for file, test in NAMED["reliability"] if "/" not in file}


def test_every_file_of_the_threats_stands_in_the_table():
    files = {path.name for path in (TESTS / "safety").glob("test_*.py")} - {"test_model.py"}
    assert files == {file for file, _ in NAMED["threat_model"] if "/" not in file}
