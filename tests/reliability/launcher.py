"""A process that has imported drgn once and trains in forked copies of itself, broken off where it is told.

One line of JSON in, the keywords of `child`; two out: {"pid": P}, then {"status": S}, negative for a signal.
A copy starts in a hundredth of the time that a new process takes, so that there can be many.
"""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import hydra  # noqa: F401
import numba  # noqa: F401
import pytorch_lightning  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

import drgn.data.building
import drgn.run
import drgn.train
import drgn.training.callbacks
import drgn.training.loaders
import drgn.training.warmstart
from drgn.formats.seal import Sealing


def kill(*_: Any) -> None:
    """End this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


def ask(*numbers: int) -> Callable[..., None]:
    """What sends signals to this process, one after the other."""

    def send(*_: Any) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return send


def as_submitit(*_: Any) -> None:
    """Act upon a signal as submitit does in a job whose time is over."""
    print("submitit: queued again", flush=True)
    sys.exit(-1)


def ask_all(name: str) -> Callable[..., None]:
    """What sends a signal to this process and to those that it started, as a terminal or a scheduler does."""

    def send(*_: Any) -> None:  # from another process: torch tells the signals of its own from others
        subprocess.run(["kill", "-s", name, "--", f"-{os.getpgrp()}"], start_new_session=True, check=True)

    return send


def kill_reader(*_: Any) -> None:
    """End a process that reads batches as the kernel does where memory is short."""
    readers = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    os.kill(int(readers[-1]), signal.SIGKILL)


def fill(folder: str, *_: Any) -> None:
    """Leave no room where a folder is."""
    with suppress(OSError), open(Path(folder) / "filler", "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):  # the last page, too
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def hide(path: str, *_: Any) -> None:
    """Take a file away."""
    os.rename(path, path + ".hidden")


def make_read_only(folder: str, *_: Any) -> None:
    """Let nothing more be written to a folder, as the kernel does after an error of its disk."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)


def cut(path: str, *_: Any) -> None:
    """Let a file end early."""
    os.truncate(path, 1000)


def turn_back(*_: Any) -> None:
    """Let the clock go back by a year."""
    clock, clock_ns = time.time, time.time_ns
    time.time, time.time_ns = lambda: clock() - 3.2e7, lambda: clock_ns() - 32 * 10**15


def half_written(sealing: Sealing, data: bytes) -> None:
    """Write half of a piece of a checkpoint, and die."""
    view = memoryview(data).cast("B")
    sealing._file.write(view[: len(view) // 2])
    sealing._file.flush()
    kill()


DEEDS = {
    "kill": kill,
    "half": half_written,
    "int": ask(signal.SIGINT),
    "int twice": ask(signal.SIGINT, signal.SIGINT),
    "term": ask(signal.SIGTERM),
    "usr1": ask(signal.SIGUSR1),
    "usr2": ask(signal.SIGUSR2),
    "int to all": ask_all("INT"),
    "term to all": ask_all("TERM"),
    "usr1 to all": ask_all("USR1"),
    "kill reader": kill_reader,
    "turn back": turn_back,
}
DEEDS_TO = {"fill": fill, "hide": hide, "cut": cut, "read-only": make_read_only}  # of a path


def break_off(at: str, count: int, deed: str, path: str | None = None) -> None:
    """Do a deed when a function, MODULE:NAME.NAME, is called for the nth time, before it does anything."""
    done = DEEDS[deed] if path is None else partial(DEEDS_TO[deed], path)
    module, _, names = at.partition(":")
    owner: Any = importlib.import_module(module)
    *path, name = names.split(".")
    for part in path:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), iter(range(1, 1 << 60))

    def counted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == count:
            done(*args)
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def child(
    options: list[str],
    log: str,
    at: str | None = None,
    count: int = 1,
    deed: str = "kill",
    path: str | None = None,
    then: Sequence[dict[str, Any]] = (),
    largest_file: int | None = None,
    environment: dict[str, str] | None = None,
) -> int:
    """Run drgn train with what `break_off` is given, first and then; returns its exit status."""
    os.setpgrp()
    os.environ.update(environment or {})
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if deed == "usr2":
        signal.signal(signal.SIGUSR2, as_submitit)
    if at is not None:
        break_off(at, count, deed, path)
    for more in then:
        break_off(**more)
    sys.argv = ["drgn train", *options]
    sys.modules["__main__"] = drgn.train
    try:
        drgn.train.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def main() -> None:
    """Serve."""
    tasks = [Path(f"/proc/self/task/{task}/comm").read_text() for task in os.listdir("/proc/self/task")]
    threads = [name for name in tasks if not name.startswith("jemalloc")]  # pyarrow's copes with a fork
    assert len(threads) == 1, f"a process with threads cannot be forked: {threads}"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                status = child(**json.loads(line))
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
