"""Standard normal numbers that belong to a particle, whichever process draws them and beside which others."""

import torch
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
_UNIT = 2.0**-53


def _mixed(x: Tensor) -> Tensor:
    """Every bit of 64 depends on every other: the finaliser of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _FIRST
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _SECOND
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def normal(seed: int, of: Tensor, n: int) -> Tensor:
    """Draw n independent standard normal numbers for each member, the same ones for the same seed and member.

    Parameters
    ----------
    seed
        Of this draw: from 0 to below 2^62.
    of
        (B,) int64, members; equal members get equal numbers.
    n
        Numbers of each.

    Returns
    -------
    Tensor
        (B, n) float32.
    """
    start = _mixed(_mixed(of * _GOLDEN + seed))
    counter = torch.arange(2 * n, device=of.device) + 1
    bits = _mixed(start[:, None] + counter * _GOLDEN)
    uniform = (((bits >> 11) & 0x1FFFFFFFFFFFFF).double() + 0.5) * _UNIT
    radius = (-2 * uniform[:, :n].log()).sqrt()
    return (radius * (2 * torch.pi * uniform[:, n:]).cos()).float()
