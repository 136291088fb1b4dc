"""Fit a basis before the neural parts are trained: its volumes, then the latent inside them.

The images' statistics of the modes are all that a latent inside their subspace needs: its encoder and its
coefficients c(z) are trained on them in seconds, without an image. Then the volumes are found anew, as a
regression on that latent, and the latent in them, a few times: so comes in what a motion leaves of itself
outside a few linear modes.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor

from drgn.data.dataset import ParticleDataset
from drgn.models.basis import Basis, Packed, Statistics, packed, pieces, unpacked
from drgn.models.latents import TableLatent
from drgn.models.modes import Coefficients, LinearModes, Subspace, posterior
from drgn.models.nuisance import Independence
from drgn.training.expectation import Expectation
from drgn.training.refinement import EXTRA_PASSES, Refinement

_BATCH, _RATE = 128, 5e-3
_TRIALS, _TRIAL_STEPS = 3, 1000  # of the latent in linear modes
_STEPS = 2000  # of the latent in refitted volumes
_REFITS = 2  # of the volumes along the latent, and of the latent in them
_DRAWS = 8  # of each latent
# what progress is told of the part that looks at no image, and of that which alternates with it
LATENT, REFIT = "latent", "volumes along the latent"
_LEAST_SPREAD = 0.1  # standard deviation of the latents over the particles
_PASSES = 100  # through the particles at most, in training the latent
_PLACED = 20_000  # latents that the centres are found among
_LED = 0.3  # share of the steps in which the latent is led from the one to start from


def fit(
    basis: Basis,
    dataset: ParticleDataset,
    rows: NDArray[np.int64],
    *,
    beta: float,
    seed: int,
    nuisance: Independence | None = None,
    poses: Refinement | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Find the volumes and the networks of a basis, in place.

    Parameters
    ----------
    basis
        On the CPU.
    dataset
        Its prepared stack; `rows` of it are used.
    rows
        Training rows.
    beta
        Weight of the KL term of the latent.
    seed
        Of the start.
    nuisance
        A penalty on a latent that follows how the images were taken, measured already.
    poses
        Of the dataset: those of all its images are refined on the way.
    progress
        Called with (what, done, all).
    """
    _fit([basis], dataset, [rows], beta, seed, nuisance, poses, progress)
    _reach(basis, dataset if poses is None else poses.dataset, rows, progress)


def fit_halves(
    bases: Sequence[Basis],
    dataset: ParticleDataset,
    rows: NDArray[np.int64],
    *,
    beta: float,
    seed: int,
    nuisance: Independence | None = None,
    poses: Refinement | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Find the volumes of two bases, each from the rows of its half alone, and their common networks.

    Arguments as of `fit`. The second basis is turned onto the first, see `Basis.turn_onto`.
    """
    assert dataset.half is not None
    half = dataset.half.numpy()[rows]
    of = [rows[half == number] for number in (0, 1)]
    _fit(bases, dataset, of, beta, seed, nuisance, poses, progress)
    for basis, mine in zip(bases, of, strict=True):
        _reach(basis, dataset if poses is None else poses.dataset, mine, progress)


class Penalty(NamedTuple):
    """On the latents of M particles: what it is, and its functions (M, F) of how they were taken."""

    nuisance: Independence
    features: Tensor


def _fit(
    bases: Sequence[Basis],
    dataset: ParticleDataset,
    rows: Sequence[NDArray[np.int64]],
    beta: float,
    seed: int,
    nuisance: Independence | None,
    poses: Refinement | None,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    generator = torch.Generator().manual_seed(seed)  # each basis has a start of its own
    every = [np.arange(len(dataset))]
    if len(bases) > 1:
        assert dataset.half is not None
        every = [np.flatnonzero(dataset.half.numpy() == number) for number in (0, 1)]
    if poses is not None:
        dataset = poses.dataset
    with torch.no_grad():
        expectations = [
            Expectation(basis, dataset, mine, generator) for basis, mine in zip(bases, rows, strict=True)
        ]
        for number, expectation in enumerate(expectations, 1):
            name = f"half {number}, " if len(bases) > 1 else ""
            told = (
                (lambda what, done, n, name=name: progress(name + what, done, n))  # type: ignore[misc]
                if progress
                else (lambda what, done, n: None)
            )
            if poses is None:
                expectation.run(told)
                continue
            basis, images = bases[number - 1], every[number - 1]
            one = len(basis.density) == 1
            poses.run(expectation.rows, images, basis.radius_px, told, turn=one)
            if one:
                expectation.run(told)
            else:
                expectation.run(told, poses.after(basis, images), EXTRA_PASSES)
        for basis in bases[1:]:
            basis.turn_onto(bases[0])
        if not isinstance(bases[0], Subspace) or not bases[0].zdim:
            return
        statistics = _of_particles(expectations)
        penalty = None
        if nuisance is not None:
            taken = [dataset.taken(e.rows[_first_rows(e)]) for e in expectations]
            penalty = Penalty(nuisance, torch.cat([nuisance.features(part) for part in taken]))
        start = _leading(bases[0], statistics, penalty)
        if progress:
            progress(LATENT, 1, _REFITS + 1)
        _fit_latent(bases[0], statistics, start, _TRIAL_STEPS, _TRIALS, beta, penalty, generator)
        for done in range(1, _REFITS + 1):
            mean, logvar = statistics.each(bases[0].encode)
            del statistics  # those of other volumes follow
            if len(mean) <= bases[0].n_modes or mean.std(0).max() < _LEAST_SPREAD:
                break  # nothing varies
            if progress:
                progress(REFIT, done, _REFITS)
            if poses is not None:
                for basis, images in zip(bases, every, strict=True):
                    _take_networks(basis, bases[0])
                    poses.step(basis, images, basis.radius_px, latent=True)
            moments = _functions(mean, logvar, bases[0].n_modes, generator, expectations[0].zeros)
            n = 0
            for expectation in expectations:
                at = n + expectation.particle
                expectation.refit(*(_taken(part, at, expectation.zeros) for part in moments))
                n += int(expectation.particle.max()) + 1
            del moments
            statistics = _of_particles(expectations)
            if progress:
                progress(LATENT, done + 1, _REFITS + 1)
            _fit_latent(bases[0], statistics, mean, _STEPS, 1, beta, penalty, generator)
    for basis in bases[1:]:  # the networks are common to them already
        _take_networks(basis, bases[0])


def _take_networks(basis: Basis, other: Basis) -> None:
    """Bring all of another basis but its volumes into one."""
    own = {"density": basis.density, "mean": basis.mean}
    basis.load_state_dict({**other.state_dict(), **own})


@torch.no_grad()
def _reach(
    basis: Basis,
    dataset: ParticleDataset,
    rows: NDArray[np.int64],
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Find what the particles show in the mean to Nyquist, where the volumes do not reach it, in place."""
    if not basis.mean.numel():
        return
    found = LinearModes(box_size=basis.box_size, zdim=0, radius_px=basis.nyquist_px)
    told = progress or (lambda what, done, n: None)
    Expectation(found, dataset, rows, torch.Generator()).run(told)
    basis.mean.copy_(found.density[0])


def latent_steps(n_particles: int) -> list[int]:
    """Steps that each fit of the latent takes, for so many training particles."""
    fits = [(_TRIALS, _TRIAL_STEPS), *[(1, _STEPS)] * _REFITS]
    return [trials * min(steps, _most_steps(n_particles)) for trials, steps in fits]


def _most_steps(n_particles: int) -> int:
    return 1 + _PASSES * n_particles // _BATCH


def _of_particles(expectations: Sequence[Expectation]) -> Packed:
    """One row for each particle, those of one half after the other: images of a particle share statistics."""
    parts = []
    for expectation in expectations:
        first = torch.from_numpy(_first_rows(expectation))
        known = expectation.packed()
        arrays = (_taken(values, first, known.zeros) for values in (known.lower, known.overlap))
        parts.append(Packed(*arrays, known.zeros))
    if len(parts) == 1:
        return parts[0]
    n, new = sum(len(part) for part in parts), parts[0].zeros
    both = Packed(*(new(n, width) for width in (parts[0].lower.shape[1], parts[0].overlap.shape[1])), new)
    torch.cat([part.lower for part in parts], out=both.lower)
    torch.cat([part.overlap for part in parts], out=both.overlap)
    return both


def _taken(values: Tensor, rows: Tensor, zeros: Callable[[int, int], Tensor]) -> Tensor:
    """Rows of an array; where these follow one another, a part of the array itself and no copy."""
    start, n = int(rows[0]), len(rows)
    if torch.equal(rows, torch.arange(start, start + n)):
        return values[start : start + n]
    return torch.index_select(values, 0, rows, out=zeros(n, values.shape[1]))


def _first_rows(expectation: Expectation) -> NDArray[np.int64]:
    """The first image of each particle, among the rows of the expectation."""
    return np.unique(expectation.particle.numpy(), return_index=True)[1]


def _functions(
    mean: Tensor,
    logvar: Tensor,
    n: int,
    generator: torch.Generator,
    zeros: Callable[[int, int], Tensor],
) -> tuple[Tensor, Tensor]:
    """Moments, as of `Basis.moments`, of 1 and n functions of the latents (M, Z), white over the particles.

    The functions are spanned by Gaussians at n + 1 centres of the latents, in each place adding up to 1. The
    volumes that they weigh are a smooth regression on the latent: they follow a motion that is curved in the
    space of volumes, and what does not depend on the latent is averaged out of them.
    """
    some = torch.randperm(len(mean), generator=generator)[:_PLACED]
    centres = _centres(mean[some], n + 1)
    apart = torch.cdist(centres, centres).fill_diagonal_(math.inf).amin(1).clamp_min(1e-6)
    first, second = zeros(len(mean), n + 1), zeros(len(mean), (n + 1) * (n + 2) // 2)
    drawn = zeros(*mean.shape)
    for _ in range(_DRAWS):
        drawn.normal_(generator=generator)
        for piece in pieces(len(mean)):
            z = mean[piece] + (0.5 * logvar[piece]).exp() * drawn[piece]
            share = torch.softmax(-(torch.cdist(z, centres) / apart).square(), dim=1)
            first[piece] += share / _DRAWS
            second[piece] += packed(share[:, :, None] * share[:, None, :] / _DRAWS)
    common, square = _mean(first, zeros), unpacked(_mean(second, zeros)[None])[0]
    values, vectors = torch.linalg.eigh(square - common[:, None] * common)
    # their sum, which comes first of the ascending, does not vary; then that which varies most is the first
    white = (vectors[:, 1:] / values[1:].clamp_min(1e-9).sqrt()).flip(1)
    # 1 is the sum of the functions
    turn = torch.cat([torch.ones(n + 1, 1, dtype=torch.float64), white - common @ white], dim=1).float()
    for piece in pieces(len(mean)):
        first[piece] = first[piece] @ turn
        second[piece] = packed(turn.T @ unpacked(second[piece]) @ turn)
    return first, second


def _mean(values: Tensor, zeros: Callable[[int, int], Tensor]) -> Tensor:
    """Mean (W,) over the rows of (N, W) in double precision, of which torch would make a copy in memory."""
    return zeros(len(values), 2 * values.shape[1]).view(torch.float64).copy_(values).mean(0)


def _centres(points: Tensor, n: int) -> Tensor:
    """k-means centres (n, Z) of points (M, Z)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")  # its centre then stays
        found, _ = kmeans2(points.double().numpy(), n, iter=30, minit="++", rng=0)
    return torch.from_numpy(found).to(points)


@torch.no_grad()
def fill(table: TableLatent, bases: Sequence[Basis], dataset: ParticleDataset) -> None:
    """Start every particle's entry of a latent table from the basis, that of its half of two, in place."""
    half = np.zeros(len(dataset), np.int64) if dataset.half is None else dataset.half.numpy()
    for number, basis in enumerate(bases):
        rows = np.flatnonzero(half == number)
        known = Expectation(basis, dataset, rows, torch.Generator()).packed()
        mean, logvar = known.each(basis.encode)
        table.mean.weight[dataset.group[rows]] = mean
        table.logvar.weight[dataset.group[rows]] = logvar


def _leading(subspace: Subspace, statistics: Packed, penalty: Penalty | None) -> Tensor:
    """The coefficients that explain most, of unit variance: a latent (M, Z) to start from."""
    (found,) = statistics.each(lambda some: [posterior(some).mean])
    if penalty is not None:  # without what the nuisance variables explain of them
        f = penalty.features
        found = found - f @ (f.T @ (found - found.mean(0)) / len(f))
    spread = found.std(0, correction=0)
    explained = spread * subspace.density[1:].flatten(1).norm(dim=1)
    leading = explained.argsort(descending=True)[: subspace.zdim]
    start, centre = statistics.zeros(len(found), subspace.zdim), found.mean(0)[leading]
    for piece in pieces(len(found)):
        some = found[piece][:, leading]
        start[piece, : len(leading)] = (some - centre) / spread[leading].clamp_min(1e-6)
    return start


@torch.enable_grad()
def _fit_latent(
    subspace: Subspace,
    statistics: Packed,
    start: Tensor,
    steps: int,
    trials: int,
    beta: float,
    penalty: Penalty | None,
    generator: torch.Generator,
) -> None:
    """Train the encoder and the coefficients c(z) on the statistics of the particles alone.

    A latent of few dimensions can come to lie folded in the subspace, which no small step undoes: the encoder
    is led from a first latent (M, Z), and of several trials the one with the best objective is kept.
    """
    mean, precision = statistics.each(_mean_and_precision)
    subspace.coefficient_std.copy_(mean.std(0, correction=0).clamp_min(1e-6))
    for features, part in ((mean, slice(mean.shape[1])), (precision.log_(), slice(mean.shape[1], None))):
        subspace.feature_mean[part] = features.mean(0)
        subspace.feature_std[part] = features.std(0, correction=0).clamp_min(1e-6)
    del precision
    images = _Images(statistics, mean, start)
    best, kept = math.inf, subspace.state_dict()
    for _ in range(trials):
        for module in subspace.modules():
            if isinstance(module, torch.nn.Linear):
                module.reset_parameters()
        loss = _descend(subspace, images, steps, beta, penalty, generator)
        if loss < best:
            best, kept = loss, {name: value.clone() for name, value in subspace.state_dict().items()}
    subspace.load_state_dict(kept)


def _mean_and_precision(known: Statistics) -> tuple[Tensor, Tensor]:
    """Of the posterior of the coefficients, (B, K) each."""
    found = posterior(known)
    return found.mean, found.precision.diagonal(dim1=1, dim2=2)


class _Images(NamedTuple):
    """Of M particles: their statistics, the posterior mean of the coefficients, and a first latent."""

    statistics: Packed
    mean: Tensor
    start: Tensor


def _descend(
    subspace: Subspace,
    images: _Images,
    steps: int,
    beta: float,
    penalty: Penalty | None,
    generator: torch.Generator,
) -> float:
    """Minimise the objective; returns it, averaged over the last steps."""
    n, last = len(images.start), []
    if penalty is not None:
        penalty.nuisance.forget()
    steps = min(steps, _most_steps(n))
    optimizer = torch.optim.Adam(subspace.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        chosen = torch.randint(n, (min(_BATCH, n),), generator=generator)
        gram, overlap = images.statistics.some(chosen)
        precision = 2 * gram[:, 1:, 1:]
        known = Coefficients(images.mean[chosen], precision + torch.eye(precision.shape[1]))
        mean, logvar = subspace.infer(known)
        z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
        c = subspace.decode(z)
        quadratic = (c.unsqueeze(1) @ precision @ c.unsqueeze(2)).flatten()
        misfit = 0.5 * quadratic - (2 * (overlap[:, 1:] - gram[:, 1:, 0]) * c).sum(1)
        kl = 0.5 * (mean.square() + logvar.exp() - logvar - 1).sum(1)
        loss = (misfit + beta * kl).mean()
        if penalty is not None:
            loss = loss + penalty.nuisance.penalty(mean, penalty.features[chosen]).mean()
        if step >= min(0.9 * steps, steps - 1):
            last.append(float(loss.detach()))
        led = max(0.0, 1 - step / (_LED * steps))
        if led:
            loss = loss + 10 * led * (mean - images.start[chosen]).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return sum(last) / len(last)
