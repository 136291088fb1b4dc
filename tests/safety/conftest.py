"""A project of a stranger: sound files of every kind, to be made malicious."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    """The folder that `tests/fuzz/targets.py` fills; tests must not write to it."""
    path = Path(__file__).parents[1] / "fuzz" / "targets.py"
    spec = importlib.util.spec_from_file_location("fuzz_targets", path)
    targets = sys.modules.setdefault("fuzz_targets", importlib.util.module_from_spec(spec))
    if not hasattr(targets, "make_seeds"):
        spec.loader.exec_module(targets)
    folder = tmp_path_factory.mktemp("stranger") / "sound"
    folder.mkdir()
    targets.make_seeds(folder)
    return folder


@pytest.fixture
def stranger(sound, tmp_path):
    """A copy of it for one test."""
    return shutil.copytree(sound, tmp_path / "stranger")


@pytest.fixture
def harm(tmp_path):
    """A file that is there only when something malicious has run; `harm.command` makes it."""

    class Harm(type(tmp_path)):
        command = property(lambda self: f"touch {self}")

    return Harm(tmp_path / "harm")


class Runs:
    """Runs a command of the shell when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def runs(harm):
    """An object that makes `harm` when it is unpickled."""
    return Runs(harm.command)
