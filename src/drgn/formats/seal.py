"""A file of torch.save that carries its own SHA-256: in the comment that a zip archive may end with.

It stays one file, which is replaced as one, and every program that reads archives reads it. The sum is over
all bytes before the comment's length.
"""

import hashlib
import os
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

from drgn.errors import InputError

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"  # of a run
_LENGTH = 2  # bytes of the comment's length, the last of an archive without one
_MARK = b"sha256:"
_COMMENT = len(_MARK) + 64
_END = b"PK\x05\x06"  # of the record that ends an archive, 22 bytes with an empty comment
_CHUNK = 1 << 20


class Sealing:
    """What torch.save writes to; `finish` adds the seal and brings all to the disk.

    An error of the disk is kept back until `finish` raises it: torch's writer would answer it with another.

    Parameters
    ----------
    file : opened for writing, empty
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sum, self._held = file, hashlib.sha256(), b""
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write and add to the sum; the last bytes are held back from it, since they may be the length."""
        view = memoryview(data).cast("B")
        if self._error is None:
            try:
                self._file.write(view)
            except OSError as error:
                self._error = error
        if len(view) >= _LENGTH:
            self._sum.update(self._held)
            self._sum.update(view[:-_LENGTH])
            self._held = bytes(view[-_LENGTH:])
        else:
            together = self._held + bytes(view)
            self._sum.update(together[:-_LENGTH])
            self._held = together[-_LENGTH:]
        return len(view)

    def flush(self) -> None:
        """Nothing: `finish` does."""

    def finish(self) -> None:
        """Seal what was written.

        Raises
        ------
        OSError
            It could not be written.
        """
        if self._error is not None:
            raise self._error
        self._file.seek(-_LENGTH, os.SEEK_END)
        self._file.write(_COMMENT.to_bytes(_LENGTH, "little") + _MARK + self._sum.hexdigest().encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def damage(path: Path) -> str | None:
    """Say what is wrong with a file of torch.save; None when it is whole.

    Of a file without a seal, as drgn wrote before it had them, the archive's own sums are compared.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _COMMENT))
            comment = file.read()
            if re.fullmatch(_MARK + rb"[0-9a-f]{64}", comment):
                file.seek(0)
                digest = _sum(file, size - _COMMENT - _LENGTH)
                good = digest == comment[len(_MARK) :].decode()
                return None if good else "its SHA-256 is not the one that is written in it"
            if comment[-22:-18] != _END or comment[-_LENGTH:] != bytes(_LENGTH):
                return "its end is missing"
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type for entry in archive.infolist()):  # it could unpack to any size
                return "it is compressed, which torch never does"
            wrong = archive.testzip()
        return None if wrong is None else f"the sum of {wrong} in it is wrong"
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
        return str(error).splitlines()[0]


def require_whole(path: Path, instead: str) -> None:
    """Raise an InputError where a file is damaged, with what to do instead."""
    wrong = damage(path)
    if wrong is not None:
        raise InputError(f"{path} is damaged ({wrong}): {instead}")


def _sum(file: BinaryIO, length: int) -> str:
    digest = hashlib.sha256()
    while length > 0 and (piece := file.read(min(_CHUNK, length))):
        digest.update(piece)
        length -= len(piece)
    return digest.hexdigest()
