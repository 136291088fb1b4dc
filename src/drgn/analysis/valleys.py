"""Valleys of the density of latents: whether two groups are two states or two ends of one (P12).

Two groups are separate where the density of particles falls, on every way from one to the other, well below
the lower of their two peaks. The depth of a valley is here the density at its lowest point over that of the
lower peak: 0 is empty, 1 is no valley.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

STEPS = 33  # points at which the density is looked at on the way between two centres
CELLS = 256  # of the histogram along a line
BOOTSTRAPS = 200


class Valley(NamedTuple):
    """Between two groups along the line that best tells them apart.

    Attributes
    ----------
    depth
        Density at the lowest point over that of the lower peak, 0 to 1.
    upper
        95th percentile of that over resampled particles.
    position, density, side
        Of a picture: (C,) places along the line from the first group to the second, in standard deviations
        within the groups, (C,) density, and (2, C) what each group adds to it.
    """

    depth: float
    upper: float
    position: np.ndarray
    density: np.ndarray
    side: np.ndarray

    def turned(self) -> Valley:
        """The same with the two groups exchanged: the line goes from the second to the first."""
        flipped = (-self.position[::-1], self.density[::-1], self.side[::-1, ::-1])
        return Valley(self.depth, self.upper, *flipped)


def passes(centres: np.ndarray, log_density: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Log density (K, K) at the lowest point of the straight way between each two of K centres.

    The diagonal has that of the centres.

    Parameters
    ----------
    centres
        (K, Z).
    log_density
        Of points (M, Z): (M,).
    """
    k = len(centres)
    share = np.linspace(0, 1, STEPS)[:, None]
    found = np.diag(log_density(centres))
    for i in range(k):
        for j in range(i):
            way = (1 - share) * centres[i] + share * centres[j]
            found[i, j] = found[j, i] = log_density(way).min()
    return found


def merged(lowest: np.ndarray, threshold: float) -> np.ndarray:
    """Group (K,) of each of K centres: those not parted by a valley deeper than the threshold.

    Ways may lead over other centres. As the density is lowered from its highest peak, groups meet at the
    passes between them; where they meet above `threshold` times the lower of their peaks they become one. A
    thin bridge therefore joins nothing (Chazal et al., J. ACM 60, 41, 2013).

    Parameters
    ----------
    lowest
        (K, K) log density of the passes, from `passes`.
    threshold
        From 0 to 1.
    """
    k = len(lowest)
    peak = np.diag(lowest).copy()
    group = np.arange(k)
    pairs = sorted(((lowest[i, j], i, j) for i in range(k) for j in range(i)), reverse=True)
    for height, i, j in pairs:
        a, b = group[i], group[j]
        if a != b and height > np.log(threshold) + min(peak[a], peak[b]):
            low, high = (a, b) if peak[a] < peak[b] else (b, a)
            group[group == low] = high
    return group


def valley(a: np.ndarray, b: np.ndarray, seed: int) -> Valley:
    """Valley between two groups of latents, (n, Z) and (m, Z), along the line that best tells them apart.

    The line is Fisher's discriminant of the two groups; all other directions are added up. The density is a
    histogram smoothed as widely as Silverman's rule says for the narrower group, and the uncertainty that of
    resampling the particles.

    Parameters
    ----------
    a, b
        The two groups, each of at least two particles.
    seed
        Of the resampling.
    """
    line = _discriminant(a, b)
    x, y = a @ line, b @ line
    ends = np.concatenate([x, y])
    low, high = ends.min(), ends.max()
    step = (high - low) / CELLS or 1.0
    edges = np.linspace(low, low + step * CELLS, CELLS + 1)
    sides = np.stack([np.histogram(values, edges)[0] for values in (x, y)])
    width = 0.9 * min(_spread(v) * len(v) ** -0.2 for v in (x, y)) / step
    middle = int(np.clip((_boundary(x, y) - low) / step, 1, CELLS - 2))
    counts = sides.sum(axis=0)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(counts.sum(), counts / counts.sum(), size=BOOTSTRAPS)
    depths = _depths(_smoothed(draws, width), middle)
    smooth = _smoothed(sides, width)
    return Valley(
        float(_depths(smooth.sum(axis=0, keepdims=True), middle)[0]),
        float(np.percentile(depths, 95)),
        (edges[1:] + edges[:-1]) / 2,
        smooth.sum(axis=0) / counts.sum() / step,
        smooth / counts.sum() / step,
    )


def _discriminant(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Fisher's discriminant (Z,), pointing from a to b, of unit variance within the groups."""
    within = (np.cov(a.T) * len(a) + np.cov(b.T) * len(b)) / (len(a) + len(b))
    within = np.atleast_2d(within)
    within = (
        within + 1e-3 * np.trace(within) / len(within) * np.eye(len(within)) + 1e-12 * np.eye(len(within))
    )
    line = np.linalg.solve(within, b.mean(axis=0) - a.mean(axis=0))
    return line / max(np.sqrt(line @ within @ line), 1e-12)


def _spread(values: np.ndarray) -> float:
    """Standard deviation of the middle of a distribution."""
    quartiles = np.subtract(*np.percentile(values, [75, 25])) / 1.349
    return max(min(values.std(), quartiles), 1e-9)


def _boundary(x: np.ndarray, y: np.ndarray) -> float:
    """Place that parts two groups of numbers, the first lower, with the fewest on the wrong side."""
    values = np.concatenate([x, y])
    order = np.argsort(values, kind="stable")
    wrong = len(x) - np.cumsum(order < len(x)) + np.cumsum(order >= len(x))
    best = int(wrong[:-1].argmin())
    return float(values[order[best : best + 2]].mean())


def _smoothed(counts: np.ndarray, width: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(counts.astype(np.float64), max(width, 0.5), axis=-1, mode="constant")


def _depths(density: np.ndarray, middle: int) -> np.ndarray:
    """Depth (R,) of the valley of each density (R, C) between its peaks on both sides of the middle."""
    left = density[:, :middle].argmax(axis=1)
    right = middle + density[:, middle:].argmax(axis=1)
    depths = [
        row[i : j + 1].min() / max(min(row[i], row[j]), 1e-300)
        for row, i, j in zip(density, left, right, strict=True)
    ]
    return np.array(depths)
