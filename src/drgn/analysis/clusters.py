"""Regions of the latent space, each with a real particle at its centre (P16, P17)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drgn.analysis.embedding import pca
from drgn.errors import InputError

MAX_COMPONENTS = 8  # largest mixture tried when its size is chosen
STARTED = 100_000  # most latents that k-means is started on ten times
_DRAWS = 64  # of each particle's posterior
_CHUNK = 1 << 16  # particles at a time
MOST_HELD_OUT = 20  # largest mixture tried on held-out particles
_PATIENCE = 3  # sizes without a gain after which no larger one is tried
FITTED = 10_000  # most particles that a mixture is fitted to; the others are then assigned


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of the particles.

    Attributes
    ----------
    labels
        (N,) int64, the cluster of each particle, 0 to k - 1; -1 in none.
    on_data_rows
        (k,) int64, the row of the member nearest (Euclidean) to each cluster's mean. A volume is made there,
        not at the mean, because the mean may lie where no particle is.
    centres
        (k, Z) float32, the latents of those rows.
    """

    labels: np.ndarray
    on_data_rows: np.ndarray
    centres: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """(k,) number of particles in each cluster."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.on_data_rows))


def most(z: np.ndarray) -> int:
    """Count the different latents in (N, Z), Z >= 1: there are no more clusters of them."""
    return len(np.unique(z, axis=0))


def kmeans(z: np.ndarray, k: int, seed: int) -> Clusters:
    """k-means with on-data centres, neighbouring clusters next to each other (P16).

    The best of ten starts; of more than 100,000 latents, ten on a draw of so many, from the best of which
    all are parted.

    Parameters
    ----------
    z
        (N, Z) latents, Z >= 1.
    k
        Number of clusters.
    seed
        The same seed gives the same clusters in the same order.

    Raises
    ------
    InputError
        When there are fewer different latents than clusters.
    """
    from sklearn.cluster import KMeans

    different = most(z)
    if not 1 <= k <= different:
        raise InputError(
            f"kmeans={k}: the number of clusters must be between 1 and the number of different latents, "
            f"{different}."
        )
    z64 = np.asarray(z, np.float64)
    rows = slice(None)
    if len(z) > STARTED:
        rows = np.random.default_rng(seed).choice(len(z), STARTED, replace=False)
    fit = KMeans(n_clusters=k, n_init=10, random_state=seed).fit(z64[rows])
    if len(z) > STARTED:
        fit = KMeans(n_clusters=k, init=fit.cluster_centers_, n_init=1, random_state=seed).fit(z64)
    return ordered(z, fit.labels_)


def gaussian_mixture(z: np.ndarray, seed: int, n: int | None = None) -> Clusters:
    """Mixture of Gaussians with full covariances; each particle goes to its most probable component.

    The latents are whitened first, so that the fit does not depend on their scale, and the most likely of
    several fits started from k-means and from random particles is kept: a k-means start alone tends to cut
    an elongated cluster in two.

    Parameters
    ----------
    z
        (N, Z) latents, Z >= 1.
    seed
        The same seed gives the same components.
    n
        Number of components; None: see `held_out_components`.

    Raises
    ------
    InputError
        When there are too few particles for so many components.
    """
    n = held_out_components(z, seed) if n is None else n
    return ordered(z, responsibilities(z, seed, [n]).argmax(axis=1))


def held_out_components(z: np.ndarray, seed: int, most: int = MOST_HELD_OUT) -> int:
    """Smallest mixture whose likelihood of particles that it was not fitted to is that of the best.

    Mixtures of 1, 2, ... Gaussians are fitted to four fifths of the particles (at most 10,000) until three in
    a row are no better than the best; taken is the smallest within one standard error of the best.

    Parameters
    ----------
    z
        (N, Z) latents, Z >= 1.
    seed
        Of the draw and of the fits.
    most
        Largest size tried.
    """
    white = _whiten(z)
    rows = np.random.default_rng(seed).permutation(len(white))[: FITTED * 5 // 4]
    held, fitted = np.split(white[rows], [len(rows) // 5])
    logs: list[np.ndarray] = []
    for n in range(1, most + 1):
        if logs and n * (white.shape[1] + 2) > len(fitted):
            break
        logs.append(_mixture(fitted, n, seed, starts=3).score_samples(held))
        best = int(np.argmax([log.mean() for log in logs]))
        if len(logs) - 1 - best >= _PATIENCE:
            break
    worse = [logs[best] - log for log in logs]
    near = [d.mean() <= d.std() / np.sqrt(len(d)) for d in worse]
    return near.index(True) + 1


def hdbscan(z: np.ndarray, smallest: int, seed: int) -> Clusters:
    """Groups of any shape with fewer particles between them (HDBSCAN); what is in none is an outlier.

    Above 10,000 particles a draw of them is clustered, and every other particle is given what its nearest
    neighbour in the draw has.

    Parameters
    ----------
    z
        (N, Z) latents, Z >= 1.
    smallest
        Particles of the smallest group.
    seed
        Of the draw.

    Raises
    ------
    InputError
        When there is no group of so many particles, or the number is out of range.
    """
    from scipy.spatial import cKDTree
    from sklearn.cluster import HDBSCAN

    if not 2 <= smallest <= len(z):
        raise InputError(f"smallest={smallest}: expected 2 to the number of particles, {len(z)}.")
    rows = np.arange(len(z))
    if len(z) > FITTED:
        rows = np.random.default_rng(seed).choice(len(z), FITTED, replace=False)
    share = len(rows) / len(z)
    model = HDBSCAN(min_cluster_size=max(5, round(share * smallest)), copy=True)
    labels = model.fit_predict(z[rows])
    if (labels < 0).all():
        raise InputError(
            f"smallest={smallest}: HDBSCAN finds no groups of so many particles; ask for smaller ones, or"
            " take by=gmm"
        )
    if len(rows) < len(z):
        labels = labels[cKDTree(z[rows]).query(z)[1]]
    return ordered(z, labels)


def responsibilities(z: np.ndarray, seed: int, sizes: Sequence[int] | None) -> np.ndarray:
    """Probability of each component of the mixture whose size has the lowest criterion.

    Parameters
    ----------
    z
        (N, Z) latents, Z >= 1.
    seed
        The same seed gives the same components.
    sizes
        Numbers of components to try; None: 1 to 8. Sizes with too few particles for them are left out.

    Returns
    -------
    (N, n) array whose rows sum to 1.

    Raises
    ------
    InputError
        When there are too few particles even for the smallest size.
    """
    white = _whiten(z)
    sizes = sizes or range(1, MAX_COMPONENTS + 1)
    smallest = min(sizes)
    if not 1 <= smallest <= len(z) // 2:
        raise InputError(
            f"A mixture of {smallest} Gaussians needs at least {2 * smallest} particles; there are {len(z)}."
        )
    rng = np.random.default_rng(seed)
    sample = white if len(white) <= FITTED else white[rng.choice(len(white), FITTED, replace=False)]
    fits = [_mixture(sample, n, seed) for n in sizes if n == smallest or n * (white.shape[1] + 2) <= len(z)]
    return min(fits, key=lambda fit: fit.bic(sample)).predict_proba(white)


def membership(z: np.ndarray, logvar: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Probability that each particle belongs to each cluster, its latent being known within its posterior.

    The share of draws from the particle's posterior that lie nearest to the mean of a cluster: a particle
    between two k-means clusters is in either with some probability.

    Parameters
    ----------
    z, logvar
        (N, Z), mean and log-variance of the latents.
    labels
        (N,) int, 0 to K - 1, from k-means.
    seed
        Of the draws.

    Returns
    -------
    (N, K) float32, rows add up to 1.
    """
    k = int(labels.max()) + 1
    centres = np.stack([z[labels == i].mean(0) for i in range(k)]).astype(np.float32)
    generator = np.random.default_rng(seed)
    shares = np.zeros((len(z), k), np.float32)
    for start in range(0, len(z), _CHUNK):
        part = slice(start, start + _CHUNK)
        rows = np.arange(len(z[part]))
        for _ in range(_DRAWS):
            drawn = z[part] + np.exp(0.5 * logvar[part]) * generator.standard_normal(
                z[part].shape, np.float32
            )
            distance2 = (centres**2).sum(1) - 2 * drawn @ centres.T
            shares[part][rows, distance2.argmin(1)] += 1 / _DRAWS
    return shares


def on_data_mean(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Row of the particle nearest to the mean of each class, looked for within the class (P17).

    Parameters
    ----------
    z
        (N, Z) latents.
    labels
        (N,) class of each particle; any values that sort.

    Returns
    -------
    (number of classes,) int64 array of rows, in the order of `np.unique(labels)`.
    """
    z = np.asarray(z, np.float64)
    rows = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        distance2 = ((z[members] - z[members].mean(axis=0)) ** 2).sum(axis=1)
        rows.append(members[distance2.argmin()])
    return np.array(rows, np.int64)


def ordered(z: np.ndarray, labels: np.ndarray) -> Clusters:
    """Number clusters along the leaves of their average-linkage tree and find their on-data centres (P16).

    Parameters
    ----------
    z
        (N, Z) latents.
    labels
        (N,) cluster of each particle; any whole numbers, below 0: in none.
    """
    inside = np.flatnonzero(labels >= 0)
    rows = inside[on_data_mean(z[inside], labels[inside])]
    order = _leaf_order(np.asarray(z[rows], np.float64))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    _, dense = np.unique(labels[inside], return_inverse=True)  # a mixture may leave a component empty
    rows = rows[order]
    numbers = np.full(len(labels), -1, np.int64)
    numbers[inside] = rank[dense]
    return Clusters(numbers, rows, np.asarray(z[rows], np.float32))


def _leaf_order(centres: np.ndarray) -> np.ndarray:
    """Order (k, Z) centres by hierarchical clustering, starting from the low end of their main axis."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(centres) < 2:
        return np.arange(len(centres))
    order = leaves_list(linkage(centres, method="average", metric="euclidean", optimal_ordering=True))
    along = pca(centres).coordinates[order, 0]
    return order if along @ np.arange(len(order)) >= 0 else order[::-1]


def _whiten(z: np.ndarray) -> np.ndarray:
    """Coordinates of unit variance, (N, <=Z); directions without variance (collapsed latents) are dropped."""
    axes = pca(z)
    scale = axes.coordinates.std(axis=0)
    used = scale > 1e-6 * max(scale.max(), np.finfo(float).tiny)
    return axes.coordinates[:, used] / scale[used] if used.any() else np.zeros((len(z), 1))


def _mixture(white: np.ndarray, n: int, seed: int, starts: int = 8):  # noqa: ANN202  (sklearn is imported inside)
    """Return the most likely of the fits from both kinds of start."""
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    fits = [
        GaussianMixture(
            n, covariance_type="full", n_init=starts, max_iter=500, init_params=start, random_state=seed
        )
        for start in ("kmeans", "random_from_data")
    ]
    with threadpool_limits(1):  # many small matrix products, which threads only slow down
        return max((fit.fit(white) for fit in fits), key=lambda fit: fit.score(white))
