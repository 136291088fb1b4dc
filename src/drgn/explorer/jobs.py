"""Verbs that run in the background, each in a process of its own, so that each can be cancelled."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drgn.errors import InputError

_LINES = 40  # of its output that are kept
_MOST_RUNNING = 2
_TO_TIDY_S = 5.0  # that a job has to end by itself


@dataclass(eq=False)
class Job:
    """One verb at work.

    Attributes
    ----------
    number, title
        For people.
    command
        What a person would type.
    output
        The folder of its results.
    state
        "running", "done", "failed" or "cancelled".
    lines
        The last lines that it printed.
    """

    number: int
    title: str
    command: str
    output: Path
    process: subprocess.Popen[str]
    state: str = "running"
    lines: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def facts(self) -> dict[str, Any]:
        """For the page."""
        return {
            "number": self.number,
            "title": self.title,
            "command": self.command,
            "state": self.state,
            "lines": self.lines[-_LINES:],
            "seconds": round((self.ended or time.monotonic()) - self.started, 1),
        }


class Jobs:
    """The jobs of a server."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def __iter__(self) -> Any:
        return iter(list(self._jobs.values()))

    def __getitem__(self, number: int) -> Job:
        if number not in self._jobs:
            raise InputError(f"There is no job {number}.")
        return self._jobs[number]

    def start(
        self,
        title: str,
        verb: str,
        options: dict[str, Any],
        output: Path,
    ) -> Job:
        """Start a verb.

        Parameters
        ----------
        title
            For people.
        verb
            Its name.
        options
            Of the verb; texts are quoted.
        output
            Where its results will be.
        """
        words = [f"{key}={_written(value)}" for key, value in options.items()]
        with self._lock:
            if sum(job.state == "running" for job in self) >= _MOST_RUNNING:
                raise InputError(f"{_MOST_RUNNING} jobs are running: wait for one, or cancel it.")
            # modules are not looked for in the current folder, a stranger's perhaps, unless one is trusted
            alone = {} if "trust" in options else {"PYTHONSAFEPATH": "1"}
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", f"drgn.{verb}", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, "COLUMNS": "200"} | alone,
                start_new_session=True,  # so that its own processes end with it
            )
            job = Job(next(self._numbers), title, f"drgn {verb} {' '.join(words)}", output, process)
            self._jobs[job.number] = job
        threading.Thread(target=_follow, args=(job,), daemon=True).start()
        return job

    def cancel(self, number: int) -> Job:
        """End a job; what it had written under temporary names goes with it."""
        job = self[number]
        if job.state == "running":
            job.state = "cancelled"
            _end(job)
        return job

    def close(self) -> None:
        """End all of them, and wait until they have ended."""
        for job in self:
            self.cancel(job.number)
        for job in self:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.process.wait(2 * _TO_TIDY_S)


def _follow(job: Job) -> None:
    assert job.process.stdout is not None
    with job.process.stdout as printed:
        for line in printed:
            if line.strip():
                job.lines = [*job.lines, line.strip()[:500]][-_LINES:]
    code = job.process.wait()
    job.ended = time.monotonic()
    if job.state == "running":
        job.state = "done" if code == 0 else "failed"


def _end(job: Job) -> None:
    """Ask a job to end, as Ctrl-C does, which lets it remove its temporary files; insist after a while."""
    _tell(job, signal.SIGINT)
    threading.Thread(target=_insist, args=(job,), daemon=True).start()


def _insist(job: Job) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        job.process.wait(_TO_TIDY_S)
    _tell(job, signal.SIGTERM)  # also to what it may have left running


def _tell(job: Job, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(job.process.pid, number)


def _written(value: Any) -> str:
    """A value as Hydra's command line takes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, str | Path):
        return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
