"""The latents at which volumes are wanted, from what a person gives."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drgn.analysis import clusters
from drgn.analysis.selection import read_labels
from drgn.errors import InputError
from drgn.formats.npz import read_npy

if TYPE_CHECKING:
    from drgn.run import Run


def wanted(
    run: Run,
    *,
    z: list[Any] | None,
    z_file: Path | None,
    kmeans: int | None,
    labels: Path | None,
    particles: list[str] | None,
    seed: int,
) -> np.ndarray:
    """Latents (M, Z) that exactly one of the five arguments names; (1, 0) for a run without a latent.

    Raises
    ------
    InputError
        When none or several are given, or when one does not fit the run.
    """
    given = {"z": z, "z_file": z_file, "kmeans": kmeans, "labels": labels, "particles": particles}
    named = [name for name, value in given.items() if value is not None]
    zdim = run.zdim
    if zdim == 0:
        if named:
            raise InputError(f"{run.path} has no latent (latent=none) and one volume; leave out {named[0]}.")
        return np.zeros((1, 0), np.float32)
    if len(named) != 1:
        what = f"{' and '.join(named)} are given" if named else "none is given"
        raise InputError(f"generate needs exactly one of {', '.join(given)}; {what}.")
    if z is not None:
        return from_list(z, zdim)
    if z_file is not None:
        return from_file(z_file, zdim)
    latents = run.latents()
    if particles is not None:
        return latents.z[rows_of(latents.key, particles)]
    if kmeans is not None:
        return clusters.kmeans(latents.z, kmeans, seed).centres
    assert labels is not None
    return latents.z[clusters.on_data_mean(latents.z, read_labels(labels, latents.key))]


def named(way: str, z: np.ndarray) -> str:
    """Name of a folder for maps at latents (M, Z) that were chosen in some way: kmeans5, z_0.1_-1.2, map.

    Latents of many numbers are named by their hash.
    """
    if not z.size:
        return "map"
    if way.startswith("kmeans"):
        return way
    numbers = "_".join(f"{value:.6g}" for value in z.ravel())
    return f"{way}_{numbers if len(numbers) <= 40 else hashlib.sha256(numbers.encode()).hexdigest()[:8]}"


def rows_of(key: np.ndarray, particles: list[str]) -> np.ndarray:
    """Rows (M,) of particles in the run's keys (N,).

    Raises
    ------
    InputError
        One is not among them.
    """
    where = {name: row for row, name in enumerate(key.tolist())}
    missing = [name for name in particles if str(name) not in where]
    if missing or not particles:
        raise InputError(
            f"particles={particles}: {missing[0] if missing else 'none'} is no particle of this run; their"
            f" keys are like {key[0]}, as latents.npz has them."
        )
    return np.array([where[str(name)] for name in particles])


def from_list(z: list[Any], zdim: int) -> np.ndarray:
    """Latents from one list of numbers, or from a list of such lists.

    Parameters
    ----------
    z
        [0.1, -1.2] is one point of a two-dimensional latent; with zdim = 1 each number is a point.
    zdim
        Dimension of the run's latent.

    Returns
    -------
    (M, zdim) float32 array.

    Raises
    ------
    InputError
        When the numbers are no numbers or not zdim of them.
    """
    rows = z if any(isinstance(row, list | tuple) for row in z) else ([[v] for v in z] if zdim == 1 else [z])
    for number, row in enumerate(rows):
        if not isinstance(row, list | tuple) or len(row) != zdim:
            length = len(row) if isinstance(row, list | tuple) else 1
            raise InputError(
                f"z: point {number} has {length} number{'s' * (length != 1)}, but the latent of this run has "
                f"{zdim} dimension{'s' * (zdim != 1)}; give {zdim} for each point."
            )
    try:
        points = np.array(rows, np.float32).reshape(len(rows), zdim)
    except (TypeError, ValueError):
        raise InputError(f"z={z} holds something that is not a number.") from None
    return _finite(points, "z")


def from_file(path: Path, zdim: int) -> np.ndarray:
    """Latents from a text file, one point in each line, or from a .npy file of shape (M, zdim).

    A one-dimensional array is M points when zdim = 1 and one point otherwise.

    Raises
    ------
    InputError
        When there is no such file, when it cannot be read, or when its points do not have zdim numbers.
    """
    if not path.is_file():
        raise InputError(f"z_file={path}: there is no such file.")
    try:
        if path.suffix == ".npy":
            points = read_npy(path)
        else:
            lines = [line for line in path.read_text().replace(",", " ").splitlines() if line.strip()]
            points = np.loadtxt(lines, ndmin=2) if lines else np.zeros((0, zdim))
        points = np.asarray(points, np.float32)
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"z_file={path} cannot be read as numbers ({error}); write one point per line, or a .npy array."
        ) from None
    if points.ndim == 1:
        points = points.reshape(-1, 1) if zdim == 1 else points[None]
    if points.ndim != 2 or points.shape[1] != zdim or not len(points):
        raise InputError(
            f"z_file={path} has the shape {points.shape}, but the latent of this run has {zdim} "
            f"dimension{'s' * (zdim != 1)}; give one point of {zdim} in each line."
        )
    return _finite(points, f"z_file={path}")


def _finite(points: np.ndarray, source: str) -> np.ndarray:
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        raise InputError(f"{source}: point {bad[0]} is not finite; give finite numbers.")
    return points
