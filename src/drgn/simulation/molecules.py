"""What is imaged: a molecule in a number of states, of which each has a map, and who is in which state.

A molecule of your own needs what `Molecule` says.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.errors import InputError
from drgn.formats.atoms import AtomicModel
from drgn.formats.mrc import read_volume
from drgn.formats.mrc_header import read_header
from drgn.physics import fourier
from drgn.physics.molmap import SIGMA_FACTOR, clipped_molmap
from drgn.physics.phantoms import toy_molecule
from drgn.simulation.motions import Motion
from drgn.simulation.populations import Population

States = tuple[pd.DataFrame, NDArray[np.int64]]


@runtime_checkable
class Molecule(Protocol):
    """What the images are made from.

    Attributes
    ----------
    states
        One row for each map, whose index is the map's file name without ending. Columns of numbers are
        coordinates, columns of whole numbers are labels.
    """

    states: pd.DataFrame

    def check_field(self, field_A: float, shift_A: float) -> None:
        """Raise an InputError when an image of this side, shifted so far, is too small for the molecule."""
        ...

    def draw(self, uniform: NDArray[np.float64]) -> States:
        """Turn uniform numbers (n, 2) into each particle's state: columns as in `states`, and a map's row."""
        ...

    def density(self, state: int, box_size: int, pixel_size_A: float) -> Tensor:
        """Return the map (D, D, D) of a row of `states`, in weight per voxel."""
        ...


@runtime_checkable
class ClosedForm(Molecule, Protocol):
    """A molecule whose images are exact at every coordinate; those of others are projections of maps."""

    def transform(self, truth: pd.DataFrame, frequencies_1_A: Tensor) -> Tensor:
        """Return the transform (n, P) of each particle (a row of `truth`) at its frequencies (n, P, 3)."""
        ...


class Toy:
    """A body with an arm that swings and a lobe that comes off; images are exact at every coordinate.

    Parameters
    ----------
    attached_fraction
        Share of the particles that have the lobe.
    """

    def __init__(self, *, attached_fraction: float) -> None:
        if not 0 <= attached_fraction <= 1:
            raise InputError(f"attached_fraction={attached_fraction}: expected a share from 0 to 1")
        self.attached_fraction = attached_fraction
        rows = [(motion, lobe) for motion in (0.0, 0.5, 1.0) for lobe in (1, 0)]
        names = [f"motion{motion:.1f}_{'attached' if lobe else 'detached'}" for motion, lobe in rows]
        self.states = pd.DataFrame(rows, columns=["motion", "attached"], index=names)

    def check_field(self, field_A: float, shift_A: float) -> None:
        """See `Molecule`."""
        if field_A < 180:
            raise InputError(
                f"box_size x pixel_size_A is a field of {field_A:.0f} A; the toy molecule needs at least"
                " 180 A"
            )

    def draw(self, uniform: NDArray[np.float64]) -> States:
        """See `Molecule`."""
        motion, attached = uniform[:, 0], (uniform[:, 1] < self.attached_fraction).astype(np.int64)
        nearest = 2 * np.round(2 * motion).astype(np.int64) + (1 - attached)
        return pd.DataFrame({"motion": motion, "attached": attached}), nearest

    def density(self, state: int, box_size: int, pixel_size_A: float) -> Tensor:
        """See `Molecule`."""
        motion, attached = self.states.iloc[state]
        return toy_molecule(float(motion), bool(attached)).density(box_size, pixel_size_A)

    def transform(self, truth: pd.DataFrame, frequencies_1_A: Tensor) -> Tensor:
        """See `ClosedForm`."""
        states = zip(truth["motion"], truth["attached"], frequencies_1_A, strict=True)
        return torch.stack([toy_molecule(float(m), bool(a)).fourier(k) for m, a, k in states])


class Atoms:
    """An atomic model as molmap shows it, moving and in one or more compositions.

    Parameters
    ----------
    model
        The atoms.
    resolution_A
        molmap's resolution: each atom is a Gaussian of sigma 0.225 x resolution and of its atomic number.
    motion
        How they move; null: not at all.
    n_maps
        Maps along the motion, at even steps of the coordinate from 0 to 1.
    compositions
        Name of each composition and its parts (`AtomicModel.select`); null: all atoms.
    population
        Who is in which state.
    """

    def __init__(
        self,
        *,
        model: AtomicModel,
        resolution_A: float,
        population: Population,
        motion: Motion | None = None,
        n_maps: int = 1,
        compositions: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        if resolution_A <= 0:
            raise InputError(f"molecule.resolution_A={resolution_A}: expected a number above 0.")
        if n_maps < 1 or (n_maps > 1) != (motion is not None):
            raise InputError(
                f"molecule.n_maps={n_maps}: expected 1 without a motion, and at least 2 with molecule.motion."
            )
        self.model, self.resolution_A, self.motion, self.population = model, resolution_A, motion, population
        self._n_maps = n_maps
        self._parts = [model.select(parts) for parts in (compositions or {}).values()]
        self._coordinates = np.linspace(0, 1, n_maps)
        shown = np.any(self._parts, axis=0) if self._parts else np.ones(len(model), dtype=bool)
        # one place for all states: the middle of what is shown of the first conformation
        self._centre_A = model.frames_A[0][shown].mean(0)
        names = list(compositions or {"": ()})
        self.states = _states(self._coordinates, names)
        population.draw(np.zeros((1, 2)), n_maps, len(names))  # a mistake is told before anything is made

    def place_A(self, state: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where a state's atoms are from the middle of the box (N, 3), and what they weigh (N,)."""
        along, composition = state % self._n_maps, state // self._n_maps
        place_A = self.model.frames_A[0]
        if self.motion is not None:
            place_A = self.motion(self.model, float(self._coordinates[along]))
        there = self._parts[composition] if self._parts else np.ones(len(self.model), dtype=bool)
        return place_A[there] - self._centre_A, self.model.electrons[there]

    def check_field(self, field_A: float, shift_A: float) -> None:
        """See `Molecule`."""
        margin_A = 3 * SIGMA_FACTOR * self.resolution_A + shift_A
        far_A = max(np.linalg.norm(self.place_A(i)[0], axis=1).max() for i in range(len(self.states)))
        if far_A + margin_A > field_A / 2:
            raise InputError(
                f"box_size x pixel_size_A is a field of {field_A:.0f} A; this molecule with its shifts needs"
                f" {2 * (far_A + margin_A):.0f} A"
            )

    def draw(self, uniform: NDArray[np.float64]) -> States:
        """See `Molecule`."""
        along, composition = self.population.draw(uniform, self._n_maps, max(1, len(self._parts)))
        rows = composition * self._n_maps + along
        return self.states.iloc[rows].reset_index(drop=True), rows

    def density(self, state: int, box_size: int, pixel_size_A: float) -> Tensor:
        """See `Molecule`."""
        place_A, electrons = (torch.from_numpy(a) for a in self.place_A(state))
        return clipped_molmap(place_A, electrons, self.resolution_A, box_size, pixel_size_A)


class Maps:
    """Maps of given states, in the order of the coordinate where there is one.

    Parameters
    ----------
    files
        .mrc, all of one box and pixel size; the molecule is in the middle of the box.
    continuous
        The files are steps along a motion (truth: motion), not classes (truth: state).
    population
        Who is in which state.
    """

    def __init__(self, *, files: Sequence[Path], continuous: bool, population: Population) -> None:
        if not files:
            raise InputError("molecule.files names no map.")
        headers = [read_header(file) for file in files]
        for header in headers:
            if header.shape != headers[0].shape or len(set(header.shape)) != 1:
                raise InputError(
                    f"{header.path} has {header.shape} voxels; all must be cubes, as {headers[0].path}"
                )
            if not np.isclose(header.pixel_size_A[0], headers[0].pixel_size_A[0], rtol=1e-3):
                raise InputError(f"{header.path} has another pixel size than {headers[0].path}, or none.")
        self.files, self.population, self._continuous = files, population, continuous
        self._box_size, self._pixel_size_A = headers[0].shape[0], headers[0].pixel_size_A[0]
        names = [Path(file).stem for file in files]
        self.states = (
            _states(np.linspace(0, 1, len(files)), [""]) if continuous else _states(np.zeros(1), names)
        )
        self._draw(np.zeros((1, 2)))

    def _draw(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        n = len(self.files)
        counts = (n, 1) if self._continuous else (1, n)
        return self.population.draw(uniform, *counts)[0 if self._continuous else 1]

    def check_field(self, field_A: float, shift_A: float) -> None:
        """See `Molecule`."""
        voxels = field_A / self._pixel_size_A
        if abs(voxels - round(voxels)) > 1e-3 * voxels or round(voxels) < self._box_size:
            raise InputError(
                f"box_size x pixel_size_A is a field of {field_A:.2f} A, that is {voxels:.2f} voxels of"
                f" {self.files[0]}; expected a whole number of at least its {self._box_size}"
            )

    def draw(self, uniform: NDArray[np.float64]) -> States:
        """See `Molecule`."""
        rows = self._draw(uniform)
        return self.states.iloc[rows].reset_index(drop=True), rows

    def density(self, state: int, box_size: int, pixel_size_A: float) -> Tensor:
        """See `Molecule`."""
        volume = torch.from_numpy(read_volume(self.files[state])[0])
        padded = fourier.pad(volume, round(box_size * pixel_size_A / self._pixel_size_A), 3)
        if box_size > len(padded):
            raise InputError(
                f"pixel_size_A={pixel_size_A} is finer than the {self._pixel_size_A} A of {self.files[state]}"
            )
        return fourier.downsample(padded, box_size, 3) * (len(padded) / box_size) ** 3


def _states(coordinates: NDArray[np.float64], compositions: Sequence[str]) -> pd.DataFrame:
    """Return the table of states: the coordinate runs fastest; what does not vary has no column."""
    table = pd.DataFrame(index=pd.RangeIndex(len(coordinates) * len(compositions)))
    names = [""] * len(table)
    if len(compositions) > 1:
        table["state"] = np.repeat(np.arange(len(compositions)), len(coordinates))
        names = [compositions[i] for i in table["state"]]
    if len(coordinates) > 1 or len(compositions) == 1:
        table["motion"] = np.tile(coordinates, len(compositions))
        digits = len(str(len(coordinates)))
        along = np.tile(np.arange(len(coordinates)) + 1, len(compositions))
        names = [f"{name}_map{i:0{digits}d}".lstrip("_") for name, i in zip(names, along, strict=True)]
    table.index = pd.Index(names)
    return table
