"""Half maps of a run that has two decoders (`models.halves`), compared at each latent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drgn.analysis.report import Section, Table
from drgn.physics import masks
from drgn.physics.fsc import Correlations, correlations, resolution_A
from drgn.physics.sharpening import figure_of_merit, weigh_shells

if TYPE_CHECKING:
    from drgn.run import Run


class HalfMaps(NamedTuple):
    """At one latent: both half maps (D, D, D), the mask in which they are compared, and their curves."""

    one: Tensor
    two: Tensor
    mask: Tensor
    found: Correlations

    @property
    def mean(self) -> Tensor:
        """Of the two, unfiltered."""
        return (self.one + self.two) / 2

    @property
    def weighted(self) -> Tensor:
        """The mean, each shell times its expected correlation with the truth."""
        return weigh_shells(self.mean, figure_of_merit(self.found.corrected))


def compared(run: Run, z: np.ndarray, mask: Tensor | None = None, seed: int = 0) -> Iterator[HalfMaps]:
    """Decode and correlate the half maps at latents.

    Parameters
    ----------
    run
        Trained with half_sets.
    z
        (M, Z).
    mask
        (D, D, D); None: the paper's recipe (P23) on the mean of both, for each latent anew.
    seed
        Of the random phases.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for one, two in run.half_volumes(z, device):
        inside = masks.soft_mask((one + two) / 2, run.pixel_size_A) if mask is None else mask
        yield HalfMaps(one, two, inside, correlations(one, two, inside, inside, seed))


def section(run: Run, z: np.ndarray) -> Section:
    """Resolution of the map at each cluster centre (M, Z), from its half maps."""
    rows = []
    for number, maps in enumerate(compared(run, z)):
        found = [
            resolution_A(getattr(maps.found, kind), run.pixel_size_A, 0.143, box_size=run.box_size)
            for kind in ("unmasked", "masked", "corrected")
        ]
        rows.append([str(number), *(f"{value:.3g}" for value in found)])
    text = (
        "Two decoders were trained, each on one half of the particles; where their maps agree (a Fourier "
        "shell correlation above 0.143) they show more than noise. Resolutions in Å, in the order of the "
        "clusters; the last column is masked, and corrected by random phases. What the latent does not "
        "resolve is blurred alike in both halves: that is not seen here."
    )
    return Section(
        "Resolution of the maps", [text], tables=[Table(["cluster", "no mask", "masked", "corrected"], rows)]
    )
