"""Several processes that train one model: how long they wait, and what one raises whose others are gone."""

from datetime import timedelta

import torch
from pytorch_lightning.strategies import DDPStrategy

from drgn.errors import InputError


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


def lost(error: BaseException) -> bool:
    """Say whether this is what a process raises that waits for another in vain."""
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and "/gloo/" in str(error)
    )
