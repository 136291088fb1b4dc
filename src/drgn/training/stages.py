"""What each part of a run takes: seconds of the clock and of the CPU, and the most memory."""

import time
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from drgn.training import memory

Seconds = NDArray[np.float64]  # (2,): of the clock, of all threads of this process on the CPU


def now() -> Seconds:
    """Seconds since some moment of the past."""
    return np.array([time.perf_counter(), time.process_time()])


def duration(seconds: float) -> str:
    """For people."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 or seconds < 0.05 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


class Mark(NamedTuple):
    """That something began.

    Attributes
    ----------
    what
        Its name.
    at
        See `now`.
    """

    what: str
    at: Seconds


class Stages:
    """The parts of a run, one after the other.

    Attributes
    ----------
    seconds
        Of each part, in the order in which they first began.
    ends
        When each was over last.
    memory_B, gpu_B
        Most bytes that the process held in it; of GPU memory, where there is a GPU.
    marks
        What a part told of its own parts.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, Seconds] = {}
        self.ends: dict[str, Seconds] = {}
        self.memory_B: dict[str, int] = {}
        self.gpu_B: dict[str, int] = {}
        self.marks: list[Mark] = []
        self._present: Mark | None = None

    def begin(self, what: str) -> None:
        """Begin a part, or go on with it; the one before is over."""
        self.end()
        memory.begin_peak()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._present = Mark(what, now())

    def end(self) -> None:
        """The part is over."""
        if self._present is None:
            return
        what, begun = self._present
        self.ends[what] = now()
        self.seconds[what] = self.seconds.get(what, np.zeros(2)) + (self.ends[what] - begun)
        self.memory_B[what] = max(self.memory_B.get(what, 0), memory.peak_B() or 0)
        if torch.cuda.is_available():
            self.gpu_B[what] = max(self.gpu_B.get(what, 0), torch.cuda.max_memory_reserved())
        self._present = None

    def mark(self, what: str) -> None:
        """Something within the part begins."""
        self.marks.append(Mark(what, now()))

    def facts(self) -> dict[str, object]:
        """What run.json records of them."""
        wall, cpu = ({name: round(float(s[i]), 2) for name, s in self.seconds.items()} for i in (0, 1))
        facts: dict[str, object] = {"seconds_of": wall, "cpu_seconds_of": cpu}
        if any(self.memory_B.values()):
            facts["peak_memory_GB"] = round(max(self.memory_B.values()) / 1e9, 3)
        if self.gpu_B:
            facts["peak_gpu_memory_GB"] = round(max(self.gpu_B.values()) / 1e9, 3)
        return facts
