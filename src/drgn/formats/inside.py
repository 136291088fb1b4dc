"""Keep what is written to a folder in that folder: a stranger's folder may hold links that lead elsewhere."""

import os
from pathlib import Path

from drgn.errors import InputError


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


def _require(path: Path, home: str, root: Path) -> None:
    target = os.path.realpath(path)
    if os.path.commonpath([target, home]) != home:
        raise InputError(
            f"{path} leads to {target}, outside {root}, and nothing is written there; remove the link, or "
            "give another folder as output=."
        )
