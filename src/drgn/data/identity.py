"""Which image each row of a prepared stack was made from: key, stack with its size and date, position."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats.particles import Particles

FILE = "particles.parquet"
_GROUP = 1 << 13  # rows


class SourceFile(NamedTuple):
    """An image stack as it was when it was read."""

    path: str
    size: int
    mtime_ns: int


def source_files(particles: Particles) -> tuple[list[SourceFile], NDArray[np.int64]]:
    """Return the stacks of a table, by name, and the stack of each row (N,)."""
    code, paths = pd.factorize(particles.table["image_path"], sort=True)
    files = []
    for path in paths:
        status = os.stat(path)
        files.append(SourceFile(str(path), status.st_size, status.st_mtime_ns))
    return files, code.astype(np.int64)


def write(
    folder: Path,
    columns: "Mapping[str, pd.Series[Any]]",
    stack: NDArray[np.int64],
    field: NDArray[np.int64],
    noise_group: NDArray[np.int64],
) -> None:
    """Write which image each row of a prepared stack is.

    Parameters
    ----------
    folder
        Of the prepared stack.
    columns
        `key`, `image_index` and `data_sign` of the particle table, (N,) each.
    stack, field
        (N,) number of the stack, and of the field of view.
    noise_group
        (N,) equal where the noise was measured together.
    """
    frame = pd.DataFrame(
        {
            "key": columns["key"],
            "stack": stack.astype(np.int32),
            "image_index": columns["image_index"].to_numpy(np.int32),
            "data_sign": columns["data_sign"].to_numpy(np.int8),
            "field": field.astype(np.int16),
            "noise_group": noise_group.astype(np.int32),
        }
    )
    path = folder / FILE
    # some rows at a time, and no list of keys that are all different: memory does not grow with their number
    frame.to_parquet(path, compression="zstd", index=False, row_group_size=_GROUP, use_dictionary=False)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def keys(folder: Path) -> "pd.Series[str]":
    """Return the key of each row of a prepared stack."""
    return _read(folder, ["key"])["key"]


def find_rows(
    folder: Path,
    sources: Sequence[SourceFile],
    files: Sequence[SourceFile],
    stack: NDArray[np.int64],
    image_index: NDArray[np.int64],
    data_sign: NDArray[np.float64],
    field: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the row of a prepared stack that holds each wanted image, -1 where none does.

    Parameters
    ----------
    folder
        Of the prepared stack.
    sources
        The stacks that it was made from.
    files, stack, image_index
        The wanted images: their stacks, which of them each is in (N,), and where (N,).
    data_sign, field
        (N,) how they must have been treated: sign, and number of the field of view.
    """
    kept = _read(folder, ["stack", "image_index", "data_sign", "field"])
    if not len(kept) or any(kept[name].dtype.kind not in "iu" for name in kept):
        raise InputError(f"{folder / FILE} is damaged; remove {folder} and prepare again.")
    number = {source: i for i, source in enumerate(sources)}  # equal only where size and date are the same
    number_of_file = np.array([number.get(file, -1) for file in files], dtype=np.int64)
    known = (kept["stack"].to_numpy(np.int64) << 32) | kept["image_index"].to_numpy(np.int64)
    theirs = number_of_file[stack]
    wanted = (theirs << 32) | image_index
    order = np.argsort(known, kind="stable")
    place = np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)
    row = order[place].astype(np.int64)
    found = (
        (theirs >= 0)
        & (known[row] == wanted)
        & (kept["data_sign"].to_numpy()[row] == data_sign)
        & (kept["field"].to_numpy()[row] == field)
    )
    return np.where(found, row, -1)


def measured_alike(
    folder: Path,
    rows: NDArray[np.int64],
    optics: NDArray[np.int64],
    field: NDArray[np.int64],
    together: bool,
) -> bool:
    """Whether the noise of some rows of a prepared stack was measured by the groups that are wanted now.

    Parameters
    ----------
    folder
        Of the prepared stack.
    rows
        (N,) of it.
    optics, field
        (N,) the optics group wanted for each, and its field of view.
    together
        Whether all images of a field were measured together: older stacks tell no more.
    """
    try:
        known = "noise_group" in pyarrow.parquet.read_schema(folder / FILE).names
    except (OSError, ValueError):  # damaged, which reading it tells
        known = True
    if known:
        theirs = _read(folder, ["noise_group"])["noise_group"].to_numpy(np.int64)[rows]
    elif together:
        theirs = field
    else:
        return False
    return _same_groups(optics * (int(field.max(initial=0)) + 1) + field, theirs)


def _same_groups(one: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    """Whether two numberings (N,) put the same rows into one group, whatever its number."""
    pairs = np.unique(np.stack([one, other], axis=1), axis=0)
    return len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1])) == len(pairs)


def _read(folder: Path, columns: list[str]) -> pd.DataFrame:
    try:
        return pd.read_parquet(folder / FILE, columns=columns)[columns]
    except Exception as error:  # a damaged file can raise nearly anything
        reason = (str(error).splitlines() or ["?"])[0]
        raise InputError(f"{folder / FILE} cannot be read ({reason}); prepare again.") from None
