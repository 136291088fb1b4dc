"""The landscape of a run in the space of its maps: clusters of maps, and where every particle is among them.

A latent is bent and stretched as training pleased; the space of maps is not. A sketch of maps is described by
volume principal components and clustered; a regression learnt on the sketch gives the coordinates of all
particles. (cryoDRGN's analyze_landscape and analyze_landscape_full have the same purpose.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from drgn.errors import InputError

MOST_CLUSTERS = 20
AS_GOOD = 0.02  # of silhouette: of numbers of clusters about as good, the largest is taken
HELD_OUT = 0.2  # of the sketch, for the choice of the regression
_CELLS = 100  # of the density, each way
CAVEAT = (
    "This is -log of the density of the particles' estimated coordinates, not a physical free energy: the "
    "density "
    "depends on which particles were picked and kept, on noise and on how the network places them (P14)."
)


class Clustering(NamedTuple):
    """Clusters of maps.

    Attributes
    ----------
    labels
        (M,) int64, from 0 by falling number of particles.
    silhouette
        Mean silhouette of each number of clusters that was tried.
    """

    labels: np.ndarray
    silhouette: dict[int, float]


def cluster(coordinates: np.ndarray, weights: np.ndarray, n: int | None) -> Clustering:
    """Ward's agglomerative clustering of maps.

    Parameters
    ----------
    coordinates
        (M, C) volume principal components.
    weights
        (M,) particles that each map stands for; they only order the clusters.
    n
        Number of clusters; None: the largest of 2 to 20 whose mean silhouette is within 0.02 of the highest.

    Raises
    ------
    InputError
        When there are not more maps than clusters.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from sklearn.metrics import silhouette_score

    m = len(coordinates)
    if n is not None and not 1 <= n < m:
        raise InputError(f"clusters={n}: expected from 1 to {m - 1}, less than the maps of the sketch.")
    tree = linkage(coordinates, method="ward")
    tried = {}
    for k in range(2, min(MOST_CLUSTERS, m - 1) + 1):
        labels = fcluster(tree, k, "maxclust")
        if len(np.unique(labels)) > 1:
            tried[k] = float(silhouette_score(coordinates, labels))
    if n is None:
        best = max(tried.values(), default=0.0)
        n = max((k for k, value in tried.items() if value >= best - AS_GOOD), default=1)
    labels = fcluster(tree, n, "maxclust") - 1
    particles = np.bincount(labels, weights)
    rank = np.empty(len(particles), np.int64)
    rank[np.argsort(-particles, kind="stable")] = np.arange(len(particles))
    return Clustering(rank[labels], tried)


def mean_and_spread(maps: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (D, D, D) of maps (M, D, D, D), each counted by its particles (M,)."""
    share = (weights / weights.sum()).astype(np.float32)
    mean = np.tensordot(share, maps, 1)
    variance = sum(s * (volume - mean) ** 2 for s, volume in zip(share, maps, strict=True))
    return mean, np.sqrt(variance)


@dataclass(frozen=True, eq=False)
class Mapping:
    """From latents to volume principal components.

    Attributes
    ----------
    name
        Of the regression chosen.
    scores
        R^2 of each regression on the held-out part of the sketch, all components together by their variance.
    by_component
        (C,) R^2 of the chosen one.
    held_out
        (H, C) true and (H, C) predicted coordinates.
    predict
        (N, Z) latents to (N, C) coordinates; learnt from the whole sketch.
    """

    name: str
    scores: dict[str, float]
    by_component: np.ndarray
    held_out: tuple[np.ndarray, np.ndarray]
    predict: Any


def learn(z: np.ndarray, coordinates: np.ndarray, seed: int) -> Mapping:
    """Learn where a particle is among the maps from its latent, by the best of three regressions.

    A perceptron, a Gaussian process and the five nearest neighbours are learnt on four fifths of the sketch
    and compared on the rest.

    Parameters
    ----------
    z, coordinates
        (M, Z) latents of the sketch and (M, C) its volume principal components.
    seed
        Of the split and of the perceptron.
    """
    from warnings import catch_warnings, simplefilter

    from sklearn.base import clone
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, WhiteKernel
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scale = max(float(coordinates.std()), 1e-12)
    target = coordinates / scale
    order = np.random.default_rng(seed).permutation(len(z))
    n_held = max(1, round(HELD_OUT * len(z)))
    held, kept = order[:n_held], order[n_held:]
    kernel = RBF(np.sqrt(z.shape[1]), (0.1, 1e3)) + WhiteKernel(1e-3, (1e-8, 1))
    models = {
        "perceptron": MLPRegressor(
            hidden_layer_sizes=(128, 128), solver="lbfgs", max_iter=500, alpha=1e-3, random_state=seed
        ),
        "Gaussian process": GaussianProcessRegressor(kernel, normalize_y=True),
        "nearest neighbours": KNeighborsRegressor(min(5, len(kept)), weights="distance"),
    }
    models = {name: make_pipeline(StandardScaler(), model) for name, model in models.items()}

    def fitted(name: str, rows: np.ndarray) -> Any:
        with catch_warnings():
            simplefilter("ignore", ConvergenceWarning)  # the held-out score says whether it is good enough
            return clone(models[name]).fit(z[rows], target[rows])

    found = {name: fitted(name, kept).predict(z[held]).reshape(n_held, -1) for name in models}
    truth = target[held]
    spread = ((truth - target[kept].mean(axis=0)) ** 2).sum(axis=0)
    lost = {name: ((truth - guess) ** 2).sum(axis=0) for name, guess in found.items()}
    scores = {name: 1 - float(loss.sum() / max(spread.sum(), 1e-12)) for name, loss in lost.items()}
    best = max(scores, key=lambda name: scores[name])
    final = fitted(best, order)

    def predict(points: np.ndarray) -> np.ndarray:
        parts = np.array_split(points, max(1, len(points) // 20_000))
        return scale * np.concatenate([final.predict(part).reshape(len(part), -1) for part in parts])

    return Mapping(
        best,
        scores,
        1 - lost[best] / np.maximum(spread, 1e-12),
        (scale * truth, scale * found[best]),
        predict,
    )


def free_energy_like(xy: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """-log(density / highest density) of points (N, 2), on a grid; see `CAVEAT`.

    Returns
    -------
    (100, 100) values in units of kT as they would be for a density in equilibrium, row 0 at the lowest second
    coordinate, nan where a cell and its surroundings have no particle; and (left, right, bottom, top).
    """
    from scipy.ndimage import gaussian_filter

    low, high = xy.min(axis=0), xy.max(axis=0)
    margin = 0.08 * np.maximum(high - low, 1e-9)
    low, high = low - margin, high + margin
    counts, _, _ = np.histogram2d(*xy.T, bins=_CELLS, range=list(zip(low, high, strict=True)))
    width = max(1.0, 0.5 * len(xy) ** (-1 / 6) * _CELLS / 4)  # Silverman's rule, for a cloud of 4 sd
    density = gaussian_filter(counts, width).T
    least = 0.25 / (2 * np.pi * width**2)  # a quarter of what one particle gives to its own cell
    values = np.where(density > least, -np.log(np.maximum(density, least) / density.max()), np.nan)
    return values, (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
