"""From what small runs took to what a large one will take, and how that is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from drgn.data.building import in_bytes
from drgn.training.stages import Seconds, duration


@dataclass(frozen=True)
class Row:
    """A part of the run.

    Attributes
    ----------
    name
        Of the part.
    seconds
        See `training.stages.now`.
    note
        What it consists of, in words.
    """

    name: str
    seconds: Seconds
    note: str = ""


@dataclass(frozen=True)
class Forecast:
    """What a run will take.

    Attributes
    ----------
    rows
        Its parts in order.
    memory_B, memory_at
        Most that its process holds, and in which part.
    gpu_B
        Most GPU memory; None without a GPU.
    stack_B, run_B
        Disk for the prepared stack (0 where it is there) and for the run folder, by what is in it.
    notes
        What else a reader should know.
    """

    rows: Sequence[Row]
    memory_B: float
    memory_at: str
    gpu_B: float | None
    stack_B: float
    run_B: Mapping[str, float]
    notes: Sequence[str] = field(default=())

    @property
    def seconds(self) -> Seconds:
        """Of the whole run, (2,)."""
        return np.sum([row.seconds for row in self.rows], axis=0)

    @property
    def disk_B(self) -> float:
        """Of everything that is written."""
        return self.stack_B + sum(self.run_B.values())

    def __str__(self) -> str:
        lines = [f"{'about ' + duration(self.seconds[0]):<20}in all, on this machine as busy as it is now"]
        lines += [f"{duration(row.seconds[0]):>16}    {row.name:<14}{row.note}".rstrip() for row in self.rows]
        lines.append(f"{in_bytes(self.memory_B):<20}memory at most, in the part {self.memory_at}")
        if self.gpu_B is not None:
            lines.append(f"{in_bytes(self.gpu_B):<20}GPU memory at most")
        lines.append(f"{in_bytes(self.disk_B):<20}on disk")
        stack = "prepared stack" if self.stack_B else "prepared stack: it is there already"
        lines += [f"{in_bytes(b):>16}    {name}" for name, b in ((stack, self.stack_B), *self.run_B.items())]
        return "\n".join([*lines, *self.notes])


def line(n: Sequence[int], values: Sequence[Seconds | float], at: int) -> Seconds:
    """Extrapolate what two sizes took linearly to another; neither part of it is below 0.

    Parameters
    ----------
    n
        Two sizes, the smaller first.
    values
        What they took.
    at
        The other size.
    """
    few, many = (np.asarray(value, float) for value in values)
    if n[1] == n[0]:
        return many * at / n[1] if at > n[1] else many
    slope = np.clip((many - few) / (n[1] - n[0]), 0, many / n[1])
    return many + slope * (at - n[1])
