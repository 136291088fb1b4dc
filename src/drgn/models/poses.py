"""Where a particle's rotation and shift come from."""

import torch
from torch import Tensor, nn

from drgn.errors import InputError
from drgn.physics import rotations


class FixedPose(nn.Module):
    """The poses of the particle table, as a consensus refinement left them (P1)."""

    def forward(self, row: Tensor, rotation: Tensor, shift_px: Tensor) -> tuple[Tensor, Tensor]:
        """Rotation (B, 3, 3) and shift (B, 2) in pixels of particles `row` (B,), given the table's."""
        return rotation, shift_px


class RefinedPose(nn.Module):
    """The poses of the particle table, each turned and moved by what was found to be wrong with it (P12).

    The rotation is exp(turn) R, the shift is s + move. `training.refinement` finds both; they are buffers, so
    that a checkpoint holds them, all processes start with the same, and no optimiser has a state of them.

    Parameters
    ----------
    n_particles
        N, rows of the particle table.
    prior_deg, prior_A
        Root-mean-square length of what is expected to be wrong with a rotation and a shift, at most: a
        Gaussian prior that keeps them near the table's, narrower where the images ask for less.

    Raises
    ------
    InputError
        A prior that is not positive.
    """

    def __init__(self, *, n_particles: int, prior_deg: float = 5.0, prior_A: float = 10.0) -> None:
        super().__init__()
        if not (prior_deg > 0 and prior_A > 0):
            raise InputError(f"pose.prior_deg={prior_deg} prior_A={prior_A}: expected numbers above 0")
        self.prior_deg, self.prior_A = prior_deg, prior_A
        self.register_buffer("turn", torch.zeros(n_particles, 3))
        self.register_buffer("move_px", torch.zeros(n_particles, 2))

    turn: Tensor
    move_px: Tensor

    def forward(self, row: Tensor, rotation: Tensor, shift_px: Tensor) -> tuple[Tensor, Tensor]:
        """Rotation (B, 3, 3) and shift (B, 2) in pixels of particles `row` (B,), given the table's."""
        with torch.autocast(rotation.device.type, enabled=False):
            turned = rotations.from_rotvec(self.turn[row].to(rotation.dtype)) @ rotation
        return turned, shift_px + self.move_px[row]
