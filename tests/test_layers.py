"""Imports go one way, and heavy libraries are seen only where they belong."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import drgn
from drgn.cli import VERBS

ROOT = Path(drgn.__file__).parent
MODULES = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.py"))

BASE = {"", "errors"}
ENTRY = {"signature", "hints", "command"}
PHYSICAL = BASE | {"formats", "physics"}
LEARNING = PHYSICAL | {"models", "data", "training"}
# what each part may import of drgn; a part is a folder or a file of src/drgn
ALLOWED = {
    "": set(),
    "errors": set(),
    "cli": {""},
    "__main__": {"cli"},
    "signature": BASE,
    "hints": BASE | {"signature"},
    "command": BASE | ENTRY,
    "formats": BASE | {"formats"},
    "physics": BASE | {"physics"},
    "models": BASE | {"physics", "models"},
    "data": PHYSICAL | {"data"},
    "simulation": PHYSICAL | {"simulation"},
    "training": LEARNING,
    "benchmark": LEARNING | ENTRY | {"run", "simulate", "benchmark"},
    "run": LEARNING | ENTRY | {"foreign_run"},
    "foreign_run": LEARNING | {"run"},
    "analysis": LEARNING | {"run", "analysis"},
    "scoring": LEARNING | {"run", "analysis", "simulation", "scoring"},
    "evidence": LEARNING | {"run", "analysis", "scoring", "evidence"},
    "explorer": LEARNING | {"run", "analysis", "evidence", "explorer"},
    "sweeps": LEARNING | ENTRY | {"run", "analysis", "sweeps"},
    "planning": LEARNING | ENTRY | {"run", "analysis", "evidence", "planning"},
    **{
        verb: LEARNING
        | ENTRY
        | {
            "run",
            "analysis",
            "simulation",
            "scoring",
            "evidence",
            "explorer",
            "benchmark",
            "planning",
            "sweeps",
            *VERBS,
        }
        for verb in VERBS
    },
}
HYDRA = {"command.py", "run.py", "train.py"}
LIGHTNING = {"train.py"}  # and training/
INSIDE_FUNCTIONS = {"gemmi", "matplotlib", "skimage", "umap", "sklearn"}
LIBRARIES_OF_FORMATS = {"numpy", "pandas", "scipy", "mrcfile", "pyarrow", "yaml", "gemmi"}
LIBRARIES_OF_PHYSICS = {"numba", "numpy", "scipy", "torch"}


def imports(module: str, source: str) -> Iterator[tuple[str, bool]]:
    """Yield each imported module's full name and whether it is imported as soon as this module is."""
    package = ["drgn", *Path(module).parent.parts]
    tree = ast.parse(source)
    at_once = set(ast.walk(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            at_once -= set(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node in at_once


def part_of(name: str) -> str:
    """Return the part of drgn that a dotted name lies in; "" for names of the package itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ALLOWED else ""


def violations(module: str, source: str) -> list[str]:
    """Return one line for each import that breaks a rule."""
    part = "" if module == "__init__.py" else Path(module).parts[0].removesuffix(".py")
    found = []
    for name, at_once in imports(module, source):
        top = name.split(".")[0]
        if top == "drgn" and part_of(name) not in ALLOWED[part]:
            found.append(f"{module} imports {name}")
        if top in ("hydra", "omegaconf") and module not in HYDRA:
            found.append(f"{module} imports {top}")
        if top in ("pytorch_lightning", "lightning") and module not in LIGHTNING and part != "training":
            found.append(f"{module} imports {top}")
        if top in INSIDE_FUNCTIONS and at_once:
            found.append(f"{module} imports {top} outside a function")
        libraries = {"formats": LIBRARIES_OF_FORMATS, "physics": LIBRARIES_OF_PHYSICS}.get(part)
        if libraries and top not in libraries | {"drgn"} | sys.stdlib_module_names:
            found.append(f"{module} imports {top}")
        light = part in {"", "errors", "cli", "__main__", *ENTRY, *VERBS}
        if light and at_once and top not in {"drgn"} | sys.stdlib_module_names:
            found.append(f"{module} imports {top} outside a function, which makes --help slow")
        if part in VERBS and at_once and top == "drgn" and part_of(name) not in BASE | ENTRY:
            found.append(f"{module} imports {name} outside a function, which makes --help slow")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    assert violations(module, (ROOT / module).read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("models/decoders.py", "from drgn.data.dataset import x"),
        ("models/decoders.py", "def f():\n    from ..training import module"),
        ("formats/star.py", "import torch"),
        ("formats/star.py", "from drgn.physics import ctf"),
        ("physics/ctf.py", "import pandas"),
        ("analysis/plots.py", "import matplotlib.pyplot as plt"),
        ("analysis/plots.py", "from drgn.train import train"),
        ("analysis/plots.py", "def f():\n    import hydra"),
        ("models/latents.py", "import pytorch_lightning as pl"),
        ("filter.py", "from drgn.run import Run"),
        ("simulation/motions.py", "from drgn.data import prepared"),
        ("formats/atoms.py", "import gemmi"),
        ("cli.py", "from drgn.filter import main"),
        ("command.py", "import hydra"),
        ("__init__.py", "from drgn.run import Run"),
    ],
)
def test_a_wrong_import_is_seen(module, source):
    assert violations(module, source)


def test_every_part_has_a_rule():
    parts = {Path(m).parts[0].removesuffix(".py") for m in MODULES} - {"__init__"}
    assert parts <= set(ALLOWED)
    assert {verb for verb in VERBS if not (ROOT / f"{verb}.py").is_file()} == set()
