"""Batches of prepared images with their poses and CTF, and the order they come in."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from drgn.data.premultiplied import noise_kept
from drgn.data.prepared import PreparedStack
from drgn.data.sample import spread
from drgn.errors import InputError
from drgn.formats.particles import Particles
from drgn.formats.table import codes_of
from drgn.physics import imaging
from drgn.physics.ctf import PARAMETERS
from drgn.physics.grids import shell_mean
from drgn.physics.imaging import Batch

_AHEAD = 3  # batches that the disk reads while one is trained on


class ParticleDataset(Dataset[Batch]):
    """Indexed by an array of rows, not by one: each item is a whole batch (see `models.reconstructor.Batch`).

    Parameters
    ----------
    particles
        The table.
    stack
        A prepared stack that holds its images, in any order and beside others.
    posed
        Whether the table's poses are taken; otherwise they are none, and those here mean nothing.

    Attributes
    ----------
    rejected
        (N,) bool, rows whose image cannot be used.
    density_scale
        As of the stack, for the images as they are here: premultiplied ones in units of their noise before.
    half
        (N,) int64, half set of each row, 0 or 1, which the batches then hold; None where there are none.

    Raises
    ------
    InputError
        There are no poses to take, or an image is not in the stack.
    """

    def __init__(self, particles: Particles, stack: PreparedStack, posed: bool = True) -> None:
        table = particles.table
        rotation = require_poses(particles) if posed else np.tile(np.eye(3), (len(table), 1, 1))
        self.stack = stack
        self.stack_row, field = stack.find(particles)
        missing = np.flatnonzero(self.stack_row < 0)
        if len(missing):
            raise InputError(
                f"{stack.folder} does not hold {len(missing)} of the {len(table)} images of"
                f" {particles.source.path}, the first of them {table['key'].iloc[missing[0]]}; it was"
                " made from other files or other options: prepare them again"
            )
        unusable = np.zeros(stack.meta.n, dtype=bool)
        unusable[stack.meta.rejected] = True
        self.rejected = unusable[self.stack_row]
        self.half: Tensor | None = None
        # the order of names, not of rows: the same for every order of the table
        self.group = torch.from_numpy(codes_of(table["group"])[0])
        self.rotation = torch.from_numpy(rotation)  # double, as in the table: not a second one
        shift_A = table[["shift_x_A", "shift_y_A"]].to_numpy(np.float64)
        meta = stack.meta
        pixel_A = np.array([f.field_A for f in meta.fields])[field] / meta.box_size
        self.shift_px = torch.from_numpy(posed * np.nan_to_num(shift_A) / pixel_A[:, None]).float()
        self.pixel_size_A = torch.from_numpy(pixel_A).float()
        self.frequency_scale = None
        if len(meta.fields) > 1:
            self.frequency_scale = torch.from_numpy(meta.pixel_size_A / pixel_A).float()
        parameters = np.empty((len(table), len(PARAMETERS)), np.float32)
        if particles.has_ctf:
            for number, name in enumerate(PARAMETERS):
                parameters[:, number] = table[name]
        else:  # images without CTF are images with CTF 1: amplitude contrast alone, at no defocus
            parameters[:] = [0.0, 0.0, 0.0, 0.0, 300.0, 0.0, 1.0, 0.0, 1.0]
        parameters[:, PARAMETERS.index("ctf_scale")] *= np.array(meta.signal, np.float32)[field]
        self.ctf_parameters = torch.from_numpy(parameters)
        self.premultiplied = torch.from_numpy(table["ctf_premultiplied"].to_numpy(bool).copy())
        self.phase_flipped = torch.from_numpy(table["phase_flipped"].to_numpy(bool).copy())
        self.density_scale = meta.density_scale
        self._noise_kept: Tensor | None = None
        self._window_A: Tensor | None = None
        if self.premultiplied.any():
            self._measure_before_the_ctf(codes_of(table["optics_group"])[0], field)

    def _measure_before_the_ctf(self, optics: NDArray[np.int64], field: NDArray[np.int64]) -> None:
        """Let the noise before the CTF be the unit of premultiplied images, not that after it."""
        meta = self.stack.meta
        pixel_A = np.array([f.original_pixel_size_A for f in meta.fields])[field]
        group = optics * len(meta.fields) + field
        self._noise_kept = noise_kept(self.ctf_parameters, self.premultiplied, group, pixel_A)
        of_reference = group[field == field.min()]  # the stack's scale is that of its largest group
        row = int(np.flatnonzero(group == np.bincount(of_reference).argmax())[0])
        self.density_scale /= float(self._noise_kept[row])
        if meta.window:
            inside = np.array([min(f.original_box_size, f.field_px) for f in meta.fields])[field]
            self._window_A = torch.from_numpy(inside * pixel_A).float()

    def __len__(self) -> int:
        return len(self.stack_row)

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Let the system begin to read the images of a batch that comes soon."""
        self.stack.will_need(self.stack_row[rows])

    def __getitem__(self, rows: NDArray[np.int64]) -> Batch:
        index = torch.from_numpy(rows)
        batch = Batch(
            row=index,
            group=self.group[index],
            image=self.stack.read(self.stack_row[rows]),
            rotation=self.rotation[index].float(),
            shift_px=self.shift_px[index],
            pixel_size_A=self.pixel_size_A[index],
            ctf_parameters=self.ctf_parameters[index],
            premultiplied=self.premultiplied[index],
            phase_flipped=self.phase_flipped[index],
        )
        if self._noise_kept is not None:
            batch["image"] *= self._noise_kept[index, None]
        if self._window_A is not None:
            batch["window_A"] = self._window_A[index]
        if self.frequency_scale is not None:
            batch["frequency_scale"] = self.frequency_scale[index]
        if self.half is not None:
            batch["half"] = self.half[index]
        return batch

    def posed(self, rotation: Tensor, shift_px: Tensor) -> Self:
        """The same images at other poses, (N, 3, 3) and (N, 2), which are taken over and not copied."""
        other = copy.copy(self)
        other.rotation, other.shift_px = rotation, shift_px
        return other

    def taken(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """How images were taken: rotation, shift_px and ctf_parameters as in a `Batch`."""
        return {
            "rotation": self.rotation[rows].float(),
            "shift_px": self.shift_px[rows],
            "ctf_parameters": self.ctf_parameters[rows],
        }

    def signal_amplitude(self, rows: NDArray[np.int64], limit: int = 2000) -> Tensor:
        """Expected root-mean-square of the volume's transform at each frequency of the image lattice, (P,).

        From the power of up to `limit` images by shells, less that of the noise, divided by that of the CTF
        (as multiplication left them in a premultiplied image).
        """
        chosen = spread(rows, limit)
        frequencies = self.stack.lattice.frequencies
        shell = (frequencies.norm(dim=1) * self.stack.meta.box_size).round().long()
        power, noise, transfer = torch.zeros(3, len(frequencies), dtype=torch.float64)
        for part in np.array_split(chosen, max(1, len(chosen) // 256)):
            batch = self[part]
            contrast, _ = imaging.transfer(
                frequencies, batch["pixel_size_A"], batch["ctf_parameters"], batch["shift_px"]
            )
            c2 = contrast.double().square()
            multiplied = imaging.multiplied(frequencies, batch)
            power += batch["image"].abs().double().square().sum(0)
            noise += multiplied.noise.square().double().sum(0)
            transfer += (multiplied.factor.square() * c2).sum(0)

        smooth = [shell_mean(total, shell)[shell] / len(chosen) for total in (noise, power, transfer)]
        unit = smooth[0].clamp(min=1e-6)
        signal = (smooth[1] / unit - 1).clamp(min=1e-3) / (smooth[2] / unit).clamp(min=1e-3)
        return signal.sqrt().float()


def require_poses(particles: Particles) -> NDArray[np.float64]:
    """Rotations (N, 3, 3), or an InputError that says how to give them."""
    if particles.rotation is None:
        raise InputError(
            f"{particles.source.path} has no poses: expected angles in the file, or a cryoDRGN poses.pkl"
            " given as dataset.poses=; or find them with pose=search"
        )
    return particles.rotation


class Batches(Sampler[NDArray[np.int64]]):
    """Batches of rows, shuffled the same way for the same seed and epoch; each process takes its share.

    What a step trains on does not depend on how many processes there are: a batch of all processes together
    is drawn first, then shared out.

    Parameters
    ----------
    rows
        What to draw from.
    group
        (len(rows),) the physical particle of each row: its images are never parted.
    batch_size
        Rows per step, of all processes together; a batch ends with the particle that fills it.
    seed
        Of the order; None keeps the order of particles.
    rank, world_size
        This process, and how many there are. All get equally many batches.
    pieces
        Parts that each process takes its share in, one after the other.
    shards
        Stretches that the rows are cut into; every batch has its share from each. With as many shards as
        processes, each process only ever reads its own.
    will_need
        Called with the rows of a batch some time before it is drawn.

    Attributes
    ----------
    counts
        (len(self), 2) int64, images of each batch of this process that count, and images of the step in all
        processes and pieces. A process without a particle in a step draws one that does not count.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        group: NDArray[np.int64],
        batch_size: int,
        seed: int | None,
        rank: int = 0,
        world_size: int = 1,
        *,
        pieces: int = 1,
        shards: int = 1,
        will_need: Callable[[NDArray[np.int64]], None] | None = None,
    ) -> None:
        self.batch_size, self.seed, self._pieces = batch_size, seed, pieces
        self.rank, self.world_size, self._will_need = rank, world_size, will_need
        self.epoch = self._first = 0
        _, particle = np.unique(group, return_inverse=True)
        order = np.argsort(particle, kind="stable")
        self._rows = rows[order]
        self._sizes = np.bincount(particle)
        self._starts = np.cumsum(self._sizes) - self._sizes
        if seed is None and (self._sizes == 1).all():
            self._rows, self._starts = rows, np.arange(len(rows))
        self._shards = np.array_split(np.arange(len(self._sizes)), shards)
        # the same in every epoch: the trainer asks once
        self._n_batches = min(min(map(len, self._shards)), -(-len(rows) // batch_size))
        self.counts = np.zeros((0, 2), np.int64)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def begin(self, epoch: int, batches: int) -> None:
        """Let the next epoch that is drawn be `epoch`, without its first batches."""
        self.epoch, self._first = epoch, batches

    def _shards_drawn(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the particles of each shard in the order of the epoch, and the edges of the steps in them."""
        generator = None if self.seed is None else np.random.default_rng([self.seed, self.epoch])
        i = np.arange(1, self._n_batches)
        for shard in self._shards:
            particles = shard if generator is None else generator.permutation(shard)
            if len(self._shards) > 1:
                yield particles, _part(0, len(shard), np.arange(self._n_batches + 1), self._n_batches)
                continue
            ends = np.cumsum(self._sizes[particles])
            # a batch ends with the particle in which a multiple of the batch size falls; each has one
            last = np.maximum.accumulate(np.searchsorted(ends, i * self.batch_size) - i) + i
            last = np.minimum(last, len(particles) - 1 - self._n_batches + i)
            yield particles, np.concatenate([[0], last + 1, [len(particles)]])

    def _plan(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All rows of the epoch in order, and which of them each batch of this process has; sets `counts`."""
        drawn = list(self._shards_drawn())
        total = sum(np.add.reduceat(self._sizes[particles], edges[:-1]) for particles, edges in drawn)
        if len(drawn) == self.world_size:
            particles, edges = drawn[self.rank]
            begin, end = edges[:-1], edges[1:]
        else:  # one shard, or one process with the shards of several
            step = np.concatenate([np.repeat(np.arange(len(e) - 1), np.diff(e)) for _, e in drawn])
            particles = np.concatenate([p for p, _ in drawn])[np.argsort(step, kind="stable")]
            edges = np.sum([e for _, e in drawn], axis=0)
            begin, end = (_part(edges[:-1], edges[1:], self.rank + k, self.world_size) for k in (0, 1))
        piece = np.arange(self._pieces)
        begin, end = (_part(begin[:, None], end[:, None], piece + k, self._pieces) for k in (0, 1))
        none = begin == end  # the first particle of the step then, which does not count
        begin, end = np.where(none, edges[:-1, None], begin), np.where(none, edges[:-1, None] + 1, end)
        sizes = self._sizes[particles]
        ends = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(ends[-1]) - np.repeat(ends[:-1], sizes)
        rows = self._rows[np.repeat(self._starts[particles], sizes) + within]
        bounds = np.stack([ends[begin], ends[end]], axis=-1).reshape(-1, 2)
        own = np.where(none.reshape(-1), 0, bounds[:, 1] - bounds[:, 0])
        self.counts = np.stack([own, np.repeat(total, self._pieces)], axis=1)
        return rows, bounds

    def rows(self) -> NDArray[np.int64]:
        """All rows that this process gets in an epoch."""
        rows, bounds = self._plan()
        return np.concatenate([rows[low:high] for low, high in bounds])

    def __len__(self) -> int:
        return self._n_batches * self._pieces

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        rows, bounds = self._plan()
        bounds, self._first = bounds[self._first :], 0
        for number, (low, high) in enumerate(bounds):
            if self._will_need is not None:
                for begin, end in bounds[number + _AHEAD if number else 0 : number + _AHEAD + 1]:
                    self._will_need(rows[begin:end])
            yield rows[low:high]


def _part(begin: Any, end: Any, number: Any, parts: int) -> Any:
    """Where a part of the stretches from begin to end begins, parts of the sizes of np.array_split."""
    each, more = np.divmod(end - begin, parts)
    return begin + number * each + np.minimum(number, more)
