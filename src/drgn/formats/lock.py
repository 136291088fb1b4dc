"""One process at a time writes to a folder; the system lets go of the lock of a process that was killed."""

import errno
import fcntl
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from drgn.errors import InputError, say

_NAME = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)
_SHOWN = 200  # bytes of what the holder says of itself


@contextmanager
def only_writer(folder: Path, option: str) -> Iterator[None]:
    """Hold the lock of a folder, which is made where it is missing.

    A lock of the process, not of an open file: processes that read batches do not inherit it, so none of them
    can keep it when their parent is killed.

    Parameters
    ----------
    folder : that is written to
    option : which gives another one

    Raises
    ------
    InputError
        Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _NAME
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                holder = os.pread(file, _SHOWN, 0).decode(errors="replace").strip()
                raise InputError(
                    f"{option}={folder} is in use by {holder or 'another process'}: wait for it to end,"
                    f" or give another {option}="
                ) from None
            say(
                f"{path} cannot be locked here ({error.strerror}): start no second run in this folder",
                file=sys.stderr,
            )
        else:
            with suppress(OSError):  # a full disk has no room for it, which what is written next tells
                os.ftruncate(file, 0)
                os.pwrite(file, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        yield
    finally:
        os.close(file)
