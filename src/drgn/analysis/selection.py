"""Which particles: labels and choices, joined by the particle's key and never by a row number (P21)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drgn.errors import InputError
from drgn.formats.atomic import replacing
from drgn.formats.npz import read_npz

if TYPE_CHECKING:
    from drgn.analysis.clusters import Clusters
    from drgn.formats.particles import Particles

LABELS = "labels.npz"  # inside kmeansK/ of an analysis
EMBEDDING = "embedding.npz"  # of an analysis


def write_labels(
    path: Path, key: np.ndarray, clusters: Clusters, membership: np.ndarray | None = None
) -> None:
    """Write a partition: key and label of each particle, key and latent of each on-data centre.

    Parameters
    ----------
    path
        The .npz to write.
    key
        (N,) particle keys, in the order of `clusters.labels`.
    clusters
        The partition.
    membership
        (N, K) probabilities, see `clusters.membership`; None: they are not written.
    """
    more = {} if membership is None else {"membership": membership}
    with replacing(path) as temporary:
        np.savez(
            temporary,
            **more,
            key=np.asarray(key, np.str_),
            label=clusters.labels,
            centre_key=np.asarray(key, np.str_)[clusters.on_data_rows],
            centre_z=clusters.centres,
        )


def read_labels(path: Path, key: np.ndarray) -> np.ndarray:
    """Label of each particle from a file of keys and labels.

    Parameters
    ----------
    path
        A .npz with the arrays `key` and `label`, as `write_labels` makes it.
    key
        (N,) the particles asked about, in any order.

    Returns
    -------
    (N,) labels in the order of `key`.

    Raises
    ------
    InputError
        When the file is not such a file, or when it does not know a particle.
    """
    return _read_keyed(path, "label", key, "run drgn analyze again")


def read_partition(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Keys (N,) and labels (N,) of all particles in a file of labels, see `read_labels`."""
    return _read_arrays(path, "label")


def read_weights(path: Path, key: np.ndarray) -> np.ndarray:
    """Weight (N,) of each particle `key` (N,), from a .npz with the arrays `key` and `weight`.

    Raises
    ------
    InputError
        When the file is not such a file, does not know a particle, or has a weight that is no number of at
        least 0.
    """
    weight = _read_keyed(path, "weight", key, "make it for these").astype(np.float32)
    bad = ~((weight >= 0) & np.isfinite(weight))
    if bad.any():
        raise InputError(
            f"{path}: the weight of particle {key[bad][0]} is {weight[bad][0]:g}; expected at least 0."
        )
    return weight


def _read_keyed(path: Path, name: str, key: np.ndarray, remedy: str) -> np.ndarray:
    """Values of the particles `key` in a .npz with the arrays `key` and `name`."""
    known, values = _read_arrays(path, name)
    at, found = _find(known, key)
    if not found.all():
        raise InputError(
            f"{path} does not know {(~found).sum()} of {len(key)} particles (first: {key[~found][0]}); it "
            f"belongs to other particles: {remedy}."
        )
    return values[at]


def _read_arrays(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The arrays `key` and `name` of a .npz."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.")
    try:
        arrays = read_npz(path, ("key", name))
    except InputError as error:
        raise InputError(
            f"{path} is not a file of {name}s; expected a .npz with the arrays key and {name} ({error})"
        ) from None
    if len({array.shape[:1] for array in arrays.values()}) != 1 or arrays["key"].shape == ():
        raise InputError(f"{path}: its arrays key and {name} are not of the same particles.")
    return arrays["key"], arrays[name]


def by_key(values: np.ndarray, key: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Bring the rows of `values`, which belong to `key`, into the order of the keys `wanted`.

    Raises
    ------
    InputError
        When a wanted particle is not among `key`.
    """
    at, found = _find(key, wanted)
    if not found.all():
        raise InputError(
            f"{(~found).sum()} of {len(wanted)} particles have no latent (first: {wanted[~found][0]}); run "
            "drgn encode again."
        )
    return values[at]


def labels_of(folder: Path, k: int, labels: Path | None, key: np.ndarray) -> np.ndarray:
    """Cluster of each particle: of a file of labels where one is given, else as `labels_of_analysis`.

    Raises
    ------
    InputError
        As of these, or when a label is no whole number; names labels that are there.
    """
    if labels is None:
        return labels_of_analysis(folder, k, key)
    found = read_labels(labels, key)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        some = np.unique(found)[:5]
        there = ", ".join(map(str, some.tolist())) + (", ..." if found.size and len(some) == 5 else "")
        raise InputError(f"{labels} has the labels {there}; expected a whole number for each particle.")
    return found


def labels_of_analysis(folder: Path, k: int, key: np.ndarray) -> np.ndarray:
    """Cluster of each particle in the k-means of an analysis.

    Parameters
    ----------
    folder
        The folder that `drgn analyze` wrote.
    k
        Which k-means.
    key
        (N,) the particles asked about.

    Raises
    ------
    InputError
        When the analysis has no such k-means; the sentence names those it has.
    """
    path = folder / f"kmeans{k}" / LABELS
    if not path.is_file():
        there = sorted(int(p.parent.name[6:]) for p in folder.glob(f"kmeans*/{LABELS}"))
        have = f"it has kmeans={', '.join(map(str, there))}" if there else "it has none"
        command = f"drgn analyze {shlex.quote(f'run={_run_of(folder)}')} kmeans={k}"
        raise InputError(f"{folder} has no k-means with {k} clusters ({have}); run {command} first.")
    return read_labels(path, key)


def _run_of(analysis: Path) -> Path:
    """The run that an analysis is of: above it, or above drgn/ in a run of cryoDRGN."""
    foreign = analysis.parent.name == "drgn" and not (analysis.parent / "run.json").is_file()
    return analysis.parents[1] if foreign else analysis.parent


def column_of(particles: Particles, name: str) -> np.ndarray:
    """Values (N,) of a column of the particle table, or of the file that it came from (rlnClassNumber).

    Raises
    ------
    InputError
        When neither has such a column of single values.
    """
    if name in particles.table:
        return particles.table[name].to_numpy()
    rows = particles.with_rows().source.rows
    names = columns_of_file(rows)
    if name not in names:
        there = ", ".join([*names, *particles.table.columns])
        raise InputError(f"{particles.source.path} has no column {name} of single values; there are {there}.")
    return np.asarray(rows[name])


def columns_of_file(rows: Any) -> list[str]:
    """Names of the columns of single values in original rows: a frame, records or None."""
    if rows is None:
        return []
    names = rows.columns if hasattr(rows, "columns") else rows.dtype.names or ()
    return [str(name) for name in names if np.ndim(rows[name]) == 1]


def umap_of_analysis(folder: Path, key: np.ndarray) -> np.ndarray | None:
    """UMAP (N, 2) of the particles `key` in an analysis; None where it made none, or of other particles.

    A latent of two dimensions has none: what an analysis may have written as such is the latent itself.
    """
    path = folder / EMBEDDING
    if not path.is_file():
        return None
    arrays = read_npz(path)
    umap, known = arrays.get("umap"), arrays.get("key")
    if umap is None or known is None or umap.shape != (len(known), 2) or umap.dtype.kind != "f":
        return None
    if arrays.get("pca", umap[:, :0]).shape[1:] == (2,):
        return None
    at, found = _find(known, key)
    return umap[at] if found.all() else None


def in_clusters(labels: np.ndarray, clusters: list[int]) -> np.ndarray:
    """Mask (N,) of the particles in any of the clusters.

    Raises
    ------
    InputError
        When a number is not that of a cluster.
    """
    unknown = sorted(set(clusters) - set(labels.tolist()))
    if unknown:
        raise InputError(
            f"clusters: {', '.join(map(str, unknown))} is not one of the clusters, which are "
            f"numbered from 0 to {labels.max()}."
        )
    return np.isin(labels, clusters)


def within_norm(z: np.ndarray, max_z_norm: float) -> np.ndarray:
    """Mask (N,) of the particles whose latent (N, Z) is at most this far from the origin."""
    return np.linalg.norm(z, axis=1) <= max_z_norm


def within_range(z: np.ndarray, between: Sequence[float]) -> np.ndarray:
    """Mask (N,) of the particles whose latent (N, 1) is in a range [low, high], ends included.

    Raises
    ------
    InputError
        When the latent has more dimensions, or the range is none.
    """
    if z.shape[1] != 1:
        raise InputError(
            f"z_between is for a latent of one dimension, and this one has {z.shape[1]}; use max_z_norm,"
            " clusters or indices."
        )
    if len(between) != 2 or not between[0] < between[1]:
        raise InputError(f"z_between={list(between)}: expected two numbers, the lower one first.")
    return (z[:, 0] >= between[0]) & (z[:, 0] <= between[1])


def within_loss(loss: np.ndarray, percentile: float) -> np.ndarray:
    """Mask (N,) of the particles whose loss (N,) is at most this percentile of all.

    Raises
    ------
    InputError
        When the percentile is none, or the losses are not known.
    """
    if not 0 < percentile <= 100:
        raise InputError(f"max_loss_percentile={percentile:g}: expected a number above 0 and up to 100.")
    if not np.isfinite(loss).all():
        raise InputError("max_loss_percentile: this run does not say how well each image is explained.")
    return loss <= np.percentile(loss, percentile)


def choose(masks: Sequence[np.ndarray], invert: bool, any_of: bool = False) -> np.ndarray:
    """Rows of the particles that every mask keeps (or any of them does), or of all others.

    Raises
    ------
    InputError
        When nothing is left.
    """
    kept = (np.logical_or if any_of else np.logical_and).reduce(masks)
    rows = np.flatnonzero(~kept if invert else kept)
    if not len(rows):
        raise InputError(f"The selection keeps none of the {len(kept)} particles; ask for less.")
    return rows


def _find(known: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row of each wanted key among the known ones, and whether it is there."""
    if not len(known):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    known, wanted = np.asarray(known, np.str_), np.asarray(wanted, np.str_)
    order = np.argsort(known)
    at = order[np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)]
    return at, known[at] == wanted
