"""docs/conventions.md names the tests that hold each convention: they exist."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
ALIASES = {"agreement": "test_agreement.py", "relion": "test_relion_programs.py"}


def test_every_test_that_the_page_names_exists():
    page = (HERE.parents[1] / "docs" / "conventions.md").read_text(encoding="utf-8")
    file, named = "", []
    for prefix, name in re.findall(r"`([\w.]*)::(\w+)`", page):
        file = ALIASES.get(prefix, prefix) if prefix else file
        named.append((file, name))
    assert len(named) > 25
    for file, name in named:
        functions = {
            node.name
            for node in ast.walk(ast.parse((HERE / file).read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)
        }
        assert name in functions, f"docs/conventions.md names {file}::{name}"
