"""Selections of particles, kept by name in the run and written in every form that drgn filter writes.

A selection is a file NAME.txt of rows of the original particle file, which `indices=` of drgn filter and drgn
validate takes. Each is written to a temporary name and renamed, so a crash loses none.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drgn.errors import InputError

if TYPE_CHECKING:
    from drgn.formats.particles import Particles

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,63}")  # of a selection, a path, an export: no dot, no slash
FORMS = {"star": ".star", "cs": ".cs", "npy": ".npy", "txt": ".txt", "pkl": ".pkl"}


def named(name: str) -> str:
    """Check a name that a file is made of.

    Raises
    ------
    InputError
        It has other characters than letters, digits, - and _, or is longer than 64.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"The name {name[:70]!r} cannot be used: take letters, digits, - and _, 64 at most.")
    return name


class Selections:
    """The selections of a run.

    Parameters
    ----------
    folder
        Where they are kept.
    particles
        The table of the run.
    """

    def __init__(self, folder: Path, particles: Particles) -> None:
        self.folder, self.particles = folder, particles
        self._exporting = threading.Lock()  # the files of one export belong together

    def path(self, name: str) -> Path:
        """File of a selection."""
        return self.folder / f"{named(name)}.txt"

    def listed(self) -> list[dict[str, int | str]]:
        """Name and number of particles of each."""
        return [
            {"name": path.stem, "count": path.read_bytes().count(b"\n")}
            for path in sorted(self.folder.glob("*.txt"))
        ]

    def save(self, name: str, rows: np.ndarray) -> Path:
        """Keep rows (M,) of the particle table under a name; one of that name is replaced."""
        path = self.path(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.particles.select(self._checked(rows)).save(path)
        return path

    def load(self, name: str) -> np.ndarray:
        """Rows (M,) of the particle table."""
        path = self.path(name)
        if not path.is_file():
            raise InputError(f"There is no selection {name}.")
        return self.particles.rows_of(path)

    def remove(self, name: str) -> None:
        """Forget a selection."""
        self.path(name).unlink(missing_ok=True)

    def read(self, path: Path) -> np.ndarray:
        """Rows (M,) of the particles that a .star, .cs, .csg, .npy, .txt or .pkl selects (as `indices=`)."""
        return np.unique(self.particles.rows_of(path))

    def export(self, name: str, form: str, rows: np.ndarray, folder: Path) -> list[Path]:
        """Write particles to a folder, as drgn filter does; `form` is a key of `FORMS`.

        Returns
        -------
        list of Path
            What was written: of a .cs also its .csg and its passthrough.
        """
        if form not in FORMS:
            raise InputError(f"form={form}: expected {', '.join(FORMS)}.")
        path = folder / f"{named(name)}{FORMS[form]}"
        passthrough = path.with_name(f"{path.stem}_passthrough.cs")
        if form == "cs" and name.endswith("_passthrough"):
            raise InputError(f"The name {name} is that of a passthrough file: take another.")
        folder.mkdir(parents=True, exist_ok=True)
        with self._exporting:
            written = self.particles.select(self._checked(rows)).save(path)
            if form == "cs" and passthrough not in written:
                passthrough.unlink(missing_ok=True)  # of an earlier export of this name
        return written

    def _checked(self, rows: np.ndarray) -> np.ndarray:
        rows = np.unique(np.asarray(rows, np.int64))
        if not len(rows):
            raise InputError("The selection is empty: select some particles first.")
        if rows[0] < 0 or rows[-1] >= len(self.particles):
            raise InputError(f"The selection names row {rows[-1]}, and there are {len(self.particles)}.")
        return rows
