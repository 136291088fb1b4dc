"""Pictures of maps: isosurfaces, projections and slices. Each function writes one PNG and returns its path.

Every panel shows x to the right and y upwards when seen along z, as molecular viewers do. Panels of one
picture share one contour level, one frame and one grey scale, so that they can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drgn.analysis.plots import INK, _figure, save
from drgn.analysis.render import VIEWS, Frame, isosurface, isosurface_level

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SURFACE_COLOUR = (0.34, 0.71, 0.91)


def telling_view(volumes: Sequence[np.ndarray]) -> str:
    """Name the view along an axis in which the maps differ most: where their projections vary most."""
    spread = {}
    for name, view in VIEWS.items():
        towards = 2 - int(np.abs(view[2]).argmax())
        spread[name] = np.var([volume.sum(axis=towards) for volume in volumes], axis=0).sum()
    return max(spread, key=lambda name: spread[name])


def montage(
    volumes: Sequence[np.ndarray],
    titles: Sequence[str],
    path: Path,
    view: str = "along z",
    colours: np.ndarray | None = None,
    columns: int = 5,
) -> Path:
    """Isosurfaces of several maps side by side, all at one level, in one frame, seen in one direction.

    Parameters
    ----------
    volumes
        Maps (D, D, D).
    titles
        One for each map.
    path
        The PNG to write.
    view
        A key of `render.VIEWS`.
    colours
        (M, 3) red, green, blue of each map; one colour for all by default.
    columns
        Most maps in one row.
    """
    level = isosurface_level(volumes)
    frame = Frame.of(volumes, level)
    across = min(columns, len(volumes))
    down = -(-len(volumes) // across)
    figure = _figure(2.05 * across, 2.3 * down)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    if colours is None:
        colours = np.tile(SURFACE_COLOUR, (len(volumes), 1))

    def draw(i: int) -> np.ndarray:
        return isosurface(volumes[i], level, tuple(colours[i]), VIEWS[view], 260, frame)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # scipy's interpolation runs in parallel
        for i, picture in enumerate(pool.map(draw, range(len(volumes)))):
            panels[i].imshow(picture)
            panels[i].set_title(titles[i], fontsize=9, color=INK)
    return save(figure, path)


def orthogonal(volume: np.ndarray, pixel_size_A: float, path: Path) -> Path:
    """One map three ways along each of the three axes: isosurface, projection, central slice.

    Parameters
    ----------
    volume
        (D, D, D) map [z, y, x].
    pixel_size_A
        For the scale bar.
    path
        The PNG to write.
    """
    level = isosurface_level([volume])
    frame = Frame.of([volume], level, margin=1.25)
    figure = _figure(9.0, 9.2)
    panels = figure.subplots(3, 3)
    for column, (name, view) in enumerate(VIEWS.items()):
        panels[0, column].imshow(isosurface(volume, level, SURFACE_COLOUR, view, size_px=320, frame=frame))
        panels[0, column].set_title(f"seen {name}", fontsize=11)
    for row, pictures in (
        (1, [_turned(volume, view).sum(axis=0) for view in VIEWS.values()]),
        (2, [_central(volume, view) for view in VIEWS.values()]),
    ):
        for panel, picture, view in zip(panels[row], pictures, VIEWS.values(), strict=True):
            _grey(panel, picture, _limits(pictures), frame, view)
    for row, label in enumerate(("isosurface", "projection", "central slice")):
        panels[row, 0].set_ylabel(label, fontsize=11)
    for panel in panels.ravel():
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    _scale_bar(panels[2, 0], pixel_size_A)
    return save(figure, path)


def beside(volumes: Sequence[np.ndarray], titles: Sequence[str], pixel_size_A: float, path: Path) -> Path:
    """Surfaces and central slices of maps of the same thing, a row for each, along all three axes.

    Parameters
    ----------
    volumes
        Maps (D, D, D).
    titles
        One for each map.
    pixel_size_A
        For the scale bar.
    path
        The PNG to write.
    """
    level = isosurface_level(volumes)
    frame = Frame.of(volumes[:1], level, margin=1.25)
    figure = _figure(12.4, 2.25 * len(volumes))
    panels = figure.subplots(len(volumes), 6, squeeze=False)
    limits = _limits([_central(volume, view) for volume in volumes for view in VIEWS.values()])
    for row, volume in enumerate(volumes):
        panels[row, 0].set_ylabel(titles[row], fontsize=10)
        for column, (name, view) in enumerate(VIEWS.items()):
            panels[row, column].imshow(isosurface(volume, level, SURFACE_COLOUR, view, 180, frame))
            _grey(panels[row, 3 + column], _central(volume, view), limits, frame, view)
            if row == 0:
                panels[row, column].set_title(f"seen {name}", fontsize=10)
                panels[row, 3 + column].set_title(f"slice across {name[-1]}", fontsize=10)
    for panel in panels.ravel():
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    _scale_bar(panels[0, 3], pixel_size_A)
    return save(figure, path)


def slices(volumes: Sequence[np.ndarray], titles: Sequence[str], pixel_size_A: float, path: Path) -> Path:
    """Central slices of several maps, one column for each, in one grey scale; rows are the three axes.

    Parameters
    ----------
    volumes
        Maps (D, D, D).
    titles
        One for each map.
    pixel_size_A
        For the scale bar.
    path
        The PNG to write.
    """
    figure = _figure(max(1.9 * len(volumes) + 0.4, 4.0), 6.1)
    panels = figure.subplots(3, len(volumes), squeeze=False)
    frame = Frame.of(volumes, isosurface_level(volumes), margin=1.25)
    limits = _limits([_central(volume, view) for volume in volumes for view in VIEWS.values()])
    for column, volume in enumerate(volumes):
        panels[0, column].set_title(titles[column], fontsize=9)
        for row, (name, view) in enumerate(VIEWS.items()):
            _grey(panels[row, column], _central(volume, view), limits, frame, view)
            panels[row, 0].set_ylabel(f"across {name[-1]}", fontsize=10)
    for panel in panels.ravel():
        panel.set(xticks=[], yticks=[])
    _scale_bar(panels[2, 0], pixel_size_A)
    return save(figure, path)


def _turned(volume: np.ndarray, view: np.ndarray) -> np.ndarray:
    """The voxels in the order (towards the viewer, up, right) of an axis-aligned view."""
    order, flips = [], []
    for row in view[::-1]:  # towards, up, right as (x, y, z)
        axis = 2 - int(np.abs(row).argmax())  # array axis of that direction
        order.append(axis)
        flips.append(row.sum() < 0)
    turned = volume.transpose(order)
    for axis, flip in enumerate(flips):
        if flip:  # keep the centre D // 2 where it is
            turned = np.roll(np.flip(turned, axis), 1 - turned.shape[axis] % 2, axis)
    return turned


def _central(volume: np.ndarray, view: np.ndarray) -> np.ndarray:
    """The slice through the centre of the box in a view, rows upwards."""
    return _turned(volume, view)[volume.shape[0] // 2]


def _limits(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """One grey scale for several pictures, without their few extreme pixels."""
    return np.percentile(pictures, [0.1, 99.95])


def _grey(panel: Axes, picture: np.ndarray, limits: np.ndarray, frame: Frame, view: np.ndarray) -> None:
    """Draw (up, right) pixels in grey, cut to the frame."""
    panel.imshow(
        picture, cmap="gray", origin="lower", vmin=limits[0], vmax=limits[1], interpolation="bicubic"
    )
    middle = picture.shape[0] // 2
    right, up = middle + view[:2] @ (np.array(frame.centre_px[::-1]) - middle)
    panel.set_xlim(right - frame.radius_px, right + frame.radius_px)
    panel.set_ylim(up - frame.radius_px, up + frame.radius_px)
    panel.set_facecolor("black")


def _scale_bar(panel: Axes, pixel_size_A: float) -> None:
    """A bar of a round length, at most a quarter of the panel, in its lower left corner."""
    left, right = panel.get_xlim()
    width = right - left
    target_A = width * pixel_size_A / 4
    power = 10.0 ** np.floor(np.log10(target_A))
    length_A = max(step * power for step in (1, 2, 5) if step * power <= target_A)
    start, up = left + 0.06 * width, panel.get_ylim()[0] + 0.07 * width
    panel.plot([start, start + length_A / pixel_size_A], [up, up], color="white", lw=3, solid_capstyle="butt")
    panel.text(start, up + 0.03 * width, f"{length_A:g} Å", color="white", fontsize=9, va="bottom")
