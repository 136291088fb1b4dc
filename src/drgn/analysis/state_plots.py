"""Pictures of landscapes and of discovered states. Each function writes one PNG and returns its path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from drgn.analysis.clusters import Clusters
from drgn.analysis.plots import INK, OKABE_ITO, _dress, _figure, _number, _scatter, label_colours, save
from drgn.analysis.valleys import Valley


def landscape(
    xy: np.ndarray,
    energy: np.ndarray,
    extent: tuple[float, float, float, float],
    sketch: np.ndarray,
    labels: np.ndarray,
    axes: tuple[str, str],
    caveat: str,
    path: Path,
) -> Path:
    """Where particles are in two volume principal components, as -log density and by cluster.

    Parameters
    ----------
    xy
        (N, 2) of all particles.
    energy, extent
        From `landscape.free_energy_like`.
    sketch, labels
        (M, 2) of the maps of the sketch, and (M,) their clusters.
    axes
        Names of the two coordinates.
    caveat
        A sentence below the picture.
    path
        The PNG to write.
    """
    from textwrap import fill

    figure = _figure(10.6, 5.0)
    left, right = figure.subplots(1, 2)
    shown = left.imshow(energy, origin="lower", extent=extent, aspect="auto", cmap="viridis_r", vmax=6)
    left.contour(
        energy, levels=np.arange(0.5, 6, 0.5), extent=extent, colors="white", linewidths=0.5, alpha=0.7
    )
    figure.colorbar(shown, ax=left, label="-log(density / highest)", extend="max", shrink=0.85)
    left.set_title("-log density of the particles (not a free energy)")
    right.hexbin(*xy.T, gridsize=40, mincnt=1, bins="log", cmap="Greys", lw=0.1, alpha=0.5)
    colours = label_colours(int(labels.max()) + 1)
    right.scatter(*sketch.T, c=colours[labels], s=18, linewidths=0.3, edgecolors="white")
    right.set_title("Maps of the sketch, by cluster")
    for panel in (left, right):
        panel.set_xlim(extent[0], extent[1])
        panel.set_ylim(extent[2], extent[3])
        _dress(panel, *axes)
    figure.supxlabel(fill(caveat, 135), fontsize=8, color="#555555")
    figure.canvas.draw()
    middle = np.array([np.median(sketch[labels == k], axis=0) for k in range(len(colours))])
    _number(right, middle, colours)
    return save(figure, path)


def regression(truth: np.ndarray, guess: np.ndarray, r2: np.ndarray, path: Path) -> Path:
    """Held-out maps of the sketch: coordinate by regression against that of the decoded map, (H, C) each."""
    n = min(3, truth.shape[1])
    figure = _figure(3.6 * n, 3.5)
    for i, panel in enumerate(figure.subplots(1, n, squeeze=False)[0]):
        ends = [min(truth[:, i].min(), guess[:, i].min()), max(truth[:, i].max(), guess[:, i].max())]
        panel.plot(ends, ends, color=INK, lw=0.8, ls=":")
        panel.scatter(truth[:, i], guess[:, i], s=12, color=OKABE_ITO[0], alpha=0.7, linewidths=0)
        panel.set_title(f"volume PC{i + 1}: R² = {r2[i]:.3f}")
        _dress(panel, "of the decoded map", "by regression" if i == 0 else "")
    return save(figure, path)


def states(xy: np.ndarray, clusters: Clusters, axes: tuple[str, str], path: Path) -> Path:
    """Particles (N, 2) in two coordinates, coloured by state; each state's on-data centre numbered."""
    figure = _figure(6.2, 5.0)
    panel = figure.subplots()
    colours = label_colours(len(clusters.centres))
    _scatter(panel, xy, colours[clusters.labels])
    _dress(panel, *axes)
    figure.canvas.draw()
    _number(panel, xy[clusters.on_data_rows], colours)
    return save(figure, path)


def profiles(pairs: Mapping[tuple[int, int], Valley], threshold: float, path: Path) -> Path:
    """Density along the line between states, a panel for each of up to 12 pairs, shallowest valley first."""
    shown: Sequence[tuple[tuple[int, int], Valley]] = sorted(pairs.items(), key=lambda p: -p[1].depth)[:12]
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = _figure(max(3.0 * columns, 4.6), 2.3 * rows + 0.9)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    colours = label_colours(1 + max(max(pair) for pair, _ in shown))
    for panel, (pair, valley) in zip(panels, shown, strict=False):
        for state, side in zip(pair, valley.side, strict=True):
            panel.fill_between(
                valley.position, side, color=colours[state], alpha=0.45, lw=0, label=f"state {state}"
            )
        panel.plot(valley.position, valley.density, color=INK, lw=1.2, label="all")
        panel.set_title(f"{pair[0]} and {pair[1]}:  {valley.depth:.2f} (< {threshold:g})", fontsize=10)
        panel.set_yticks([])
        _dress(panel, "", "")
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    figure.supylabel("density of particles", fontsize=10)
    figure.supxlabel("along the line between both (standard deviations within a state)", fontsize=10)
    named = {
        name: handle
        for panel in panels
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    order = sorted(named, key=lambda name: (len(name), name))
    figure.legend(
        [named[name] for name in order], order, loc="outside right upper", frameon=False, fontsize=9
    )
    return save(figure, path)
