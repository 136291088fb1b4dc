"""Every line of docs/reliability.md names tests that there are, and the tests of this folder stand in it."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TEXT = (ROOT / "docs" / "reliability.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)))


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_named_test_is_there(file, test):
    path = ROOT / file if "/" in file else HERE / file
    assert f"\ndef {test}(" in path.read_text()


def test_every_line_of_the_table_names_a_test():
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    assert [row for row in rows if "::test_" not in row.rsplit("|", 2)[1]] == []


def test_every_test_of_this_folder_stands_in_it():
    files = [path for path in HERE.glob("test_*.py") if path.name != Path(__file__).name]
    tests = {
        (path.name, name) for path in files for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert tests == {(file, test) for file, test in NAMED if "/" not in file}
