"""Shaded isosurfaces of maps by ray casting, in numpy: a picture of a density without a graphics card.

A view is a rotation whose rows are the screen's right, up and towards-the-viewer directions, as (x, y, z) of
the volume. It has determinant +1, so a picture never shows the mirror image of a map.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

VIEWS = {
    "along z": np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "along x": np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]]),
    "along y": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
}
_KEY_LIGHT = np.array([-0.45, 0.55, 0.70])  # screen coordinates: from the upper left, in front
_FILL_LIGHT = np.array([0.80, -0.10, 0.59])


def isosurface_level(volumes: Iterable[np.ndarray]) -> float:
    """One contour level for a set of maps: the median of the levels of the single maps.

    One level for all, because a level of its own for each map would hide that a part has lower density in
    one of them. A map's own level is the density that best parts its voxels into molecule and solvent (Otsu,
    IEEE Trans. SMC 9, 62, 1979), raised to four robust standard deviations above the median where noise fills
    the solvent, but never above half the 99.99th percentile, the threshold of the paper's masks (P23). That
    threshold alone, made to be dilated, breaks a map apart whose parts differ in density.

    Parameters
    ----------
    volumes
        Maps (D, D, D), looked at one by one.
    """
    return float(np.median([_level(np.asarray(volume, np.float64)) for volume in volumes]))


def _level(volume: np.ndarray) -> float:
    """Contour level of one map."""
    counts, edges = np.histogram(volume, bins=1024)
    middle = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = volume.size - below
    total = np.cumsum(counts * middle)
    parted = (total[-1] * below / volume.size - total) ** 2 / np.maximum(below * above, 1)
    otsu = edges[1:][parted.argmax()]
    solvent = np.median(volume)
    noise = solvent + 4 * 1.4826 * np.median(np.abs(volume - solvent))
    return max(otsu, min(noise, np.percentile(volume, 99.99) / 2))


@dataclass(frozen=True)
class Frame:
    """A cube of the box: what a picture shows.

    Attributes
    ----------
    centre_px
        (z, y, x) of its centre, in array indices.
    radius_px
        Half its side.
    """

    centre_px: tuple[float, float, float]
    radius_px: float

    @classmethod
    def of(cls, volumes: Iterable[np.ndarray], level: float, margin: float = 1.06) -> Frame:
        """Smallest cube that holds the surfaces of all maps, slightly enlarged; the whole box without one."""
        low, high, size = np.full(3, np.inf), np.full(3, -np.inf), 0
        for volume in volumes:
            size = volume.shape[0]
            above = volume > level
            for axis in range(3):
                at = np.flatnonzero(above.any(axis=tuple({0, 1, 2} - {axis})))
                if len(at):
                    low[axis], high[axis] = min(low[axis], at[0]), max(high[axis], at[-1])
        if not np.isfinite(low).all():
            return cls((size // 2,) * 3, size / 2)
        z, y, x = (low + high) / 2
        return cls((float(z), float(y), float(x)), float((high - low).max() / 2 + 1) * margin)


def isosurface(
    volume: np.ndarray,
    level: float,
    colour: tuple[float, float, float],
    view: np.ndarray = VIEWS["along z"],
    size_px: int = 240,
    frame: Frame | None = None,
) -> np.ndarray:
    """Picture of the surface where the density crosses a level, orthographic, lit from the upper left.

    Parameters
    ----------
    volume
        (D, D, D) map [z, y, x].
    level
        Density of the surface.
    colour
        Red, green, blue of the surface, 0 to 1.
    view
        (3, 3), see the top of the file.
    size_px
        Width and height of the picture.
    frame
        The part of the box to show; None: all of it.

    Returns
    -------
    (size_px, size_px, 4) float32 array, red, green, blue, alpha; row 0 is the top. Transparent where no
    surface is.
    """
    from scipy import ndimage

    volume = np.asarray(volume, np.float32)
    d = volume.shape[0]
    frame = frame or Frame((d // 2,) * 3, d / 2)
    radius = frame.radius_px
    n = 2 * size_px  # drawn at twice the size and averaged, so that edges are smooth
    across = (np.arange(n) + 0.5) / n * 2 * radius - radius  # screen positions in voxels
    steps = int(np.ceil(2 * radius)) + 1
    depth = np.linspace(radius, -radius, steps)  # from the viewer backwards
    # output index (step, row, column) -> (towards, up, right) -> volume index (z, y, x)
    to_volume = view[::-1, ::-1].T.astype(float)
    spacing = np.array([depth[1] - depth[0], across[0] - across[1], across[1] - across[0]])
    start = np.array([depth[0], across[-1], across[0]])
    offset = to_volume @ start + frame.centre_px
    block = ndimage.affine_transform(
        volume, to_volume * spacing, offset, (steps, n, n), order=1, mode="constant", cval=0.0
    )
    inside = block > level
    hit = inside.any(axis=0)
    rgba = np.zeros((n, n, 4), np.float32)
    if hit.any():
        rows, columns = np.nonzero(hit)
        first = inside.argmax(axis=0)[hit]
        points = offset[:, None] + (to_volume * spacing) @ np.stack([first, rows, columns])
        towards = to_volume[:, 0] * abs(spacing[0])  # one step back to the viewer
        spline = ndimage.spline_filter(volume, order=3)
        points, normals = _refine(spline, level, points, towards)
        height = np.full((n, n), -radius, np.float32)
        height[hit] = view[2, ::-1] @ (points - np.array(frame.centre_px)[:, None])
        rgba[hit, :3] = _shade(view[:, ::-1] @ normals, height, hit, radius) * np.asarray(colour)[None]
        rgba[hit, 3] = 1
    blocks = rgba.reshape(size_px, 2, size_px, 2, 4)
    alpha = blocks[..., 3:].mean(axis=(1, 3))
    rgb = (blocks[..., :3] * blocks[..., 3:]).mean(axis=(1, 3)) / np.maximum(alpha, 1e-6)
    return np.concatenate([np.clip(rgb, 0, 1), alpha], axis=-1)


def _refine(
    spline: np.ndarray, level: float, points: np.ndarray, towards: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Move (3, P) points to the surface along the line of sight by bisection of the cubic spline.

    Returns the points and their outward unit normals, both in volume index order (z, y, x).
    """
    from scipy import ndimage

    def density(at: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(spline, at, order=3, mode="constant", prefilter=False)

    low, high = np.zeros(points.shape[1]), np.ones(points.shape[1])  # inside, outside
    for _ in range(5):
        middle = (low + high) / 2
        inside = density(points + middle * towards[:, None]) > level
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    points = points + (low + high) / 2 * towards[:, None]
    gradient = np.stack([density(points + step) - density(points - step) for step in np.eye(3)[:, :, None]])
    return points, -gradient / np.maximum(np.linalg.norm(gradient, axis=0), 1e-12)


def _shade(normals: np.ndarray, height: np.ndarray, hit: np.ndarray, radius: float) -> np.ndarray:
    """Brightness (P, 1) of surface points: two lights, darker clefts, darker rims, fading with depth."""
    from scipy import ndimage

    key = np.clip(_KEY_LIGHT @ normals, 0, 1)
    fill = np.clip(_FILL_LIGHT @ normals, 0, 1)
    brightness = 0.30 + 0.72 * key + 0.16 * fill
    around = ndimage.gaussian_filter(height, len(height) / 40)
    cleft = np.clip((around - height)[hit] / (0.25 * radius), 0, 1)
    rim = np.clip(normals[2] / 0.35, 0, 1)
    depth = (height[hit] + radius) / (2 * radius)
    brightness *= (1 - 0.55 * cleft) * (0.55 + 0.45 * rim) * (0.72 + 0.28 * depth)
    return brightness[:, None]
