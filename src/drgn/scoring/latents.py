"""Measures of how far two descriptions of the same particles, latents and true states, agree.

Simulated truth is full of ties: 50 maps have 50 coordinates for all particles. A tie is never broken by
chance or by the order of the file: of equally near particles each counts in equal part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

SCORED = 5_000  # most particles whose distances are looked at, all pairs
SHARE = 0.02  # of the particles are a neighbourhood, but at least
LEAST = 10


class Imbalance(NamedTuple):
    """Information imbalance of a towards b, and the least that any a could have with these ties in b."""

    value: float
    best: float


class Similarity(NamedTuple):
    """Neighbourhood similarity, what unrelated points have, and the size of the neighbourhoods."""

    value: float
    chance: float
    k: int


def coordinates(states: pd.DataFrame) -> np.ndarray:
    """Points (N, C) for true states: each coordinate scaled to a range of 1, classes at a distance of 1.

    Parameters
    ----------
    states
        N rows; columns of floating-point numbers are coordinates, others are classes.
    """
    parts = []
    for _, column in states.items():
        values = column.to_numpy()
        if values.dtype.kind == "f":
            extent = np.ptp(values)
            parts.append(((values - values.min()) / (extent if extent > 0 else 1))[:, None])
        else:
            parts.append((values[:, None] == np.unique(values)[None, :]) / np.sqrt(2))
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(states), 0))


def sample(n: int, seed: int) -> np.ndarray:
    """Rows of the at most 5,000 particles, drawn at random, that `imbalance` and `similarity` look at."""
    if n <= SCORED:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, SCORED, replace=False))


def imbalance(a: np.ndarray, b: np.ndarray) -> Imbalance:
    """How much of b is unknown when a is known (Glielmo et al., PNAS Nexus 1, pgac039, 2022, eq. 1).

    Delta(a -> b) = 2/N times the mean rank, among the distances in b from a particle, of its nearest other
    particle in a. About 0 when neighbours in a are neighbours in b, 1 when a says nothing of b. Where several
    particles are equally near in a, their ranks are averaged; where several are equally far in b, each has
    the mean of the ranks that they take together. Hence truth with ties cannot be predicted to 0: `best` is
    reached when every particle's nearest in a has its own state.

    Parameters
    ----------
    a, b
        (N, A) and (N, B) points, N >= 3.
    """
    ranks, least = [], []
    for of_a, of_b in _distances(a, b):
        nearest = np.flatnonzero(of_a == of_a.min())
        ordered = np.sort(of_b)
        below = np.searchsorted(ordered, of_b[nearest], side="left")
        upto = np.searchsorted(ordered, of_b[nearest], side="right")
        ranks.append((0.5 * (below + upto + 1)).mean())
        least.append(0.5 * (1 + np.searchsorted(ordered, ordered[0], side="right")))
    return Imbalance(2 * float(np.mean(ranks)) / len(a), 2 * float(np.mean(least)) / len(a))


def neighbourhood(n: int) -> int:
    """Particles in the neighbourhood of one of n."""
    return min(n - 1, max(LEAST, round(SHARE * n)))


def similarity(z: np.ndarray, truth: np.ndarray, k: int) -> Similarity:
    """Mean share of a particle's k nearest in the latents that are among its k nearest in truth.

    CryoBench's neighbourhood similarity (Boggust et al., Embedding Comparator, 2022). All particles whose
    true state is as near as the k-th count as near, so that 1 can be reached; chance is their mean share of
    all other particles, k / (N - 1) where the truth has no ties. Particles equally far in the latents count
    in equal part.

    Parameters
    ----------
    z, truth
        (N, Z) and (N, C) points, N >= 2.
    k
        1 to N - 1.
    """
    shared, near = [], []
    for of_z, of_truth in _distances(z, truth):
        hit = of_truth <= np.partition(of_truth, k - 1)[k - 1]
        limit = np.partition(of_z, k - 1)[k - 1]
        inside, edge = of_z < limit, of_z == limit
        weight = (k - inside.sum()) / edge.sum()
        shared.append((hit[inside].sum() + weight * hit[edge].sum()) / k)
        near.append(hit.sum() / len(of_z))
    return Similarity(float(np.mean(shared)), float(np.mean(near)), k)


def _distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each particle to all others, (N - 1,) in a and in b."""
    from scipy.spatial.distance import cdist

    a, b = (np.asarray(points, np.float64).reshape(len(points), -1) for points in (a, b))
    n, chunk = len(a), 256
    for start in range(0, n, chunk):
        rows = np.arange(start, min(start + chunk, n))
        of_a, of_b = cdist(a[rows], a), cdist(b[rows], b)
        for i, row in enumerate(rows):
            yield np.delete(of_a[i], row), np.delete(of_b[i], row)


class Confusion(NamedTuple):
    """Counts (T, F) of true classes in found ones, found ones in the order of the true ones they match."""

    counts: np.ndarray
    classes: np.ndarray
    accuracy: float


def confusion(found: np.ndarray, truth: np.ndarray) -> Confusion:
    """Match found to true classes so that most particles agree (Hungarian), and count.

    Parameters
    ----------
    found, truth
        (N,) labels; their numbers of classes may differ, and what has no match comes last.
    """
    from scipy.optimize import linear_sum_assignment

    classes, row = np.unique(truth, return_inverse=True)
    names, column = np.unique(found, return_inverse=True)
    counts = np.zeros((len(classes), len(names)), np.int64)
    np.add.at(counts, (row, column), 1)
    matched_rows, matched = linear_sum_assignment(-counts)
    rest = [i for i in range(len(names)) if i not in matched]
    agreed = counts[matched_rows, matched].sum()
    return Confusion(counts[:, [*matched, *rest]], classes, float(agreed / len(truth)))
