"""The threat model names tests that there are, and every file of tests/safety stands in it."""

import ast
import re
from pathlib import Path

import pytest

import drgn

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TEXT = (ROOT / "docs" / "threat_model.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)))


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_named_test_is_there(file, test):
    path = ROOT / file if "/" in file else HERE / file
    assert f"\ndef {test}(" in path.read_text()


def test_every_line_of_the_table_names_a_test():
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    assert [row for row in rows if "::test_" not in row] == []


def test_every_file_of_these_tests_stands_in_it():
    files = {path.name for path in HERE.glob("test_*.py")} - {Path(__file__).name}
    assert files == {file for file, _ in NAMED if "/" not in file}


ONE_PLACE = {
    "torch.load": {"training/run_files.py"},
    "yaml.load": set(),
    "yaml.safe_load": set(),
    "np.load": set(),
    "pickle.load": set(),
    "pickle.loads": set(),
    "zipfile.ZipFile": {
        "explorer/scenes.py",  # writes one
        "formats/npz.py",
        "formats/seal.py",
        "formats/torch_file.py",
        "training/run_files.py",
    },
}


def test_files_of_strangers_are_opened_in_one_place():
    root = Path(drgn.__file__).parent
    found: dict[str, set[str]] = {name: set() for name in ONE_PLACE}
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in found:
                found[name].add(path.relative_to(root).as_posix())
    assert found == ONE_PLACE
