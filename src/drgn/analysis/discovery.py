"""Discrete states found without being told how many (P12): a mixture of Gaussians, merged where no valley is.

The mixture describes the density of the latents, in as many components as that needs; bent or long clouds
take several. Components are then merged wherever no valley parts them, so that what is left are groups with
empty space around them, of any shape. One group left is one state, which may move continuously.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from drgn.analysis import valleys
from drgn.analysis.clusters import FITTED, ordered
from drgn.analysis.valleys import Valley

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 22, 27)  # of the mixture
DIFFUSE = 3.0  # variance of a diffuse group over that of the median group
PATIENCE = 2  # sizes tried after the best
FEWEST = 6  # components that are merged
SURELY_ONE = 0.75  # groups that meet above this share of the lower peak are one without further test


@dataclass(frozen=True, eq=False)
class Partition:
    """Groups of particles with valleys between them.

    Attributes
    ----------
    labels
        (N,) int64 group, from 0.
    probability
        (N,) of that group, from the mixture.
    valleys
        Between each two groups (a, b), a < b.
    components
        Size of the mixture.
    """

    labels: np.ndarray
    probability: np.ndarray
    valleys: dict[tuple[int, int], Valley]
    components: int

    @property
    def n(self) -> int:
        """Number of groups."""
        return int(self.labels.max()) + 1


@dataclass(frozen=True, eq=False)
class States:
    """What was found.

    Attributes
    ----------
    labels
        (N,) int64 state of each particle, numbered from 0 along the tree of their centres.
    probability
        (N,) of that state.
    on_data_rows, centres
        (k,), (k, Z): the particle nearest to each state's mean, and its latent.
    valleys
        Between each two states (a, b), a < b.
    diffuse
        (k,) bool: particles scattered far more widely, in most directions, than those of the other states, as
        broken particles and noise are.
    agreement
        Adjusted Rand index of each resample with the whole, on the resampled particles.
    counts
        Number of states that each resample found.
    components
        Size of the mixture.
    """

    labels: np.ndarray
    probability: np.ndarray
    on_data_rows: np.ndarray
    centres: np.ndarray
    valleys: dict[tuple[int, int], Valley]
    diffuse: np.ndarray
    agreement: np.ndarray = field(default_factory=lambda: np.zeros(0))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    components: int = 1

    @property
    def sizes(self) -> np.ndarray:
        """(k,) number of particles of each state."""
        return np.bincount(self.labels, minlength=len(self.centres))


def noise_units(z: np.ndarray, variance: np.ndarray | None) -> np.ndarray:
    """Latents in units of their own uncertainty, along principal axes; dimensions of noise alone are dropped.

    Parameters
    ----------
    z, variance
        (N, Z) means and variances of the posterior. Without variances the unit is the spread of all latents,
        and no dimension is known to be noise.

    Returns
    -------
    (N, Z') coordinates, most variable first.
    """
    z = np.asarray(z, np.float64)
    unit = np.var(z, axis=0).mean() if variance is None else np.mean(variance, axis=0, dtype=np.float64)
    centred = (z - z.mean(axis=0)) * (1 / np.sqrt(np.maximum(unit, 1e-12)))
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(centred.T)))
    order = np.argsort(values)[::-1]
    least = -np.inf if variance is None else 1.0
    used = order[values[order] > least] if (values > least).any() else order[:1]
    return centred @ vectors[:, used]


def partition(
    x: np.ndarray,
    seed: int,
    *,
    threshold: float,
    smallest: int,
    size: int | None = None,
    most: int | None = None,
) -> Partition:
    """Part latents into groups with valleys between them.

    Parameters
    ----------
    x
        (N, Z) latents in units of their noise.
    seed
        The same seed gives the same groups.
    threshold
        Two groups are separate where the density in the valley, at the upper end of its uncertainty, is below
        this share of the lower peak.
    smallest
        Groups of fewer particles are given to their neighbour.
    size
        Of the mixture; None: twice the one with the lowest Bayesian information criterion.
    most
        Groups beyond this number are joined too, those with the shallowest valley first; None: all that are
        parted by valleys stay.
    """
    rng = np.random.default_rng(seed)
    sample = x if len(x) <= FITTED else x[rng.choice(len(x), FITTED, replace=False)]
    mixture = _fitted(sample, seed, smallest, size)
    lowest = valleys.passes(mixture.means_, mixture.score_samples)
    share = mixture.predict_proba(x)
    component = share.argmax(axis=1)
    group = valleys.merged(lowest, SURELY_ONE)
    group = _without_small(group, component, lowest, smallest)
    between: dict[tuple[int, int], Valley] = {}
    while True:
        names = np.unique(group[np.unique(component)])
        between = {}
        for place, b in enumerate(names):
            for a in names[:place]:
                i, j = _facing(group, a, b, lowest, component, smallest)
                sides = (
                    _near(x, component, i, j, group[component] == a),
                    _near(x, component, j, i, group[component] == b),
                )
                between[int(a), int(b)] = valleys.valley(*sides, seed)
        if not between:
            break
        (a, b), worst = max(between.items(), key=lambda item: item[1].upper)
        if worst.upper <= threshold and (most is None or len(names) <= most):
            break
        group[group == b] = a
    summed = np.stack([share[:, group == name].sum(axis=1) for name in names], axis=1)
    number = {int(name): place for place, name in enumerate(names)}
    labels = np.searchsorted(names, group[component])
    return Partition(
        labels,
        summed[np.arange(len(x)), labels],
        {(number[a], number[b]): found for (a, b), found in between.items()},
        mixture.n_components,
    )


def discover(
    z: np.ndarray,
    variance: np.ndarray | None,
    seed: int,
    *,
    threshold: float = 0.5,
    smallest_share: float = 0.01,
    resamples: int = 20,
) -> States:
    """Find discrete states, what parts them, how stable they are and how far each spreads.

    Parameters
    ----------
    z, variance
        (N, Z) means and variances of the posterior of each particle; variances may be unknown.
    seed
        Of everything random.
    threshold
        See `partition`.
    smallest_share
        Groups with a smaller share of the particles (or fewer than 20 of them) are given to their neighbour.
    resamples
        How often the whole is repeated on the particles of a draw with replacement, with another start.
    """
    from sklearn.metrics import adjusted_rand_score
    from threadpoolctl import threadpool_limits

    x = noise_units(z, variance)
    smallest = max(20, int(np.ceil(smallest_share * len(x))))
    rng = np.random.default_rng(seed)
    with threadpool_limits(1):  # many small matrix products, which threads only slow down
        found = partition(x, seed, threshold=threshold, smallest=smallest)
        draws = []
        for i in range(resamples):
            rows = np.unique(rng.choice(len(x), min(len(x), FITTED)))
            again = partition(
                x[rows],
                seed + 1 + i,
                threshold=threshold,
                smallest=max(20, int(smallest * len(rows) / len(x))),
                size=found.components,
            )
            draws.append((rows, again))
        counts = np.array([again.n for _, again in draws], np.int64)
        usual = int(np.median(counts)) if resamples else found.n
        if usual < found.n and (counts == found.n).mean() < 0.5:  # the valley of one draw alone
            found = partition(
                x, seed, threshold=threshold, smallest=smallest, size=found.components, most=usual
            )
    agreement = np.array([adjusted_rand_score(found.labels[rows], again.labels) for rows, again in draws])
    clusters = ordered(z, found.labels)
    rank = {int(old): int(new) for old, new in zip(found.labels, clusters.labels, strict=True)}
    return States(
        clusters.labels,
        found.probability,
        clusters.on_data_rows,
        clusters.centres,
        dict(_numbered(rank[a], rank[b], between) for (a, b), between in found.valleys.items()),
        _diffuse(x, clusters.labels),
        agreement,
        counts,
        found.components,
    )


def _numbered(a: int, b: int, between: Valley) -> tuple[tuple[int, int], Valley]:
    """A valley from state a to state b under the key (lower, higher), its sides in that order."""
    return ((a, b), between) if a < b else ((b, a), between.turned())


def _diffuse(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which groups (k,) scatter widely in most directions; none where directions are fewer than 4.

    A moving state is long in one or two directions, which the median over the directions does not see.
    """
    k = int(labels.max()) + 1
    if x.shape[1] < 4:
        return np.zeros(k, bool)
    width = np.array([np.median(np.linalg.eigvalsh(np.cov(x[labels == label].T))) for label in range(k)])
    return width > DIFFUSE * np.median(width[labels])  # of the group that the median particle is in


def _fitted(sample: np.ndarray, seed: int, smallest: int, size: int | None):  # noqa: ANN202  (sklearn is imported inside)
    """Mixture of the given size, or of twice the size with the lowest criterion.

    Too few components cut a bent cloud into long pieces whose middles look like peaks; too many do no harm,
    since they are merged.
    """
    from sklearn.mixture import GaussianMixture

    floor = 1e-4 * float(np.var(sample, axis=0).mean()) + 1e-9
    fewest = max(4 * (sample.shape[1] + 1), smallest // 2, min(50, len(sample) // FEWEST))
    most = max(1, len(sample) // fewest)

    def fitted(n: int) -> GaussianMixture:
        mixture = GaussianMixture(
            n, covariance_type="tied", n_init=2, reg_covar=floor, max_iter=300, random_state=seed
        )
        return mixture.fit(sample)

    if size is None:
        criteria: list[float] = []
        for n in SIZES:
            if n > most or len(criteria) - int(np.argmin(criteria or [0])) > PATIENCE:
                break
            criteria.append(fitted(n).bic(sample))
        size = max(FEWEST, 2 * SIZES[int(np.argmin(criteria))])
    return fitted(min(size, most))


def _without_small(group: np.ndarray, component: np.ndarray, lowest: np.ndarray, smallest: int) -> np.ndarray:
    """Give groups of too few particles to the group to which the highest pass leads."""
    group = group.copy()
    while len(names := np.unique(group)) > 1:
        counts = {name: np.isin(component, np.flatnonzero(group == name)).sum() for name in names}
        least = min(names, key=lambda name: counts[name])
        if counts[least] >= smallest:
            break
        outside = np.flatnonzero(group != least)
        heights = lowest[np.ix_(group == least, outside)].max(axis=0)
        group[group == least] = group[outside[heights.argmax()]]
    return group


def _facing(
    group: np.ndarray, a: int, b: int, lowest: np.ndarray, component: np.ndarray, smallest: int
) -> tuple[int, int]:
    """Components of a and of b with the highest pass between them, of those with enough particles."""
    counts = np.bincount(component, minlength=len(group))
    heights = lowest.copy()
    few = counts < max(10, smallest // 4)
    heights[few] -= 1e6
    heights[:, few] -= 1e6
    own = [np.flatnonzero((group == name) & (counts > 1)) for name in (a, b)]
    inside = heights[np.ix_(*own)]
    i, j = np.unravel_index(inside.argmax(), inside.shape)
    return int(own[0][i]), int(own[1][j])


def _near(x: np.ndarray, component: np.ndarray, i: int, j: int, side: np.ndarray) -> np.ndarray:
    """Particles of one side (a mask) about as near to the centre of component i as that of component j is.

    All of a side would be too much where it is bent around the other.
    """
    own, other = x[component == i], x[component == j]
    within = (np.cov(own.T) * len(own) + np.cov(other.T) * len(other)) / (len(own) + len(other))
    within = np.atleast_2d(within) + 1e-9 * np.trace(np.atleast_2d(within)) * np.eye(x.shape[1])
    inverse = np.linalg.inv(within)

    def distance2(points: np.ndarray) -> np.ndarray:
        away = points - own.mean(axis=0)
        return np.einsum("nz,zy,ny->n", away, inverse, away)

    reach = distance2(other.mean(axis=0)[None])[0] + 2 * x.shape[1]
    inside = side & (distance2(x) < reach)
    return x[inside | (component == i)]
