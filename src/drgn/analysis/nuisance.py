"""Whether the latent follows what it should not: how an image was taken instead of what it shows.

A latent of the conformation alone has the same mean wherever the particle was looked at from, at any
defocus and on any micrograph: that holds of the posterior means of a perfect model too, however noisy the
images are. Their spread does change with the noise and is no sign of anything. So the means are audited: the
share of their variance that a nuisance variable explains, V(E[z | c]) / V(z), by leave-one-out regression,
beside what chance explains when the variable is given to the wrong particles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drgn.analysis.embedding import pca

PARTICLES = 5_000  # looked at, most
NEIGHBOURS = 50  # whose latents are averaged
PERMUTATIONS = 100
_COMPONENTS = 16  # of z, most
_LEAST_VARIANCE = 0.01  # of a component that is looked at, in that of z
_SIGMAS = 4.0  # above the mean of the permutations: several variables and components are looked at
SLIGHT = 0.02  # share below which a dependence changes no map
# The contrast is measured on the image that z was inferred from, whose noise is in both: 0.035 was seen where
# all images had one contrast.
SLIGHT_OF_CONTRAST = 0.1

Mean = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Dependence:
    """Of z on one variable.

    Attributes
    ----------
    variable
        Name, of `NAMES`.
    share
        Of the variance of the principal component of z that depends on it most.
    component
        Which, from 0.
    noise
        Largest share that is called noise: that of the permutations, or 4 of their standard deviations above
        their mean where that is more.
    p
        Share of the permutations, and this, that reach `share`.
    particles
        That were looked at.
    """

    variable: str
    share: float
    component: int
    noise: float
    p: float
    particles: int

    @property
    def significant(self) -> bool:
        """More than noise."""
        return self.share > self.noise

    @property
    def least(self) -> float:
        """Share from which on it is an alarm."""
        return SLIGHT_OF_CONTRAST if self.variable == "contrast" else SLIGHT

    @property
    def alarm(self) -> bool:
        """More than noise, and enough of it to be seen in maps."""
        return self.significant and self.share >= self.least

    @property
    def nats(self) -> float:
        """Mutual information of two Gaussians of which one explains this share of the other's variance."""
        return float(-0.5 * np.log1p(-np.clip(self.share, 0, 1 - 1e-9)))


def audit(z: np.ndarray, variables: Mapping[str, np.ndarray], seed: int) -> list[Dependence]:
    """Measure how the mean of z depends on each variable.

    At most 5,000 particles are looked at, so that the time does not grow with their number; of a category
    those of whole categories, drawn at random.

    Parameters
    ----------
    z
        (N, Z) latents of different particles, Z >= 1.
    variables
        Name to (N, d) numbers, in which near means alike (an angle as a unit vector), or to (N,) whole
        numbers, categories. Rows that are not finite are left out; a variable that does not vary is not in
        the result.
    seed
        Of the rows and permutations.
    """
    principal = pca(z)
    kept = np.flatnonzero(principal.explained_variance_ratio >= _LEAST_VARIANCE)[:_COMPONENTS]
    if not len(kept):
        return []  # z is the same for all
    found = []
    for name, values in variables.items():
        rng = np.random.default_rng(seed)
        rows = _drawn(values, rng)
        if len(rows) <= 2 * NEIGHBOURS:
            continue
        mean = _mean_in_category(values[rows]) if values.ndim == 1 else _mean_of_neighbours(values[rows])
        found.append(_dependence(name, principal.coordinates[rows][:, kept], kept, mean, rng))
    return found


def _drawn(values: np.ndarray, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows that are looked at; none where the variable is the same everywhere, or each its own category."""
    if values.ndim == 1:
        _, category, size = np.unique(values, return_inverse=True, return_counts=True)
        usable = np.flatnonzero(size > 1)
        order = rng.permutation(usable)
        enough = int(np.searchsorted(np.cumsum(size[order]), PARTICLES)) + 1
        rows = np.flatnonzero(np.isin(category, order[: max(2, enough)]))
        if len(rows) > PARTICLES:  # a few large categories
            rows = np.sort(rng.choice(rows, PARTICLES, replace=False))
        _, category, size = np.unique(values[rows], return_inverse=True, return_counts=True)
        rows = rows[size[category] > 1]
        return rows if len(np.unique(values[rows])) > 1 else rows[:0]
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    if len(rows) > PARTICLES:
        rows = np.sort(rng.choice(rows, PARTICLES, replace=False))
    return rows if len(rows) and np.ptp(values[rows], axis=0).max() > 0 else rows[:0]


def _mean_of_neighbours(values: np.ndarray) -> Mean:
    """Mean over the nearest other rows of values (n, d)."""
    from scipy.sparse import csr_array
    from scipy.spatial import cKDTree

    spread = np.sqrt(values.var(axis=0).mean())
    scaled = values.astype(np.float64) / spread
    # equal values, as of one micrograph's defocus, have no order of their own
    scaled = scaled + 1e-6 * np.random.default_rng(0).standard_normal(scaled.shape)
    n = len(scaled)
    rows = cKDTree(scaled).query(scaled, k=NEIGHBOURS + 1)[1][:, 1:]
    weights = csr_array(
        (np.full(rows.size, 1 / NEIGHBOURS), rows.ravel(), np.arange(n + 1) * NEIGHBOURS), shape=(n, n)
    )
    return lambda z: weights @ z


def _mean_in_category(values: np.ndarray) -> Mean:
    """Mean over the other rows of the same category."""
    from scipy.sparse import csr_array

    _, category, size = np.unique(values, return_inverse=True, return_counts=True)
    n = len(values)
    member = csr_array((np.ones(n), (category, np.arange(n))), shape=(len(size), n))
    others = (size[category] - 1.0)[:, None]
    return lambda z: ((member @ z)[category] - z) / others


def _dependence(
    name: str, coordinates: np.ndarray, components: np.ndarray, mean: Mean, rng: np.random.Generator
) -> Dependence:
    """Of principal coordinates (n, J), which are the given components (J,)."""
    x = coordinates.astype(np.float64)
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12)
    share = (x * mean(x)).mean(axis=0)
    most = int(share.argmax())
    chance = np.empty(PERMUTATIONS)
    for i in range(PERMUTATIONS):
        mixed = x[rng.permutation(len(x))]
        chance[i] = (mixed * mean(mixed)).mean(axis=0).max()
    return Dependence(
        variable=name,
        share=max(0.0, float(share[most])),
        component=int(components[most]),
        noise=max(0.0, float(chance.max()), float(chance.mean() + _SIGMAS * chance.std())),
        p=float((1 + (chance >= share[most]).sum()) / (1 + PERMUTATIONS)),
        particles=len(x),
    )
