"""Several processes that train one model: how long they wait, and what one raises whose others are gone."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from pytorch_lightning.strategies import DDPStrategy

from drgn.errors import InputError

_OF_CONNECTIONS = r"connection (was )?(closed|reset|refused)|broken pipe|socket|timed out|timeout"


def ddp(timeout_s: float) -> DDPStrategy:
    """Data-parallel training: NCCL between GPUs, gloo between CPUs.

    Parameters
    ----------
    timeout_s
        After so long without a word from another process, a process gives up.

    Raises
    ------
    InputError
        No time at all.
    """
    if timeout_s <= 0:
        raise InputError(f"trainer.strategy.timeout_s={timeout_s}: expected more than 0 seconds")
    return DDPStrategy(timeout=timedelta(seconds=timeout_s))


def require_device(accelerator: str, devices: int | str | list[int]) -> None:
    """Refuse a GPU that is not there before images are prepared, and not when training begins.

    Parameters
    ----------
    accelerator, devices
        Options of Lightning's trainer.
    """
    if accelerator not in ("gpu", "cuda") or torch.backends.mps.is_available():
        return
    there = torch.cuda.device_count()
    wanted = devices if isinstance(devices, int) else 1
    if wanted > there:
        raise InputError(
            f"trainer.accelerator={accelerator} trainer.devices={devices}: torch {torch.__version__} sees"
            f" {there or 'no'} GPU{'s'[: there != 1]} here; give trainer=auto, which takes what there is, or"
            " trainer=cpu"
        )


@contextmanager
def told_when_lost(output: Path) -> Iterator[None]:
    """Turn what a process raises that waits for another in vain into an InputError.

    Parameters
    ----------
    output
        The run folder.
    """
    try:
        yield
    except RuntimeError as error:
        if not _lost(error):
            raise
        raise InputError(
            "another process of this run cannot be reached: look at its own output; the same command in"
            f" all of them goes on from the last checkpoint in output={output}"
        ) from None


def _lost(error: RuntimeError) -> bool:
    """Say whether the error is of a connection: gloo and sockets have no class of their own for it."""
    if isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error):
        return True
    several = torch.distributed.is_initialized() or int(os.environ.get("WORLD_SIZE", 1)) > 1
    return several and re.search(_OF_CONNECTIONS, str(error), re.IGNORECASE) is not None
