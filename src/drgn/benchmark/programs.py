"""Commands run and watched: wall time and CPU time at each line they print, and of the whole command."""

import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drgn.errors import InputError

_TICK = os.sysconf("SC_CLK_TCK")
_KIB = 1 / (1 << 20)  # of ru_maxrss, in GiB


@dataclass(frozen=True)
class Moment:
    """When a line was printed: seconds since the start, CPU seconds used until then."""

    seconds: float
    cpu_seconds: float
    line: str


@dataclass(frozen=True)
class Ran:
    """A command that has ended well.

    Linux counts in `memory_GiB` also what this process held when it started the command.
    """

    seconds: float
    cpu_seconds: float
    memory_GiB: float
    moments: list[Moment]

    def rate(self, pattern: str, per_count: float = 1.0) -> tuple[float, float]:
        """Counts per second of wall time and of CPU time, between the first and the last line of a pattern.

        The pattern's first group is the count at that line; `per_count` multiplies it.
        """
        found = [(m, int(hit[1])) for m in self.moments if (hit := re.search(pattern, m.line))]
        if len(found) < 2:
            raise InputError(f"the command printed fewer than two lines like {pattern}: give more images")
        (first, start), (last, end) = found[0], found[-1]
        n = (end - start) * per_count
        return n / (last.seconds - first.seconds), n / max(last.cpu_seconds - first.cpu_seconds, 1e-9)

    def when(self, pattern: str) -> Moment:
        """The first line of a pattern."""
        return next(m for m in self.moments if re.search(pattern, m.line))


def run(command: Sequence[str | Path], threads: int | None = None) -> Ran:
    """Run a command to its end.

    Parameters
    ----------
    command
        Program and arguments.
    threads
        Of its numerical libraries; None leaves them their own choice.

    Raises
    ------
    InputError
        The program is not there, or it failed.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if threads is not None:
        environment.update({name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")})
    start = time.perf_counter()
    try:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
    except OSError as error:
        raise InputError(f"{command[0]} does not start ({error.strerror}): give the program's path") from None
    assert process.stdout is not None
    moments = [
        Moment(time.perf_counter() - start, _cpu_seconds(process.pid), line.rstrip())
        for line in process.stdout
    ]
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        said = "; ".join(m.line for m in moments[-3:])
        raise InputError(f"{' '.join(map(str, command[:2]))} ended with code {process.returncode}: {said}")
    return Ran(
        seconds=time.perf_counter() - start,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        memory_GiB=usage.ru_maxrss * _KIB,
        moments=moments,
    )


def _cpu_seconds(pid: int) -> float:
    """Of a process until now; 0 where the system does not tell (it is no Linux)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICK
