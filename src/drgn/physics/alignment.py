"""Lay one map on another: rotation, shift and hand."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from drgn.physics import fourier, rotations
from drgn.physics.grids import half_lattice, shell_mean
from drgn.physics.slices import extract, padded_transform

MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
_SHELLS = (8, 16, 32)  # of the search, and of each refinement after it
_ROTATIONS, _TOGETHER = 4096, 64
_KEPT, _NEARBY = 12, 0.1  # rotations that are looked around in, and how far, in rad
_ANGLE, _SHIFT_PX = 0.05, 0.5  # first steps of a refinement, in rad and in pixels of the search


class Placement(NamedTuple):
    """A map V' lies on another as V(r) = V'(A r + t).

    matrix: A (3, 3), orthogonal; of determinant -1 where the hand differs. shift_px: t (3,), x, y, z.
    correlation: of the two then, at the frequencies of the last refinement, each shell with the same weight.
    """

    matrix: Tensor
    shift_px: Tensor
    correlation: float

    @property
    def mirrored(self) -> bool:
        """Whether the hand differs."""
        return bool(torch.linalg.det(self.matrix) < 0)

    @property
    def angle_deg(self) -> float:
        """Angle of the rotation, of the mirrored map where the hand differs."""
        turn = self.matrix @ MIRROR if self.mirrored else self.matrix
        return float(rotations.angle_deg(turn, torch.eye(3, dtype=torch.float64)))


def resampled(volume: Tensor, matrix: Tensor, shift_px: Tensor) -> Tensor:
    """The map V(r) = V'(A r + t) of V' (D, D, D), inside Nyquist: F(k) = F'(A k) exp(2 pi i (A k).t)."""
    lattice = half_lattice(len(volume), 3)
    values = _moved(padded_transform(volume), lattice.frequencies, matrix, shift_px)
    return fourier.ifft(lattice.scatter(values), 3).real


def align(volume: Tensor, reference: Tensor, hand: bool) -> Placement:
    """Find how a map (D, D, D) lies on a reference of the same box.

    Rotations evenly over all (super-Fibonacci spirals: Alexa, CVPR 2022), each with its best shift, at low
    resolution; the best of these are refined, the best of them at rising resolution.

    Parameters
    ----------
    volume, reference
        (D, D, D).
    hand
        Look for the mirror image too.
    """
    size, generator = len(volume), torch.Generator().manual_seed(0)
    fine = [_Pair(volume, reference, shells) for shells in _SHELLS]
    nearby = rotations.from_rotvec(_NEARBY * torch.randn(_TOGETHER, 3, generator=generator).double())
    found = []
    for mirror in (torch.eye(3, dtype=torch.float64), MIRROR)[: 1 + hand]:
        turns = spread_rotations(_ROTATIONS) @ mirror
        peaks, _ = fine[0].search(turns)
        around = (nearby[:, None] @ turns[peaks.topk(_KEPT).indices]).flatten(0, 1)
        peaks, shifts = fine[0].search(around)
        i = int(peaks.argmax())
        found.append(fine[0].refined(around[i], shifts[i], _ANGLE, _SHIFT_PX))
    best = max(found, key=lambda one: one.correlation)
    for coarse, pair in pairwise(fine):
        grown = pair.size / coarse.size
        best = pair.refined(best.matrix, best.shift_px * grown, _ANGLE / 4, _SHIFT_PX / 4 * grown)
    return best._replace(shift_px=best.shift_px * size / fine[-1].size)


def spread_rotations(n: int) -> Tensor:
    """Rotations (n, 3, 3) that cover all orientations evenly."""
    s = torch.arange(n, dtype=torch.float64) + 0.5
    near, far = (s / n).sqrt(), (1 - s / n).sqrt()
    alpha = 2 * math.pi * s / math.sqrt(2)
    beta = 2 * math.pi * s / 1.533751168755204288118041
    return rotations.from_quaternion(
        torch.stack([near * alpha.sin(), near * alpha.cos(), far * beta.sin(), far * beta.cos()], dim=1)
    )


class _Pair:
    """Two maps up to a radius, in a smaller box, each shell of both brought to the same power."""

    def __init__(self, volume: Tensor, reference: Tensor, radius_px: int) -> None:
        self.size = size = min(len(volume), 4 * radius_px)
        self.lattice = half_lattice(size, 3, radius_px)
        one, two = (fourier.downsample(v.float() - v.float().mean(), size, 3) for v in (volume, reference))
        shell = (self.lattice.frequencies.norm(dim=1) * size).round().long()
        known, wanted = (self.lattice.gather(fourier.fft(v, 3)) for v in (one, two))
        self.reference = wanted * _whitening(wanted, shell)
        self.weight = _whitening(known, shell)
        self.transform = padded_transform(one)

    def search(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """Correlation (M,) of each rotation at its best shift, and that shift (M, 3)."""
        peaks, shifts = [], []
        still = torch.zeros(3, dtype=torch.float64)
        for some in matrices.split(_TOGETHER):
            values = _moved(self.transform, self.lattice.frequencies, some, still) * self.weight
            overlap = self.lattice.real(values * self.reference.conj()) * self.size**3 / 2
            peak, index = overlap.flatten(1).max(1)
            at = [index // self.size**i % self.size - self.size // 2 for i in range(3)]
            # the peak of s, with (A k).t = k.s, lies where the volume must be moved by t = A s
            s = torch.stack(at, dim=1).double()
            peaks.append(peak)
            shifts.append(torch.einsum("bij,bj->bi", some, s))
        return torch.cat(peaks), torch.cat(shifts)

    def refined(self, matrix: Tensor, shift_px: Tensor, angle: float, step_px: float) -> Placement:
        """Climb from a placement to the nearest best one."""
        scale = np.array([angle] * 3 + [step_px] * 3)

        def placed(x: np.ndarray) -> tuple[Tensor, Tensor]:
            turn = rotations.from_rotvec(torch.from_numpy(x[:3] * scale[:3]))
            return turn @ matrix, shift_px + torch.from_numpy(x[3:] * scale[3:])

        def loss(x: np.ndarray) -> float:
            values = _moved(self.transform, self.lattice.frequencies, *placed(x)) * self.weight
            return -float((values * self.reference.conj()).real.sum())

        simplex = np.concatenate([np.zeros((1, 6)), np.eye(6)])
        options = {"initial_simplex": simplex, "maxfev": 250, "xatol": 1e-3, "fatol": 1e-6}
        found = minimize(loss, np.zeros(6), method="Nelder-Mead", options=options)
        return Placement(*placed(found.x), -float(found.fun))


def _moved(transform: Tensor, frequencies: Tensor, matrix: Tensor, shift_px: Tensor) -> Tensor:
    """Values (..., P) at A k of a padded transform, with the phases of the shift; A (..., 3, 3)."""
    coordinates = (frequencies.double() @ matrix.mT).float()
    phase = 2 * math.pi * (coordinates @ shift_px.float())
    return extract(transform, coordinates) * torch.polar(torch.ones_like(phase), phase)


def _whitening(values: Tensor, shell: Tensor) -> Tensor:
    """Factors (P,) that give values (P,) the same power in every shell, and all together a power of 1."""
    power = shell_mean(values.abs().square(), shell)
    return 1 / power.sqrt().clamp_min(1e-30)[shell] / math.sqrt(len(shell))
