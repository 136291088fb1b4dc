"""The particles behind a state: a cluster, a selection, or the neighbours of a point of the latent.

N images, Z dimensions of the latent. The images of one physical particle share their latent and count once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drgn.analysis import points
from drgn.analysis.clusters import on_data_mean
from drgn.analysis.selection import by_key, in_clusters, labels_of
from drgn.errors import InputError

if TYPE_CHECKING:
    from drgn.formats.particles import Particles
    from drgn.run import Run

_LEAST = 1e-3  # of the largest weight, below which a neighbour is left out


@dataclass(frozen=True, eq=False)
class State:
    """Particles, and where in the latent their map is decoded.

    Attributes
    ----------
    title
        For people.
    name
        Of its folder.
    z
        (Z,) float32.
    weight
        (N,) float32, of each image of the table; 0 where it does not belong to the state.
    kernel_width
        Standard deviation of the Gaussian that made the weights, in units of z; None: they are 0 and 1.
    """

    title: str
    name: str
    z: np.ndarray
    weight: np.ndarray
    kernel_width: float | None = None


def choose(
    run: Run,
    particles: Particles,
    group: np.ndarray,
    *,
    clusters: list[int] | None,
    kmeans: int,
    labels: Path | None,
    indices: Path | None,
    z: list[Any] | None,
    z_file: Path | None,
    n_effective: float | None,
) -> tuple[list[State], str]:
    """The states that a person asks for, and a name for them together.

    Parameters
    ----------
    run, particles
        The run and its table.
    group
        (N,) physical particle of each image.
    clusters, kmeans, labels, indices, z, z_file, n_effective
        As of the verb validate; at most one of clusters, indices, z and z_file.

    Raises
    ------
    InputError
        What is asked for is not there, or does not fit the run.
    """
    key = particles.table["key"].to_numpy(str)
    latents = run.latents()
    latent = by_key(latents.z, latents.key, key)
    if indices is not None:
        return [of_rows(latent, particles.rows_of(indices), indices.name)], "selection"
    if z is None and z_file is None:
        label = labels_of(run.path / "analysis", kmeans, labels, key)
        name = f"kmeans{kmeans}" if labels is None else labels.resolve().parent.name or labels.stem
        return of_clusters(latent, label, clusters), name
    at = points.from_list(z, run.zdim) if z is not None else points.from_file(z_file, run.zdim)
    n_particles = len(np.unique(group))
    wanted = min(2000, n_particles / 10) if n_effective is None else n_effective
    digits = len(str(len(at) - 1))
    return [of_point(latent, group, p, wanted, f"z_{i:0{digits}d}") for i, p in enumerate(at)], "z"


def of_clusters(z: np.ndarray, labels: np.ndarray, clusters: Sequence[int] | None) -> list[State]:
    """Each of these clusters as a state, decoded at its on-data centre (P17).

    Parameters
    ----------
    z
        (N, Z) latents.
    labels
        (N,) cluster of each image.
    clusters
        Which; None: all.

    Raises
    ------
    InputError
        There is no such cluster, or none is named.
    """
    chosen = np.unique(labels[labels >= 0]).tolist() if clusters is None else list(clusters)
    if not chosen:
        raise InputError("clusters=[] names none; give at least one, or leave it out for all of them.")
    in_clusters(labels, chosen)  # says which are not there
    digits = len(str(max(chosen)))
    return [_selected(z, labels == i, f"cluster {i}", f"cluster_{i:0{digits}d}") for i in chosen]


def of_rows(z: np.ndarray, rows: np.ndarray, title: str) -> State:
    """Images (M,) as one state, decoded at the latent of the one nearest to their mean."""
    mask = np.zeros(len(z), bool)
    mask[rows] = True
    if not mask.any():
        raise InputError(f"{title} selects no particle; select some.")
    return _selected(z, mask, title, "selection")


def of_point(z: np.ndarray, group: np.ndarray, point: np.ndarray, n_effective: float, name: str) -> State:
    """The neighbours of a point, weighted by a Gaussian of their distance, as a state decoded at the point.

    Parameters
    ----------
    z
        (N, Z) latents.
    group
        (N,) physical particle of each image.
    point
        (Z,).
    n_effective
        (sum w)^2 / sum w^2 over the particles, which sets the width of the Gaussian.
    name
        Of its folder.

    Raises
    ------
    InputError
        More particles are asked for than there are, or fewer than 4.
    """
    _, first, particle = np.unique(group, return_index=True, return_inverse=True)
    weight, width = neighbours(z[first], point, n_effective)
    title = f"z = [{', '.join(f'{value:.3g}' for value in point)}]"
    return State(title, name, np.asarray(point, np.float32), weight[particle], width)


def neighbours(z: np.ndarray, point: np.ndarray, n_effective: float) -> tuple[np.ndarray, float]:
    """Gaussian weights (N,) float32, 1 at most, of which `n_effective` count, and the Gaussian's width.

    The distance of the nearest is taken from all, so that a point far from the data has its nearest
    neighbours, and weights below a thousandth are 0.
    """
    if not 4 <= n_effective <= 0.9 * len(z):
        raise InputError(
            f"n_effective={n_effective:g}: expected from 4 to nine tenths of the particles,"
            f" {0.9 * len(z):.0f}."
        )
    distance2 = ((np.asarray(z, np.float64) - np.asarray(point, np.float64)) ** 2).sum(axis=1)
    distance2 -= distance2.min()

    def weights(log_width: float) -> np.ndarray:
        weight = np.exp(-distance2 / (2 * np.exp(2 * log_width)))
        return np.where(weight < _LEAST, 0.0, weight)

    scale = np.log(np.sqrt(distance2.max() or 1.0))
    low, high = scale - 20, scale + 5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if effective(weights(middle)) < n_effective else (low, middle)
    return weights(high).astype(np.float32), float(np.exp(high))


def effective(weight: np.ndarray) -> float:
    """Return (sum w)^2 / sum w^2: as many particles of equal weight carry as much noise."""
    return float(weight.sum(dtype=np.float64) ** 2 / np.square(weight, dtype=np.float64).sum())


def _selected(z: np.ndarray, mask: np.ndarray, title: str, name: str) -> State:
    rows = np.flatnonzero(mask)
    centre = rows[on_data_mean(z[rows], np.zeros(len(rows), np.int64))[0]]
    return State(title, name, np.asarray(z[centre], np.float32), mask.astype(np.float32))
