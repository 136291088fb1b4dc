"""A process that has imported drgn once and trains in forked copies of itself, broken off where it is told.

One line of JSON in, the keywords of `child`; two out: {"pid": P}, then {"status": S}, negative for a signal.
A copy starts in a hundredth of the time that a new process takes, so that there can be many.
"""

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra  # noqa: F401
import numba  # noqa: F401
import pytorch_lightning  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

import drgn.run
import drgn.train
import drgn.training.callbacks
import drgn.training.loaders
import drgn.training.warmstart
from drgn.formats.seal import Sealing


def kill(*_: Any) -> None:
    """End this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


def ask(number: int) -> Callable[..., None]:
    """What sends a signal to this process."""
    return lambda *_: os.kill(os.getpid(), number)


def half_written(sealing: Sealing, data: bytes) -> None:
    """Write half of a piece of a checkpoint, and die."""
    view = memoryview(data).cast("B")
    sealing._file.write(view[: len(view) // 2])
    sealing._file.flush()
    kill()


DEEDS = {"kill": kill, "half": half_written, "int": ask(signal.SIGINT), "term": ask(signal.SIGTERM)}


def break_off(at: str, count: int, deed: str) -> None:
    """Do a deed when a function, MODULE:NAME.NAME, is called for the nth time, before it does anything."""
    module, _, names = at.partition(":")
    owner: Any = importlib.import_module(module)
    *path, name = names.split(".")
    for part in path:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), iter(range(1, 1 << 60))

    def counted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == count:
            DEEDS[deed](*args)
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def child(
    options: list[str],
    log: str,
    at: str | None = None,
    count: int = 1,
    deed: str = "kill",
    largest_file: int | None = None,
) -> int:
    """Run drgn train; returns its exit status."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if at is not None:
        break_off(at, count, deed)
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
