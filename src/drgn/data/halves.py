"""Back-projection of a sample of images in two halves, and how well each half predicts the other's images.

The score of an image is the log-likelihood gained by predicting it from the map of the half that it is not
in, over predicting nothing. Noise gains nothing on average, whatever is done to it; signal gains most where
poses, CTF and conventions are right.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.errors import InputError
from drgn.formats.particles import Particles
from drgn.physics import fourier, imaging, masks
from drgn.physics.ctf import PARAMETERS
from drgn.physics.fsc import fsc
from drgn.physics.grids import half_lattice, shell_mean, shells
from drgn.physics.slices import extract, insert

_CHUNK = 256


class Reading(NamedTuple):
    """One way to read the poses of a particle file.

    rotation: (N, 3, 3). shift_px: (N, 2), pixels of the images. row: (M,) which pose belongs to image i of
    the sample, -1 where there is none.
    """

    rotation: Tensor
    shift_px: Tensor
    row: Tensor


def random_halves(group: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Half (N,), 0 or 1, of images of the physical particles `group` (N,): its images stay together."""
    _, particle = np.unique(group, return_inverse=True)
    half = np.random.default_rng(seed).permutation(particle.max(initial=-1) + 1) % 2
    return half[particle].astype(np.int64)


def halves_of(
    particles: Particles,
    group: NDArray[np.int64],
    usable: NDArray[np.bool_],
    source: Literal["given", "random"],
    seed: int,
) -> NDArray[np.int64]:
    """Half (N,), 0 or 1, of each row of the table; of rows that are not usable it says nothing.

    Parameters
    ----------
    particles
        The table.
    group
        (N,) the physical particle of each row.
    usable
        (N,) rows that are looked at.
    source
        "given": as the particle file says, where it does; "random": half of the particles, drawn.
    seed
        Of the draw.

    Raises
    ------
    InputError
        Nothing is usable, a half set has fewer than two particles, or only some particles have one.
    """
    rows = np.flatnonzero(usable)
    path = particles.source.path
    if len(rows) == 0:
        raise InputError(f"{path}: no usable image is selected; select some, or look at the images.")
    known = particles.table["half_set"].to_numpy()[rows]
    half = np.zeros(len(usable), np.int64)
    if source == "given" and (known != 0).any():
        wrong = np.flatnonzero(~np.isin(known, (1, 2)))
        if len(wrong):
            raise InputError(
                f"{path}: row {particles.table['source_row'].iloc[rows[wrong[0]]]} has the half set"
                f" {known[wrong[0]]} where 1 or 2 is expected; mend it, or draw them with half_sets=random."
            )
        half[rows] = known - 1
    else:
        half[rows] = random_halves(group[rows], seed)
    for number in (0, 1):
        count = len(np.unique(group[rows[half[rows] == number]]))
        if count < 2:
            raise InputError(
                f"{path}: half set {number + 1} has {count} particle{'s' * (count != 1)}, where at least 2"
                " are expected; select more particles, or draw the halves with half_sets=random."
            )
    return half


def require_whole_particles(
    particles: Particles, group: NDArray[np.int64], half: NDArray[np.int64], usable: NDArray[np.bool_]
) -> None:
    """Raise an InputError where usable images of one physical particle are in two halves."""
    both = np.intersect1d(group[usable & (half == 0)], group[usable & (half == 1)])
    if len(both):
        row = np.flatnonzero(group == both[0])[0]
        raise InputError(
            f"{particles.source.path}: images of the particle {particles.table['group'].iloc[row]} are in"
            " both half sets, which would not be independent; draw them with half_sets=random."
        )


class Sample:
    """M images in units of their noise, on the half lattice of a small box, in two halves."""

    def __init__(self, particles: Particles, rows: NDArray[np.int64], box_size: int) -> None:
        table = particles.table.iloc[rows]
        original = particles.box_size
        self.box_size = box_size
        self.pixel_A = particles.pixel_size_A * original / box_size
        self.scale = box_size / original  # a shift in pixels of the images, in pixels of the box
        self.lattice = half_lattice(box_size, 2)
        self.image = self._images(particles, rows)
        n = len(rows)
        parameters = np.tile([0.0, 0.0, 0.0, 0.0, 300.0, 0.0, 1.0, 0.0, 1.0], (n, 1))
        if particles.has_ctf:
            parameters = table[list(PARAMETERS)].to_numpy(np.float64)
        frequencies, pixel_A = self.lattice.frequencies, torch.full((n,), self.pixel_A)
        still = torch.zeros(n, 2)
        ctf_parameters = torch.tensor(parameters, dtype=torch.float32)
        self.contrast, _ = imaging.transfer(frequencies, pixel_A, ctf_parameters, still)
        premultiplied = torch.from_numpy(table["ctf_premultiplied"].to_numpy(bool).copy())
        flipped = torch.from_numpy(table["phase_flipped"].to_numpy(bool).copy())
        factor = imaging.multiplier(frequencies, pixel_A, ctf_parameters, premultiplied, flipped)
        window_A = pixel_A * box_size if premultiplied.any() else None
        known = pixel_A, ctf_parameters, premultiplied
        self.multiplied = imaging.with_noise(factor, frequencies, *known, window_A)
        # the unit was that of the noise as it is now
        kept = self.multiplied.noise[:, self._tail].square().mean(1).sqrt()
        self.image[premultiplied] *= kept[premultiplied, None]
        self.weight = imaging.information(self.contrast, self.multiplied)
        _, group = np.unique(table["group"].to_numpy(str), return_inverse=True)
        self.group = torch.from_numpy(group.astype(np.int64))
        self.half = torch.from_numpy(random_halves(group, seed=0))

    def _images(self, particles: Particles, rows: NDArray[np.int64]) -> Tensor:
        original, reader = particles.box_size, particles.image_reader()
        taper = masks.window(original)
        axis = torch.arange(original) - original // 2
        outside = (axis[:, None] ** 2 + axis[None, :] ** 2) > (0.45 * original) ** 2
        sign = particles.table["data_sign"].to_numpy(np.float32)
        parts = []
        for chunk in np.array_split(rows, max(1, len(rows) // _CHUNK)):
            images = torch.from_numpy(reader(chunk)).nan_to_num(0, 0, 0)
            images = (images - images[:, outside].mean(1)[:, None, None]) * taper
            transform = fourier.crop(fourier.fft(images, 2), self.box_size, 2)
            parts.append(self.lattice.gather(transform) * torch.from_numpy(sign[chunk])[:, None])
        values = torch.cat(parts)
        # the high frequencies are noise: their power, robustly, is the unit
        tail = values[:, self._tail].abs().square().mean(1).sqrt()
        usable = (tail > 0) & (tail < 10 * tail.median())
        return values * torch.where(usable, 1 / tail.clamp_min(1e-30), 0)[:, None]

    @property
    def _tail(self) -> slice:
        return slice(-len(self.lattice) // 4, None)

    def __len__(self) -> int:
        return len(self.image)


class HalfMap(NamedTuple):
    """The map of one half: its transform (D, D, D), Wiener-filtered, and its density as it is."""

    transform: Tensor
    density: Tensor


def cross_score(sample: Sample, reading: Reading) -> tuple[Tensor, tuple[HalfMap, HalfMap]]:
    """Log-likelihood gained for each image (M,) by predicting it from the other half's map; and the maps."""
    size, frequencies = sample.box_size, sample.lattice.frequencies
    known = reading.row >= 0
    rotation = reading.rotation[reading.row.clamp_min(0)]
    shift = reading.shift_px[reading.row.clamp_min(0)] * sample.scale
    phase = fourier.shift_phase(frequencies, shift)
    centred = imaging.matched_filter(sample.image, sample.contrast, phase, sample.multiplied)
    totals = []
    for half in (0, 1):
        chosen = torch.nonzero(known & (sample.half == half)).squeeze(1)
        total, weight = torch.zeros(size, size, size, dtype=torch.complex64), torch.zeros(size, size, size)
        for part in chosen.split(_CHUNK):
            where = imaging.slice_coordinates(frequencies, rotation[part]).reshape(-1, 3)
            values = centred[part].reshape(-1)
            more, heavier = insert(values, sample.weight[part].reshape(-1), where, size)
            total += more
            weight += heavier
        totals.append((total, weight))
    maps = _wiener(totals)
    score = torch.zeros(len(sample))
    for half in (0, 1):
        chosen = torch.nonzero(known & (sample.half == half)).squeeze(1)
        for part in chosen.split(_CHUNK):
            where = imaging.slice_coordinates(frequencies, rotation[part])
            slices = extract(maps[1 - half].transform, where)
            model = slices * sample.weight[part].sqrt()
            fit = (slices.conj() * centred[part]).real.sum(1)
            score[part] = 2 * fit - model.abs().square().sum(1)
    return score, maps


def _wiener(totals: list[tuple[Tensor, Tensor]]) -> tuple[HalfMap, HalfMap]:
    """Maps of the two halves, each shell multiplied by the FSC between them: the best predictor of data."""
    shell = shells(totals[0][0].shape[-1], 3)
    densities = []
    for total, weight in totals:
        mean = shell_mean(weight.flatten(), shell.flatten())
        transform = total / (weight + 0.1 * mean[shell] + 1e-6)
        transform[shell > shell.shape[-1] // 2 - 1] = 0
        densities.append((transform, fourier.ifft(transform, 3).real))
    curve = fsc(densities[0][1], densities[1][1]).float().clamp_min(0)
    factor = torch.zeros(int(shell.max()) + 1)
    factor[: len(curve)] = curve
    a, b = (HalfMap(transform * factor[shell], density) for transform, density in densities)
    return a, b
