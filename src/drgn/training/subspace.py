"""Fit a subspace before the neural parts are trained: modes by expectation-maximisation, then their latent.

1. The mean by back-projection, one pass.
2. K modes, mean included: per image the posterior of its coefficients is a solve of K x K, per voxel mean and
   modes are a solve of (K + 1) x (K + 1). Low resolution first. A pass costs about a millisecond per image.
3. The images' statistics of the modes are all that a latent inside the subspace needs: its encoder and its
   coefficients c(z) are trained on them in seconds, without an image.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.data.dataset import ParticleDataset
from drgn.models.subspace import Coefficients, Subspace, posterior, shared
from drgn.physics import fourier, imaging, masks, voxels
from drgn.physics.slices import padded_transform

_PASSES = ((8, 4), (12, 2), (16, 2), (24, 2))  # radius in Fourier pixels, passes at it
_LAST_PASSES = 2  # at the full radius
_CHUNK = 256
_OVERSAMPLING = 2  # of the grid that slices are interpolated from
_MASK = (0.75, 0.95)  # soft sphere that mean and modes are kept in, in half boxes
_START = 0.1  # power of the first modes in that of the mean
_MODE_POWER = 0.2  # prior: power of a mode in that of the mean, shell by shell
_BATCH, _RATE = 128, 2e-3  # of the latent's training
_STEPS, _TRIALS = 1500, 3
_LED = 0.3  # share of the steps in which the latent is led from the strongest coefficients


def fit(
    subspace: Subspace,
    dataset: ParticleDataset,
    rows: NDArray[np.int64],
    *,
    beta: float,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Find mean, modes and the networks of a subspace, in place.

    Parameters
    ----------
    subspace
        On the CPU.
    dataset
        Its prepared stack; `rows` of it are used.
    rows
        Training rows.
    beta
        Weight of the KL term of the latent.
    seed
        Of the start.
    progress
        Called with (what, done, all).
    """
    generator = torch.Generator().manual_seed(seed)
    modes = _Modes(subspace, dataset, rows, generator)
    with torch.no_grad():
        gram, overlap = modes.run(progress or (lambda what, done, n: None))
    if subspace.zdim:
        # one row for each particle: its images share their statistics
        _, first = np.unique(modes.particle.numpy(), return_index=True)
        gram, overlap = gram[first], overlap[first]
        known = posterior(gram, overlap)
        _fit_latent(subspace, known, gram, overlap, beta=beta, generator=generator)


class _Modes:
    """Mean and modes on the voxels of a small box, and each image's coefficients of them."""

    def __init__(
        self,
        subspace: Subspace,
        dataset: ParticleDataset,
        rows: NDArray[np.int64],
        generator: torch.Generator,
    ) -> None:
        self.subspace, self.dataset, self.rows, self.generator = subspace, dataset, rows, generator
        self.volumes = subspace.n_modes + 1
        self.lower = [(a, b) for a in range(self.volumes) for b in range(a + 1)]
        self.threads = torch.get_num_threads()
        self.started = False
        frequencies = dataset.stack.lattice.frequencies
        self.frequencies = frequencies
        self.index = (frequencies * dataset.stack.meta.box_size).numpy()  # in Fourier pixels
        _, self.particle = torch.unique(dataset.group[torch.from_numpy(rows)], return_inverse=True)

    def run(self, progress: Callable[[str, int, int], None]) -> tuple[Tensor, Tensor]:
        """Alternate; returns the statistics G (N, K + 1, K + 1) and h (N, K + 1) of the final modes."""
        largest = self.subspace.radius_px
        radii = [radius for radius, times in _PASSES for _ in range(times) if radius < largest]
        radii += [largest] * (_LAST_PASSES if radii else _PASSES[0][1])
        if not self.subspace.n_modes:
            radii = [largest, largest]
        total = len(radii) + 1
        progress("mean map", 0, total)
        moments = self._no_moments()
        self._maximise(radii[0], *moments)
        for done, radius in enumerate(radii, 1):
            progress("linear modes", done, total)
            gram, overlap = self._expect(radius)
            self._maximise(radius, *self._moments(gram, overlap))
        self._orthogonalise()
        progress("linear modes", total, total)
        return self._expect(largest)

    def _no_moments(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        first = np.zeros((len(self.rows), self.volumes), np.float32)
        second = np.zeros((len(self.rows), len(self.lower)), np.float32)
        first[:, 0] = second[:, 0] = 1
        return first, second

    def _moments(self, gram: Tensor, overlap: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """E[w] and E[w w^T], lower triangle, of (1, coefficients), whitened over the particles."""
        if not self.subspace.n_modes:
            return self._no_moments()
        known = posterior(gram, overlap)
        mean, covariance = known.mean.double(), torch.linalg.inv(known.precision.double())
        centre = mean.mean(0)
        spread = (mean - centre).T @ (mean - centre) / len(mean) + covariance.mean(0)
        whiten = torch.linalg.inv(torch.linalg.cholesky(spread))
        mean, covariance = (mean - centre) @ whiten.T, whiten @ covariance @ whiten.T
        first = torch.cat([torch.ones(len(mean), 1, dtype=mean.dtype), mean], dim=1)
        second = first[:, :, None] * first[:, None, :]
        second[:, 1:, 1:] += covariance
        a, b = (list(side) for side in zip(*self.lower, strict=True))
        return first.float().numpy(), second[:, a, b].float().contiguous().numpy()

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

    def _expect(self, radius: int) -> tuple[Tensor, Tensor]:
        """Statistics of the present mean and modes in every image, those of one particle summed."""
        side = self.subspace.side
        grid = voxels.half_grid(_OVERSAMPLING * radius, 2 * self.volumes)
        reach = min(_OVERSAMPLING * radius + 1, side * _OVERSAMPLING // 2 - 1)
        for a, density in enumerate(self.subspace.density):
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
        return shared(gram, self.particle), shared(overlap, self.particle)

    def _maximise(self, radius: int, first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
        """New mean and modes from the moments of the coefficients, up to a radius."""
        sums = [
            (voxels.half_grid(radius, 2 * self.volumes), voxels.half_grid(radius, len(self.lower)))
            for _ in range(self.threads)
        ]
        chunks = list(self._chunks(radius))

        def work(thread: int) -> None:
            for chunk, read in chunks[thread :: self.threads]:
                rotation, centred, weight = read()
                coordinates = self.index[: weight.shape[1]]
                voxels.add_normal_equations(
                    *sums[thread], rotation, coordinates, centred, weight, first[chunk], second[chunk]
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
        side = self.subspace.side
        taper = masks.window(side, *_MASK, ndim=3) / _interpolation(side)
        for a in range(self.volumes):
            grid = torch.zeros(inside.shape, dtype=torch.complex64)
            grid[inside] = solved[:, a]
            transform = _whole(_centre(grid.unsqueeze(-1).numpy(), radius)[..., 0], side)
            self.subspace.density[a] = fourier.ifft(transform, 3).real * taper

    def _solve(self, right: Tensor, left: Tensor, shell: Tensor) -> Tensor:
        """Mean and modes (M, K + 1) complex at M voxels, under a prior of each shell's power."""
        mean_weight = _shell_mean(left[:, 0], shell)
        plain = right[:, 0] / (left[:, 0] + 0.05 * mean_weight[shell] + 1e-6)
        # the power of the mean, less that of its noise
        power = (_shell_mean(plain.abs().square(), shell) - 1 / mean_weight.clamp_min(1e-6)).clamp_min(1e-3)
        if not self.started:  # modes: noise of low frequency, which the passes turn into what varies
            self.started = True
            draw = torch.randn(len(right), self.volumes, 2, generator=self.generator)
            noise = torch.view_as_complex(draw) * (0.5 * _START * power[shell, None]).sqrt()
            noise[shell >= _PASSES[0][0]] = 0
            return torch.cat([plain[:, None], noise[:, 1:]], dim=1)
        system = torch.zeros(len(right), self.volumes, self.volumes)
        for column, (a, b) in enumerate(self.lower):
            system[:, a, b] = system[:, b, a] = left[:, column]
        prior = torch.full((self.volumes,), 1 / _MODE_POWER)
        prior[0] = 1
        system.diagonal(dim1=1, dim2=2).add_(prior / power[shell, None])
        solved = torch.linalg.solve(system, torch.view_as_real(right))
        return torch.view_as_complex(solved.contiguous())

    def _orthogonalise(self) -> None:
        """Turn the modes so that they are orthogonal, the strongest first; their span and prior stay."""
        density = self.subspace.density
        flat = density[1:].flatten(1)
        if len(flat):
            _, vectors = torch.linalg.eigh(flat @ flat.T)
            turned = vectors.flip(1).T @ flat
            density[1:] = turned.unflatten(1, density.shape[1:])

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


def _fit_latent(
    subspace: Subspace,
    known: Coefficients,
    gram: Tensor,
    overlap: Tensor,
    *,
    beta: float,
    generator: torch.Generator,
) -> None:
    """Train the encoder and the coefficients c(z) on the statistics of the particles alone.

    A latent of few dimensions can come to lie folded in the subspace, which no small step undoes: the encoder
    is led from the strongest coefficients, and of several trials the one with the best objective is kept.
    """
    subspace.coefficient_std.copy_(known.mean.std(0).clamp_min(1e-6))
    raw = torch.cat([known.mean, known.precision.diagonal(dim1=1, dim2=2).log()], dim=1)
    subspace.feature_mean.copy_(raw.mean(0))
    subspace.feature_std.copy_(raw.std(0).clamp_min(1e-6))
    # the modes' coefficients in order of what they explain, of unit variance: a latent to start from
    explained = known.mean.std(0) * subspace.density[1:].flatten(1).norm(dim=1)
    leading = explained.argsort(descending=True)[: subspace.zdim]
    start = torch.zeros(len(raw), subspace.zdim)
    start[:, : len(leading)] = subspace.features(known)[:, leading]
    images = _Statistics(known, 2 * gram[:, 1:, 1:], 2 * (overlap[:, 1:] - gram[:, 1:, 0]), start)
    first = {name: value.clone() for name, value in subspace.state_dict().items()}
    best, kept = math.inf, first
    for trial in range(_TRIALS):
        subspace.load_state_dict(first)
        if trial:
            for module in subspace.modules():
                if isinstance(module, torch.nn.Linear):
                    module.reset_parameters()
        loss = _descend(subspace, images, beta, generator)
        if loss < best:
            best, kept = loss, {name: value.clone() for name, value in subspace.state_dict().items()}
    subspace.load_state_dict(kept)


class _Statistics(NamedTuple):
    """Of M particles: posterior of the coefficients, 2 G and 2 (h - G of the mean), and a first latent."""

    known: Coefficients
    precision: Tensor
    right: Tensor
    start: Tensor


def _descend(subspace: Subspace, images: _Statistics, beta: float, generator: torch.Generator) -> float:
    """Minimise the objective; returns it, averaged over the last steps."""
    optimizer = torch.optim.Adam(subspace.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    n, last = len(images.start), []
    for step in range(_STEPS):
        chosen = torch.randint(n, (min(_BATCH, n),), generator=generator)
        mean, logvar = subspace.encode(Coefficients(*(part[chosen] for part in images.known)))
        z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
        c = subspace.decode(z)
        quadratic = (c.unsqueeze(1) @ images.precision[chosen] @ c.unsqueeze(2)).flatten()
        misfit = 0.5 * quadratic - (images.right[chosen] * c).sum(1)
        kl = 0.5 * (mean.square() + logvar.exp() - logvar - 1).sum(1)
        loss = (misfit + beta * kl).mean()
        if step >= 0.9 * _STEPS:
            last.append(float(loss.detach()))
        led = max(0.0, 1 - step / (_LED * _STEPS))
        if led:
            loss = loss + 10 * led * (mean - images.start[chosen]).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return sum(last) / len(last)
