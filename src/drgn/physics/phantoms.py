"""Molecules made of Gaussian blobs, whose density, projections and Fourier transform are known exactly."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class GaussianPhantom:
    """A sum of isotropic Gaussians.

    Attributes
    ----------
    centre_A
        (G, 3) x, y, z from the origin of the box.
    sigma_A
        (G,) standard deviations.
    weight
        (G,) integrals; the sum of all voxels of `density` is their sum.
    """

    centre_A: Tensor
    sigma_A: Tensor
    weight: Tensor

    def fourier(self, frequencies_1_A: Tensor) -> Tensor:
        """Transform (...) at frequencies (..., 3) in 1/A: sum of w exp(-2 pi^2 sigma^2 k^2 - 2 pi i k.c)."""
        k2 = frequencies_1_A.square().sum(-1, keepdim=True)
        amplitude = self.weight * torch.exp(-2 * math.pi**2 * self.sigma_A**2 * k2)
        phase = -2 * math.pi * (frequencies_1_A @ self.centre_A.T)
        return torch.complex((amplitude * phase.cos()).sum(-1), (amplitude * phase.sin()).sum(-1))

    def density(self, box_size: int, pixel_size_A: float) -> Tensor:
        """Density (D, D, D) [z, y, x] sampled at the voxel centres, in weight per voxel."""
        axis = (torch.arange(box_size, dtype=self.centre_A.dtype) - box_size // 2) * pixel_size_A
        norm = pixel_size_A / (self.sigma_A * math.sqrt(2 * math.pi))
        x, y, z = (
            norm[:, None] * torch.exp(-0.5 * ((axis - c[:, None]) / self.sigma_A[:, None]) ** 2)
            for c in self.centre_A.T
        )
        return torch.einsum("g,gz,gy,gx->zyx", self.weight, z, y, x)

    def rotated(self, rotation: Tensor) -> "GaussianPhantom":
        """Turn every centre by R (3, 3)."""
        return GaussianPhantom(self.centre_A @ rotation.T, self.sigma_A, self.weight)


def _blobs(
    generator: torch.Generator, n: int, centre_A: tuple[float, ...], radius_A: tuple[float, ...]
) -> Tensor:
    """Draw points uniformly in an ellipsoid."""
    direction = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    direction /= direction.norm(dim=1, keepdim=True)
    length = torch.rand(n, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    return torch.tensor(centre_A, dtype=torch.float64) + direction * length * torch.tensor(
        radius_A, dtype=torch.float64
    )


def toy_molecule(motion: float, attached: bool, seed: int = 7) -> GaussianPhantom:
    """Build a chiral molecule of about 110 A with an arm that swings and a lobe that detaches.

    Parameters
    ----------
    motion
        0 to 1: the arm turns by 0 to 70 degrees about a hinge at the edge of the body.
    attached
        Whether the lobe is there.
    seed
        Of the arrangement of the blobs; the same seed is the same molecule.
    """
    generator = torch.Generator().manual_seed(seed)
    body = _blobs(generator, 44, (0.0, -12.0, 0.0), (32.0, 20.0, 20.0))
    arm = _blobs(generator, 36, (22.0, 38.0, 0.0), (10.0, 34.0, 10.0))
    lobe = _blobs(generator, 40, (-38.0, 16.0, 10.0), (20.0, 20.0, 20.0))
    hinge = torch.tensor([22.0, 4.0, 0.0], dtype=torch.float64)
    angle = torch.tensor(math.radians(70.0 * motion - 35.0), dtype=torch.float64)
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    # about the x axis
    turn = torch.stack([one, zero, zero, zero, c, -s, zero, s, c]).reshape(3, 3)
    arm = (arm - hinge) @ turn.T + hinge
    parts = [body, arm, lobe] if attached else [body, arm]
    centre_A = torch.cat(parts)
    return GaussianPhantom(
        centre_A=centre_A,
        sigma_A=torch.full((len(centre_A),), 5.0, dtype=torch.float64),
        weight=torch.ones(len(centre_A), dtype=torch.float64),
    )


def hinged_points(seed: int = 11) -> tuple[Tensor, Tensor]:
    """Build a chiral complex of two domains out of points, one for each residue of 110 Da (133 A^3).

    A body of about 230 kDa, and an arm of about 65 kDa bent by a right angle: a stalk along y that starts at
    the body, and a head that points to x. The arm turns freely about the axis along y through (12, 0, 0).

    Parameters
    ----------
    seed
        Of the arrangement of the points; the same seed is the same molecule.

    Returns
    -------
    tuple of Tensor
        Points of the body (n, 3) and of the arm (m, 3), x, y, z in Angstrom.
    """
    generator = torch.Generator().manual_seed(seed)

    def domain(centre_A: tuple[float, ...], radius_A: tuple[float, ...]) -> Tensor:
        n = round(4 / 3 * math.pi * math.prod(radius_A) / 133)
        return _blobs(generator, n, centre_A, radius_A)

    body = [domain((0, -32, 0), (45, 35, 35)), domain((-38, -2, 20), (24, 20, 18))]
    arm = [domain((12, 30, 0), (14, 30, 14)), domain((45, 62, 0), (40, 16, 20))]
    return torch.cat(body), torch.cat(arm)
