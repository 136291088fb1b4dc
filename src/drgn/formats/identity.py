"""Join two tables of particles by what the particles are, never by where they stand.

Two files may describe the same particles under different names: a stack was copied, binned, or re-extracted.
The first of these identities is taken under which every wanted particle is found, and found once:

    key                        the cryoSPARC uid, or the image's name as written
    image name                 number and file name of the stack, folders left out
    original image name        the image that this one was made from, on either side
    micrograph and position    file name of the micrograph, and coordinates within a pixel
"""

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from drgn.errors import InputError

_WITHIN_PX = 1.0  # coordinates of the same particle: programs round them
_APART = 1e7  # pixels between two micrographs in the search for neighbours
_PREFIX = re.compile(r"^\d{15,}_")  # cryoSPARC puts a uid before the names of imported micrographs


def match(wanted: pd.DataFrame, known: pd.DataFrame, wanted_path: str, known_path: str) -> NDArray[np.int64]:
    """Find each particle of one table in another.

    Parameters
    ----------
    wanted, known : particle tables, see `table.COLUMNS`
    wanted_path, known_path : the files they were read from, for the message

    Returns
    -------
    (len(wanted),) rows of `known`

    Raises
    ------
    InputError
        When under no identity every wanted particle is found once; names both files, and says how many are
        found under each identity.
    """
    counts, missing = [], ""
    for name, rows in _candidates(wanted, known):
        found = rows >= 0
        if found.all() and len(np.unique(rows)) == len(rows):
            return rows
        twice = int(found.sum()) - len(np.unique(rows[found]))
        counts.append(f"{int(found.sum())} by {name}" + (f" ({twice} of them not uniquely)" if twice else ""))
        missing = missing or str(wanted["key"].iloc[int(np.argmin(found))])
    raise InputError(
        f"{known_path} does not hold the particles of {wanted_path}: of {len(wanted)}, {', '.join(counts)}"
        f" are found among its {len(known)} (the first that is not: {missing}); give files of the same"
        " particles."
    )


def _candidates(wanted: pd.DataFrame, known: pd.DataFrame) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Each identity that both tables have, with the row of `known` for each wanted particle, or -1."""
    here, there = _positions(wanted, known)

    def unless_elsewhere(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Names may coincide (many a stack is particles.mrcs): the positions must not differ."""
        if here is None or there is None:
            return rows
        apart = np.linalg.norm(here - there[rows], axis=1) > _WITHIN_PX
        return np.where(apart, -1, rows)

    yield "key", unless_elsewhere(_look_up(wanted["key"], known["key"]))
    ours, theirs = _image_names(wanted), _image_names(known)
    yield "image name", unless_elsewhere(_look_up(ours, theirs))
    our_originals, their_originals = _original_names(wanted), _original_names(known)
    pairs = ((our_originals, theirs), (ours, their_originals), (our_originals, their_originals))
    found = [_look_up(a, b) for a, b in pairs if a is not None and b is not None]
    if found:
        yield "original image name", unless_elsewhere(max(found, key=lambda rows: int((rows >= 0).sum())))
    if here is not None and there is not None:
        distance, row = cKDTree(there).query(here, distance_upper_bound=_WITHIN_PX)
        yield "micrograph and position", np.where(np.isfinite(distance), row, -1).astype(np.int64)


def _look_up(wanted: "pd.Series[str]", known: "pd.Series[str]") -> NDArray[np.int64]:
    """Row of each wanted name among the known ones; -1 where it is not there, or there more than once."""
    index = pd.Index(known)
    if not index.is_unique:
        several = known.duplicated(keep=False).to_numpy(bool)
        rows = np.flatnonzero(~several)
        at = pd.Index(known[~several]).get_indexer(pd.Index(wanted))
        return np.where(at >= 0, rows[at] if len(rows) else -1, -1).astype(np.int64)
    return np.asarray(index.get_indexer(pd.Index(wanted)), dtype=np.int64)


def _image_names(table: pd.DataFrame) -> "pd.Series[str]":
    return (table["image_index"] + 1).astype("str") + "@" + _base(table["image_path"])


def _original_names(table: pd.DataFrame) -> "pd.Series[str] | None":
    if not (table["original_image"] != "").all():
        return None
    parts = table["original_image"].str.partition("@")
    alone = (parts[1] == "").to_numpy(bool)
    number = parts[0].where(~alone, "1").str.lstrip("0")
    return number + "@" + _base(parts[2].where(~alone, table["original_image"]))


def _base(paths: "pd.Series[str]") -> "pd.Series[str]":
    """File names without folders, each distinct path once."""
    codes, distinct = pd.factorize(paths)
    names = pd.Series([str(path).rpartition("/")[2] for path in distinct], dtype="str")
    return names.take(codes).reset_index(drop=True)


def _positions(
    wanted: pd.DataFrame, known: pd.DataFrame
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Points (N, 2) of both tables: x and y in pixels, the micrographs laid out far from each other."""
    columns = ["coordinate_x_px", "coordinate_y_px"]
    for table in (wanted, known):
        if (table["micrograph"] == "").any() or table[columns].isna().any(axis=None):
            return None, None
    stems = [
        _base(table["micrograph"]).map(lambda name: _PREFIX.sub("", name).rpartition(".")[0] or name)
        for table in (wanted, known)
    ]
    codes, _ = pd.factorize(pd.concat(stems, ignore_index=True))
    offset = np.stack([codes * _APART, np.zeros(len(codes))], axis=1)
    n = len(wanted)
    points = (wanted[columns].to_numpy(np.float64), known[columns].to_numpy(np.float64))
    return points[0] + offset[:n], points[1] + offset[n:]
