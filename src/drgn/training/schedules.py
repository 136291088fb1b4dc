"""Schedules: pure functions from the step to a factor of the learning rate, or to a share of the pixels."""

import math


def constant(step: int, total_steps: int) -> float:
    """1 throughout (P7)."""
    return 1.0


def warmup(step: int, total_steps: int, *, warmup_steps: int) -> float:
    """Rise linearly over `warmup_steps`, then 1."""
    return min(1.0, (step + 1) / (warmup_steps + 1))


def cosine(step: int, total_steps: int, *, warmup_steps: int, final_fraction: float) -> float:
    """Rise linearly over `warmup_steps`, then half a cosine down to `final_fraction` at `total_steps`."""
    rise = warmup(step, total_steps, warmup_steps=warmup_steps)
    progress = min(1.0, max(0.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))
    return rise * (final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress)))


def rising(step: int, total_steps: int, *, start: float, hold: float, full: float) -> float:
    """`start` for the share `hold` of the run, then a linear rise to 1 at the share `full` of it."""
    progress = step / max(1, total_steps)
    if progress >= full:
        return 1.0
    return start + (1 - start) * max(0.0, progress - hold) / max(full - hold, 1e-9)
