"""Noise-free images of a molecule's states, through the forward model of `drgn.physics.imaging`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.physics import fourier, imaging
from drgn.physics.grids import half_lattice
from drgn.physics.slices import extract, padded_transform
from drgn.simulation.molecules import ClosedForm, Molecule
from drgn.simulation.poses import Poses

_FREQUENCIES_AT_A_TIME = 1 << 19


@dataclass(frozen=True, eq=False)
class Scene:
    """What is in front of the microscope, image by image.

    Attributes
    ----------
    molecule
        What is imaged.
    truth, state
        Each particle's row of `truth` columns, and the map (n,) that is nearest.
    poses
        The right ones.
    ctf_parameters
        (n, 9).
    box_size, pixel_size_A
        Of the images.
    read_map
        Map of a state (D, D, D) float32 in this box.
    """

    molecule: Molecule
    truth: pd.DataFrame
    state: NDArray[np.int64]
    poses: Poses
    ctf_parameters: Tensor
    box_size: int
    pixel_size_A: float
    read_map: Callable[[int], Tensor]

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return noise-free images (len(rows), D, D). Frequency 0 and what is at or beyond Nyquist are 0."""
        images = np.empty((len(rows), self.box_size, self.box_size))
        step = max(1, _FREQUENCIES_AT_A_TIME // len(half_lattice(self.box_size, 2)))
        state = self.state[rows]
        exact = isinstance(self.molecule, ClosedForm)
        for one in [None] if exact else np.unique(state).tolist():
            members = np.arange(len(rows)) if one is None else np.flatnonzero(state == one)
            transform = None if one is None else padded_transform(self.read_map(one))
            for start in range(0, len(members), step):
                part = members[start : start + step]
                images[part] = self._views(rows[part], transform).numpy()
        return images

    def _views(self, rows: NDArray[np.int64], transform: Tensor | None) -> Tensor:
        """Images of particles, all in one state where the padded transform of its map is given."""
        lattice = half_lattice(self.box_size, 2)
        frequencies = lattice.frequencies.double()
        chosen = torch.from_numpy(rows)
        coordinates = imaging.slice_coordinates(frequencies, self.poses.rotation[chosen])
        if transform is not None:
            slices = extract(transform, coordinates.float()).to(torch.complex128)
        else:
            assert isinstance(self.molecule, ClosedForm)
            slices = self.molecule.transform(self.truth.iloc[rows], coordinates / self.pixel_size_A)
        contrast, phase = imaging.transfer(
            frequencies,
            torch.full((len(rows),), self.pixel_size_A, dtype=torch.float64),
            self.ctf_parameters[chosen],
            self.poses.shift_A[chosen] / self.pixel_size_A,
        )
        return fourier.ifft(lattice.scatter(imaging.observe(slices, contrast, phase)), 2).real
