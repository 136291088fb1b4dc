"""Poses refined with the volumes of the warm start, by Gauss-Newton steps of every image at once (P12).

What an image says of its pose near the present one is a quadratic of five numbers, the turn and the move; the
prior about the pose of the table is another. Volumes are made at the present poses and all images take a few
steps against them, low resolution first: there a step of several degrees is still small.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drgn.data.dataset import ParticleDataset
from drgn.formats.particles import Particles
from drgn.models.basis import Basis
from drgn.models.modes import LinearModes
from drgn.models.poses import RefinedPose
from drgn.physics import rotations
from drgn.training.expectation import Expectation

_ROUNDS = ((8, 3), (12, 3), (16, 3), (24, 3))  # radius in Fourier pixels, mean maps made at it
_LAST_ROUNDS = 3  # at the full radius
_SHIFT_ROUNDS = 4  # of them, where what varies is not known yet and only shifts are moved
_TURN_FROM = 12  # radius in Fourier pixels: below, a motion is easily taken for a turn
EXTRA_PASSES = 3  # of expectation-maximisation at the full radius
_STEPS = 2  # of each image against the same volumes
_LONGEST = 2.0  # step, in root-mean-square errors of the prior


class Refinement:
    """The present poses of all images, and the steps that they take.

    Parameters
    ----------
    pose
        Its priors are taken, and its buffers filled by `keep`.
    dataset
        With the poses of the table.

    Attributes
    ----------
    dataset
        The same images at the present poses.
    """

    def __init__(self, pose: RefinedPose, dataset: ParticleDataset) -> None:
        self.pose = pose
        self._rotation, self._shift_px = dataset.rotation, dataset.shift_px
        self.dataset = dataset.posed(dataset.rotation.clone(), dataset.shift_px.clone())
        turn = (math.radians(pose.prior_deg) / 3**0.5) ** -2
        move = (pose.prior_A / dataset.pixel_size_A.double() / 2**0.5) ** -2
        self._precision = torch.stack([torch.full_like(move, turn)] * 3 + [move] * 2, dim=1)

    def run(
        self,
        rows: NDArray[np.int64],
        every: NDArray[np.int64],
        radius_px: int,
        progress: Callable[[str, int, int], None],
        *,
        turn: bool,
    ) -> None:
        """Refine the poses of images `every` against mean maps of images `rows`; `turn` as of `step`."""
        mean = LinearModes(box_size=self.dataset.stack.meta.box_size, zdim=0, radius_px=radius_px)
        largest = mean.radius_px
        radii = [radius for radius, times in _ROUNDS for _ in range(times) if radius < largest]
        radii += [largest] * _LAST_ROUNDS
        if not turn:
            radii = radii[:_SHIFT_ROUNDS]
        expectation = Expectation(mean, self.dataset, rows, torch.Generator())
        for done, radius in enumerate(radii, 1):
            progress("poses", done, len(radii))
            expectation.mean(radius)
            self.step(mean, every, radius, turn=turn)

    def step(self, basis: Basis, rows: NDArray[np.int64], radius: int, *, turn: bool = True) -> None:
        """Move the poses of some images towards what the present volumes say.

        Parameters
        ----------
        basis
            Its volumes are mixed as each particle's images show them.
        rows
            (N,) images.
        radius
            In Fourier pixels, of the frequencies that are looked at.
        turn
            Whether they turn, too; otherwise the shifts alone are moved.
        """
        expectation = Expectation(basis, self.dataset, rows, torch.Generator())
        for _ in range(_STEPS):
            if len(basis.density) == 1:
                amounts = torch.ones(len(rows), 1)
            else:
                amounts = basis.expected(expectation.statistics(radius))
            matrix, right = expectation.pose_equations(radius, amounts)
            if not turn:
                matrix[:, :3], matrix[:, :, :3], right[:, :3] = 0, 0, 0
            self._step(torch.from_numpy(rows), 2 * matrix, 2 * right)

    def _step(self, rows: Tensor, matrix: Tensor, right: Tensor) -> None:
        rotation, shift, precision = self.dataset.rotation, self.dataset.shift_px, self._precision[rows]
        wrong = torch.cat(self._wrong(rows), dim=1)
        found = torch.linalg.solve(matrix + torch.diag_embed(precision), right - precision * wrong)
        length = (
            (found.square() * precision / precision.new_tensor([3, 3, 3, 2, 2])).sum(1, keepdim=True).sqrt()
        )
        found = found * (_LONGEST / length.clamp_min(_LONGEST))
        rotation[rows] = rotations.from_rotvec(found[:, :3]) @ rotation[rows]
        shift[rows] += found[:, 3:].float()

    def _wrong(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Turn (N, 3) and move (N, 2) from the table's poses to the present ones."""
        turn = rotations.to_rotvec(self.dataset.rotation[rows] @ self._rotation[rows].mT)
        return turn, self.dataset.shift_px[rows].double() - self._shift_px[rows]

    def after(self, basis: Basis, every: NDArray[np.int64]) -> Callable[[int], None]:
        """What follows a pass of expectation-maximisation up to a radius: a step of images `every`."""
        return lambda radius: self.step(basis, every, radius, turn=radius >= min(_TURN_FROM, basis.radius_px))

    def keep(self) -> None:
        """Give the present poses to the model."""
        turn, move_px = self._wrong(torch.arange(len(self._rotation)))
        self.pose.turn.copy_(turn)
        self.pose.move_px.copy_(move_px)


@torch.no_grad()
def refined(particles: Particles, pose: nn.Module, dataset: ParticleDataset) -> Particles:
    """The particles, which are those of the dataset, with the poses that a model has for them."""
    rows = np.arange(len(particles))
    rotation, shift_px = pose(torch.from_numpy(rows), dataset.rotation, dataset.shift_px)
    table = particles.table.copy()
    table[["shift_x_A", "shift_y_A"]] = (shift_px * dataset.pixel_size_A[:, None]).double().numpy()
    return particles.posed_as(replace(particles, table=table, rotation=rotation.numpy()), rows)
