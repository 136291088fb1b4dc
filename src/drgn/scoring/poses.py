"""Error of poses against the true ones, after the best common rotation, of the same or of the other hand."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from drgn.physics import rotations
from drgn.physics.alignment import MIRROR, resampled

_STEPS = 50  # of the geodesic median
_SMALL_DEG = 1e-3
_TURNED_DEG, _MOVED_PX = 0.5, 0.1  # less is left as it is: interpolation costs more


class PoseErrors(NamedTuple):
    """What is wrong with each pose once the whole set is aligned.

    Attributes
    ----------
    rotation_deg
        (N,) geodesic angle to the true rotation.
    view_deg
        (N,) angle between the directions of view alone (out of plane).
    shift_A
        (N,) length of the difference of the shifts.
    mirrored
        Whether the poses belong to a map of the other hand.
    other_hand_deg
        Median of `rotation_deg` on the hand that was not taken.
    turn, moved_A
        Common rotation Q (3, 3) and displacement t (3,) that were taken out, see `pose_errors`.
    """

    rotation_deg: np.ndarray
    view_deg: np.ndarray
    shift_A: np.ndarray
    mirrored: bool
    other_hand_deg: float
    turn: np.ndarray
    moved_A: np.ndarray

    @property
    def global_rotation_deg(self) -> float:
        """Angle of the common rotation."""
        return float(rotations.angle_deg(torch.from_numpy(self.turn), torch.eye(3, dtype=torch.float64)))

    @property
    def global_shift_A(self) -> float:
        """Length of the common displacement."""
        return float(np.linalg.norm(self.moved_A))

    def moves(self, pixel_size_A: float) -> bool:
        """Whether a map that belongs to these poses must be moved to lie on the true one."""
        turned = self.global_rotation_deg > _TURNED_DEG
        return self.mirrored or turned or self.global_shift_A > _MOVED_PX * pixel_size_A


def pose_errors(
    rotation: np.ndarray, shift_A: np.ndarray, true_rotation: np.ndarray, true_shift_A: np.ndarray
) -> PoseErrors:
    """Compare poses with the true ones.

    The map that belongs to given poses may be turned, displaced or of the other hand: the images do not tell.
    With M = 1, or the mirror z -> -z where it is of the other hand, a point r of the true map is at
    r' = Q^T M r + t in theirs; their poses are M R M Q and their shifts larger by (M R M Q t)_xy. Q is the
    geodesic median of (M R M)^T R_theirs, found by reweighted means on either hand, and the hand with the
    smaller median error is taken; t is then fitted.

    Parameters
    ----------
    rotation, true_rotation
        (N, 3, 3).
    shift_A, true_shift_A
        (N, 2).
    """
    told, right = (torch.as_tensor(r, dtype=torch.float64) for r in (rotation, true_rotation))
    hands = [_turn(told, one) for one in (right, MIRROR @ right @ MIRROR)]
    medians = [float(error.median()) for _, error in hands]
    mirrored = medians[1] < medians[0]
    turn, error = hands[mirrored]
    reference = MIRROR @ right @ MIRROR if mirrored else right
    view = _angle(told[:, 2], (reference @ turn)[:, 2])
    difference = torch.as_tensor(shift_A - true_shift_A, dtype=torch.float64)
    design = told[:, :2].reshape(-1, 3)
    moved = torch.linalg.lstsq(design, difference.reshape(-1, 1), driver="gelsd").solution
    left = difference - (design @ moved).reshape(-1, 2)
    return PoseErrors(
        rotation_deg=error.numpy(),
        view_deg=view.numpy(),
        shift_A=left.norm(dim=1).numpy(),
        mirrored=mirrored,
        other_hand_deg=medians[1 - mirrored],
        turn=turn.numpy(),
        moved_A=moved.flatten().numpy(),
    )


def aligned(volume: Tensor, errors: PoseErrors, pixel_size_A: float) -> Tensor:
    """Move a map (D, D, D) that belongs to the poses onto the true one: V(r) = V'(Q^T M r + t)."""
    turn = torch.from_numpy(errors.turn)
    there = turn.mT @ MIRROR if errors.mirrored else turn.mT
    return resampled(volume, there, torch.from_numpy(errors.moved_A / pixel_size_A))


def _turn(told: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation Q with told ~ right Q, and the angle that is left of each."""
    relative = right.mT @ told
    weight = torch.ones(len(told), dtype=torch.float64)
    turn = _mean(relative, weight)
    for _ in range(_STEPS):
        error = rotations.angle_deg(relative, turn)
        step = _mean(relative, 1 / error.clamp_min(_SMALL_DEG))
        moved = float(rotations.angle_deg(step, turn))
        turn = step
        if moved < 1e-6:
            break
    return turn, rotations.angle_deg(relative, turn)


def _mean(relative: Tensor, weight: Tensor) -> Tensor:
    """Chordal mean of rotations (N, 3, 3)."""
    total = (weight[:, None, None] * relative).sum(0) / weight.sum()
    u, _, vh = torch.linalg.svd(total)
    sign = torch.ones(3, dtype=torch.float64)
    sign[2] = torch.det(u @ vh)
    return u @ torch.diag(sign) @ vh


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Angle (N,) in degrees between unit vectors (N, 3)."""
    return torch.rad2deg(torch.atan2(torch.linalg.cross(a, b).norm(dim=1), (a * b).sum(1)))


def summary(errors: PoseErrors, pixel_size_A: float) -> dict[str, float]:
    """Flat numbers of pose errors; `pixel_size_A` is that of the particle images."""
    turn, shift = errors.rotation_deg, errors.shift_A
    return {
        "rotation_error_rms_deg": float(np.sqrt(np.square(turn).mean())),
        "rotation_error_mean_deg": float(turn.mean()),
        "rotation_error_median_deg": float(np.median(turn)),
        "view_error_median_deg": float(np.median(errors.view_deg)),
        "shift_error_rms_A": float(np.sqrt(np.square(shift).mean())),
        "shift_error_median_A": float(np.median(shift)),
        "shift_error_rms_px": float(np.sqrt(np.square(shift).mean()) / pixel_size_A),
        "shift_error_median_px": float(np.median(shift) / pixel_size_A),
        "poses_mirrored": float(errors.mirrored),
        "rotation_error_other_hand_median_deg": errors.other_hand_deg,
        "poses_global_rotation_deg": errors.global_rotation_deg,
        "poses_global_shift_A": errors.global_shift_A,
    }
