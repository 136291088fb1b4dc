"""Pictures of several runs together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from drgn.analysis.embedding import pca
from drgn.analysis.plots import OKABE_ITO, _dress, _figure, label_colours, save

_ACROSS = 4  # panels in a row
_LONGEST = 42  # characters of a title


def curves(of_runs: Mapping[str, pd.DataFrame], path: Path) -> Path:
    """Losses of each run against the epoch, a colour for each run.

    Parameters
    ----------
    of_runs
        Title to the table of `analysis.history.losses`.
    path
        The PNG to write.
    """
    figure = _figure(10.0, 4.2 + 0.2 * len(of_runs))
    panel = figure.subplots()
    colours, shown = label_colours(len(of_runs)), []
    for colour, (title, table) in zip(colours, of_runs.items(), strict=True):
        for column, style in (("train/loss", ":"), ("heldout/loss", "-")):
            values = table[column].dropna() if column in table else pd.Series(dtype=float)
            if not len(values):
                continue
            marker = {"marker": "o", "ms": 3.5} if style == "-" or "heldout/loss" not in table else {}
            label = short(title) if marker else None
            panel.plot(values.index, values, style, color=colour, label=label, lw=1.5, **marker)
            shown.append(values.to_numpy()[min(1, len(values) - 1) :])
    together = np.concatenate(shown) if shown else np.zeros(0)
    together = together[np.isfinite(together)]
    if len(together) and np.ptp(together) > 0:
        panel.set_ylim(together.min() - 0.08 * np.ptp(together), together.max() + 0.15 * np.ptp(together))
    panel.xaxis.get_major_locator().set_params(integer=True)
    _dress(panel, "epoch", "loss")
    figure.legend(loc="outside lower left", frameon=False, fontsize=9, ncols=2 if len(of_runs) > 3 else 1)
    return save(figure, path)


def latents(of_runs: Mapping[str, np.ndarray], path: Path) -> Path:
    """Density of the latents of each run, in their first two principal components.

    Parameters
    ----------
    of_runs
        Title to latents (N, Z).
    path
        The PNG to write.
    """
    across = min(_ACROSS, len(of_runs))
    down = -(-len(of_runs) // across)
    figure = _figure(3.4 * across, 3.3 * down)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for panel, (title, z) in zip(panels, of_runs.items(), strict=False):
        finite = z[np.isfinite(z).all(1)]
        if z.shape[1] == 1:
            panel.hist(finite[:, 0], bins=50, color=OKABE_ITO[0])
            _dress(panel, "z", "particles")
        elif len(finite) > 1:
            at = pca(finite).coordinates[:, :2]
            cells = int(np.clip(np.sqrt(len(at)) / 1.6, 12, 45))
            panel.hexbin(*at.T, gridsize=cells, mincnt=1, bins="log", cmap="viridis", lw=0.1)
            _dress(panel, "PC1", "PC2")
        panel.set_title(short(title), fontsize=9, loc="left")
    for panel in panels[len(of_runs) :]:
        panel.set_axis_off()
    return save(figure, path)


def short(title: str) -> str:
    """As much of a title as fits; nothing in it is read as a formula."""
    cut = title if len(title) <= _LONGEST else f"{title[: _LONGEST - 3]}..."
    return cut.replace("$", r"\$")
