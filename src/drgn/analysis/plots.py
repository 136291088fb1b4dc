"""Pictures of latents and of curves. Each function writes one PNG and returns its path.

Figures are drawn without a display and without pyplot's global state. Colours are those of Okabe and Ito,
told apart by colour-blind readers; classes are numbered as well, so that no reader depends on colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from drgn.errors import InputError
from drgn.formats.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from drgn.analysis.clusters import Clusters

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#8C8C00")
INK = "#222222"
DPI = 150
_NUMBERED = 16  # most numbers on one path


def require_matplotlib() -> None:
    """Raise an InputError that says what to install where there is no matplotlib."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise InputError("Pictures need matplotlib, which is not installed: pip install 'drgn[analyze]'.")


def label_colours(k: int) -> np.ndarray:
    """Red, green, blue (k, 3) of k classes: seven hues, then the same lighter, then darker, then again."""
    from matplotlib.colors import to_rgb

    hues = np.array([to_rgb(colour) for colour in OKABE_ITO])
    palette = np.concatenate([hues, 0.5 + 0.5 * hues, 0.6 * hues])
    return palette[np.arange(k) % len(palette)]


def latent_map(
    coordinates: np.ndarray,
    axes: tuple[str, str],
    path: Path,
    clusters: Clusters | None = None,
    title: str = "k-means clusters",
) -> Path:
    """Where the particles are in two coordinates: their density, and beside it the clusters by colour.

    Parameters
    ----------
    coordinates
        (N, 2).
    axes
        Names of the two coordinates.
    path
        The PNG to write.
    clusters
        When given, a second panel with the particles coloured by cluster (grey in none) and each on-data
        centre numbered.
    title
        Of that panel.
    """
    from matplotlib.ticker import LogFormatter

    figure = _figure(10.0 if clusters else 5.4, 4.6)
    panels = figure.subplots(1, 2 if clusters else 1, squeeze=False)[0]
    cells = int(np.clip(np.sqrt(len(coordinates)) / 1.6, 15, 60))
    density = panels[0].hexbin(*coordinates.T, gridsize=cells, mincnt=1, bins="log", cmap="viridis", lw=0.1)
    bar = figure.colorbar(density, ax=panels[0], label="particles per hexagon", format="%g", shrink=0.85)
    bar.ax.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))  # plain numbers, if few decades
    panels[0].set_title("Density of particles")
    if clusters:
        colours = label_colours(len(clusters.centres))
        _scatter(panels[1], coordinates, np.vstack([colours, [[0.75] * 3]])[clusters.labels])
        panels[1].set_title(title)
    for panel in panels:
        _dress(panel, *axes)
    if clusters:
        figure.canvas.draw()  # the labels are placed in pixels, so the layout must be final
        _number(panels[1], coordinates[clusters.on_data_rows], colours)
    return save(figure, path)


class PathPanel(NamedTuple):
    """One pair of coordinates.

    Attributes
    ----------
    title, axes
        Words.
    coordinates
        (N, 2) of the particles.
    line
        (M, 2) of the points of the path.
    exact
        Whether the points lie where they are drawn; else a dotted line joins them.
    """

    title: str
    axes: tuple[str, str]
    coordinates: np.ndarray
    line: np.ndarray
    exact: bool = True


def latent_path(panels: Sequence[PathPanel], anchor: np.ndarray, path: Path) -> Path:
    """A path drawn over the density of the particles, dark where it starts and light where it ends.

    Parameters
    ----------
    panels
        The same path in several pairs of coordinates.
    anchor
        (M,) which points are anchors: they are numbered where there are many points, else all are.
    path
        The PNG to write.
    """
    figure = _figure(5.4 * len(panels), 4.8)
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    numbered = np.arange(len(anchor)) if len(anchor) <= _NUMBERED else np.flatnonzero(anchor)
    numbered = np.union1d(numbered[:: -(-len(numbered) // _NUMBERED)], [0, len(anchor) - 1])
    for place, panel in zip(places, panels, strict=True):
        cells = int(np.clip(np.sqrt(len(panel.coordinates)) / 1.6, 15, 60))
        place.hexbin(
            *panel.coordinates.T, gridsize=cells, mincnt=1, bins="log", cmap="Greys", lw=0.1, alpha=0.6
        )
        place.plot(*panel.line.T, "-" if panel.exact else ":", color=OKABE_ITO[3], lw=1.4)
        place.scatter(*panel.line.T, c=np.arange(len(panel.line)), cmap="plasma", s=22, zorder=3, lw=0)
        place.set_title(panel.title)
        _dress(place, *panel.axes)
    figure.canvas.draw()
    for place, panel in zip(places, panels, strict=True):
        _number(place, panel.line[numbered], label_colours(1).repeat(len(numbered), axis=0), numbered)
    return save(figure, path)


def latent_columns(
    coordinates: np.ndarray, axes: tuple[str, str], columns: Mapping[str, np.ndarray], path: Path
) -> Path:
    """Two coordinates of the latents, one panel for each column, coloured by its value.

    Whole-number columns of at most seven values are drawn as classes with a legend, others on a scale.

    Parameters
    ----------
    coordinates
        (N, 2).
    axes
        Names of the two coordinates.
    columns
        Name to (N,) values.
    path
        The PNG to write.
    """
    figure = _figure(5.2 * len(columns), 4.4)
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for panel, (name, values) in zip(panels, columns.items(), strict=True):
        _dress(panel, *axes)
        panel.set_title(name)
        classes = np.unique(values)
        if np.issubdtype(values.dtype, np.integer) and len(classes) <= len(OKABE_ITO):
            colours = label_colours(len(classes))
            _scatter(panel, coordinates, colours[np.searchsorted(classes, values)])
            for colour, value in zip(colours, classes, strict=True):
                panel.plot([], [], "o", color=colour, label=str(value))
            panel.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        else:
            points = _scatter(panel, coordinates, values)
            bar = figure.colorbar(points, ax=panel, shrink=0.85)
            bar.solids.set_alpha(1)
    return save(figure, path)


def histogram(z: np.ndarray, marks: np.ndarray, path: Path) -> Path:
    """Histogram of a one-dimensional latent, with numbered lines where volumes were made (P15, P19).

    Parameters
    ----------
    z
        (N,) latents.
    marks
        (M,) latents of the volumes, in the order of their numbers.
    path
        The PNG to write.
    """
    figure = _figure(7.5, 3.8)
    panel = figure.subplots()
    panel.hist(z, bins=min(100, max(10, int(np.sqrt(len(z))))), color="#B9C4CE")
    for colour, (number, at) in zip(label_colours(len(marks)), enumerate(marks), strict=True):
        panel.axvline(at, color=colour, lw=1.6)
        panel.annotate(
            str(number),
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            color=colour,
            fontweight="bold",
        )
    _dress(panel, "latent z", "particles")
    return save(figure, path)


def explained_variance(ratio: np.ndarray, path: Path) -> Path:
    """Share of the variance along each principal component, as bars with their running sum."""
    figure = _figure(5.2, 3.4)
    panel = figure.subplots()
    number = np.arange(1, len(ratio) + 1)
    panel.bar(number, 100 * ratio, color=OKABE_ITO[0], label="each")
    panel.plot(number, 100 * np.cumsum(ratio), "o-", color=OKABE_ITO[3], ms=4, label="running sum")
    panel.set_ylim(0, 105)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.legend(frameon=False, loc="center right")
    _dress(panel, "principal component", "variance explained (%)")
    return save(figure, path)


def learning_curve(panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], path: Path) -> Path:
    """Losses against the epoch; one panel for each quantity, one line for each set of particles.

    The scale leaves out the steep start when it would flatten the rest: it shows everything from the second
    point on.

    Parameters
    ----------
    panels
        Quantity to {name of the line: (epochs, values)}.
    path
        The PNG to write.
    """
    figure = _figure(4.8 * len(panels), 3.6)
    for panel, (title, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for colour, style, (name, (epoch, value)) in zip(
            OKABE_ITO[:2], ("-", "--"), lines.items(), strict=False
        ):
            panel.plot(epoch, value, style, color=colour, label=name, marker="o", ms=3)
        shown = np.concatenate([value[min(1, len(value) - 1) :] for _, value in lines.values()])
        shown = shown[np.isfinite(shown)]
        if len(shown) and np.ptp(shown) > 0:
            panel.set_ylim(shown.min() - 0.08 * np.ptp(shown), shown.max() + 0.15 * np.ptp(shown))
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.legend(frameon=False)
        _dress(panel, "epoch", title)
    return save(figure, path)


def confusion_matrix(
    counts: np.ndarray, classes: Sequence[str], axes: tuple[str, str], title: str, path: Path
) -> Path:
    """Counts (R, C) of particles by two partitions, shaded by the share of each row, whose names are given.

    Parameters
    ----------
    axes
        What the columns and the rows are.
    """
    share = counts / counts.sum(axis=1, keepdims=True).clip(1)
    figure = _figure(1.6 + 0.7 * counts.shape[1], 1.6 + 0.6 * counts.shape[0])
    panel = figure.subplots()
    panel.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), count in np.ndenumerate(counts) if counts.size <= 400 else ():
        shade = "white" if share[i, j] > 0.6 else INK
        panel.text(j, i, f"{count:,}", ha="center", va="center", color=shade, size=8)
    panel.set_yticks(range(len(classes)), [str(name) for name in classes])
    panel.set_xticks(range(counts.shape[1]))
    panel.set_title(title)
    _dress(panel, *axes)
    return save(figure, path)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, under a temporary name first."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white")
    return path


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _dress(panel: Axes, x: str, y: str) -> None:
    """Axis names and a quiet frame."""
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.title.set_fontsize(11)
    panel.spines[["top", "right"]].set_visible(False)


def _scatter(panel: Axes, coordinates: np.ndarray, colours: np.ndarray):  # noqa: ANN202  (a matplotlib artist)
    """Points drawn in a shuffled order, so that no class covers the others; smaller when there are more."""
    order = np.random.default_rng(0).permutation(len(coordinates))
    size = float(np.clip(30000 / max(len(coordinates), 1), 0.6, 16))
    scale = {"cmap": "viridis"} if colours.ndim == 1 else {}
    return panel.scatter(*coordinates[order].T, c=colours[order], s=size, alpha=0.7, linewidths=0, **scale)


def _number(panel: Axes, points: np.ndarray, colours: np.ndarray, numbers: np.ndarray | None = None) -> None:
    """Numbers (from 0, or those given) beside points, pushed apart, each tied to its point by a line."""
    anchor = panel.transData.transform(points)
    place = _spread(anchor, apart=panel.figure.dpi * 0.2)
    place = panel.transData.inverted().transform(place)
    panel.plot(*points.T, "o", ms=4, mfc="white", mec=INK, mew=1.0, zorder=3)
    numbers = np.arange(len(points)) if numbers is None else numbers
    for number, point, at, colour in zip(numbers, points, place, colours, strict=True):
        panel.annotate(
            str(number),
            point,
            xytext=at,
            ha="center",
            va="center",
            fontsize=8,
            fontweight="bold",
            color=INK,
            zorder=4,
            bbox={"boxstyle": "round,pad=0.18", "fc": "white", "ec": colour, "lw": 1.4},
            arrowprops={"arrowstyle": "-", "color": INK, "lw": 0.6, "shrinkA": 0, "shrinkB": 2},
            annotation_clip=False,
        )


def _spread(points: np.ndarray, apart: float) -> np.ndarray:
    """Move (k, 2) positions until no two are nearer than `apart`; those with room stay where they are."""
    k = len(points)
    turn = 2.4 * np.arange(k)  # a little off, so that equal points know where to go
    place = points + 1e-3 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for _ in range(300):
        offset = place[:, None] - place[None]  # (k, k, 2)
        distance = np.linalg.norm(offset, axis=-1) + np.diag(np.full(k, np.inf))
        push = np.clip(apart - distance, 0, None) / distance / 2
        if push.max() < 1e-3:
            break
        place = place + (push[..., None] * offset).sum(axis=1)
    return place
