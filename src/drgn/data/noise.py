"""The noise of particle images, measured on some of them."""

from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.data.building import Plan
from drgn.data.sample import spread
from drgn.errors import InputError

_SAMPLE = 1000  # images that the noise is measured on
_SAMPLE_OF_GROUP = 20  # and at least so many of each optics group, where it has them


def noise_std(
    plan: Plan, group: NDArray[np.int64], path: str, pool: ThreadPoolExecutor
) -> NDArray[np.float64]:
    """Standard deviation of the background in each group of images, over about 1,000 evenly spaced ones.

    Images far louder than the others do not count. Images without noise (simulated, for tests) are measured
    as a whole instead. A group without a usable image gets the mean of the others.
    """
    sizes = np.bincount(group)
    share = max(_SAMPLE_OF_GROUP, _SAMPLE // len(sizes))
    chunks, number_of_chunk = [], []
    by_group = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    for number, members in enumerate(by_group):
        rows = spread(members, share)
        parts = np.array_split(rows, -(-len(rows) // plan.chunk))
        chunks += parts
        number_of_chunk += [number] * len(parts)
    measured = list(pool.map(plan.variances, chunks))
    variance = np.full(len(sizes), np.nan)
    for number, own in groupby(zip(number_of_chunk, measured, strict=True), key=itemgetter(0)):
        parts = [pair for _, pair in own]
        noise, total = (_without_outliers(torch.cat(values)) for values in zip(*parts, strict=True))
        variance[number] = noise if noise > 1e-4 * total else total
    if not np.isfinite(variance).any():
        raise InputError(f"{path}: the images are empty (constant or not finite), not particles")
    return np.sqrt(np.where(np.isfinite(variance), variance, np.nanmean(variance)))


def _without_outliers(variances: Tensor) -> float:
    """Mean of the variances that are not far above their median; NaN of none."""
    values = variances.double()
    return float(values[values <= 10 * values.median()].mean()) if len(values) else float("nan")
