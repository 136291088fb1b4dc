"""A prepared stack in chunks, each image centred and multiplied by its CTF, for loops over voxels."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.data.dataset import ParticleDataset
from drgn.physics import imaging
from drgn.physics.imaging import Batch

_CHUNK = 256
_GRID_BYTES = 4e9  # of the grids that threads add to


class Matched(NamedTuple):
    """B images on the first P frequencies of the lattice.

    rotation: (B, 3, 3), times the volume's pixel over the image's where they differ. centred: (B, P) complex,
    from `imaging.matched_filter`. weight: (B, P), from `imaging.information`.
    """

    rotation: NDArray[np.float32]
    centred: NDArray[np.complex64]
    weight: NDArray[np.float32]


def matched(batch: Batch, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """`imaging.matched_filter` and `imaging.information`, (B, P), on the lattice's first P frequencies."""
    known = (batch["pixel_size_A"], batch["ctf_parameters"])
    contrast, phase = imaging.transfer(frequencies, *known, batch["shift_px"])
    multiplied = imaging.multiplied(frequencies, batch)
    image = batch["image"][:, : len(frequencies)]
    centred = imaging.matched_filter(image, contrast, phase, multiplied)
    return centred, imaging.information(contrast, multiplied)


def matched_chunks(
    dataset: ParticleDataset, rows: NDArray[np.int64], radius: float
) -> Iterator[tuple[slice, Callable[[], Matched]]]:
    """Slices of the rows, each with a function that reads these images up to a radius in Fourier pixels."""
    lattice = dataset.stack.lattice.frequencies
    n = int((lattice.norm(dim=1) * dataset.stack.meta.box_size < radius).sum())
    frequencies = lattice[:n]

    def reader(chunk: slice) -> Callable[[], Matched]:
        def read() -> Matched:
            batch = dataset[rows[chunk]]
            centred, weight = matched(batch, frequencies)
            rotation = batch["rotation"]
            if "frequency_scale" in batch:  # the kernels turn and scale in one
                rotation = rotation * batch["frequency_scale"][:, None, None]
            return Matched(rotation.numpy(), centred.contiguous().numpy(), weight.numpy())

        return read

    for start in range(0, len(rows), _CHUNK):
        chunk = slice(start, min(start + _CHUNK, len(rows)))
        yield chunk, reader(chunk)


def in_threads(work: Callable[[Any], None], items: list[Any], threads: int) -> None:
    """Do the work for all items in threads, each torch operation in one of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, items))
    finally:
        torch.set_num_threads(before)


def threads_with_grids(threads: int, size_B: int) -> int:
    """How many of the threads can have grids of that size each."""
    return int(np.clip(_GRID_BYTES // size_B, 1, threads))
