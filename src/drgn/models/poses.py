"""Where a particle's rotation and shift come from."""

from torch import Tensor, nn


class FixedPose(nn.Module):
    """The poses of the particle table, as a consensus refinement left them (P1)."""

    def forward(self, row: Tensor, rotation: Tensor, shift_px: Tensor) -> tuple[Tensor, Tensor]:
        """Rotation (B, 3, 3) and shift (B, 2) in pixels of particles `row` (B,), given the table's."""
        return rotation, shift_px
