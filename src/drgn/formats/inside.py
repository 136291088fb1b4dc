"""Where nothing may be written: out of a stranger's folder, by a link in it, and over a file that is read."""

import os
from collections.abc import Iterable
from pathlib import Path

from drgn.errors import InputError

StrPath = str | os.PathLike[str]


def require_inside(folder: Path, root: Path) -> None:
    """Raise an InputError where `folder`, or a link in it, leads out of `root`, a folder above it.

    Reading through a link does no harm, but what is written through it replaces a file elsewhere.
    """
    home = os.path.realpath(root)
    _require(folder, home, root)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink():
                _require(path, home, root)


def require_apart(path: StrPath, read: Iterable[StrPath | None], what: str) -> None:
    """Raise an InputError where a file to be written is one of those, None left out, that are read."""
    if os.path.realpath(path) in {os.path.realpath(file) for file in read if file is not None}:
        raise InputError(f"output={os.fspath(path)} is the {what} that is read; give another name")


def _require(path: Path, home: str, root: Path) -> None:
    target = os.path.realpath(path)
    if os.path.commonpath([target, home]) != home:
        raise InputError(
            f"{path} leads to {target}, outside {root}, and nothing is written there; remove the link, or "
            "give another folder as output=."
        )
