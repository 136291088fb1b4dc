"""Low-dimensional views of the latent space: principal components and UMAP (P15), and the z along them."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass

import numpy as np

from drgn.errors import InputError

PERCENTILES_1D = (5, 23, 41, 59, 77, 95)  # P19: where volumes are made along a one-dimensional latent


MOST_LAID_OUT = 100_000  # latents that UMAP lays out without landmarks
LANDMARKS = 50_000  # drawn from more
NEAREST_LANDMARKS = 5  # whose mean any other latent is put at
_CHUNK = 1 << 16  # latents at a time


@dataclass(frozen=True, eq=False)
class PCA:
    """Principal components of the latents.

    Attributes
    ----------
    mean
        (Z,) mean latent.
    components
        (P, Z) unit vectors, largest variance first; the largest entry of each is positive, so that the same
        latents always give the same signs.
    explained_variance_ratio
        (P,) share of the total variance along each component.
    coordinates
        (N, P) the particles in these axes.
    """

    mean: np.ndarray
    components: np.ndarray
    explained_variance_ratio: np.ndarray
    coordinates: np.ndarray

    def traverse(
        self, component: int, points: int = 5, low: float = 5.0, high: float = 95.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Points along one component, the others held at the mean (P18).

        Parameters
        ----------
        component
            Which one, counted from 0.
        points
            How many, equally spaced.
        low, high
            Percentiles of the particles' coordinate between which the points lie.

        Returns
        -------
        coordinates : (points,) array
            Where the points are on the component.
        z : (points, Z) float32 array
            The same points as latents.
        """
        ends = np.percentile(self.coordinates[:, component], [low, high])
        steps = np.linspace(ends[0], ends[1], points)
        z = self.mean + steps[:, None] * self.components[component]
        return steps, z.astype(np.float32)


def pca(z: np.ndarray) -> PCA:
    """Principal components of the latents, by the eigenvectors of their covariance (P15).

    Parameters
    ----------
    z
        (N, Z) latents, Z >= 1.

    Raises
    ------
    InputError
        When a latent is not finite.
    """
    z = np.asarray(z, np.float64)
    finite = np.isfinite(z).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{(~finite).sum()} of {len(z)} particles have a latent that is not finite (first: row "
            f"{np.flatnonzero(~finite)[0]}): the training diverged; train again with a lower learning rate."
        )
    mean = z.mean(axis=0)
    centred = z - mean  # (N, Z)
    variance, axes = np.linalg.eigh(centred.T @ centred / max(len(z) - 1, 1))
    components = axes.T[::-1]  # (Z, Z), largest variance first
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(len(components)), largest])[:, None]
    variance = np.clip(variance[::-1], 0, None)
    total = variance.sum()
    ratio = variance / total if total > 0 else np.zeros_like(variance)
    return PCA(mean, components, ratio, centred @ components.T)


def counts_along(coordinates: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """How many particles are nearest to each of several points on one axis.

    Parameters
    ----------
    coordinates
        (N,) the particles on that axis.
    steps
        (M,) the points, increasing.

    Returns
    -------
    (M,) int64 array; its sum is N.
    """
    between = (steps[1:] + steps[:-1]) / 2
    return np.bincount(np.searchsorted(between, coordinates), minlength=len(steps))


@dataclass(frozen=True, eq=False)
class UMAP:
    """A flat map of the latents.

    Attributes
    ----------
    coordinates
        (N, 2) float32, or (N, Z) when the latent itself has at most two dimensions.
    is_latent
        True when nothing was computed because the latent is already flat: `coordinates` is then z.
    """

    coordinates: np.ndarray
    is_latent: bool


def umap(z: np.ndarray, seed: int, n_neighbors: int = 15, min_dist: float = 0.1) -> UMAP:
    """UMAP of the latents with the paper's settings (P15); a latent of one or two dimensions stays as it is.

    Images that share one latent, such as those of one tilt series, count once, or their neighbours would be
    each other. Of more than 100,000 latents a draw of 50,000 landmarks is laid out, and every other latent is
    put at the mean of its nearest landmarks, weighted by the inverse distance.

    Parameters
    ----------
    z
        (N, Z) latents.
    seed
        Seed of the draw and of the layout; the same seed gives the same picture.
    n_neighbors, min_dist
        UMAP's own parameters; a set of fewer particles uses all of them as neighbours.
    """
    if z.shape[1] <= 2:
        return UMAP(np.asarray(z, np.float32), is_latent=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # its parametric variant would want Tensorflow
        from umap import UMAP as Layout

    import torch

    threads = torch.get_num_threads()
    distinct, row = np.unique(np.asarray(z, np.float32), axis=0, return_inverse=True)
    landmarks = distinct
    if len(distinct) > MOST_LAID_OUT:
        draw = np.random.default_rng(seed).choice(len(distinct), LANDMARKS, replace=False)
        landmarks = distinct[np.sort(draw)]
    layout = Layout(
        n_components=2,
        n_neighbors=min(n_neighbors, len(landmarks) - 1),
        min_dist=min_dist,
        random_state=seed,
        n_jobs=1,  # a fixed seed forbids threads; said here so that the library does not warn
        init="spectral"
        if len(landmarks) > 50
        else "random",  # the spectral start fails on a handful of points
        tqdm_kwds={"desc": "UMAP", "disable": not sys.stderr.isatty()},
    )
    laid_out = layout.fit_transform(landmarks)
    torch.set_num_threads(threads)  # numba set OpenMP's number, which torch shares, to that of the cores
    if landmarks is not distinct:
        laid_out = _placed(distinct, landmarks, laid_out)
    return UMAP(laid_out[row], is_latent=False)


def _placed(z: np.ndarray, landmarks: np.ndarray, laid_out: np.ndarray) -> np.ndarray:
    """Put each latent (N, Z) at the weighted mean of its nearest landmarks (M, Z), which lie at (M, 2)."""
    from rich.progress import track
    from scipy.spatial import cKDTree

    tree = cKDTree(landmarks)
    placed = np.empty((len(z), laid_out.shape[1]), np.float32)
    for start in track(range(0, len(z), _CHUNK), description="UMAP: latents between landmarks"):
        part = slice(start, start + _CHUNK)
        distance, near = tree.query(z[part], k=NEAREST_LANDMARKS)
        weight = 1 / np.maximum(distance, 1e-12)  # a landmark stays where it is
        weight /= weight.sum(axis=1, keepdims=True)
        placed[part] = np.einsum("nk,nkd->nd", weight, laid_out[near])
    return placed


def percentiles_1d(z: np.ndarray, percentiles: tuple[float, ...] = PERCENTILES_1D) -> np.ndarray:
    """Latents at percentiles of a one-dimensional latent (P19).

    Parameters
    ----------
    z
        (N, 1) latents.

    Returns
    -------
    (len(percentiles), 1) float32 array.
    """
    return np.percentile(z, percentiles, axis=0).astype(np.float32)
