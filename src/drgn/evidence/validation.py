"""A state's particles back-projected in two halves, and compared with the map that the network makes of it.

The half maps share no image: to where they agree (FSC 0.143, corrected for the mask) their mean is signal.
The neural map is compared with that mean. A map without noise correlates with it as sqrt(2 F / (1 + F)), F
being the correlation of the halves, which is 0.5 where F is 0.143: so 0.5 is read, in the paper's mask (P23).
The mean is not filtered: in a filtered map the edge of a mask would carry coarse signal into shells that are
empty, where two maps would agree. A state is supported to the coarser of the two resolutions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from drgn.data import backprojection
from drgn.data.dataset import ParticleDataset
from drgn.data.progress import CheckProgress
from drgn.errors import InputError
from drgn.evidence.states import State, effective
from drgn.formats.particles import Particles
from drgn.physics import masks
from drgn.physics.fsc import Correlations, correlations, resolution_A
from drgn.physics.symmetry import point_group
from drgn.run import Run

_PADDING = 2
_SAME = 1e-3  # relative difference of pixel sizes that is rounding


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the images say of a state.

    Attributes
    ----------
    state
        The state.
    n_images, n_particles, n_effective
        Usable images, physical particles, and (sum w)^2 / sum w^2 over these.
    half_maps, density, neural
        (D, D, D): of each half set, of both together (Wiener-filtered), and of the network.
    halves, agreement
        Curves between the half maps, and between their mean and `neural`.
    masked
        Whether a mask was given, which then serves in place of the paper's.
    pixel_size_A
        Angstrom per voxel.
    """

    state: State
    n_images: int
    n_particles: int
    n_effective: float
    half_maps: tuple[Tensor, Tensor]
    density: Tensor
    neural: Tensor
    halves: Correlations
    agreement: Correlations
    masked: bool
    pixel_size_A: float

    def _resolution(self, curve: Tensor, threshold: float) -> float:
        return resolution_A(curve, self.pixel_size_A, threshold, box_size=self.density.shape[-1])

    @property
    def agreement_curve(self) -> Tensor:
        """The curve between the neural and the back-projected map that is read, (D // 2 + 1,)."""
        return self.agreement.masked if self.masked else self.agreement.loose

    @property
    def halves_A(self) -> float:
        """To where the half maps agree: corrected, 0.143; infinite when nowhere."""
        return self._resolution(self.halves.corrected, 0.143)

    @property
    def neural_A(self) -> float:
        """To where the neural map agrees with the back-projected one: 0.5; infinite when nowhere."""
        return self._resolution(self.agreement_curve, 0.5)

    @property
    def supported_A(self) -> float:
        """To where the images support the neural map."""
        return max(self.halves_A, self.neural_A)

    def sentence(self) -> str:
        """What the data support, and to what resolution."""
        start = (
            f"{self.state.title}: {self.n_particles:,} particles (effective {self.n_effective:,.0f}); the"
            f" half maps agree to {self._said(self.halves_A)}; the neural map agrees with them (FSC 0.5) to"
            f" {self._said(self.neural_A)}"
        )
        if np.isinf(self.supported_A):
            return f"{start}: not supported by these particles."
        return f"{start}: supported to {self.supported_A:.3g} A."

    def _said(self, value_A: float) -> str:
        if np.isinf(value_A):
            return "no resolution"
        nyquist = " (Nyquist)" if value_A <= 2 * self.pixel_size_A else ""
        return f"{value_A:.3g} A{nyquist}"


def dataset_of(run: Run) -> tuple[ParticleDataset, Particles]:
    """Images and table that a run was trained on, with the stack prepared where it is not there any more.

    Raises
    ------
    InputError
        It is a run of cryoDRGN, has no latent, or its images now have another box or pixel size.
    """
    if not run.has_images:
        raise InputError(
            f"{run.path} is a run of cryoDRGN, whose images are not prepared here: write the particles with"
            " drgn filter, back-project that file with drgn backproject, and compare the map with that of"
            " drgn generate by drgn fsc."
        )
    if run.zdim == 0:
        raise InputError(
            f"{run.path} has no latent (latent=none) and so no states: back-project its particles with drgn"
            " backproject, and compare the map with drgn fsc."
        )
    data = run.datamodule  # whose poses were checked before training
    meta = data.dataset.stack.meta
    if meta.box_size != run.box_size or abs(meta.pixel_size_A / run.pixel_size_A - 1) > _SAME:
        raise InputError(
            f"{run.path} was trained in a box of {run.box_size} pixels of {run.pixel_size_A:.5g} A, and its"
            f" images now make one of {meta.box_size} of {meta.pixel_size_A:.5g} A: give back the particle"
            " file that it was trained on."
        )
    return data.dataset, data.particles


def examine(
    dataset: ParticleDataset,
    particles: Particles,
    state: State,
    neural: Tensor,
    *,
    half_sets: Literal["given", "random"],
    mask: Tensor | None,
    seed: int,
    progress: CheckProgress,
) -> Evidence:
    """Back-project the particles of a state and compare.

    Parameters
    ----------
    dataset, particles
        From `dataset_of`.
    state
        Says which particles, and with which weights.
    neural
        (D, D, D), decoded at the state's z.
    half_sets, seed
        As of `backprojection.half_sets`; the seed is also that of the random phases.
    mask
        (D, D, D) in place of the tight mask and of the paper's; None: these, of the mean of the two maps.
    progress
        Told what is being done.

    Raises
    ------
    InputError
        As of `backprojection.half_sets`.
    """
    try:
        halves = backprojection.half_sets(particles, dataset, half_sets, seed, state.weight)
    except InputError as error:
        raise InputError(f"{state.title}: {error}") from None
    rows = np.concatenate(halves)
    _, first = np.unique(dataset.group.numpy()[rows], return_index=True)
    found = backprojection.reconstruct(
        dataset,
        halves,
        point_group("C1"),
        _PADDING,
        lambda what: progress.update(f"{state.title}, {what}"),
        state.weight,
    )
    progress.update(f"{state.title}, FSC")
    pixel_size_A = dataset.stack.meta.pixel_size_A
    mean = (found.density + neural) / 2
    loose = masks.soft_mask(mean, pixel_size_A)
    tight = masks.tight_mask(mean, pixel_size_A) if mask is None else mask
    return Evidence(
        state=state,
        n_images=len(rows),
        n_particles=len(first),
        n_effective=effective(state.weight[rows][first]),
        half_maps=found.halves,
        density=found.density,
        neural=neural,
        halves=correlations(*found.halves, tight, loose, seed),
        agreement=correlations(sum(found.halves) / 2, neural, tight, loose, seed),
        masked=mask is not None,
        pixel_size_A=pixel_size_A,
    )


def differences(
    neural: Sequence[np.ndarray], density: Sequence[np.ndarray], pixel_size_A: float
) -> list[float]:
    """Correlation of what sets a neural map apart from the others with what sets its images' map apart.

    A molecule is mostly alike in all its states: a map of the wrong particles still agrees well in the
    FSC. Here the mean over the states is taken from both, inside the paper's mask (P23) of the neural mean.

    Parameters
    ----------
    neural, density
        Neural and back-projected maps (D, D, D) of M states, read twice, one by one.
    pixel_size_A
        Angstrom per voxel.

    Returns
    -------
    list of M
        1: the same difference; 0: none of it; NaN where there is one state.
    """
    if len(neural) < 2:
        return [float("nan")] * len(neural)
    ours, theirs = (
        sum(np.asarray(volume, np.float64) for volume in maps) / len(maps) for maps in (neural, density)
    )
    inside = masks.soft_mask(torch.from_numpy(ours), pixel_size_A).numpy()
    found = []
    for one, two in zip(neural, density, strict=True):
        a, b = inside * (one - ours), inside * (two - theirs)
        found.append(float((a * b).sum() / max(np.sqrt((a**2).sum() * (b**2).sum()), 1e-300)))
    return found


def examine_all(
    dataset: ParticleDataset,
    particles: Particles,
    states: Sequence[State],
    neural: Iterable[np.ndarray],
    *,
    half_sets: Literal["given", "random"],
    mask: Tensor | None,
    seed: int,
) -> Iterator[Evidence | str]:
    """Examine states one after the other; each image is read once for each state that it belongs to.

    Where there are several, one that has too few particles gives a sentence in place of its evidence.

    Parameters
    ----------
    dataset, particles
        From `dataset_of`.
    states
        Of the run.
    neural
        The map (D, D, D) of each.
    half_sets, mask, seed
        As of `examine`.
    """
    with CheckProgress("validate") as shown:
        for state, volume in zip(states, neural, strict=True):
            try:
                yield examine(
                    dataset,
                    particles,
                    state,
                    torch.from_numpy(np.asarray(volume, np.float32)),
                    half_sets=half_sets,
                    mask=mask,
                    seed=seed,
                    progress=shown,
                )
            except InputError as error:
                if len(states) == 1:
                    raise
                yield str(error)
