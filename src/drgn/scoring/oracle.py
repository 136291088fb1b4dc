"""The ceiling: what the images tell when maps, poses, CTF and noise are known.

The likelihood of each image under every true map, with the shares of the maps as the prior, gives the
posterior of its state. On average no coordinate has less squared error than its mean, no choice of a class is
right more often than its mode, and no map of an image has less squared error than the posterior mean of the
maps: a score reads as a distance to theirs. For the map of one state, back-projecting its images with the
true poses, Wiener-filtered with the true power, is what can be had without using the images of any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from drgn.errors import InputError
from drgn.formats.particles import Particles
from drgn.formats.stacks import ImageReader
from drgn.physics import fourier, gridding, imaging, voxels
from drgn.physics.ctf import PARAMETERS
from drgn.physics.grids import half_lattice
from drgn.physics.slices import padded_half
from drgn.scoring.truth import Truth
from drgn.simulation.noise import noise_filter

_CHUNK = 128
_GRID_BYTES = 1 << 30  # transforms of maps that are held at a time
_OVERSAMPLING = 2  # as in simulation.images


class Centred(NamedTuple):
    """Of B images: rotation (B, 3, 3), and in units of the noise c y (B, P) and c^2 (B, P)."""

    rotation: np.ndarray
    centred: np.ndarray
    weight: np.ndarray


class Images:
    """Images of a simulation as what the kernels of `physics.voxels` take, with the true poses and noise.

    Parameters
    ----------
    truth
        The simulation.
    particles
        The images, and their CTF; None: particles.star of the simulation.
    """

    def __init__(self, truth: Truth, particles: Particles | None = None) -> None:
        particles = truth.particles if particles is None else particles
        facts, options = truth.facts, truth.facts["options"]
        self.box_size = truth.box_size
        self.lattice = half_lattice(self.box_size, 2)
        self._reader: ImageReader = particles.image_reader()
        table, n = particles.table, len(particles)
        rows = truth.rows_of(particles)
        rotation, shift_A = (part[rows] for part in truth.poses)
        self.rotation = torch.tensor(rotation, dtype=torch.float32)
        self.shift_px = torch.tensor(shift_A / truth.pixel_size_A, dtype=torch.float32)
        self.pixel_size_A = torch.full((n,), truth.pixel_size_A)
        self.ctf_parameters = torch.tensor(table[list(PARAMETERS)].to_numpy(np.float64), dtype=torch.float32)
        self.premultiplied = torch.from_numpy(table["ctf_premultiplied"].to_numpy(bool).copy())
        self.phase_flipped = torch.from_numpy(table["phase_flipped"].to_numpy(bool).copy())
        std = float(facts["noise_standard_deviation"]) * self.box_size
        colour = noise_filter(options["noise_spectrum"], self.box_size)
        noise = torch.full((len(self.lattice),), std)
        if colour is not None:  # rfft2 has x >= 0 alone; the filter is even
            k = (self.lattice.frequencies * self.box_size).round().long()
            k = torch.where((k[:, :1] < 0), -k, k)
            noise = std * colour[k[:, 1] % self.box_size, k[:, 0]].float()
        usable = noise > 1e-6 * noise.max()  # without noise at a frequency nothing is uncertain: not believed
        self._unit = torch.where(usable, float(options["data_sign"]) / noise.clamp_min(1e-30), 0.0)

    def __len__(self) -> int:
        return len(self.rotation)

    def __call__(self, rows: np.ndarray) -> Centred:
        """Read some."""
        chosen = torch.from_numpy(rows)
        known = self.pixel_size_A[chosen], self.ctf_parameters[chosen]
        frequencies = self.lattice.frequencies
        image = self.lattice.gather(fourier.fft(torch.from_numpy(self._reader(rows)), 2)) * self._unit
        contrast, phase = imaging.transfer(frequencies, *known, self.shift_px[chosen])
        premultiplied = self.premultiplied[chosen]
        factor = imaging.multiplier(frequencies, *known, premultiplied, self.phase_flipped[chosen])
        multiplied = imaging.with_noise(factor, frequencies, *known, premultiplied, None)
        contrast = contrast * self._unit.abs()
        centred = imaging.matched_filter(image, contrast, phase, multiplied)
        return Centred(
            self.rotation[chosen].numpy(),
            centred.to(torch.complex64).contiguous().numpy(),
            imaging.information(contrast, multiplied).contiguous().numpy(),
        )


def log_likelihood(
    images: Images,
    rows: np.ndarray,
    maps: list[Callable[[], Tensor]],
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Log-likelihood (len(rows), M) of each image under each map, up to a constant of the image.

    Parameters
    ----------
    images
        All of them.
    rows
        Which of them.
    maps
        Each gives a map (D, D, D) when it is called.
    progress
        Called with what is done and what is to be done.
    """
    size = images.box_size
    radius = _OVERSAMPLING * size // 2
    each = voxels.half_grid(radius, 2).nbytes
    block = max(1, _GRID_BYTES // each)
    out = np.empty((len(rows), len(maps)))
    coordinates = (_OVERSAMPLING * size * images.lattice.frequencies).numpy()
    for first in range(0, len(maps), block):
        part = maps[first : first + block]
        grid = voxels.half_grid(radius, 2 * len(part))
        for a, read in enumerate(part):
            gridding.put(padded_half(read(), _OVERSAMPLING, radius - 1), grid, a)

        def work(chunk: slice, grid: np.ndarray = grid, columns: slice = slice(first, first + block)) -> None:
            power, overlap = voxels.fit_whole(grid, *_kernel(images(rows[chunk]), coordinates))
            out[chunk, columns] = 2 * overlap - power

        done = first * len(rows)
        for chunk in _threaded(work, len(rows)):
            done += (chunk.stop - chunk.start) * len(part)
            if progress is not None:
                progress(done, len(rows) * len(maps))
    return out


def posterior(log_likelihood: np.ndarray, group: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Posterior (G, M) of the map of each physical particle.

    Parameters
    ----------
    log_likelihood
        (N, M) of images.
    group
        (N,) number of the particle that each image shows, 0 to G - 1: the images of one are multiplied.
    prior
        (M,) shares of the maps.
    """
    total = np.zeros((int(group.max()) + 1, log_likelihood.shape[1]))
    np.add.at(total, group, log_likelihood)
    with np.errstate(divide="ignore"):
        total = total + np.log(prior / prior.sum())
    return np.exp(total - logsumexp(total, axis=1, keepdims=True))


def back_project(images: Images, rows: np.ndarray, power: Tensor) -> np.ndarray:
    """Map (D, D, D) of some images with the true poses.

    Parameters
    ----------
    images
        All of them.
    rows
        Which of them.
    power
        (P3,) expected squared modulus of the map's transform on the half lattice of the volume.
    """
    size = images.box_size
    radius = size // 2
    coordinates = (size * images.lattice.frequencies).numpy()
    sums = voxels.half_grid(radius, 2), voxels.half_grid(radius, 1)
    for start in range(0, len(rows), _CHUNK):
        arrays = _kernel(images(rows[start : start + _CHUNK]), coordinates)
        one = np.ones((len(arrays[2]), 1), np.float32)
        voxels.add_normal_equations(*sums, *arrays, one, one)
    voxels.complete_plane(sums[0], conjugate=True)
    voxels.complete_plane(sums[1], conjugate=False)
    lattice = half_lattice(size, 3)
    x, y, z = (lattice.frequencies * size).round().long().numpy().T
    right, left = (torch.from_numpy(grid[z, radius + 1 + y, radius + 1 + x]) for grid in sums)
    values = torch.view_as_complex(right.contiguous()) / (left[:, 0] + 1 / power.clamp_min(1e-30))
    density = fourier.ifft(lattice.scatter(values), 3).real
    axis = torch.sinc((torch.arange(size) - size // 2) / size).square()  # of trilinear insertion
    return (density / (axis[:, None, None] * axis[:, None] * axis)).float().numpy()


def shell_power(volume: Tensor) -> Tensor:
    """Mean squared modulus of a map's transform in the shell of each frequency of its half lattice (P3,)."""
    lattice = half_lattice(len(volume), 3)
    square = lattice.gather(fourier.fft(volume, 3)).abs().square()
    shell = (lattice.frequencies.norm(dim=1) * len(volume)).round().long()
    total = torch.zeros(int(shell.max()) + 1).index_add_(0, shell, square)
    return (total / torch.bincount(shell).clamp_min(1))[shell]


def require_maps_of_images(truth: Truth) -> None:
    """Raise an InputError where images show states between the maps: those maps are no ceiling of theirs."""
    names = [name for name in truth.states if name in truth.maps]
    shown = set(truth.maps[names].itertuples(index=False, name=None))
    wanted = set(truth.states[names].itertuples(index=False, name=None))
    if len(wanted - shown):
        raise InputError(
            f"{truth.folder}: the images show states that maps.csv has no map of (drgn simulate molecule=toy"
            " images its molecule itself), so their ceiling is not known; leave out oracle=true"
        )


def _kernel(part: Centred, coordinates: np.ndarray) -> tuple[np.ndarray, ...]:
    return part.rotation, coordinates, part.centred, part.weight


def _threaded(work: Callable[[slice], None], n: int) -> Iterator[slice]:
    """Call `work` for chunks of n in threads; yields each that is done."""
    chunks = [slice(i, min(i + _CHUNK, n)) for i in range(0, n, _CHUNK)]

    def one(chunk: slice) -> slice:
        work(chunk)
        return chunk

    with ThreadPoolExecutor(max(1, math.ceil(torch.get_num_threads()))) as pool:
        yield from pool.map(one, chunks)
