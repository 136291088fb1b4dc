"""The record arrays that .cs files hold: read without trusting the header, joined by uid, written."""

import os
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats.atomic import replacing
from drgn.formats.npz import require_text

StrPath = str | os.PathLike[str]
Records = NDArray[Any]

_STREAM = b"\x95CSDAT"  # first bytes of cryoSPARC's compressed form
# numpy's own limit is 10,000 characters, and a classification into some twenty classes has a longer header
_LONGEST_HEADER = 1 << 20


def read_records(path: StrPath) -> Records:
    """Read a .cs: one record a particle.

    Raises
    ------
    InputError
        When the file is no .cs, or is shorter or longer than its header says: nothing is allocated before
        that is known. Python objects in it are refused, because they would be unpickled.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            dtype, n = _read_header(file, name)
            start, end = file.tell(), file.seek(0, os.SEEK_END)
            if n < 0 or end - start != n * dtype.itemsize:
                raise InputError(
                    f"{name} has {end - start} bytes of records, where its header says {n} of "
                    f"{dtype.itemsize} bytes: the file is damaged or was not copied to its end."
                )
            file.seek(start)
            records: Records = np.fromfile(file, dtype, n)
            for field in dtype.names or ():
                require_text(records[field])
    except OSError as error:
        raise InputError(f"{name} cannot be read as a cryoSPARC .cs file ({error.strerror}).") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} cannot be read as a cryoSPARC .cs file ({error}).") from error
    return records


def check_uids(records: Records, path: str) -> NDArray[np.uint64]:
    """Return the uids (N,), or raise an InputError when there are none or one of them is repeated."""
    if "uid" not in (records.dtype.names or ()) or records.dtype["uid"].kind not in "iu":
        raise InputError(f"{path} has no field uid, by which particles are joined; give a .cs of cryoSPARC.")
    uid = records["uid"].astype(np.uint64)
    ordered = np.sort(uid)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise InputError(
            f"{path} has the particle of uid {repeated[0]} more than once ({len(repeated)} repeated rows in "
            "all); remove the repeated rows."
        )
    return uid


def join(records: Records, path: str, other: Records, other_path: str, fields: Sequence[str]) -> Records:
    """Return `records` with `fields` of `other` added; rows are found by uid, never by their number.

    Raises
    ------
    InputError
        When the two files are not of the same particles; the sentence names both.
    """
    uid, other_uid = check_uids(records, path), check_uids(other, other_path)
    if len(uid) != len(other_uid):
        raise InputError(
            f"{path} has {len(uid)} particles and {other_path} has {len(other_uid)}, where both must have "
            "the same; give the two files of one output of one job."
        )
    order = np.argsort(other_uid)
    rows = order[np.searchsorted(other_uid, uid, sorter=order).clip(max=max(len(order) - 1, 0))]
    missing = np.flatnonzero(other_uid[rows] != uid)
    if len(missing):
        raise InputError(
            f"{path}, particle row {missing[0] + 1}: {other_path} has no particle of uid {uid[missing[0]]} "
            f"({len(missing)} are missing there); give the two files of one output of one job."
        )
    result = np.empty(len(records), dtype=[*describe(records), *describe(other, fields)])
    for field in records.dtype.names or ():
        result[field] = records[field]
    for field in fields:
        result[field] = other[field][rows]
    return result


def take_fields(records: Records, fields: Sequence[str]) -> Records:
    """Return a packed copy with these fields alone, types unchanged."""
    result = np.empty(len(records), dtype=describe(records, fields))
    for field in fields:
        result[field] = records[field]
    return result


def describe(records: Records, fields: Sequence[str] | None = None) -> list[tuple[str, Any]]:
    """Return (name, dtype) of the fields, as numpy wants it to make a record of them."""
    names = records.dtype.names or () if fields is None else fields
    return [(name, records.dtype[name]) for name in names]


def write_records(path: StrPath, records: Records) -> None:
    """Write records as cryoSPARC does, fields and types unchanged."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, records, allow_pickle=False)


def _read_header(file: BinaryIO, path: str) -> tuple[np.dtype[Any], int]:
    if file.read(len(_STREAM)) == _STREAM:
        raise InputError(
            f"{path} is in cryoSPARC's compressed form; write it as a plain .cs with cryosparc-tools: "
            "Dataset.load(FILE).save(NEW_FILE)."
        )
    file.seek(0)
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, _, dtype = read(file, max_header_size=_LONGEST_HEADER)
    except Exception as error:  # a damaged header can raise nearly anything
        raise InputError(f"{path} cannot be read as a cryoSPARC .cs file ({error}).") from error
    if dtype.names is None or len(shape) != 1 or dtype.itemsize == 0:
        raise InputError(f"{path} is not a cryoSPARC .cs file: it holds no list of records.")
    if dtype.hasobject:
        raise InputError(
            f"{path} holds Python objects and was not loaded, since unpickling them could run code; write "
            "its texts as bytes (numpy's S), as cryoSPARC does."
        )
    return dtype, shape[0]
