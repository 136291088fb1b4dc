"""Volumes of a basis by expectation-maximisation: of images with known poses, with unknown weights.

Per image the moments of its weights follow from its statistics; per voxel the A volumes are a solve of A x A.
Low resolution first. A pass costs about a millisecond per image and volumes of 10.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.data.dataset import ParticleDataset
from drgn.models.basis import Basis, Statistics, shared
from drgn.physics import fourier, imaging, masks, voxels
from drgn.physics.slices import padded_transform

_PASSES = ((8, 4), (12, 2), (16, 2), (24, 2))  # radius in Fourier pixels, passes at it
_LAST_PASSES = 2  # at the full radius
_CHUNK = 256
_OVERSAMPLING = 2  # of the grid that slices are interpolated from
_MASK = (0.75, 0.95)  # soft sphere that volumes are kept in, in half boxes
_START = 0.1  # power of the first noise in that of the mean


class Expectation:
    """The volumes of a basis, and what each image says of their weights.

    Parameters
    ----------
    basis
        On the CPU; its volumes are replaced.
    dataset
        Its prepared stack.
    rows
        (N,) rows of it that are used.
    generator
        Of the start.
    """

    def __init__(
        self, basis: Basis, dataset: ParticleDataset, rows: NDArray[np.int64], generator: torch.Generator
    ) -> None:
        self.basis, self.dataset, self.rows, self.generator = basis, dataset, rows, generator
        self.volumes = len(basis.density)
        self.lower = torch.tril_indices(self.volumes, self.volumes)
        self.threads = torch.get_num_threads()
        self.started = False
        frequencies = dataset.stack.lattice.frequencies
        self.frequencies = frequencies
        self.index = (frequencies * dataset.stack.meta.box_size).numpy()  # in Fourier pixels
        _, self.particle = torch.unique(dataset.group[torch.from_numpy(rows)], return_inverse=True)

    def run(self, progress: Callable[[str, int, int], None]) -> None:
        """Alternate between weights and volumes; progress is called with (what, done, all)."""
        largest = self.basis.radius_px
        radii = [radius for radius, times in _PASSES for _ in range(times) if radius < largest]
        radii += [largest] * (_LAST_PASSES if radii else _PASSES[0][1])
        if self.volumes == 1:
            radii = [largest]
        progress("mean map", 0, len(radii))
        self._maximise(radii[0], self._only_mean(), torch.diag_embed(self._only_mean()))
        for done, radius in enumerate(radii, 1):
            progress("volumes", done, len(radii))
            self._maximise(radius, *self.basis.moments(self.statistics(radius)))
        self.basis.arrange()

    def statistics(self, radius: int | None = None) -> Statistics:
        """Of the present volumes in every image up to a radius, those of one particle summed."""
        radius = self.basis.radius_px if radius is None else radius
        side = self.basis.side
        grid = voxels.half_grid(_OVERSAMPLING * radius, 2 * self.volumes)
        reach = min(_OVERSAMPLING * radius + 1, side * _OVERSAMPLING // 2 - 1)
        for a, density in enumerate(self.basis.density):
            half = _half(padded_transform(density, _OVERSAMPLING), reach)
            _centre(grid, reach)[..., 2 * a : 2 * a + 2] = torch.view_as_real(half).numpy()
        gram = torch.zeros(len(self.rows), self.volumes, self.volumes)
        overlap = torch.zeros(len(self.rows), self.volumes)

        def work(item: tuple[slice, Callable[[], tuple[NDArray, ...]]]) -> None:
            chunk, read = item
            rotation, centred, weight = read()
            coordinates = _OVERSAMPLING * self.index[: weight.shape[1]]
            g, h = voxels.statistics(grid, rotation, coordinates, centred, weight)
            gram[chunk], overlap[chunk] = torch.from_numpy(g), torch.from_numpy(h)

        self._in_threads(work, list(self._chunks(radius)))
        return Statistics(shared(gram, self.particle), shared(overlap, self.particle))

    def _only_mean(self) -> Tensor:
        first = torch.zeros(len(self.rows), self.volumes)
        first[:, 0] = 1
        return first

    def _chunks(self, radius: int) -> Iterator[tuple[slice, Callable[[], tuple[NDArray, ...]]]]:
        """Slices of the rows, each with a function that reads what the kernels need of these images."""
        n = int((self.frequencies.norm(dim=1) * self.dataset.stack.meta.box_size < radius).sum())
        frequencies = self.frequencies[:n]

        def reader(chunk: slice) -> Callable[[], tuple[NDArray, ...]]:
            def read() -> tuple[NDArray, ...]:
                batch = self.dataset[self.rows[chunk]]
                known = (batch["pixel_size_A"], batch["ctf_parameters"])
                contrast, phase = imaging.transfer(frequencies, *known, batch["shift_px"])
                multiplied = imaging.multiplier(
                    frequencies, *known, batch["premultiplied"], batch["phase_flipped"]
                )
                centred = imaging.matched_filter(batch["image"][:, :n], contrast, phase, multiplied)
                rotation = batch["rotation"]
                if "frequency_scale" in batch:  # the kernels turn and scale in one
                    rotation = rotation * batch["frequency_scale"][:, None, None]
                return rotation.numpy(), centred.contiguous().numpy(), contrast.square().numpy()

            return read

        for start in range(0, len(self.rows), _CHUNK):
            chunk = slice(start, min(start + _CHUNK, len(self.rows)))
            yield chunk, reader(chunk)

    def _maximise(self, radius: int, first: Tensor, second: Tensor) -> None:
        """New volumes up to a radius from the moments E[w] (N, A) and E[w w^T] (N, A, A) of the weights."""
        sums = [
            (voxels.half_grid(radius, 2 * self.volumes), voxels.half_grid(radius, self.lower.shape[1]))
            for _ in range(self.threads)
        ]
        chunks = list(self._chunks(radius))
        moments = first.numpy(), second[:, self.lower[0], self.lower[1]].contiguous().numpy()

        def work(thread: int) -> None:
            for chunk, read in chunks[thread :: self.threads]:
                rotation, centred, weight = read()
                coordinates = self.index[: weight.shape[1]]
                voxels.add_normal_equations(
                    *sums[thread], rotation, coordinates, centred, weight, *(m[chunk] for m in moments)
                )

        self._in_threads(work, list(range(self.threads)))
        right, left = (sum(parts[1:], parts[0]) for parts in zip(*sums, strict=True))
        voxels.complete_plane(right, conjugate=True)
        voxels.complete_plane(left, conjugate=False)
        inside, shell = _shells(radius)
        solved = self._solve(
            torch.view_as_complex(torch.from_numpy(right)[inside].unflatten(-1, (-1, 2))),
            torch.from_numpy(left)[inside],
            shell,
        )
        side = self.basis.side
        taper = masks.window(side, *_MASK, ndim=3) / _interpolation(side)
        for a in range(self.volumes):
            grid = torch.zeros(inside.shape, dtype=torch.complex64)
            grid[inside] = solved[:, a]
            transform = _whole(_centre(grid.unsqueeze(-1).numpy(), radius)[..., 0], side)
            self.basis.density[a] = fourier.ifft(transform, 3).real * taper

    def _solve(self, right: Tensor, left: Tensor, shell: Tensor) -> Tensor:
        """Volumes (M, A) complex at M voxels, under a prior of each shell's power."""
        system = torch.zeros(len(right), self.volumes, self.volumes)
        for column, (a, b) in enumerate(self.lower.T.tolist()):
            system[:, a, b] = system[:, b, a] = left[:, column]
        share = self.basis.mean_share()
        total = (share @ system @ share).clamp_min(0)
        weight = _shell_mean(total, shell)
        plain = right @ share.to(right.dtype) / (total + 0.05 * weight[shell] + 1e-6)
        # the power of the mean, less that of its noise
        power = (_shell_mean(plain.abs().square(), shell) - 1 / weight.clamp_min(1e-6)).clamp_min(1e-3)
        if not self.started:  # noise of low frequency, which the passes turn into what varies
            self.started = True
            draw = torch.randn(len(right), self.volumes, 2, generator=self.generator)
            noise = torch.view_as_complex(draw) * (0.5 * _START * power[shell, None]).sqrt()
            noise[shell >= _PASSES[0][0]] = 0
            return self.basis.start(plain, noise)
        prior = 1 / self.basis.expected_power()
        system.diagonal(dim1=1, dim2=2).add_(prior / power[shell, None])
        solved = torch.linalg.solve(system, torch.view_as_real(right))
        return torch.view_as_complex(solved.contiguous())

    def _in_threads(self, work: Callable[[Any], None], items: list[Any]) -> None:
        """Run in as many threads as torch has, each torch operation in one of them."""
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(work, items))
        finally:
            torch.set_num_threads(self.threads)


def _half(transform: Tensor, reach: int) -> Tensor:
    """The voxels of a centred transform with 0 <= z <= reach and |x|, |y| <= reach."""
    h = transform.shape[-1] // 2
    side = slice(h - reach, h + reach + 1)
    return transform[h : h + reach + 1, side, side]


def _centre(grid: NDArray[Any], reach: int) -> NDArray[Any]:
    """The same voxels of a half grid."""
    origin = grid.shape[2] // 2 - 1
    side = slice(origin - reach, origin + reach + 1)
    return grid[: reach + 1, side, side]


def _whole(half: NDArray[np.complex64], side: int) -> Tensor:
    """Centred Hermitian transform of a box from its half."""
    reach, h = len(half) - 1, side // 2
    values = torch.from_numpy(half.copy())
    transform = torch.zeros(side, side, side, dtype=torch.complex64)
    near = slice(h - reach, h + reach + 1)
    transform[h : h + reach + 1, near, near] = values
    transform[h - reach : h, near, near] = values[1:].flip((0, 1, 2)).conj()
    return transform


def _shells(radius: int) -> tuple[Tensor, Tensor]:
    """Which voxels of a half grid lie inside a radius, (z, y, x), and the shell of each of these, (M,)."""
    n_z, n_y, n_x, _ = voxels.half_grid(radius, 1).shape
    z, y, x = torch.meshgrid(torch.arange(n_z), torch.arange(n_y), torch.arange(n_x), indexing="ij")
    r = (z**2 + (y - radius - 1) ** 2 + (x - radius - 1) ** 2).double().sqrt()
    inside = r < radius
    return inside, r[inside].round().long()


def _shell_mean(values: Tensor, shell: Tensor) -> Tensor:
    total = torch.zeros(int(shell.max()) + 1, dtype=values.dtype).index_add_(0, shell, values)
    return total / torch.bincount(shell).clamp_min(1)


def _interpolation(side: int) -> Tensor:
    """What trilinear insertion does to a density: sinc^2 along each axis, (side, side, side)."""
    fall = torch.sinc((torch.arange(side) - side // 2) / side).square()
    return fall[:, None, None] * fall[None, :, None] * fall[None, None, :]
