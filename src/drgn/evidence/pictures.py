"""Pictures of evidence: the neural and the back-projected map beside each other, and their curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drgn.analysis import pictures
from drgn.analysis.plots import INK, OKABE_ITO, _dress, _figure, save
from drgn.analysis.render import VIEWS, Frame, isosurface, isosurface_level
from drgn.evidence.validation import Evidence
from drgn.scoring.plots import FSC_RANGE, fsc_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from drgn.physics.fsc import Correlations

_ACROSS = 5  # most states in a row of the picture of all


def views(found: Evidence, path: Path) -> Path:
    """Surfaces and central slices of both maps of one state."""
    maps = [found.neural.numpy(), found.density.numpy()]
    return pictures.beside(maps, ["neural map", "back-projected"], found.pixel_size_A, path)


def curves(found: Evidence, path: Path) -> Path:
    """Curves between the half maps and between the two maps, without mask, with masks, and corrected."""

    def shown(pair: Correlations) -> np.ndarray:
        return np.stack(
            [getattr(pair, name).numpy() for name in ("unmasked", "loose", "masked", "corrected")]
        )

    mask = "given mask" if found.masked else "tight mask"
    return fsc_curves(
        {
            "Half maps of these particles": shown(found.halves),
            "Neural and back-projected map": shown(found.agreement),
        },
        found.pixel_size_A,
        path,
        ["no mask", "loose mask (P23)", mask, f"{mask}, corrected"],
        box_size=found.density.shape[-1],
        label="Fourier shell correlation",
    )


class Overview:
    """Picture of several states, a column for each: both maps and the two curves that are read.

    Surfaces have one level and one frame, those of the neural maps; maps are drawn as they come.
    """

    def __init__(self, neural: Sequence[np.ndarray], titles: Sequence[str], view: str) -> None:
        self._titles, self._view = titles, VIEWS[view]
        self._level = isosurface_level(neural)
        self._frame = Frame.of(neural, self._level, margin=1.15)
        self._across = min(_ACROSS, len(titles))
        down = -(-len(titles) // self._across)
        self._figure = _figure(max(2.1 * self._across + 0.5, 4.2), 6.0 * down)
        rows = self._figure.subplots(
            3 * down, self._across, squeeze=False, height_ratios=[1.15, 1, 0.8] * down
        )
        for panel in rows.ravel():
            panel.axis("off")
        self._panels = [
            rows[3 * (i // self._across) : 3 * (i // self._across) + 3, i % self._across]
            for i in range(len(titles))
        ]

    def add(self, number: int, found: Evidence | str, neural: np.ndarray) -> None:
        """Draw one state, or its neural map alone where it could not be examined."""
        top, middle, bottom = self._panels[number]
        first = number % self._across == 0
        self._surface(top, neural, "network's map" * first)
        top.set_title("\n" + self._titles[number], fontsize=9, color=INK)  # off the row above
        if isinstance(found, str):
            middle.text(0.5, 0.5, "too few particles", ha="center", transform=middle.transAxes, color=INK)
            return
        self._surface(middle, found.density.numpy(), "map of its images alone" * first)
        bottom.axis("on")
        size = found.density.shape[-1]
        frequency = np.arange(size // 2) / (size * found.pixel_size_A)
        lines = (
            (found.halves.corrected, "between half maps of its images"),
            (found.agreement_curve, "between the network's map and them"),
        )
        for (curve, name), colour in zip(lines, OKABE_ITO, strict=False):
            shown = np.concatenate([[1.0], curve.numpy()[1 : size // 2]])
            bottom.plot(frequency, shown, color=colour, lw=1.4, label=name)
        for threshold in (0.5, 0.143):
            bottom.axhline(threshold, color=INK, lw=0.6, ls=":")
        bottom.set(xlim=(0, frequency[-1]), ylim=FSC_RANGE)
        ticks = np.linspace(0, frequency[-1], 4)[1:]
        bottom.set_xticks(ticks, [f"{1 / tick:.0f}" for tick in ticks])
        _dress(bottom, "", "")
        bottom.set_xlabel("resolution (Å)", fontsize=7)
        if first:
            bottom.set_ylabel("Fourier shell correlation", fontsize=7)
        bottom.tick_params(labelsize=7)
        if not self._figure.legends:
            self._figure.legend(
                *bottom.get_legend_handles_labels(),
                loc="outside upper left",
                ncols=2,
                fontsize=8,
                frameon=False,
            )

    def _surface(self, panel: Axes, volume: np.ndarray, name: str) -> None:
        panel.imshow(isosurface(volume, self._level, pictures.SURFACE_COLOUR, self._view, 220, self._frame))
        beside = {"rotation": 90, "ha": "right", "va": "center", "transform": panel.transAxes}
        panel.text(-0.05, 0.5, name, fontsize=8, color=INK, **beside)

    def save(self, path: Path) -> Path:
        """Write the PNG."""
        return save(self._figure, path)
