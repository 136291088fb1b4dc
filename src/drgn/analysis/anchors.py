"""The points that a path through the latent space shall go through, from what a person gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from drgn.analysis.clusters import on_data_mean
from drgn.analysis.points import from_list
from drgn.analysis.selection import labels_of_analysis, read_labels
from drgn.errors import InputError


class Anchors(NamedTuple):
    """z: (A, Z) float32 latents. row: (A,) int64, the particle that each is the latent of, or -1."""

    z: np.ndarray
    row: np.ndarray


def find(
    z: np.ndarray,
    key: np.ndarray,
    analysis: Path,
    *,
    anchors: list[Any] | None,
    kmeans: int | None,
    labels: Path | None,
    pathway: list[Any] | None,
    random: int | None,
    seed: int,
) -> Anchors:
    """Anchors that exactly one of anchors, kmeans, labels and random names.

    Parameters
    ----------
    z, key
        (N, Z) latents and (N,) keys of the particles.
    analysis
        The folder that `drgn analyze` wrote, for kmeans.
    anchors
        Each a row of the particles (whole number), a key (text) or a latent (list of Z numbers).
    kmeans
        Which k-means of the analysis; the anchors are the on-data centres of its clusters (P16).
    labels
        A .npz with the arrays key and label; the anchors are the on-data means of the classes (P17).
    pathway
        Which clusters or labels, in which order; None: all, in theirs.
    random
        So many particles, drawn with the seed.
    seed
        Of that draw.

    Raises
    ------
    InputError
        When not exactly one is given, when one is not found, or when there are fewer than two.
    """
    given = {"anchors": anchors, "kmeans": kmeans, "labels": labels, "random": random}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        what = f"{' and '.join(named)} are given" if named else "none is given"
        raise InputError(f"This path needs exactly one of {', '.join(given)}; {what}.")
    if pathway is not None and kmeans is None and labels is None:
        raise InputError("pathway is the order of clusters or labels; give kmeans or labels with it.")
    if anchors is not None:
        found = _named(anchors, z, key)
    elif random is not None:
        if not 2 <= random <= len(z):
            raise InputError(f"random={random}: expected from 2 to {len(z)}, the number of particles.")
        rows = np.random.default_rng(seed).choice(len(z), random, replace=False)
        found = Anchors(np.asarray(z[rows], np.float32), rows)
    else:
        if kmeans is not None:
            classes = labels_of_analysis(analysis, kmeans, key)
        else:
            assert labels is not None
            classes = read_labels(labels, key)
        rows = on_data_mean(z, classes)
        if pathway is not None:
            rows = rows[_in_order(pathway, np.unique(classes))]
        found = Anchors(np.asarray(z[rows], np.float32), rows)
    if len(found.row) < 2:
        raise InputError(f"{named[0]} names {len(found.row)} anchor; a path needs at least two.")
    return found


def snapped(found: Anchors, z: np.ndarray) -> np.ndarray:
    """Row (A,) of each anchor, or of the particle nearest to it where it is no particle's latent."""
    return np.array(
        [
            row if row >= 0 else np.linalg.norm(z - point, axis=1).argmin()
            for point, row in zip(found.z, found.row, strict=True)
        ],
        np.int64,
    )


def _named(anchors: list[Any], z: np.ndarray, key: np.ndarray) -> Anchors:
    """Anchors that a list names one by one."""
    zdim = z.shape[1]
    points, rows = [], []
    for number, anchor in enumerate(anchors):
        if isinstance(anchor, list | tuple) or (isinstance(anchor, float) and zdim == 1):
            point = [anchor] if isinstance(anchor, float) else list(anchor)
            if len(point) != zdim:
                raise InputError(
                    f"anchors: number {number}, {point}, has {len(point)} numbers, but the latent "
                    f"of this run has {zdim} dimension{'s' * (zdim != 1)}."
                )
            points.append(from_list([point], zdim)[0])
            rows.append(-1)
        else:
            rows.append(_row(number, anchor, key))
            points.append(z[rows[-1]])
    return Anchors(np.array(points, np.float32).reshape(-1, zdim), np.array(rows, np.int64))


def _row(number: int, anchor: Any, key: np.ndarray) -> int:
    """Particle of one anchor: a row, or a key (a cryoSPARC uid is written like a number)."""
    if isinstance(anchor, int) and not isinstance(anchor, bool) and 0 <= anchor < len(key):
        return anchor
    at = np.flatnonzero(key == str(anchor)) if isinstance(anchor, int | str) else []
    if len(at) == 0:
        raise InputError(
            f"anchors: number {number}, {anchor}, is no particle; give a row from 0 to {len(key) - 1}, a key "
            f"as {key[0]}, or a latent as a list of numbers."
        )
    return int(at[0])


def _in_order(pathway: list[Any], known: np.ndarray) -> list[int]:
    """Place of each entry of a pathway among the sorted labels."""
    names = [str(label) for label in known]
    for entry in pathway:
        if str(entry) not in names:
            there = ", ".join(names[:20]) + ", ..." * (len(names) > 20)
            raise InputError(f"pathway: {entry} is not there; there are {there}.")
    return [names.index(str(entry)) for entry in pathway]
