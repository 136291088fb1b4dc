"""Poses: drawn evenly or from a real table, and what is told of them where they are told wrongly."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from drgn.errors import InputError
from drgn.formats.cryodrgn import read_poses
from drgn.formats.particles import Particles
from drgn.physics import rotations


class Poses(NamedTuple):
    """Poses of n images: rotation (n, 3, 3), shift_A (n, 2)."""

    rotation: Tensor
    shift_A: Tensor


@dataclass(frozen=True, kw_only=True)
class PoseOptions:
    """How poses are drawn.

    Attributes
    ----------
    table
        Draw the rotations from this file: .star, .cs, or cryoDRGN's poses as .pkl or .npz; null: evenly on
        SO(3).
    error_deg, error_A
        Root mean square of the angle, and of the length of the shift, by which the poses in the star are
        wrong (normally distributed in each component).
    """

    table: Path | None
    error_deg: float
    error_A: float

    def __post_init__(self) -> None:
        if self.error_deg < 0 or self.error_A < 0:
            raise InputError(
                f"poses.error_deg={self.error_deg} error_A={self.error_A}: expected numbers of 0 or more"
            )

    @property
    def exact(self) -> bool:
        """Whether the star tells the poses as they are."""
        return not (self.error_deg or self.error_A)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return rotations (n, 3, 3)."""
        if self.table is None:
            return rotations.random_rotations(n, generator)
        known = read_rotations(self.table)
        return known[torch.randint(len(known), (n,), generator=generator)]

    def told(self, poses: Poses, generator: torch.Generator) -> Poses:
        """Return the poses as the star tells them."""
        if self.exact:
            return poses
        n = len(poses.rotation)
        noise = torch.randn(n, 5, generator=generator, dtype=torch.float64)
        turn = rotations.from_rotvec(torch.deg2rad(noise[:, :3] * self.error_deg / 3**0.5))
        return Poses(turn @ poses.rotation, poses.shift_A + noise[:, 3:] * self.error_A / 2**0.5)


def read_rotations(path: Path) -> Tensor:
    """Read the rotations (n, 3, 3) of a particle file or of cryoDRGN's poses.

    Raises
    ------
    InputError
        The file is not there or has no poses.
    """
    if not path.is_file():
        raise InputError(f"poses.table={path} is not there; give a .star, .cs, .pkl or .npz, or null")
    if path.suffix in (".pkl", ".npz"):
        rotation = read_poses(path, None, "")[0]
    else:
        found = Particles.from_file(path).rotation
        if found is None:
            raise InputError(f"poses.table={path} has no orientations of its particles")
        rotation = found
    if not len(rotation):
        raise InputError(f"poses.table={path} has no rows")
    return torch.tensor(rotation, dtype=torch.float64)
