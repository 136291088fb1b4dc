"""What an earlier run of a verb left in its output folder: removed, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


def clear(folder: Path, facts: str, made: Mapping[str, str]) -> None:
    """Remove files that a verb wrote into folders of its output, and those folders that are empty then.

    Parameters
    ----------
    folder
        Of the output; nothing is removed where it has no file of the name
    facts
        that the verb writes last.
    made
        Names of the folders that the verb makes there, and those of their files: patterns of whole names.
    """
    if not (folder / facts).is_file():
        return
    for place in [place for place in folder.iterdir() if place.is_dir() and not place.is_symlink()]:
        for pattern, names in made.items():
            if re.fullmatch(pattern, place.name):
                _clear_folder(place, names)


def _clear_folder(place: Path, names: str) -> None:
    """Remove the files of these names (a pattern), and the folder where nothing else is in it."""
    rest = False
    for old in list(place.iterdir()):
        if re.fullmatch(names, old.name) and (old.is_symlink() or not old.is_dir()):
            old.unlink()
        else:
            rest = True
    if not rest:
        place.rmdir()
