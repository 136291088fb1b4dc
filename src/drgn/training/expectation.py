"""Volumes of a basis by expectation-maximisation: of images with known poses, with unknown weights.

Per image the moments of its weights follow from its statistics; per voxel of the transform the A volumes are
a solve of A x A. Low resolution first. Where a density is no stronger than the noise that the solve leaves in
it, it is taken back (`masks.local_weight`), in modes each band of frequencies for itself: what varies is
small beside the box, and noise would hide it there. A pass costs about a millisecond per image and volumes of
10.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.data.dataset import ParticleDataset
from drgn.data.matched import Matched, in_threads, matched_chunks, threads_with_grids
from drgn.models.basis import Basis, Packed, Statistics, packed, shared
from drgn.physics import gridding, masks, voxels
from drgn.physics.grids import shell_mean
from drgn.physics.slices import padded_half
from drgn.training import scratch

_PASSES = ((8, 4), (12, 2), (16, 2), (24, 2))  # radius in Fourier pixels, passes at it
_LAST_PASSES = 2  # at the full radius
_OVERSAMPLING = 2  # of the grid that slices are interpolated from
_MASK = (0.75, 0.95)  # soft sphere that volumes are kept in, in half boxes
_VOXELS = 1 << 16  # solved at a time
_LOCAL_PX = 1.5  # standard deviation of a neighbourhood, in pixels at the radius
_LOCAL_FROM = 16  # radius in Fourier pixels from which noise is told from density
_BANDS = (6, 10, 16, 24)  # Fourier pixels between the bands that each have a weight in a place
# of the noise by a mean with linear weights: their mean square over their mean, per axis
_KEPT = (2 / 3) ** 3
_SURE = 3  # standard deviations of a shell's noise that its power must be above
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

    def run(
        self,
        progress: Callable[[str, int, int], None],
        after: Callable[[int], None] = lambda radius: None,
        extra: int = 0,
    ) -> None:
        """Alternate between weights and volumes; progress is called with (what, done, all).

        After each pass but the first `after` is called with its radius: poses may change there. There are
        `extra` passes more at the full radius.
        """
        largest = self.basis.radius_px
        radii = [radius for radius, times in _PASSES for _ in range(times) if radius < largest]
        radii += [largest] * (_LAST_PASSES if radii else _PASSES[0][1])
        if self.volumes == 1:
            radii = [largest]
        radii += [largest] * extra
        progress("mean map", 0, len(radii))
        self.mean(radii[0])
        for done, radius in enumerate(radii, 1):
            progress("volumes", done, len(radii))
            self._maximise(radius, *self.basis.moments(self.packed(radius)))
            after(radius)
        self.basis.arrange()

    def statistics(self, radius: int | None = None) -> Statistics:
        """Of the present volumes in every image up to a radius, those of one particle summed."""
        return self.packed(radius).some(slice(None))

    def packed(self, radius: int | None = None) -> Packed:
        """The same in half the memory."""
        radius = self.basis.radius_px if radius is None else radius
        n, grid = len(self.rows), self.grid(radius)
        lower, overlap = self.zeros(n, self.lower.shape[1]), self.zeros(n, self.volumes)

        def work(item: tuple[slice, Callable[[], Matched]]) -> None:
            chunk, read = item
            rotation, centred, weight = read()
            coordinates = _OVERSAMPLING * self.index[: weight.shape[1]]
            g, h = voxels.statistics(grid, rotation, coordinates, centred, weight)
            lower[chunk], overlap[chunk] = packed(torch.from_numpy(g)), torch.from_numpy(h)

        in_threads(work, list(matched_chunks(self.dataset, self.rows, radius)), self.threads)
        return Packed(shared(lower, self.particle), shared(overlap, self.particle), self.zeros)

    def zeros(self, n: int, width: int) -> Tensor:
        """Zeros (N, W) beside the prepared images, see `scratch.zeros`."""
        return scratch.zeros(n, width, self.dataset.stack.folder)

    def pose_equations(self, radius: int, amounts: Tensor) -> tuple[Tensor, Tensor]:
        """Gauss-Newton equations (N, 5, 5) and (N, 5) of the rows' poses, see `voxels.pose_equations`.

        Each image shows the present volumes in its amounts (N, A).
        """
        grid = self.grid(radius)
        matrix = self.zeros(len(self.rows), 50).view(torch.float64).unflatten(1, (5, 5))
        right = self.zeros(len(self.rows), 10).view(torch.float64)
        angular = (2 * math.pi * self.frequencies).numpy()

        def work(item: tuple[slice, Callable[[], Matched]]) -> None:
            chunk, read = item
            rotation, centred, weight = read()
            n = weight.shape[1]
            known = (grid, rotation, _OVERSAMPLING * self.index[:n], centred, weight)
            m, h = voxels.pose_equations(*known, amounts[chunk].contiguous().numpy(), angular[:n])
            matrix[chunk], right[chunk] = torch.from_numpy(m), torch.from_numpy(h)

        in_threads(work, list(matched_chunks(self.dataset, self.rows, radius)), self.threads)
        return matrix, right

    def mean(self, radius: int) -> None:
        """New volumes up to a radius, of which each image shows the mean alone."""
        first = self.zeros(len(self.rows), self.volumes)
        second = self.zeros(len(self.rows), self.lower.shape[1])
        first[:, 0] = second[:, 0] = 1
        self._maximise(radius, first, second)

    def grid(self, radius: int) -> NDArray[np.float32]:
        """Half grid of the present volumes, oversampled, up to a radius."""
        side = self.basis.side
        grid = voxels.half_grid(_OVERSAMPLING * radius, 2 * self.volumes)
        reach = min(_OVERSAMPLING * radius + 1, side * _OVERSAMPLING // 2 - 1)
        for a, density in enumerate(self.basis.density):
            gridding.put(padded_half(density, _OVERSAMPLING, reach), grid, a)
        return grid

    def refit(self, first: Tensor, second: Tensor) -> None:
        """New volumes at the full radius from the moments of the rows' weights, as of `Basis.moments`."""
        self._maximise(self.basis.radius_px, first, second)

    def _maximise(self, radius: int, first: Tensor, second: Tensor) -> None:
        """New volumes up to a radius from the moments of the weights, as of `Basis.moments`."""
        channels = 2 * self.volumes, self.lower.shape[1]
        size = sum(channels) * voxels.half_grid(radius, 1).nbytes
        threads = threads_with_grids(self.threads, size)
        sums = [tuple(voxels.half_grid(radius, n) for n in channels) for _ in range(threads)]
        chunks = list(matched_chunks(self.dataset, self.rows, radius))
        moments = first.contiguous().numpy(), second.contiguous().numpy()

        def work(thread: int) -> None:
            for chunk, read in chunks[thread::threads]:
                rotation, centred, weight = read()
                coordinates = self.index[: weight.shape[1]]
                voxels.add_normal_equations(
                    *sums[thread], rotation, coordinates, centred, weight, *(m[chunk] for m in moments)
                )

        in_threads(work, list(range(threads)), threads)
        right, left = sums[0]
        for parts in sums[1:]:
            right += parts[0]
            left += parts[1]
        voxels.complete_plane(right, conjugate=True)
        voxels.complete_plane(left, conjugate=False)
        inside, shell = gridding.shells_inside(radius)
        solved, noise = self._solve(
            torch.view_as_complex(torch.from_numpy(right)[inside].unflatten(-1, (-1, 2))),
            torch.from_numpy(left)[inside],
            shell,
        )
        side = self.basis.side
        taper = masks.window(side, *_MASK, ndim=3) / gridding.interpolation(side)
        modes = self.basis.expected_power() < 1
        for a in range(self.volumes):

            def density(low: int, high: int, values: Tensor = solved[:, a]) -> Tensor:
                some = values * ((shell >= low) & (shell < high))
                return gridding.density_at(some, inside, radius, side, side) * taper

            if noise is not None and radius >= min(_LOCAL_FROM, self.basis.radius_px):
                # in a place, the low frequencies may be all that is known of a mode
                edges = [0, *(edge for edge in _BANDS if modes[a] and edge < radius), radius + 1]
                self.basis.density[a] = _freed(density, noise[:, a] / side**6, taper.square(), edges)
            else:
                self.basis.density[a] = density(0, radius + 1)

    def _solve(self, right: Tensor, left: Tensor, shell: Tensor) -> tuple[Tensor, Tensor | None]:
        """Volumes (M, A) complex at M voxels, under a prior of each shell's power.

        Also the power of the noise in each volume, summed over each shell of the transform, (S, A); None at
        the start.
        """
        diagonal = [int(a * (a + 3) / 2) for a in range(self.volumes)]
        share = self.basis.mean_share()
        both = share[self.lower[0]] * share[self.lower[1]]
        total = (left @ (2 * both)).sub_(left[:, diagonal] @ both[diagonal]).clamp_min(0)
        weight = shell_mean(total, shell)
        damped = total + 0.05 * weight[shell] + 1e-6
        plain = right @ share.to(right.dtype) / damped
        found = shell_mean(plain.abs().square(), shell)
        noise = _KEPT * shell_mean(total / damped.square(), shell)
        noise *= 1 + _SURE / (_KEPT * torch.bincount(shell).clamp_min(1)).sqrt()
        power = (found - noise).clamp_min(1e-3)  # of the mean
        if not self.started:  # noise of low frequency, which the passes turn into what varies
            self.started = True
            draw = torch.randn(len(right), self.volumes, 2, generator=self.generator)
            first = torch.view_as_complex(draw) * (0.5 * _START * power[shell, None]).sqrt()
            first[shell >= _PASSES[0][0]] = 0
            return self.basis.start(plain, first), None
        # modes are expected where the mean stands above all of its noise, which costs them weak shells and
        # spares them noise
        of_modes = (found - 1 / weight.clamp_min(1e-6)).clamp_min(1e-3)
        expected = self.basis.expected_power()
        prior = 1 / (expected * torch.where(expected < 1, of_modes[:, None], power[:, None]))
        solved, noise_power = [], torch.zeros(int(shell.max()) + 1, self.volumes)
        for part in torch.arange(len(right)).split(_VOXELS):
            system = torch.empty(len(part), self.volumes, self.volumes)
            system[:, self.lower[0], self.lower[1]] = system[:, self.lower[1], self.lower[0]] = left[part]
            inverse = torch.linalg.inv(system + torch.diag_embed(prior[shell[part]]))
            solved.append(inverse @ torch.view_as_real(right[part]))
            # of half of the transform; its other half is the same
            noise_power.index_add_(0, shell[part], 2 * (inverse @ system * inverse).sum(2))
        return torch.view_as_complex(torch.cat(solved).contiguous()), noise_power


def _freed(
    density: Callable[[int, int], Tensor], noise: Tensor, share_of_noise: Tensor, edges: list[int]
) -> Tensor:
    """A density (S, S, S) less what is no stronger than its noise in a place, in all and in each band.

    `density` gives that of the shells from one to before another. The power of its noise is the sum of
    `noise` (shells,) over these, times `share_of_noise` (S, S, S).
    """

    def weight(part: Tensor, low: int, high: int) -> Tensor:
        power = float(noise[low:high].sum()) * share_of_noise
        return masks.local_weight(part, power, _LOCAL_PX * len(part) / (2 * high))

    whole = density(0, edges[-1])
    share = weight(whole, 0, edges[-1])
    if len(edges) == 2:
        return whole * share
    kept = torch.zeros_like(whole)
    for low, high in pairwise(edges):
        part = density(low, high)
        kept += part * weight(part, low, high)
    return kept * share
