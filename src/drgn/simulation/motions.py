"""How the atoms of a molecule move along its coordinate, which runs from 0 to 1."""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats.atoms import AtomicModel


@runtime_checkable
class Motion(Protocol):
    """What `molecules.Atoms` asks of a motion; one of your own needs no more."""

    def __call__(self, model: AtomicModel, coordinate: float) -> NDArray[np.float64]:
        """Return the atoms' places (N, 3) in Angstrom at a coordinate from 0 to 1."""
        ...


class Screw:
    """A part of the first conformation turns about an axis and moves along it; with no shift, a hinge.

    Parameters
    ----------
    moving
        The part, see `AtomicModel.select`.
    axis
        Direction x, y, z of the axis, any length.
    point_A
        A point on the axis, in the coordinates of the file.
    angle_deg
        Turn at coordinate 1, right-handed about the axis.
    shift_A
        Way along the axis at coordinate 1.
    start
        Share of the motion that is done at coordinate 0; -0.5 puts the model of the file into the middle.
    """

    def __init__(
        self,
        *,
        moving: Sequence[str],
        axis: tuple[float, float, float],
        point_A: tuple[float, float, float],
        angle_deg: float,
        shift_A: float = 0.0,
        start: float = 0.0,
    ) -> None:
        length = float(np.linalg.norm(axis))
        if length == 0:
            raise InputError(f"motion.axis={list(axis)}: expected a direction, not zero.")
        self.moving = moving
        self.axis = np.asarray(axis, dtype=np.float64) / length
        self.point_A = np.asarray(point_A, dtype=np.float64)
        self.angle_deg = angle_deg
        self.shift_A = shift_A
        self.start = start

    def __call__(self, model: AtomicModel, coordinate: float) -> NDArray[np.float64]:
        """See `Motion`."""
        done = self.start + coordinate
        angle = math.radians(self.angle_deg * done)
        x, y, z = self.axis
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        turn = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
        place_A = model.frames_A[0].copy()
        part = model.select(self.moving)
        place_A[part] = (
            (place_A[part] - self.point_A) @ turn.T + self.point_A + self.shift_A * done * self.axis
        )
        return place_A


class Path:
    """The way through the conformations of a model, straight from each to the next.

    Parameters
    ----------
    superpose
        Turn and shift every conformation onto the first (least squares over all atoms) before.
    """

    def __init__(self, *, superpose: bool) -> None:
        self.superpose = superpose

    def __call__(self, model: AtomicModel, coordinate: float) -> NDArray[np.float64]:
        """See `Motion`."""
        frames_A = model.frames_A
        if len(frames_A) < 2:
            raise InputError(
                f"{model.path} has one conformation; a path needs two: name more files as frames."
            )
        place = coordinate * (len(frames_A) - 1)
        before = min(int(place), len(frames_A) - 2)
        ends = frames_A[before], frames_A[before + 1]
        if self.superpose:
            ends = superposed(ends[0], frames_A[0]), superposed(ends[1], frames_A[0])
        return ends[0] + (place - before) * (ends[1] - ends[0])


def superposed(moving_A: NDArray[np.float64], fixed_A: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn and shift points (N, 3) onto others by least squares (Kabsch)."""
    centre = moving_A.mean(0)
    u, _, vt = np.linalg.svd((moving_A - centre).T @ (fixed_A - fixed_A.mean(0)))
    hand = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return (moving_A - centre) @ u @ hand @ vt + fixed_A.mean(0)
