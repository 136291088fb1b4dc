"""Many maps of a run at once, small enough for memory: a sketch of what it has learned.

What the particles of a run look like is sampled at the on-data centres of many clusters, decoded in a small
box, and described by its principal components in a mask: directions in the space of maps, where distances
mean density and not what a network made of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drgn.analysis.clusters import on_data_mean
from drgn.errors import InputError

if TYPE_CHECKING:
    from drgn.run import Run

_BYTES = 6 << 30  # of maps held at a time
_FITTED = 50_000  # particles that centres are sought among; the others are then assigned


@dataclass(frozen=True, eq=False)
class MapPCA:
    """Principal components of M maps within V voxels.

    Attributes
    ----------
    mean
        (V,) float32.
    components
        (C, V) float32, orthonormal.
    coordinates
        (M, C) of the maps.
    variances
        (C,) along each component.
    share
        (C,) of the whole variance.
    """

    mean: np.ndarray
    components: np.ndarray
    coordinates: np.ndarray
    variances: np.ndarray
    share: np.ndarray


def centres(z: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Particles that stand for the others: the on-data centres of n clusters (P16).

    Parameters
    ----------
    z
        (N, Z) latents.
    n
        Wanted number; at most a quarter of the particles is taken.
    seed
        Of k-means.

    Returns
    -------
    (M,) rows of the particles, and (N,) for each particle which of them stands for it.
    """
    from sklearn.cluster import KMeans

    n = max(2, min(n, len(z) // 4, len(np.unique(z, axis=0))))
    points = np.asarray(z, np.float64)
    rng = np.random.default_rng(seed)
    sample = points if len(z) <= _FITTED else points[rng.choice(len(z), _FITTED, replace=False)]
    nearest = KMeans(n, n_init=1, random_state=seed).fit(sample).predict(points)
    rows = on_data_mean(z, nearest)
    return rows, np.unique(nearest, return_inverse=True)[1]


def decode(run: Run, z: np.ndarray, box_size: int) -> np.ndarray:
    """Maps (M, D, D, D) float32 at latents (M, Z), in a box of `box_size` voxels, with a progress bar.

    Raises
    ------
    InputError
        When they would not fit into memory.
    """
    import torch

    size = 4 * len(z) * box_size**3
    if size > _BYTES:
        raise InputError(
            f"{len(z)} maps of {box_size} voxels take {size / 1e9:.1f} GB; ask for fewer, or for a smaller "
            "box."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    maps = np.empty((len(z), *(box_size,) * 3), np.float32)
    for i, volume in enumerate(run.volumes(z, device, box_size)):
        maps[i] = volume
    return maps


def union_mask(maps: np.ndarray, pixel_size_A: float, dilate_A: float) -> np.ndarray:
    """Where any of the maps (M, D, D, D) has density: bool (D, D, D).

    Each map is cut at half its 99.99th percentile (P23); what is above in any of them is grown by `dilate_A`.
    """
    from scipy.ndimage import distance_transform_edt

    core = np.zeros(maps.shape[1:], bool)
    for volume in maps:
        core |= volume > np.percentile(volume, 99.99) / 2
    if not core.any():
        return np.ones_like(core)
    return np.asarray(distance_transform_edt(~core) * pixel_size_A <= dilate_A)


def read_mask(path: Path, box_size: int, field_A: float) -> np.ndarray:
    """Mask of a file, cut at 0.5, in a box of `box_size` voxels that is `field_A` wide: bool (D, D, D).

    Raises
    ------
    InputError
        When it is of another field, or empty.
    """
    import torch

    from drgn.formats.mrc import read_volume
    from drgn.physics import fourier

    if not path.is_file():
        raise InputError(f"mask={path} is not there.")
    volume, pixel_size_A = read_volume(path)
    width = volume.shape[0] * pixel_size_A
    if len(set(volume.shape)) > 1 or abs(width - field_A) > 0.02 * field_A:
        raise InputError(
            f"mask={path} is {' x '.join(map(str, volume.shape))} voxels of {pixel_size_A:.4g} A; the maps "
            "of this "
            f"run are cubes of {field_A:.1f} A."
        )
    density = torch.from_numpy(np.ascontiguousarray(volume))
    if volume.shape[0] > box_size:
        density = fourier.downsample(density, box_size, 3)
    elif volume.shape[0] < box_size:
        spectrum = fourier.pad(fourier.fft(density, 3), box_size, 3)
        density = fourier.ifft(spectrum, 3).real * (box_size / volume.shape[0]) ** 3
    inside = density.numpy() > 0.5
    if not inside.any():
        raise InputError(f"mask={path} is empty: no voxel of it is above 0.5.")
    return np.asarray(inside)


def pca(voxels: np.ndarray, n: int, weights: np.ndarray | None = None) -> MapPCA:
    """Principal components of maps.

    Parameters
    ----------
    voxels
        (M, V), the masked maps.
    n
        Number of components kept, at most M - 1.
    weights
        (M,) particles that each stands for; None: equal.
    """
    share = np.full(len(voxels), 1 / len(voxels)) if weights is None else weights / weights.sum()
    mean = (share @ voxels).astype(np.float32)
    centred = voxels - mean
    scaled = centred * np.sqrt(share)[:, None].astype(np.float32)
    values, vectors = np.linalg.eigh((scaled @ scaled.T).astype(np.float64))
    order = np.argsort(values)[::-1][: max(1, min(n, len(voxels) - 1))]
    kept = np.maximum(values[order], 1e-30)
    components = (vectors[:, order].T @ scaled / np.sqrt(kept)[:, None]).astype(np.float32)
    return MapPCA(mean, components, centred @ components.T, kept, kept / max(values.clip(0).sum(), 1e-30))
