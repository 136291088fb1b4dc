"""Processes that read batches: signals are not theirs, and when one of them is ended that is a sentence."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from drgn.errors import InputError


def leave_signals(number: int) -> None:
    """Begin process `number` so that Ctrl-C, SIGTERM, SIGUSR1 and 2 are left to the process that trains.

    A terminal and a scheduler send them to all processes alike, but the training goes on for a step and a
    checkpoint, and needs batches until then. It ends the reading processes when it is done, with SIGTERM too.
    """
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):  # Windows has the first alone
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    sys.excepthook = _print_error
    if hasattr(signal, "sigwaitinfo"):  # not on a Mac
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _print_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error of a thread, but not that the process that trains is gone: it tells why itself."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


@contextmanager
def told_when_ended(then: str) -> Iterator[None]:
    """Turn what is raised when such a process is ended from outside into an InputError.

    Parameters
    ----------
    then
        What to do after that.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if not _of_reader(error):
            raise
        raise InputError(
            "a process that reads batches was ended from outside, as the system does where memory runs short:"
            f" give a smaller dataset.workers= (0 reads in the training process); {then}"
        ) from None


def _of_reader(error: Exception) -> bool:
    """Say whether this is raised when a reading process is gone: by torch, or by the socket to it."""
    if isinstance(error, RuntimeError):
        return "DataLoader worker" in str(error)
    if isinstance(error, FileNotFoundError):
        return error.filename is None
    return isinstance(error, ConnectionError | EOFError)
