"""Poses refined with the volumes of the warm start, by Gauss-Newton steps of every image at once (P12).

What an image says of its pose near the present one is a quadratic of five numbers, the turn and the move; the
prior about the pose of the table is another. How wide it is, all images say together: poses that are right
already hardly move. Volumes are made at the present poses and all images take a few
steps against them, low resolution first: there a step of several degrees is still small.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn

from drgn.data.dataset import ParticleDataset
from drgn.errors import InputError, say
from drgn.formats.particles import Particles
from drgn.models.basis import Basis, pieces
from drgn.models.modes import LinearModes
from drgn.models.poses import RefinedPose
from drgn.physics import masks, rotations
from drgn.training.expectation import Expectation

_ROUNDS = ((8, 3), (12, 3), (16, 3), (24, 3))  # radius in Fourier pixels, mean maps made at it
_LAST_ROUNDS = 3  # at the full radius
_SHIFT_ROUNDS = 4  # of them, where what varies is not known yet and only shifts are moved
_TURN_FROM = 12  # radius in Fourier pixels: below, a motion is easily taken for a turn
EXTRA_PASSES = 3  # of expectation-maximisation at the full radius
_STEPS = 2  # of each image against the same volumes
_NARROWEST = 0.01  # prior that is looked for, of the widest
_SPREAD_OVER = 5000  # images that it is found from
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
    width
        The prior of the last step, as a share of the widest, of turns and of moves, see `spread`.
    """

    def __init__(self, pose: RefinedPose, dataset: ParticleDataset) -> None:
        self.pose = pose
        self._rotation, self._shift_px = dataset.rotation, dataset.shift_px
        self.dataset = dataset.posed(dataset.rotation.clone(), dataset.shift_px.clone())
        move = pose.prior_A / dataset.pixel_size_A.double() / 2**0.5
        turn = torch.full_like(move, math.radians(pose.prior_deg) / 3**0.5)
        self._widest = torch.stack([turn] * 3 + [move] * 2, dim=1).square()
        self.width = (1.0, 1.0)
        self._independent = 1.0  # share of the frequencies with noise of their own: a window correlates it
        if dataset.stack.meta.window:
            self._independent = float(masks.window(dataset.stack.meta.box_size).square().mean())

    def run(
        self,
        rows: NDArray[np.int64],
        every: NDArray[np.int64],
        radius_px: int,
        progress: Callable[[str, int, int], None],
        *,
        turn: bool,
        rounds: Sequence[tuple[int, int]] = _ROUNDS,
    ) -> Tensor:
        """Refine the poses of images `every` against mean maps of images `rows`; `turn` as of `step`.

        With (radius, maps made at it) before those at the full radius. Returns the last map.
        """
        mean = LinearModes(box_size=self.dataset.stack.meta.box_size, zdim=0, radius_px=radius_px)
        largest = mean.radius_px
        radii = [radius for radius, times in rounds for _ in range(times) if radius < largest]
        radii += [largest] * _LAST_ROUNDS
        if not turn:
            radii = radii[:_SHIFT_ROUNDS]
        expectation = Expectation(mean, self.dataset, rows, torch.Generator())
        for done, radius in enumerate(radii, 1):
            progress("poses", done, len(radii))
            expectation.mean(radius)
            self.step(mean, every, radius, turn=turn)
        return mean.density[0]

    def step(
        self,
        basis: Basis,
        rows: NDArray[np.int64],
        radius: int,
        *,
        turn: bool = True,
        latent: bool = False,
    ) -> None:
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
        latent
            Whether volumes are mixed as the latent says that an image shows, which the noise of an image
            disturbs less than its own amounts; radius is then the full one.
        """
        expectation = Expectation(basis, self.dataset, rows, torch.Generator())
        for _ in range(_STEPS):
            if len(basis.density) == 1:
                amounts = torch.ones(len(rows), 1)
            else:
                (amounts,) = expectation.packed(radius).each(
                    lambda known: [basis.weights(basis.encode(known)[0]) if latent else basis.expected(known)]
                )
            matrix, right = expectation.pose_equations(radius, amounts)
            if not turn:
                matrix[:, :3], matrix[:, :, :3], right[:, :3] = 0, 0, 0
            self._step(torch.from_numpy(rows), matrix, right)

    def _step(self, rows: Tensor, matrix: Tensor, right: Tensor) -> None:
        rotation, shift = self.dataset.rotation, self.dataset.shift_px
        for part in (matrix, right):
            part *= 2 * self._independent
        some = torch.linspace(0, len(rows) - 1, min(len(rows), _SPREAD_OVER)).long()
        wrong = torch.cat(self._wrong(rows[some]), dim=1)
        known = right[some] + (matrix[some] @ wrong[:, :, None])[:, :, 0]
        self.width = spread(matrix[some], known, self._widest[rows[some]])
        for piece in pieces(len(rows)):
            mine = rows[piece]
            wrong, widest = torch.cat(self._wrong(mine), dim=1), self._widest[mine]
            width = widest.new_tensor([*[self.width[0]] * 3, *[self.width[1]] * 2])
            precision = 1 / (widest * width.square())
            left = matrix[piece] + torch.diag_embed(precision)
            found = torch.linalg.solve(left, right[piece] - precision * wrong)
            size = (found.square() / widest / widest.new_tensor([3, 3, 3, 2, 2])).sum(1, keepdim=True).sqrt()
            found = found * (_LONGEST / size.clamp_min(_LONGEST))
            rotation[mine] = rotations.from_rotvec(found[:, :3]) @ rotation[mine]
            shift[mine] += found[:, 3:].float()

    def _wrong(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Turn (N, 3) and move (N, 2) from the table's poses to the present ones."""
        turn = rotations.to_rotvec(self.dataset.rotation[rows] @ self._rotation[rows].mT)
        return turn, self.dataset.shift_px[rows].double() - self._shift_px[rows]

    def after(self, basis: Basis, every: NDArray[np.int64]) -> Callable[[int], None]:
        """What follows a pass of expectation-maximisation up to a radius: a step of images `every`."""
        return lambda radius: self.step(basis, every, radius, turn=radius >= min(_TURN_FROM, basis.radius_px))

    def keep(self) -> None:
        """Give the present poses to the model."""
        self.pose.keep(self.dataset.rotation, self.dataset.shift_px, (self._rotation, self._shift_px))
        if self.pose.lr:
            width = self._widest.mean(0).sqrt()
            self.pose.sd.copy_(width * width.new_tensor([*[self.width[0]] * 3, *[self.width[1]] * 2]))


def spread(matrix: Tensor, right: Tensor, widest: Tensor) -> tuple[float, float]:
    """Widths of the Gaussian that the poses' errors are drawn from, most likely given some images.

    An image's log-likelihood of its error x, turn and move, is right.x - x.matrix x / 2; the error is
    integrated out. Where images do not ask for more than their noise does, the widths go to 0.

    Parameters
    ----------
    matrix, right
        (N, 5, 5) and (N, 5).
    widest
        (N, 5), greatest variances.

    Returns
    -------
    tuple of float
        Of turns and of moves, standard deviation over the greatest, between _NARROWEST and 1.
    """
    root = widest.sqrt()
    matrix = matrix * root[:, :, None] * root[:, None]
    right = right * root
    one = torch.eye(5, dtype=matrix.dtype)

    def misfit(logarithm: NDArray[np.float64]) -> float:
        turn, move = np.exp(logarithm)
        width = matrix.new_tensor([turn, turn, turn, move, move])
        factor = torch.linalg.cholesky(one + matrix * width[:, None] * width)
        part = torch.linalg.solve_triangular(factor, (right * width)[:, :, None], upper=False)
        return float(factor.diagonal(dim1=1, dim2=2).log().sum() - 0.5 * part.square().sum())

    bounds = [(math.log(_NARROWEST), 0.0)] * 2
    found = minimize(misfit, [-0.5, -0.5], method="Nelder-Mead", bounds=bounds, options={"xatol": 0.01})
    turn, move = np.exp(found.x)
    return float(turn), float(move)


@torch.no_grad()
def refined(particles: Particles, pose: nn.Module, dataset: ParticleDataset) -> Particles:
    """The particles, which are those of the dataset, with the poses that a model has for them."""
    rows = np.arange(len(particles))
    rotation, shift_px = pose(torch.from_numpy(rows), dataset.rotation, dataset.shift_px)
    table = particles.table.copy()
    table[["shift_x_A", "shift_y_A"]] = (shift_px * dataset.pixel_size_A[:, None]).double().numpy()
    return particles.posed_as(replace(particles, table=table, rotation=rotation.numpy()), rows)


def write_refined(particles: Particles, folder: Path) -> None:
    """Write poses.star and, of particles of cryoSPARC, poses.cs with its .csg.

    Where paths in the .cs start from its own folder (they begin with >), a sentence says why there is none.
    """
    particles.save(folder / "poses.star")
    if particles.source.kind == "cs" and particles.source.replaced != "values":
        try:
            particles.save(folder / "poses.cs")
        except InputError as error:
            say(f"no poses.cs was written: {error}", file=sys.stderr)
