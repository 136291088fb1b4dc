"""The tutorial notebook of docs/ runs, and its kept outputs are those of a run without an error."""

import base64
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def pictures(notebook):
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    return [base64.b64decode(o.data["image/png"]) for o in outputs if "image/png" in o.get("data", {})]


def test_outputs_are_kept_and_small():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len(pictures(notebook)) == 2
    assert NOTEBOOK.stat().st_size < 400_000


# sockets of the notebook's kernel are closed by the garbage collector; its ports are on this machine only
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_runs(environment, monkeypatch, tmp_path):
    for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, environment[name])
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert len(pictures(notebook)) == 2
    printed = "".join(o.text for c in notebook.cells for o in c.get("outputs", []) if "text" in o)
    assert "(600, 2) float32" in printed
    assert "3 (24, 24, 24) float32" in printed
    assert not os.listdir(tmp_path)
