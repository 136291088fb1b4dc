"""Scores of a result against a known truth. None of them is used to choose anything: they only report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from drgn.analysis.classes import find_classes

if TYPE_CHECKING:
    import pandas as pd

NEIGHBOURS = 20  # particles whose truth is averaged in `spearman`
SCORED = 10_000  # most particles that `class_rand` looks at


def spearman(z: np.ndarray, truth: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """How well the latents order the particles as the truth does, 0 to 1 (P36).

    For a one-dimensional latent this is |Spearman(z, truth)|, as the paper reports it. A latent of more
    dimensions has no single axis to rank, so the truth is first regressed on z: each particle's coordinate
    is the mean truth of its `neighbours` nearest *other* particles in z (leave-one-out k-nearest neighbours),
    and the score is the Spearman correlation of that coordinate with the truth. It is 1 when nearby latents
    mean nearby conformations, and about 0 when z says nothing about the truth. Because it looks at the truth
    it is a score only.

    Parameters
    ----------
    z
        (N, Z) latents, Z >= 1.
    truth
        (N,) true coordinate.
    neighbours
        How many particles are averaged; at most N - 1.
    """
    from scipy.stats import spearmanr

    order = read_out(z, truth, neighbours)
    if np.ptp(order) == 0:
        return 0.0  # a collapsed latent orders nothing
    score = float(spearmanr(order, truth).statistic)
    return abs(score) if z.shape[1] == 1 else score


def read_out(z: np.ndarray, truth: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Coordinate (N,) whose order `spearman` looks at: z itself, or the truth regressed on it."""
    return z[:, 0] if z.shape[1] == 1 else _leave_one_out(z, truth, neighbours)


def _leave_one_out(z: np.ndarray, truth: np.ndarray, neighbours: int) -> np.ndarray:
    """Mean truth of the nearest other particles, (N,)."""
    from scipy.spatial import cKDTree

    n = len(z)
    count = min(neighbours, n - 1)
    rows = cKDTree(z).query(z, k=count + 1)[
        1
    ]  # (N, count + 1), nearest first, the particle itself among them
    own = rows == np.arange(n)[:, None]
    own[~own.any(axis=1), -1] = True  # itself hidden behind identical latents: drop the farthest instead
    return np.asarray(truth, np.float64)[rows[~own].reshape(n, count)].mean(axis=1)


def adjusted_rand(labels: np.ndarray, truth: np.ndarray) -> float:
    """Adjusted Rand index of two partitions: 1 when they are the same up to names, about 0 by chance.

    Parameters
    ----------
    labels, truth
        (N,) classes.
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(truth, labels))


def class_rand(z: np.ndarray, truth: np.ndarray, seed: int, flat: np.ndarray | None = None) -> float:
    """Adjusted Rand index between classes found in the latents and true classes, see `classes_in`."""
    rows, labels = classes_in(z, truth, seed, flat)
    return adjusted_rand(labels, truth[rows])


def classes_in(
    z: np.ndarray, truth: np.ndarray, seed: int, flat: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find classes in the latents (`classes.find_classes`); the truth only says how many to look for.

    Parameters
    ----------
    z
        (N, Z) latents.
    truth
        (N,) true classes.
    seed
        Of the draw and of the classes.
    flat
        (N, 2) the UMAP, where it has been made already with this seed.

    Returns
    -------
    tuple of arrays
        Rows that were looked at, at most 10,000, drawn at random, and the class of each.
    """
    rows = np.arange(len(z))
    if len(z) > SCORED:
        rows = np.random.default_rng(seed).choice(len(z), SCORED, replace=False)
    known = None if flat is None else flat[rows]
    found = find_classes(z[rows], len(np.unique(truth[rows])), seed, known)
    return rows, found.labels


def true_states(truth: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of a ground truth that say the state: without its map's file and the true pose."""
    other = [name for name in truth.columns if name in ("key", "map") or str(name).startswith("true_")]
    return truth.drop(columns=other)


def truth_scores(
    z: np.ndarray, truth: pd.DataFrame, seed: int, flat: np.ndarray | None = None
) -> dict[str, float]:
    """Score the latents against every column of a ground truth that varies.

    Parameters
    ----------
    z
        (N, Z) latents, Z >= 1.
    truth
        N rows; a column of floating-point numbers is a coordinate and gives `spearman_NAME`, one of whole
        numbers is a class and gives `ari_NAME`, by a mixture of as many Gaussians as there are classes.
    seed
        Seed of `class_rand`.
    flat
        (N, 2) the UMAP, where it has been made already with this seed.
    """
    once = np.sort(np.unique(z, axis=0, return_index=True)[1])  # images that share a latent count once
    z, flat = z[once], None if flat is None else flat[once]
    scores = {}
    for name, column in true_states(truth).items():
        values = column.to_numpy()[once]
        if values.dtype.kind == "f" and np.ptp(values) > 0:
            scores[f"spearman_{name}"] = spearman(z, values)
        elif values.dtype.kind in "iub" and np.ptp(values) > 0:
            scores[f"ari_{name}"] = class_rand(z, values, seed, flat)
    return scores


def fsc_area(a: np.ndarray, b: np.ndarray) -> float:
    """Mean of the Fourier shell correlation of two maps over the shells up to Nyquist, without the origin.

    1 for identical maps, about 0 for unrelated ones: one number that says which of two maps is closer.

    Parameters
    ----------
    a, b
        (D, D, D) maps on the same grid.
    """
    import torch

    from drgn.physics.fsc import fsc

    return float(fsc(torch.from_numpy(a), torch.from_numpy(b))[1:].mean())
