"""Pictures of scores. Each function writes one PNG and returns its path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from drgn.analysis.plots import INK, OKABE_ITO, _dress, _figure, label_colours, save

FSC_RANGE = (-0.1, 1.02)  # of a picture: a corrected curve may fall far below


def fsc_curves(
    panels: Mapping[str, np.ndarray],
    pixel_size_A: float,
    path: Path,
    names: list[str] | None = None,
    *,
    box_size: int | None = None,
    label: str = "correlation with the true map",
) -> Path:
    """Correlation of maps, one panel for each kind: every curve, and their mean where they have no names.

    Parameters
    ----------
    panels
        Title to (M, D // 2 + 1) curves.
    pixel_size_A
        Pixel size of the maps.
    path
        The PNG to write.
    names
        Of the M maps, where each is to be told from the others.
    box_size
        D; default the even box that has this many shells.
    label
        What is correlated with what.
    """
    figure = _figure(5.2 * len(panels) + (1.6 if names else 0), 4.0)
    for panel, (title, curves) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        shells = curves.shape[1] - 1  # the last one is Nyquist's, half of which is empty
        frequency = np.arange(shells) / ((box_size or 2 * shells) * pixel_size_A)
        shown = np.concatenate([np.ones((len(curves), 1)), curves[:, 1:-1]], axis=1)
        if names is None:
            panel.plot(frequency, shown.T, color=OKABE_ITO[4], lw=0.6, alpha=0.5)
            panel.plot(frequency, shown.mean(0), color=OKABE_ITO[0], lw=2.2, label=f"mean of {len(curves)}")
        else:
            for curve, name, colour in zip(shown, names, label_colours(len(names)), strict=True):
                panel.plot(frequency, curve, color=colour, lw=1.4, label=name)
        for threshold in (0.5, 0.143):
            panel.axhline(threshold, color=INK, lw=0.8, ls=":")
        panel.axhline(0, color=INK, lw=0.5)
        nyquist = 1 / (2 * pixel_size_A)
        panel.set(xlim=(0, nyquist), ylim=FSC_RANGE, title=title)
        ticks = np.linspace(0, nyquist, 6)[1:]
        panel.set_xticks(ticks, [f"{1 / tick:.3g}" for tick in ticks])
        _dress(panel, "resolution (Å)", label)
        if names is None:
            panel.legend(frameon=False, loc="upper right", fontsize=8)
    if names is not None:
        lines = panel.get_lines()[: len(names)]
        figure.legend(lines, names, loc="outside right upper", frameon=False, fontsize=8)
    return save(figure, path)


def against_truth(columns: Mapping[str, tuple[np.ndarray, np.ndarray]], label: str, path: Path) -> Path:
    """What was found against the true coordinate, one panel for each coordinate.

    Parameters
    ----------
    columns
        Name and score to (true coordinate (N,), what is found (N,)).
    label
        What is found.
    path
        The PNG to write.
    """
    figure = _figure(5.0 * len(columns), 4.2)
    for panel, (title, (truth, found)) in zip(
        figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True
    ):
        if len(truth) > 2000 and len(np.unique(truth)) > 200:
            cells = panel.hexbin(truth, found, gridsize=50, mincnt=1, bins="log", cmap="viridis", lw=0.1)
            figure.colorbar(cells, ax=panel, label="particles per hexagon", shrink=0.85)
        else:
            size = float(np.clip(30000 / max(len(truth), 1), 0.6, 16))
            panel.scatter(truth, found, s=size, color=OKABE_ITO[0], alpha=0.5, lw=0)
        panel.set_title(title)
        _dress(panel, "true coordinate", label)
    return save(figure, path)


def pose_errors(rotation_deg: np.ndarray, shift_A: np.ndarray, path: Path) -> Path:
    """Histograms of the errors of poses (N,) after alignment; the tail beyond 99.5 % is left out."""
    figure = _figure(8.4, 3.4)
    for panel, values, name in zip(
        figure.subplots(1, 2),
        (rotation_deg, shift_A),
        ("rotation error (degrees)", "shift error (Å)"),
        strict=True,
    ):
        end = max(float(np.percentile(values, 99.5)), 1e-6)
        panel.hist(values[values <= end], bins=60, range=(0, end), color="#B9C4CE")
        panel.axvline(float(np.median(values)), color=OKABE_ITO[0], lw=1.6, label="median")
        panel.legend(frameon=False)
        _dress(panel, name, "images")
    return save(figure, path)
