"""How much of their noise CTF-premultiplied images kept: it is measured after the CTF, modelled before it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.data.sample import spread
from drgn.physics import imaging

_SAMPLE = 1000  # images whose CTF is looked at
_SAMPLE_OF_GROUP = (4, 20)  # but so many of each group at least, and at most
_SIDE = 64  # frequencies along an axis


def noise_kept(
    parameters: Tensor, premultiplied: Tensor, group: NDArray[np.int64], pixel_size_A: NDArray[np.float64]
) -> Tensor:
    """Standard deviation of an image's white noise after its CTF, over that before; 1 if not premultiplied.

    It is sqrt(mean m^2) over all frequencies of the particle image, of some images of each group together: a
    prepared stack divides a group by one number.

    Parameters
    ----------
    parameters
        (N, 9), see `physics.ctf.PARAMETERS`.
    premultiplied
        (N,) bool.
    group
        (N,) images whose noise was measured together.
    pixel_size_A
        (N,) of the particle images.

    Returns
    -------
    Tensor
        (N,) float32.
    """
    kept = torch.ones(len(parameters))
    frequencies = _frequencies()
    chosen = np.flatnonzero(premultiplied.numpy())
    numbers, of_group = np.unique(group[chosen], return_inverse=True)
    share = int(np.clip(_SAMPLE // max(1, len(numbers)), *_SAMPLE_OF_GROUP))
    by_group = np.split(np.argsort(of_group, kind="stable"), np.cumsum(np.bincount(of_group))[:-1])
    for members in by_group if len(chosen) else []:
        some = chosen[spread(members, share)]
        yes = torch.ones(len(some), dtype=torch.bool)
        pixel_A = torch.from_numpy(pixel_size_A[some]).float()
        m = imaging.multiplier(frequencies, pixel_A, parameters[some], yes, ~yes)
        kept[chosen[members]] = m.square().mean().sqrt().clamp_min(1e-3)
    return kept


def _frequencies() -> Tensor:
    """Frequencies (P, 2) all over an image, one at random in each cell of a grid: the CTF is not aliased."""
    axis = torch.arange(_SIDE)
    cells = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 2)
    within = torch.rand(len(cells), 2, generator=torch.Generator().manual_seed(0))
    return (cells + within) / _SIDE - 0.5
