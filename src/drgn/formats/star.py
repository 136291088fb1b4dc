"""STAR files as blocks of columns, read and written through the starfile library."""

import linecache
import os
import shlex

import numpy as np
import pandas as pd
import starfile

from drgn.errors import InputError
from drgn.formats.atomic import replacing

# columns that stay text even where all their values look like numbers
TEXT_COLUMNS = [
    "rlnImageName",
    "rlnImageOriginalName",
    "rlnReconstructImageName",
    "rlnMicrographName",
    "rlnMovieName",
    "rlnGroupName",
    "rlnOpticsGroupName",
    "rlnTomoName",
    "rlnTomoParticleName",
    "rlnMtfFileName",
    "rlnBodyMaskName",
]


def read_blocks(path: str | os.PathLike[str]) -> dict[str, pd.DataFrame]:
    """Return every block of a star file by name (without `data_`), in the order of the file.

    A block without `loop_` becomes a frame of one row.

    Raises
    ------
    InputError
        When the file cannot be read, or a row has more or fewer values than the header names (with its line).
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise InputError(f"{name} does not exist; give the path of a star file.")
    linecache.checkcache(name)  # starfile reads through linecache, which must not show an older state
    try:
        read = starfile.read(name, always_dict=True, parse_as_string=TEXT_COLUMNS)
    except Exception as error:  # starfile and pandas raise many kinds for a malformed file
        linecache.clearcache()
        _check_rows(name)
        raise InputError(f"{name} cannot be read as a star file ({error}).") from error
    blocks = {
        str(block): frame if isinstance(frame, pd.DataFrame) else pd.DataFrame([frame])
        for block, frame in read.items()
    }
    # a row with too few values is filled up from its end, with NaN or empty text
    if any(len(frame) and frame.iloc[:, -1].isin([np.nan, ""]).any() for frame in blocks.values()):
        _check_rows(name)
    return blocks


def write_blocks(path: str | os.PathLike[str], blocks: dict[str, pd.DataFrame]) -> None:
    """Write blocks in order; floats with the digits that give the same number back."""
    # starfile cannot quote a text that holds the separator; star files may be separated by tabs
    text = starfile.to_string(blocks, float_format=None, sep="\t", na_rep="nan")
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _check_rows(path: str) -> None:
    """Raise an InputError naming the first line whose number of values differs from its block's columns."""
    block, columns, in_loop = "", 0, False
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            text = line.split("#", 1)[0].strip()
            if text.startswith("data_"):
                block, columns, in_loop = text, 0, False
            elif text.startswith("loop_"):
                in_loop = True
            elif in_loop and text.startswith("_"):
                columns += 1
            elif in_loop and text:
                values = len(_values(text))
                if values != columns:
                    raise InputError(
                        f"{path}, line {number}: {values} values where block {block} has {columns} columns; "
                        "the line is incomplete or holds an unquoted blank."
                    )


def _values(text: str) -> list[str]:
    if '"' not in text and "'" not in text:
        return text.split()
    try:
        return shlex.split(text)
    except ValueError:  # a quotation mark without its partner
        return text.split()
