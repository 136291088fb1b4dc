"""Voxel reconstruction: prepared images inserted into the transform of the map, weighted by their CTF.

With images y in units of their noise, CTF c and trilinear shares s, a voxel gathers R = sum s c y and
L = sum s c^2 (of premultiplied images `imaging.matched_filter` and `imaging.information`); an image of
weight w adds w times both. A map is R / L; one that is to be looked at is R / (L + mean L / SSNR) with the
shell's mean of L and its spectral signal-to-noise ratio, SSNR = FSC / (1 - FSC) in a half map and twice that
in both: the Wiener filter (Scheres, J. Struct. Biol. 180, 519, 2012).
"""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.data.dataset import ParticleDataset
from drgn.data.halves import halves_of, require_whole_particles
from drgn.data.matched import Matched, in_threads, matched_chunks, threads_with_grids
from drgn.formats.particles import Particles
from drgn.physics import gridding, insertion, voxels
from drgn.physics.fsc import fsc
from drgn.physics.grids import shell_mean

_LEAST = 0.05  # of a shell's mean weight, below which a voxel of a half map counts as that


class Sums(NamedTuple):
    """Half grids of R (z, y, x, 2) and of L (z, y, x, 1), see `physics.voxels`."""

    right: NDArray[np.float32]
    left: NDArray[np.float32]


class Reconstruction(NamedTuple):
    """Maps (D, D, D) in the grey values of the images.

    halves: of each half set, unfiltered. density: of both, Wiener-filtered.
    """

    halves: tuple[Tensor, Tensor]
    density: Tensor


def half_sets(
    particles: Particles,
    dataset: ParticleDataset,
    source: Literal["given", "random"],
    seed: int,
    weights: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Usable rows of each half set.

    Parameters
    ----------
    particles
        The table of the data set.
    dataset
        Says which images are usable, and which show the same particle.
    source
        "given": as the particle file says, where it does; "random": half of the particles, drawn.
    seed
        Of the draw.
    weights
        (N,), those of 0 are in neither half set; None: all are in one.

    Raises
    ------
    InputError
        Nothing is selected, a half set has fewer than two particles, only some particles have one, or images
        of one particle are in both.
    """
    usable = ~dataset.rejected
    if weights is not None:
        usable &= weights > 0
    group = dataset.group.numpy()
    half = halves_of(particles, group, usable, source, seed)
    require_whole_particles(particles, group, half, usable)
    return np.flatnonzero(usable & (half == 0)), np.flatnonzero(usable & (half == 1))


def reconstruct(
    dataset: ParticleDataset,
    halves: tuple[NDArray[np.int64], NDArray[np.int64]],
    symmetry: NDArray[np.float64],
    padding: int,
    progress: Callable[[str], None],
    weights: NDArray[np.float32] | None = None,
) -> Reconstruction:
    """Reconstruct the maps of two half sets and of both together.

    Parameters
    ----------
    dataset
        With its prepared stack.
    halves
        Rows of each half set.
    symmetry
        (G, 3, 3), from `physics.symmetry.point_group`: each image is inserted in G orientations.
    padding
        How much finer than that of the box the grid of the transform is.
    progress
        Called with what is being done.
    weights
        (N,), of each image of the data set, at least 0; None: 1 each.
    """
    side, scale = dataset.stack.meta.box_size, dataset.density_scale
    sums = []
    for number, rows in enumerate(halves):
        progress(f"half {number + 1}")
        sums.append(insert(dataset, rows, symmetry, padding, weights))
    progress("maps")
    known = gridding.shells_inside(padding * side // 2)
    first, second = (scale * density(one, known, side, padding) for one in sums)
    curve = fsc(first, second).clamp(1e-3, 0.999)
    ssnr = 2 * curve / (1 - curve)
    both = Sums(sums[0].right + sums[1].right, sums[0].left + sums[1].left)
    return Reconstruction((first, second), scale * density(both, known, side, padding, ssnr.float()))


def insert(
    dataset: ParticleDataset,
    rows: NDArray[np.int64],
    symmetry: NDArray[np.float64],
    padding: int,
    weights: NDArray[np.float32] | None = None,
) -> Sums:
    """Add up the images of these rows; arguments as of `reconstruct`.

    On a GPU where there is one, else on the CPU in as many threads as torch has.
    """
    if weights is not None:
        rows = rows[weights[rows] > 0]
    side = dataset.stack.meta.box_size
    index = (dataset.stack.lattice.frequencies * side * padding).numpy()
    turns = symmetry.astype(np.float32)

    def reader(chunk: slice, read: Callable[[], Matched]) -> Callable[[], Matched]:
        if weights is None:
            return read
        share = weights[rows[chunk], None].astype(np.float32)

        def weighted() -> Matched:
            rotation, centred, weight = read()
            return Matched(rotation, share * centred, share * weight)

        return weighted

    chunks = [reader(*one) for one in matched_chunks(dataset, rows, side / 2)]
    add = _add_with_torch if torch.cuda.is_available() else _add_compiled
    total = add(chunks, index, turns, padding * side // 2)
    voxels.complete_plane(total.right, conjugate=True)
    voxels.complete_plane(total.left, conjugate=False)
    return total


def _add_compiled(
    chunks: Sequence[Callable[[], Matched]],
    index: NDArray[np.float32],
    turns: NDArray[np.float32],
    radius: int,
) -> Sums:
    """Add chunks on the CPU, a grid to each thread."""
    size = 3 * voxels.half_grid(radius, 1).nbytes
    threads = threads_with_grids(min(torch.get_num_threads(), len(chunks)), size)
    parts = [Sums(voxels.half_grid(radius, 2), voxels.half_grid(radius, 1)) for _ in range(threads)]

    def work(thread: int) -> None:
        for read in chunks[thread::threads]:
            rotation, centred, weight = read()
            for turn in turns:
                turned = np.ascontiguousarray(rotation @ turn)
                voxels.add_images(*parts[thread], turned, index[: weight.shape[1]], centred, weight)

    in_threads(work, list(range(threads)), threads)
    total = parts[0]
    for part in parts[1:]:
        np.add(total.right, part.right, out=total.right)
        np.add(total.left, part.left, out=total.left)
    return total


def _add_with_torch(
    chunks: Sequence[Callable[[], Matched]],
    index: NDArray[np.float32],
    turns: NDArray[np.float32],
    radius: int,
    device: str = "cuda",
) -> Sums:
    """Add chunks on a device, which threads read and filter on the CPU; the sums come back to the CPU."""
    grids = [torch.from_numpy(voxels.half_grid(radius, channels)).to(device) for channels in (2, 1)]
    turn_on, index_on = torch.from_numpy(turns).to(device), torch.from_numpy(index).to(device)
    adding = Lock()

    def work(read: Callable[[], Matched]) -> None:
        rotation, centred, weight = (torch.from_numpy(part).to(device) for part in read())
        with adding:
            for turn in turn_on:
                insertion.add_images(*grids, rotation @ turn, index_on[: weight.shape[1]], centred, weight)

    in_threads(work, list(chunks), torch.get_num_threads())
    return Sums(*(grid.cpu().numpy() for grid in grids))


def density(
    sums: Sums, known: tuple[Tensor, Tensor], side: int, padding: int, ssnr: Tensor | None = None
) -> Tensor:
    """Solve for the map (side, side, side); filtered where the SSNR of each shell is given.

    `known` is `gridding.shells_inside` of half the padded side.
    """
    padded = padding * side
    inside, shell = known
    shell = (shell + padding // 2) // padding  # of the box
    left = torch.from_numpy(sums.left)[inside][:, 0]
    mean = shell_mean(left, shell).clamp_min(1e-6)
    # where few images have put anything a voxel is mostly noise
    weight = torch.maximum(left, _LEAST * mean[shell]) if ssnr is None else left + (mean / ssnr)[shell]
    values = torch.view_as_complex(torch.from_numpy(sums.right)[inside]) / weight
    found = gridding.density_at(values, inside, padded // 2 - 1, padded, side)
    return found / gridding.interpolation(padded, side)
