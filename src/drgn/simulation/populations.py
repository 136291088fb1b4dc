"""How many particles are in which state."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from drgn.errors import InputError


class Population:
    """The distribution of the particles over the maps along a motion, and over compositions.

    The counts of a drawn set follow it to within one particle a map: 50,000 particles spread evenly over 50
    maps are 1,000 of each, in random order (P34).

    Parameters
    ----------
    means, sds
        Components of a mixture of Gaussians along the motion, in maps counted from 1: 10 is the tenth map.
        What falls beyond the first or last map counts as that map. Null: evenly spread, or as `frequencies`
        say.
    weights
        Of the components; null: equal.
    frequencies
        Any other distribution: one relative frequency for each map.
    shares
        Relative frequencies of the compositions; null: equal.
    """

    def __init__(
        self,
        *,
        means: Sequence[float] | None = None,
        sds: Sequence[float] | None = None,
        weights: Sequence[float] | None = None,
        frequencies: Sequence[float] | None = None,
        shares: Sequence[float] | None = None,
    ) -> None:
        if (means is None) != (sds is None) or (means is not None and frequencies is not None):
            raise InputError("population: give means and sds, or frequencies, or none of them.")
        n = len(means or ())
        for name, values in (("sds", sds), ("weights", weights)):
            if values is not None and len(values) != n:
                raise InputError(f"population.{name} has {len(values)} values for {n} means.")
        if sds is not None and min(sds, default=0) <= 0:
            raise InputError(f"population.sds={list(sds)}: expected numbers above 0, in maps.")
        for name, values in (("weights", weights), ("frequencies", frequencies), ("shares", shares)):
            if values is not None and (min(values, default=0) < 0 or sum(values) <= 0):
                raise InputError(
                    f"population.{name}={list(values)}: expected numbers of 0 or more, not all 0."
                )
        self.means, self.sds, self.weights = means, sds, weights
        self.frequencies, self.shares = frequencies, shares

    def along(self, n_maps: int) -> NDArray[np.float64]:
        """Return the share of each of the maps along the motion (n_maps,)."""
        if self.means is None or self.sds is None:
            return _normalised(self.frequencies, n_maps, "frequencies", "maps")
        edges = np.concatenate([[-np.inf], np.arange(1, n_maps) + 0.5, [np.inf]])
        mean, sd = np.asarray(self.means), np.asarray(self.sds)
        parts = np.diff(ndtr((edges[:, None] - mean) / sd), axis=0)
        return parts @ _normalised(self.weights, len(mean), "weights", "means")

    def draw(
        self, uniform: NDArray[np.float64], n_maps: int, n_compositions: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Turn uniform numbers (n, 2) into the map along the motion (n,) and the composition (n,), from 0."""
        shares = _normalised(self.shares, n_compositions, "shares", "compositions")
        return _spread(uniform[:, 0], self.along(n_maps)), _spread(uniform[:, 1], shares)


def _spread(uniform: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Give out states by the rank of each number, so that the counts are the shares, rounded."""
    n = len(uniform)
    rank = np.empty(n)
    rank[np.argsort(uniform, kind="stable")] = (np.arange(n) + 0.5) / n
    last = np.flatnonzero(shares)[-1]
    return np.minimum(np.searchsorted(np.cumsum(shares) + 1e-12, rank), last)


def _normalised(values: Sequence[float] | None, n: int, name: str, what: str) -> NDArray[np.float64]:
    if values is not None and len(values) != n:
        raise InputError(f"population.{name} has {len(values)} values for {n} {what}.")
    shares = np.ones(n) if values is None else np.asarray(values, dtype=np.float64)
    return shares / shares.sum()
