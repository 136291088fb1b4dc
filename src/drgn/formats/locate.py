"""Find the image stacks that a table names, wherever the project has been moved to.

Each name is looked for
    1. as it is written: an absolute name as such, another under the data folder, in the folder that a
       selection of ours says its names start from, beside the table, in the working folder, and in the
       folders above the table (RELION's and cryoSPARC's names start at the project's folder);
    2. with its leading folders taken off one by one, in the same places (in the working folder and above the
       table at least one folder stays);
    3. as 1 and 2 under another spelling: .mrc for .mrcs and the reverse, without the number that cryoSPARC
       puts before the name of an imported file, in upper or lower case;
    4. by its last part alone, up to three folders below the data folder, where only one file has this name.
A file that is not where its name says is passed over when it cannot be the stack but, say, a micrograph.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from drgn.errors import InputError
from drgn.formats.mrc_header import read_header

_SEARCH_DEPTH = 3  # folders below the data folder
_TWINS = {".mrc": ".mrcs", ".mrcs": ".mrc"}
_IMPORTED = re.compile(r"\d{15,}_(?=.)")  # cryoSPARC: the uid and _ before the name of an imported file


@dataclass(frozen=True)
class Located:
    """Where the stacks of a table are.

    Attributes
    ----------
    paths : absolute path of each name, or None where there is none
    mapping : folder as written -> folder in which its first stack was found, for those not found as written
    """

    paths: list[str | None]
    mapping: dict[str, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """A sentence that says what the mapping is; empty where all names were found as written."""
        if not self.mapping:
            return ""
        written, found = next(iter(self.mapping.items()))
        others = f" (and {len(self.mapping) - 1} others likewise)" if len(self.mapping) > 1 else ""
        return f"stacks written as {os.path.join(written, '...')} were found in {found}{others}"


def find_stacks(names: list[str], table: str, datadir: str | None, named_from: str | None = None) -> Located:
    """Look for the stacks that `table` names; one that is not found is no error here.

    Parameters
    ----------
    names : of the stacks, as written
    table : the file that names them
    datadir : folder given for the stacks, or None
    named_from : folder that the table says they are named from, or None

    Raises
    ------
    InputError
        When two different names lead to the same file.
    """
    search = _Search(table, datadir, named_from)
    first_name: dict[str, str] = {}
    paths: list[str | None] = []
    mapping: dict[str, str] = {}
    for name in names:
        path, as_written = search.find(name)
        paths.append(path)
        if path is None:
            continue
        other = first_name.setdefault(path, name)
        if other != name and os.path.normpath(other) != os.path.normpath(name):
            raise InputError(
                f"{table} names both {other} and {name}, but only one file, {path}, was found for them; "
                "set dataset.datadir to the folder in which both names are right."
            )
        if not as_written:
            mapping.setdefault(os.path.dirname(name), os.path.dirname(path))
    return Located(paths, mapping)


def folder_for(names: list[str], paths: list[str], table: str) -> str | None:
    """Return the folder that a table to be written must say its stacks are named from.

    Parameters
    ----------
    names : of the stacks, as the table will have them
    paths : where they are, absolute
    table : the file to be written

    Returns
    -------
    None where they are found without, in whatever folder a program works, or where no folder serves.
    """
    ends = [os.sep + os.path.normpath(name) for name in names]
    above = [path.removesuffix(end) for path, end in zip(paths, ends, strict=True) if path.endswith(end)]
    for folder in (None, *above[:1], *map(os.path.dirname, paths[:1])):
        search = _Search(table, None, folder, working=False)
        if all(search.find(name)[0] == path for name, path in zip(names, paths, strict=True)):
            return folder
    return None


def missing_stack(
    name: str, table: str, row: int, datadir: str | None, n_found: int = 0, n_named: int = 1
) -> InputError:
    """Return the error for a stack that was not found.

    Parameters
    ----------
    name : of the stack, as written
    table : the file that names it
    row : 0-based
    datadir : folder given for the stacks, or None
    n_found, n_named : how many of the stacks that the table names were found
    """
    search = _Search(table, datadir)
    hints = ""
    places = [*([os.path.dirname(name)] if os.path.isabs(name) else []), *search.given]
    link = next((path for path in search.as_written(name) if os.path.islink(path)), None)
    if link is not None:
        hints = f"; {link} is a link to {os.readlink(link)}, which does not exist"
    several = search.below(os.path.basename(name))
    if len(several) > 1:
        hints += f"; {several[0]} and {several[1]} both have its name, and either could be meant"
    if datadir is not None and not os.path.isdir(datadir):
        hints += f"; the folder {datadir} does not exist"
    if n_found:
        hints += f"; {n_found} of the {n_named} stacks that the table names were found"
    return InputError(
        f"{table}, particle row {row + 1}: the image stack {name} was not found (looked in "
        f"{', '.join(places)} and the folders above the table, with all its folders and with the leading "
        f"ones taken off{hints}); set dataset.datadir=FOLDER to the folder that holds it."
    )


class _Search:
    """Looks for the stacks of one table; remembers which folders exist."""

    def __init__(
        self, table: str, datadir: str | None, named_from: str | None = None, working: bool = True
    ) -> None:
        beside = os.path.dirname(os.path.abspath(table))
        self.datadir = None if datadir is None else os.path.abspath(datadir)
        self._near = [folder for folder in (self.datadir, named_from, beside) if folder is not None]
        here = [os.getcwd()] if working else []
        self._far = [*here, *_above(beside)]
        self.given = list(dict.fromkeys([*self._near, *here]))
        self._folders: dict[str, list[tuple[str, bool]]] = {}
        self._exists: dict[str, bool] = {}
        self._listed: dict[str, dict[str, list[str]]] = {}
        self._below: dict[str, list[str]] | None = None

    def find(self, name: str) -> tuple[str | None, bool]:
        """Return the absolute path of a stack or None, and whether it is where its name says."""
        written, base = os.path.split(name.removeprefix(">"))
        folders = self._candidates(written)
        for spelling in _spellings(base):
            for folder, as_written in folders:
                path = os.path.join(folder, spelling)
                exact = as_written and spelling == base
                if os.path.isfile(path) and (exact or _may_be_stack(path, spelling != base)):
                    return os.path.abspath(path), exact
        for folder, _ in folders:
            alike = self._list(folder).get(base.lower(), [])
            path = os.path.join(folder, *alike)
            if len(alike) == 1 and os.path.isfile(path) and _may_be_stack(path, False):
                return os.path.abspath(path), False
        below = self.below(base)
        if len(below) == 1 and _may_be_stack(below[0], os.path.basename(below[0]) != base):
            return below[0], False
        return None, False

    def as_written(self, name: str) -> list[str]:
        """Return the paths that a name could mean as it is written."""
        written, base = os.path.split(name.removeprefix(">"))
        return [os.path.join(folder, base) for folder, exact in self._candidates(written) if exact]

    def below(self, base: str) -> list[str]:
        """Return the files of this name below the data folder."""
        if self.datadir is None:
            return []
        if self._below is None:
            self._below = {}
            for folder, folders, files in os.walk(self.datadir):
                depth = os.path.relpath(folder, self.datadir).count(os.sep) + (folder != self.datadir)
                if depth == _SEARCH_DEPTH:
                    folders.clear()
                for file in files:
                    if file.lower().endswith(tuple(_TWINS)):
                        self._below.setdefault(file, []).append(os.path.join(folder, file))
        return next((self._below[s] for s in _spellings(base) if s in self._below), [])

    def _candidates(self, written: str) -> list[tuple[str, bool]]:
        """Return the existing folders that a folder written in the table could be, the likeliest first."""
        if written not in self._folders:
            exact: dict[str, bool] = {}
            for place, as_written in self._places(written):
                if self._is_folder(place):
                    exact.setdefault(place, as_written)
            self._folders[written] = list(exact.items())
        return self._folders[written]

    def _places(self, written: str) -> Iterator[tuple[str, bool]]:
        absolute = os.path.isabs(written)
        if absolute:
            yield written, True
        parts = [part for part in written.split(os.sep) if part not in ("", ".")]
        for skipped in range(len(parts) + 1):
            shorter = os.path.join("", *parts[skipped:])
            as_written = not absolute and not skipped
            for folder in (*self._near, *(self._far if shorter or as_written else ())):
                yield os.path.join(folder, shorter), as_written

    def _is_folder(self, path: str) -> bool:
        if path not in self._exists:
            self._exists[path] = os.path.isdir(path)
        return self._exists[path]

    def _list(self, folder: str) -> dict[str, list[str]]:
        """Return the names in a folder by their lower case."""
        if folder not in self._listed:
            listed: dict[str, list[str]] = {}
            try:
                for name in os.listdir(folder):
                    listed.setdefault(name.lower(), []).append(name)
            except OSError:  # a folder that may not be listed
                pass
            self._listed[folder] = listed
        return self._listed[folder]


def _may_be_stack(path: str, renamed: bool) -> bool:
    """Whether a file may be a stack of particles; one that cannot be read may, so that its error is shown."""
    try:
        sections, rows, columns = read_header(path).shape
    except InputError:
        return True
    return rows == columns and (sections > 1 or not renamed)  # Falcon's micrographs are square, too


def _spellings(base: str) -> list[str]:
    """Return a file name and what else it may be called."""
    imported = _IMPORTED.sub("", base, count=1) if _IMPORTED.match(base) else base
    spellings = [base]
    for name in (base, imported):
        stem, suffix = os.path.splitext(name)
        spellings += [name, stem + _TWINS.get(suffix, suffix)]
    return list(dict.fromkeys(spellings))


def _above(folder: str) -> list[str]:
    """Return the folders above an absolute one, the nearest first."""
    above = []
    while os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
        above.append(folder)
    return above
