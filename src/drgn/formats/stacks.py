"""Find the image stacks that a table names, and read images from them."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats.mrc import StackReader

OPEN_STACKS = 128  # files held open at a time


def find_stacks(names: list[str], table: str, datadir: str | None) -> list[str | None]:
    """Return for each name written in `table` the absolute path of the stack, or None where there is none.

    A name is tried as it is written (under `datadir`, the table's folder, the working folder and the parents
    of the table's), then with its leading folders taken off one by one (under `datadir` and the table's).

    Raises
    ------
    InputError
        When two different names lead to the same file only because folders were taken off.
    """
    found: dict[str, str] = {}
    result: list[str | None] = []
    for name in names:
        match = next((place for place in _places(name, table, datadir) if place.is_file()), None)
        path = None if match is None else os.path.abspath(match)
        if path is not None:
            other = found.setdefault(path, name)
            if os.path.normpath(other) != os.path.normpath(name):
                raise InputError(
                    f"{table} names both {other} and {name}, but only one file, {path}, was found for them; "
                    "set dataset.datadir to the folder in which both names are right."
                )
        result.append(path)
    return result


def missing_stack(name: str, table: str, row: int, datadir: str | None) -> InputError:
    """Return the error for a stack that was not found; `row` is 0-based."""
    folders = dict.fromkeys(os.path.abspath(place.parent) for place in _places(name, table, datadir))
    return InputError(
        f"{table}, particle row {row + 1}: the image stack {name} was not found (looked in "
        f"{', '.join(folders)}); set dataset.datadir=FOLDER to the folder that holds it."
    )


class ImageReader:
    """Read images by row of the table; may be pickled and used in several processes, and by several threads.

    Parameters
    ----------
    image_path : (N,) absolute paths
    image_index : (N,) 0-based indices within the stacks
    """

    def __init__(self, image_path: "pd.Series[str]", image_index: NDArray[np.int64]) -> None:
        codes, paths = pd.factorize(image_path)
        self._stack = codes.astype(np.int32)
        self._paths = [str(path) for path in paths]
        self._index = np.asarray(image_index, dtype=np.int64)
        self._open: dict[int, StackReader] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._index)

    def __call__(self, rows: Any) -> NDArray[np.float32]:
        """Return the images at `rows` (integers, any order) as (len(rows), D, D) float32, sign not applied.

        Raises
        ------
        InputError
            When the images differ in size, or a stack cannot be read.
        """
        rows = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        stacks = self._stack[rows]
        if len(rows) and (stacks == stacks[0]).all():
            return self._of_stack(int(stacks[0]), rows)
        images: NDArray[np.float32] | None = None
        for stack in np.unique(stacks):
            places = np.flatnonzero(stacks == stack)
            some = self._of_stack(int(stack), rows[places])
            if images is None:
                images = np.empty((len(rows), *some.shape[1:]), dtype=np.float32)
            elif images.shape[1:] != some.shape[1:]:
                raise InputError(
                    f"{self._paths[stack]} has images of {some.shape[-1]} pixels, others of the same table"
                    f" have {images.shape[-1]}; bring them to one box and pixel size first."
                )
            images[places] = some
        return np.empty((0, 0, 0), dtype=np.float32) if images is None else images

    def _of_stack(self, stack: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        reader = self._reader(stack)
        wanted = self._index[rows]
        if wanted.max() >= reader.n:
            raise InputError(
                f"{reader.header.path} has {reader.n} images, but image {wanted.max() + 1} is asked for; "
                "is it the stack that the table was made for?"
            )
        return reader.read(wanted)

    def _reader(self, stack: int) -> StackReader:
        with self._lock:
            reader = self._open.pop(stack) if stack in self._open else StackReader(self._paths[stack])
            self._open[stack] = reader  # the last used is last
            if len(self._open) > OPEN_STACKS:
                del self._open[next(iter(self._open))]
            return reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = {**state, "_lock": threading.Lock()}


def _places(name: str, table: str, datadir: str | None) -> Iterator[Path]:
    written = Path(name)
    beside = Path(os.path.abspath(table)).parent
    if written.is_absolute():
        yield written
    else:
        if datadir is not None:
            yield Path(datadir) / written
        for folder in (beside, Path.cwd(), *beside.parents):
            yield folder / written
    for skipped in range(1, len(written.parts)):
        shorter = Path(*written.parts[skipped:])
        if datadir is not None:
            yield Path(datadir) / shorter
        yield beside / shorter
