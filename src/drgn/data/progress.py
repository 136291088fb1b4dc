"""What a person sees while images are prepared: the cost before it starts, then how far it is."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from drgn.data.building import Cost
from drgn.errors import say


class PrepareProgress:
    """On a terminal a bar with images per second and the time left; elsewhere a line at start and end.

    Examples
    --------
    >>> with PrepareProgress() as shown:
    ...     prepare(particles, ..., say=shown.say, progress=shown.update)
    """

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._first = 0
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def say(self, cost: Cost) -> None:
        """Tell what it will cost."""
        say(f"preparing {cost}", file=sys.stderr, flush=True)
        self._started = time.perf_counter()

    def update(self, done: int, total: int) -> None:
        """Tell how far it is."""
        if self._bar is None and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("preparing"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]} images/s"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._first = done  # of a build that was resumed, what was there does not count
            self._task = self._bar.add_task("", total=total, completed=done, speed="")
            self._bar.start()
        elapsed = time.perf_counter() - self._started
        if self._bar is not None and self._task is not None:
            speed = (done - self._first) / max(elapsed, 1e-9)
            self._bar.update(self._task, completed=done, speed=f"{speed:,.0f}")
        if done == total:
            self._stop()
            say(f"prepared {total:,} images in {elapsed:.1f} s", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class CheckProgress:
    """What is being done, on a terminal, in a stage whose name is given."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._status = Console(stderr=True).status(stage) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def update(self, what: str) -> None:
        """Tell what is being done."""
        if self._status is not None:
            self._status.update(f"{self._stage}: {what}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
