"""Read images by row of the table, from any number of stacks. Where the stacks are is `locate`'s matter."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats.mrc import StackReader, read_stack_header
from drgn.formats.mrc_header import Header

OPEN_STACKS = 128  # files held open at a time


def read_stack_headers(paths: Sequence[str | None]) -> list[Header | None]:
    """Read the headers of many stacks, several at a time; None stays None.

    Raises
    ------
    InputError
        As `read_stack_header`, for the first of the stacks at fault.
    """
    with ThreadPoolExecutor(8) as pool:  # on a network file system each takes a round trip
        chunks = [paths[i : i + 64] for i in range(0, len(paths), 64)]
        return [header for chunk in pool.map(_read_headers, chunks) for header in chunk]


class ImageReader:
    """Read images by row of the table; may be pickled, and used in several threads and processes.

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

    def __call__(self, rows: Any, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return the images at `rows` (integers, any order) as (len(rows), D, D) float32, sign not applied.

        Parameters
        ----------
        rows : of the table
        out : contiguous float32 array of the returned shape, to be filled and returned

        Raises
        ------
        InputError
            When the images differ in size, or a stack cannot be read.
        """
        rows = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        # in the order of the files; what follows each other both there and in the result is read at once
        stack, index = self._stack[rows], self._index[rows]
        place = np.lexsort((index, stack))
        stack, index = stack[place], index[place]
        same = (np.diff(stack) == 0) & (np.diff(index) == 1) & (np.diff(place) == 1)
        starts = np.flatnonzero(np.concatenate([[True], ~same])) if len(rows) else np.zeros(0, dtype=int)
        counts = np.diff(np.append(starts, len(rows)))
        images = out
        reader, current = None, -1
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            if reader is None or stack[start] != current:
                current = int(stack[start])
                reader = self._reader(current)
                images = _fitting(reader, len(rows), images, given=out is not None)
            assert images is not None
            first = int(place[start])
            reader.read_run(int(index[start]), images[first : first + count])
        return np.empty((0, 0, 0), dtype=np.float32) if images is None else images

    def _reader(self, stack: int) -> StackReader:
        with self._lock:
            reader = self._open.pop(stack, None)
        if reader is None:
            reader = StackReader(self._paths[stack])
        with self._lock:
            self._open[stack] = reader  # the last used is last
            while len(self._open) > OPEN_STACKS:  # one that another thread reads from is closed after that
                del self._open[next(iter(self._open))]
        return reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def _fitting(
    reader: StackReader, n: int, images: NDArray[np.float32] | None, *, given: bool
) -> NDArray[np.float32]:
    """Return the array for n images, made where there is none yet; refuse images of another box."""
    box = reader.box_size_px
    if images is None:
        return np.empty((n, box, box), dtype=np.float32)
    if images.shape != (n, box, box):
        if given and (images.ndim != 3 or len(images) != n):
            raise ValueError(f"out has the shape {images.shape}, where {(n, box, box)} is expected")
        raise InputError(
            f"{reader.header.path} has images of {box} pixels, others of the same table have "
            f"{images.shape[-1]}; bring them to one box and pixel size first."
        )
    return images


def _read_headers(paths: Sequence[str | None]) -> list[Header | None]:
    return [None if path is None else read_stack_header(path) for path in paths]
