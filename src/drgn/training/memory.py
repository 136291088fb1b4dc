"""How the C library keeps memory, how much there is, and how much an image of a training step takes."""

import copy
import ctypes
import platform
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from drgn.formats.memory import give_back
from drgn.models.halves import Halves
from drgn.models.reconstructor import Reconstructor
from drgn.physics.imaging import Batch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of mallopt's parameters, <malloc.h>
_LARGEST_KEPT = 32 << 20  # bytes; more is not allowed
_MOST_KEPT = 1 << 30


def keep_freed() -> bool:
    """Let this process keep what it frees for its next tensors, up to 1 GiB.

    glibc gives every tensor above a few MB back to the kernel; the next step then waits for the same pages to
    be cleared and mapped again. Returns whether the C library is glibc and agrees.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_TRIM_THRESHOLD, _MOST_KEPT))


def available_B(device: torch.device) -> int | None:
    """Bytes that this process may still take on a device, None where that cannot be told.

    On the CPU: what the system has left and what the control groups of the process allow, as SLURM and
    containers set them.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    found = []
    with suppress(OSError):
        known = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(known["MemAvailable"].split()[0]) << 10)
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            folder = Path("/sys/fs/cgroup", *(["memory"] if kinds else []), path.lstrip("/"))
            names = ["memory.max", "memory.current"]
            if kinds:
                names = ["memory.limit_in_bytes", "memory.usage_in_bytes"]
            if kinds in ("", "memory"):
                with suppress(OSError, ValueError):  # a root group has no limit, v2 writes "max" for none
                    limit, used = (int((folder / name).read_text()) for name in names)
                    found.append(max(0, limit - used))
    return min(found, default=None)


def _peak_B(device: torch.device, work: Callable[[], object]) -> int | None:
    """Most bytes that a piece of work takes beyond what is taken before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return int(torch.cuda.max_memory_allocated(device)) - before
    give_back()
    before = begin_peak()
    work()
    after = peak_B()
    return None if before is None or after is None else after - before


def begin_peak() -> int | None:
    """Let the peak begin anew; bytes that the process takes now, None where the system does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return peak_B()


def peak_B() -> int | None:
    """Most bytes that this process has held since its peak began; None where the system does not tell."""
    try:
        known = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(known["VmHWM"].split()[0]) << 10
    except (OSError, KeyError):
        return None


def of_an_image_B(
    reconstructor: Reconstructor | Halves, batch: Batch, device: torch.device, kind: torch.dtype | None
) -> int | None:
    """Bytes that each further image of a batch takes in a training step, from steps of few images and one.

    Parameters
    ----------
    reconstructor
        Left as it is: a copy takes the steps.
    batch
        Two images or more.
    device
        Where it is trained.
    kind
        Of autocast, None without.
    """
    model = copy.deepcopy(reconstructor).to(device).train()
    n = len(batch["row"])

    def step(first: int) -> None:
        some = {name: value[:first].to(device) for name, value in batch.items()}  # type: ignore[attr-defined]
        with torch.autocast(device.type, dtype=kind or torch.float32, enabled=kind is not None):
            total = model.loss(some, 1 << 60).total.sum()  # type: ignore[arg-type]
        if total.requires_grad:
            total.backward()
        model.zero_grad()

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        step(n)  # what is set up once
        one, all_ = (_peak_B(device, partial(step, first)) for first in (1, n))
    return None if one is None or all_ is None else max(1, (all_ - one) // (n - 1))
