"""A job of SLURM that is told by SIGUSR1 that its time is over goes back into the queue.

SLURM sends it where that was asked for, `sbatch --signal=USR1@120`; the job then begins anew and goes on from
the last checkpoint. A job of `hydra/launcher=slurm` is told by SIGUSR2, and queued again by submitit, which
listens to it; a pre-empted one is queued again by SLURM.
"""

import os
import signal
import subprocess
import sys
import threading
from typing import Any

from drgn.errors import say


def inside() -> bool:
    """Say whether this process is part of a job of SLURM."""
    return "SLURM_JOB_ID" in os.environ and hasattr(signal, "SIGUSR1")


def listen() -> None:
    """Queue the job again as soon as the signal comes; Lightning then leaves it alone.

    While it trains, `LastCheckpoint` sees to it, which writes a checkpoint before.
    """
    if inside() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, queue_again)


def listened_to() -> list[signal.Signals]:
    """Give the signals that tell this job that its time is over, and that `listen` or submitit acts upon."""
    if not inside():
        return []
    return [number for number in (signal.SIGUSR1, signal.SIGUSR2) if callable(signal.getsignal(number))]


def queue_again(*_: Any) -> None:
    """Put the job back into the queue: SLURM ends its processes, and begins it again where there is room."""
    job = os.environ["SLURM_JOB_ID"]
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        refused = done.stdout + done.stderr if done.returncode else ""
    except OSError as error:
        refused = str(error)
    # of several processes of the job the first has done it
    said = f"could not be queued again: {refused.strip()}" if refused else "is queued again"
    say(f"SIGUSR1: job {job} {said}", file=sys.stderr, flush=True)
