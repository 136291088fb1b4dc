"""Arrays in .npy and .npz files of strangers: nothing is allocated before the file is known to hold it.

A header of a few bytes can promise a million million numbers, and a zip archive of a megabyte can unpack to a
thousand. Python objects are refused, because they would be unpickled.
"""

import io
import math
import os
import zipfile
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from drgn.errors import InputError

StrPath = str | os.PathLike[str]

_ALWAYS_BYTES = 1 << 26  # that a compressed archive may hold whatever its length
_LARGEST_RATIO = 20  # of the arrays to the file, beyond that; numbers of a run compress by two at most
_LONGEST_HEADER = 10_000  # characters; numpy's own limit
_MOST_ARRAYS = 1000


def read_npz(path: StrPath, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read arrays from a .npz.

    Parameters
    ----------
    path
        The file.
    names
        Those wanted, which must be there; None: all.

    Raises
    ------
    InputError
        It is not there or is no such archive, an array is missing, holds Python objects or is not whole, or
        the archive would unpack to far more than it is (a zip bomb).
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file, zipfile.ZipFile(file) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            missing = [wanted for wanted in names or () if wanted not in entries]
            if missing:
                there = ", ".join(sorted(entries)[:20]) or "none"
                raise InputError(f"{name} has no array {' and no '.join(missing)}; it holds {there}.")
            chosen = list(entries) if names is None else list(names)
            total = sum(entries[one].file_size for one in chosen)
            if len(chosen) > _MOST_ARRAYS or total > max(
                _ALWAYS_BYTES, _LARGEST_RATIO * os.path.getsize(name)
            ):
                raise InputError(
                    f"{name} would unpack to {len(chosen)} arrays of {total} bytes in all, which is out of "
                    "proportion to the file; write it without compression (numpy.savez)."
                )
            return {one: _read(archive.open(entries[one]), entries[one].file_size) for one in chosen}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror or error}).") from error
    except Exception as error:  # a damaged archive can raise nearly anything
        raise InputError(f"{name} cannot be read as an .npz file ({error}).") from error


def read_npy(path: StrPath) -> NDArray[Any]:
    """Read the array of a .npy.

    Raises
    ------
    InputError
        It is not there or is no such file, holds Python objects, or is not as long as its header says.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror or error}).") from error
    except Exception as error:  # a damaged header can raise nearly anything
        raise InputError(f"{name} cannot be read as a .npy file ({error}).") from error


def require_text(array: NDArray[Any]) -> None:
    """Raise a ValueError where an array of text holds characters that there are not."""
    if array.dtype.kind == "U" and array.size:
        order = ">" if array.dtype.byteorder == ">" else "<"
        if (np.frombuffer(array.tobytes(), f"{order}u4") > 0x10FFFF).any():
            raise ValueError("text with characters that there are not")


def _read(file: Any, length: int) -> NDArray[Any]:
    """Return the array in an open file of so many bytes; raises ValueError where they do not fit."""
    shape, fortran, dtype, start = _header(file)
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError("it holds Python objects, whose unpickling could run code")
    if min(shape, default=0) < 0 or not dtype.itemsize or size != length - start:
        raise ValueError(
            f"{length - start} bytes follow the header, which says {shape} of {dtype.itemsize} bytes"
        )
    content = file.read(size)
    if len(content) != size:
        raise ValueError("it is not whole")
    array = np.frombuffer(bytearray(content), dtype) if size else np.empty(0, dtype)
    require_text(array)
    return array.reshape(shape, order="F" if fortran else "C")


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, Fortran order and dtype of an array, and how long its header is."""
    start = file.read(12)
    version = npy.read_magic(io.BytesIO(start))
    wide = 2 if version == (1, 0) else 4
    length = int.from_bytes(start[8 : 8 + wide], "little")
    if length > _LONGEST_HEADER:
        raise ValueError("its header is too long")
    header = io.BytesIO(start + file.read(8 + wide + length - len(start)))
    header.seek(8)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(header, max_header_size=_LONGEST_HEADER)
    return shape, fortran, dtype, 8 + wide + length
