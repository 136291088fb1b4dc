"""Poses from nothing: orientations and shifts of all images and the map that they show, found together (P12).

A map of low resolution comes first, by stochastic expectation-maximisation from a random one. In each step a
few images are compared with the slices of the map in every orientation of an even grid, at every shift of
another: matrix products (Sigworth, J. Struct. Biol. 122, 328, 1998). The map of the step is that of all
orientations and shifts, each as likely as it is; likelihoods are flattened at first and the radius in Fourier
space grows. Then every image takes its best pose, and `training.refinement` takes the poses on at rising
resolution.

A map and its mirror image have the same projections: the hand that is found is one of two by chance.
"""

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.data.dataset import ParticleDataset
from drgn.data.matched import matched
from drgn.errors import say
from drgn.models.poses import SearchedPose
from drgn.physics import fourier, gridding, imaging, masks, rotations, search_grids, voxels
from drgn.physics.alignment import MIRROR, align, resampled
from drgn.physics.grids import half_lattice, shell_mean
from drgn.physics.slices import extract, padded_transform
from drgn.training.refinement import Refinement

_STEPS, _BATCH = 80, 200  # of expectation-maximisation, and images in each
_RADII = (3.0, 7.0)  # Fourier pixels, in its first and its last steps
_FIRST_FIT = 4.0  # what is known of an image at first, in natural units of information
_MEMORY = (0.5, 0.1)  # share of a step in the sums, of the first and of the last
_FLAT, _RISING = 0.6, 0.9  # share of the steps in which likelihoods are flattened, in which the radius rises
_START_PX = 6  # radius in Fourier pixels of the random map
_ANGLE, _SHIFT = 1.3, 1.6  # of the grids: steps of orientations and shifts times the radius
_NEAR = 1  # steps of the shift grid that are looked at where a shift is known about
_VALUES = 1 << 21  # likelihoods at a time
_LEAST = -60.0  # log-likelihood below the highest, from which on all are one
_MASK = (0.75, 0.95)  # soft sphere that maps are kept in, in half boxes
_JUDGED = 500  # images that tell which map is kept
_COARSE_PX, _FINE_PX = 4, 7  # radii at which all images look for their shifts, and for their orientations
_REFINED_PX, _ROUNDS = 12, ((8, 2),)  # radius up to which poses are refined then, and maps made before
_LOOKS = ((8, 20.0), (10, 20.0))  # radii at which all look in better maps, and how far off a pose was wrong
_FEWEST = 50  # images that a map is kept for
_ENOUGH = 30.0  # natural units that an image tells about its orientation where poses were found every time


class Bank(NamedTuple):
    """Slices of A maps in M orientations, on the first P frequencies of the lattice.

    rotation: (M, 3, 3). slices: (2 P, A M), real parts above imaginary ones, those of one map after the
    other. power: (P, A M), squared modulus.
    """

    rotation: Tensor
    slices: Tensor
    power: Tensor


class Found(NamedTuple):
    """Best poses of N images.

    rotation: (N, 3, 3). shift_px: (N, 2). number: (N,), of the map that fits.
    """

    rotation: Tensor
    shift_px: Tensor
    number: Tensor


class Search:
    """Images without poses, compared with maps in all orientations.

    Parameters
    ----------
    dataset
        Its poses are not looked at.
    rows
        Training rows.
    extent_px
        Largest shift along x and y that is looked for, in pixels of the training box.
    seed
        Of first maps and of the images of each step.
    """

    def __init__(
        self, dataset: ParticleDataset, rows: NDArray[np.int64], extent_px: float, seed: int
    ) -> None:
        self.dataset, self.rows, self.extent_px = dataset, rows, extent_px
        self.generator = torch.Generator().manual_seed(seed)
        self.box_size = dataset.stack.meta.box_size
        self.frequencies = dataset.stack.lattice.frequencies
        self.index = self.frequencies * self.box_size
        self._of_radius = self.index.norm(dim=1)
        self.radius_px = min(math.ceil(_RADII[1]), self.box_size // 2 - 1)
        self.side = 2 * (self.radius_px + 1)
        amplitude = dataset.signal_amplitude(rows)
        self.power = shell_mean(amplitude.double().square(), self._of_radius.round().long()).float()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def maps(self, n: int, progress: Callable[[int, int], None]) -> Tensor:
        """n maps (n, side, side, side) of low resolution, from random ones; each image shows one of them."""
        density = torch.stack([self._random() for _ in range(n)])
        return self._improved(density, self.rows, True, progress)

    def apart(self, density: Tensor, number: Tensor, progress: Callable[[int, int], None]) -> Tensor:
        """Improve each map (A, side, side, side) on its own images alone, by their numbers (N,)."""
        improved = []
        for one, start in enumerate(density.split(1)):
            mine = self.rows[number.numpy()[self.rows] == one]
            improved.append(self._improved(start, mine, False, progress) if len(mine) >= _FEWEST else start)
        return torch.cat(improved)

    def _improved(
        self, density: Tensor, rows: NDArray[np.int64], new: bool, progress: Callable[[int, int], None]
    ) -> Tensor:
        """Maps after stochastic expectation-maximisation; of new ones the radius rises from low."""
        sums: list[list[NDArray[np.float32]]] = []
        batch = min(_BATCH, len(rows))
        for step in range(_STEPS):
            progress(step + 1, _STEPS)
            done = step / (_STEPS - 1)
            risen, sharp = (done / _RISING, done / _FLAT) if new else (1.0, 1.0)
            radius = _RADII[0] + (_RADII[1] - _RADII[0]) * min(1.0, risen)
            chosen = rows[torch.randperm(len(rows), generator=self.generator)[:batch].numpy()]
            bank = self.bank(density, radius)
            images = self._images(chosen, len(bank.power))
            flat = self._flatness(images[1], sharp)
            found = self._expected(bank, *images, flat, radius)
            share = 1.0 if not sums else _MEMORY[0] + (_MEMORY[1] - _MEMORY[0]) * done
            sums = [
                [share * part + (1 - share) * past for part, past in zip(one, old, strict=True)]
                for one, old in zip(found, sums or found, strict=True)
            ]
            scale = flat * len(rows) / batch
            density = torch.stack([self._solve(*one, radius, scale) for one in sums])
        return density

    def poses(
        self,
        density: Tensor,
        rows: NDArray[np.int64],
        radius: float,
        near_px: Tensor | None = None,
        progress: Callable[[int, int], None] = lambda done, n: None,
    ) -> Found:
        """Best pose of each image of `rows` (N,) in maps (A, side, side, side), on the grids for a radius.

        Shifts are looked for everywhere, or near those that are known (N, 2).
        """
        bank = self.bank(density, radius)
        n, size = bank.power.shape
        offsets = self._shifts(radius, near_px is not None)
        rotation = torch.empty(len(rows), 3, 3, dtype=torch.float64)
        shift, number = torch.zeros(len(rows), 2), torch.zeros(len(rows), dtype=torch.long)
        if near_px is not None:
            shift += near_px
        for part in self._parts(len(rows), len(offsets) * size):
            progress(int(part[-1]) + 1, len(rows))
            images = self._images(rows[part.numpy()], n, shift[part])
            best = self._compare(bank, *images, offsets).flatten(1).argmax(1).cpu()
            number[part] = best % size // len(bank.rotation)
            shift[part] += offsets[best // size % len(offsets)]
            found = bank.rotation[best % size % len(bank.rotation)]
            other = (best >= size * len(offsets))[:, None, None]
            rotation[part] = torch.where(other, search_grids.HALF_TURN @ found, found)
        return Found(rotation, shift, number)

    def fit(self, density: Tensor, rows: NDArray[np.int64], radius: float) -> float:
        """Mean log-likelihood ratio of maps (A, side, side, side), in all poses together, and of no map."""
        bank = self.bank(density, radius)
        offsets, total = self._shifts(radius), 0.0
        for part in self._parts(len(rows), len(offsets) * bank.power.shape[1]):
            images = self._images(rows[part.numpy()], len(bank.power))
            likelihood = self._compare(bank, *images, offsets).flatten(1)
            highest = likelihood.amax(1)
            total += float((highest + _shares(likelihood).mean(1).log()).sum())
        return total / len(rows)

    def information(self, rows: NDArray[np.int64], radius: float) -> float:
        """What an image tells about its orientation, mean of `rows`, in natural units.

        Power of signal over that of noise, of shells from the second on: the first tells of the outline.
        """
        shell = self._of_radius[self._of_radius < radius].round().long()
        weight = self._images(rows, len(shell))[1].mean(0).cpu()
        return float((weight * self.power[shell])[shell > 1].sum())

    def bank(self, density: Tensor, radius: float) -> Bank:
        """Slices of maps (A, side, side, side) in a grid of orientations for a radius in Fourier pixels."""
        n = int((self._of_radius < radius).sum())
        rotation = search_grids.half_orientations(_ANGLE / radius)
        finer = self.box_size / density.shape[-1]
        parts = []
        for one in density:
            transform = padded_transform(one)
            for some in rotation.float().split(4096):
                at = imaging.slice_coordinates(self.frequencies[:n] * finer, some)
                parts.append(extract(transform, at))
        slices = torch.cat(parts)
        both = torch.cat([slices.real, slices.imag], dim=1).T.contiguous()
        power = slices.abs().square().T.contiguous()
        return Bank(rotation, both.to(self.device), power.to(self.device))

    def _shifts(self, radius: float, near: bool = False) -> Tensor:
        step = _SHIFT * self.box_size / (2 * math.pi * radius)
        return search_grids.shifts(step, _NEAR * step if near else self.extent_px)

    def _parts(self, n: int, size: int) -> tuple[Tensor, ...]:
        return torch.arange(n).split(max(1, _VALUES // (2 * size)))

    def _images(
        self, rows: NDArray[np.int64], n: int, shift_px: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Matched-filtered transforms (B, n) of images, moved back by shifts (B, 2), and the CTF squared."""
        batch = self.dataset[rows]
        batch["shift_px"] = torch.zeros(len(rows), 2) if shift_px is None else shift_px
        centred, weight = matched(batch, self.frequencies[:n])
        return centred.to(self.device), weight.to(self.device)

    def _moved(self, centred: Tensor, offsets: Tensor) -> Tensor:
        """Images (B, n) moved back by each of T shifts, (2, B T, n): real and imaginary parts."""
        phase = fourier.shift_phase(self.frequencies[: centred.shape[1]], offsets).conj()
        moved = (centred[:, None] * phase.to(self.device)).flatten(0, 1)
        return torch.stack([moved.real, moved.imag])

    def _compare(self, bank: Bank, centred: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
        """Log-likelihoods (B, 2, T, M) of images, at the bank's orientations and at those of half a turn."""
        n = len(bank.power)
        real, imaginary = self._moved(centred, offsets)
        shape = (len(centred), len(offsets), -1)
        even = (2 * real @ bank.slices[:n]).view(shape)
        odd = (2 * imaginary @ bank.slices[n:]).view(shape)
        even -= (weight @ bank.power)[:, None]
        return torch.stack([even + odd, even - odd], dim=1)

    def _flatness(self, weight: Tensor, done: float) -> float:
        """What log-likelihoods are multiplied by: images tell little at first, in the end what they do."""
        shell = self._of_radius[: weight.shape[1]].round().long()
        known = float((weight.mean(0).cpu() * self.power[shell]).sum())
        first = min(1.0, _FIRST_FIT / known)
        return first ** max(0.0, 1 - done)

    def _expected(
        self, bank: Bank, centred: Tensor, weight: Tensor, flat: float, radius: float
    ) -> list[list[NDArray[np.float32]]]:
        """Half grids, sides of each map's equations: of images in all poses, each as far as it is likely."""
        n, offsets = len(bank.power), self._shifts(radius)
        right, left = torch.zeros_like(bank.slices), torch.zeros_like(bank.power)
        for part in self._parts(len(centred), len(offsets) * bank.power.shape[1]):
            likelihood = self._compare(bank, centred[part], weight[part], offsets).mul_(flat)
            share = _shares(likelihood.flatten(1)).view_as(likelihood)
            share /= share.sum((1, 2, 3), keepdim=True)
            one, other = share[:, 0].flatten(0, 1), share[:, 1].flatten(0, 1)
            real, imaginary = self._moved(centred[part], offsets)
            right[:n] += real.T @ (one + other)
            right[n:] += imaginary.T @ (one - other)
            left += weight[part].T @ share.sum((1, 2))
        sums = []
        known = bank.rotation.float().numpy(), self.index[:n].numpy()
        images = torch.complex(right[:n], right[n:]).T.contiguous().cpu().numpy()
        weights = left.T.contiguous().cpu().numpy()
        for one in np.split(np.arange(len(images)), len(images) // len(known[0])):
            both = [voxels.half_grid(self.radius_px, channels) for channels in (2, 1)]
            voxels.add_images(*both, *known, images[one], weights[one])
            voxels.complete_plane(both[0], conjugate=True)
            voxels.complete_plane(both[1], conjugate=False)
            sums.append(both)
        return sums

    def _solve(
        self, right: NDArray[np.float32], left: NDArray[np.float32], radius: float, scale: float
    ) -> Tensor:
        """The most likely map under the images' power by shells; the sums count `scale` times."""
        inside, shell = gridding.shells_inside(self.radius_px)
        solved = torch.view_as_complex(torch.from_numpy(right)[inside])
        solved = solved / (torch.from_numpy(left)[inside][:, 0] + 1 / (scale * self.power[shell]))
        solved = torch.where(shell < radius, solved, 0)
        density = gridding.density_at(solved, inside, self.radius_px, self.side, self.side)
        return density * masks.window(self.side, *_MASK, ndim=3) / gridding.interpolation(self.side)

    def _random(self) -> Tensor:
        """A map of the images' power by shells, its phases random."""
        lattice = half_lattice(self.side, 3, _START_PX)
        shell = (lattice.frequencies.norm(dim=1) * self.side).round().long()
        drawn = torch.randn(len(lattice), 2, generator=self.generator)
        values = torch.view_as_complex(drawn) * (0.5 * self.power[shell]).sqrt()
        return lattice.real(values) * masks.window(self.side, *_MASK, ndim=3)


def _shares(likelihood: Tensor) -> Tensor:
    """Likelihoods (B, L) over the highest of each row, from their logarithms, which are lost."""
    likelihood -= likelihood.amax(1, keepdim=True)
    return likelihood.clamp_min_(_LEAST).exp_()  # denormal numbers would take a hundred times as long


def find(
    pose: SearchedPose,
    dataset: ParticleDataset,
    rows: NDArray[np.int64],
    heldout: NDArray[np.int64],
    seed: int,
    progress: Callable[[str, int, int], None],
) -> ParticleDataset:
    """Find the poses of all images, to be refined; returns the images at them.

    Parameters
    ----------
    pose
        How far and how often to look. Gets priors for the refinement.
    dataset
        Its poses are not looked at.
    rows, heldout
        Training images, which maps are made of, and others, which tell the better one of several.
    seed
        Of the first maps.
    progress
        Called with (what, done, all).
    """
    side_px = dataset.stack.meta.box_size
    side_A = dataset.stack.meta.pixel_size_A * side_px
    pose.prior_deg, pose.prior_A = math.degrees(_ANGLE / _FINE_PX), _SHIFT * side_A / (2 * math.pi * _FINE_PX)
    search = Search(dataset, rows, pose.extent * side_px, seed)
    judges = (heldout if len(heldout) else rows)[:_JUDGED]
    best, fits = torch.empty(0), []
    if (told := search.information(judges, _FINE_PX)) < _ENOUGH:
        say(
            f"search: to radius {_FINE_PX} an image tells only {told:.0f} natural units of its orientation;"
            f" below {_ENOUGH:.0f} the poses may be wrong however many images there are: look at the map",
            file=sys.stderr,
        )
    for number in range(1, pose.restarts + 1):
        name = f"maps from nothing, start {number} of {pose.restarts}"
        maps = search.maps(pose.maps, partial(progress, name))
        fits.append(search.fit(maps, judges, _FINE_PX))
        if fits[-1] == max(fits):
            best = maps
    every = np.arange(len(dataset))
    found = _looked(search, best, every, progress)
    if len(best) > 1:
        best = search.apart(best, found.number, partial(progress, "each map from its own images"))
        found = _looked(search, best, every, progress)
    known = dataset.posed(found.rotation, found.shift_px)
    best = _refined(pose, known, rows, found.number, progress)
    for radius, off_deg in _LOOKS:
        name = f"orientations in {len(best)} maps to radius {radius}"
        found = search.poses(best, every, radius, known.shift_px, partial(progress, name))
        wrong = rotations.angle_deg(found.rotation, known.rotation) >= off_deg
        known.rotation[wrong], known.shift_px[wrong] = found.rotation[wrong], found.shift_px[wrong]
        best = _refined(pose, known, rows, found.number, progress)
    likely = ", ".join(f"{fit:.2f}" for fit in fits)
    shares = ", ".join(f"{share:.0%}" for share in (found.number.bincount() / len(every)).tolist())
    say(
        f"search: log-likelihood of a held-out image {likely} under the maps of each start; share of images"
        f" that show each map: {shares}; {float(wrong.float().mean()):.1%} of the poses changed in better"
        " maps. Maps may be mirror images: the images cannot tell",
        file=sys.stderr,
    )
    return known


def _looked(
    search: Search, maps: Tensor, rows: NDArray[np.int64], progress: Callable[[str, int, int], None]
) -> Found:
    """Poses of images in new maps: shifts at a low radius, then orientations."""
    name = f"orientations in {len(maps)} maps to radius {{}}"
    coarse = search.poses(maps, rows, _COARSE_PX, None, partial(progress, name.format(_COARSE_PX)))
    return search.poses(maps, rows, _FINE_PX, coarse.shift_px, partial(progress, name.format(_FINE_PX)))


def _refined(
    pose: SearchedPose,
    known: ParticleDataset,
    rows: NDArray[np.int64],
    number: Tensor,
    progress: Callable[[str, int, int], None],
) -> Tensor:
    """Refine poses, in place, each against the map that its image shows, and bring all into one frame.

    Returns the maps at the larger radius; one that few images show is left out.
    """
    maps = []
    for one in number.bincount().argsort(descending=True).tolist():
        mine = np.flatnonzero(number.numpy() == one)
        training = np.intersect1d(mine, rows)
        if maps and len(training) < _FEWEST:
            continue
        refinement = Refinement(pose, known)
        density = refinement.run(training, mine, _REFINED_PX, progress, turn=True, rounds=_ROUNDS)
        rotation, shift = refinement.dataset.rotation[mine], refinement.dataset.shift_px[mine]
        if maps:  # a point r of the first map is at A r + t of this one
            matrix, moved, _ = lies = align(density, maps[0], hand=True)
            density = resampled(density, matrix, moved)
            moved = moved * known.stack.meta.box_size / len(density)
            shift = shift - (rotation @ moved)[:, :2].float()
            hand = MIRROR if lies.mirrored else torch.eye(3, dtype=torch.float64)
            rotation = hand @ rotation @ matrix
        known.rotation[mine], known.shift_px[mine] = rotation, shift
        maps.append(density)
    return torch.stack(maps)
