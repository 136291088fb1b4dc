"""What the README and the verbs' help tell people to type exists."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from drgn.cli import VERBS
from drgn.command import compose
from drgn.signature import bind

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]


def shell_lines(text: str) -> list[str]:
    """Return the lines of a document's bash blocks."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def docstring_lines(verb: str) -> list[str]:
    """Return the example lines of a verb's help."""
    text = importlib.import_module(f"drgn.{verb}").__doc__ or ""
    return [line.strip() for line in text.splitlines() if line.startswith("    drgn ")]


def check_drgn(line: str) -> None:
    """Compose and bind what a line gives to a verb."""
    words = shlex.split(line, comments=True)
    verb, options = words[1], words[2:]
    assert verb in VERBS, line
    if "--help" in options:
        return
    if "--config-dir" in options:  # the newcomer's own files; tests/verbs trains them
        where = options.index("--config-dir")
        options = [w for i, w in enumerate(options) if i not in (where, where + 1) and "=mine" not in w]
    if "-m" in options:
        options = [w.split(",")[0] for w in options if w != "-m"]
    function = getattr(importlib.import_module(f"drgn.{verb}"), verb)
    bind(function, compose(verb, options))


README = [(name, line) for name in DOCUMENTS for line in shell_lines((ROOT / name).read_text())]


def test_the_readme_starts_with_the_two_commands():
    assert [line.split("#")[0].strip() for _, line in README[:2]] == ["make demo", "make test"]


@pytest.mark.parametrize(("name", "line"), README)
def test_a_command_of_the_documents_exists(name, line):
    words = shlex.split(line, comments=True)
    program = words[0].removeprefix(".venv/bin/")
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
        assert set(words[1:]) <= targets
    elif program == "drgn":
        check_drgn(line)
    else:
        assert program in {"tensorboard", "pre-commit"}


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_of_a_verb_compose_and_bind(verb):
    lines = docstring_lines(verb)
    assert lines, "a verb's help has examples"
    for line in lines:
        check_drgn(line)


@pytest.mark.parametrize("name", [*DOCUMENTS, "CHANGELOG.md"])
def test_the_files_that_a_document_names_exist(name):
    text = (ROOT / name).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    paths = re.findall(r"`((?:src|conf|docs|tests)/[\w./]+)`", text)
    missing = [path for path in [*links, *paths] if not (ROOT / path).exists()]
    assert missing == []
