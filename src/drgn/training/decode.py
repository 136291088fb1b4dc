"""Maps at latents, several decoded together."""

import sys
from collections.abc import Iterator

import torch
from rich.progress import track
from torch import Tensor

from drgn.models.halves import Halves
from drgn.models.reconstructor import Reconstructor
from drgn.training import memory

_VOXELS_TOGETHER = 8 * 128**3  # of maps decoded together; as much memory again as they take


def decode(
    model: Reconstructor | Halves, z: Tensor, *, box_size: int, autocast: torch.dtype | None
) -> Iterator[tuple[Tensor, ...]]:
    """Decode the map (D, D, D) of each part of a model, two with halves, at each of M latents.

    Parameters
    ----------
    model
        On its device.
    z
        (M, Z), on the same; Z = 0 gives M copies of the homogeneous map.
    box_size
        D, at most that of training.
    autocast
        bfloat16 for mixed precision, None for float32.
    """
    memory.keep_freed()
    parts = model.reconstructors if isinstance(model, Halves) else (model,)
    together = max(1, min(64, _VOXELS_TOGETHER // box_size**3))
    for some in track(z.split(together), description="decoding volumes", disable=not sys.stderr.isatty()):
        with torch.autocast(z.device.type, dtype=autocast, enabled=autocast is not None):
            maps = [
                list(part.volumes(some, box_size=box_size))
                if part.zdim
                else [next(part.volumes(None, box_size=box_size))] * len(some)
                for part in parts
            ]
        yield from zip(*maps, strict=True)
