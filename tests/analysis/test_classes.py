import numpy as np
import pytest

from drgn.analysis.classes import _gap, find_classes
from drgn.analysis.clusters import gaussian_mixture, kmeans


def arcs(n, noise, zdim):
    """Two concentric arcs and which is which."""
    rng = np.random.default_rng(0)
    truth, along = rng.integers(0, 2, n), rng.uniform(0, 3, n)
    z = noise * rng.normal(size=(n, zdim))
    z[:, 0] += (4 + 4 * truth) * np.cos(along)
    z[:, 1] += (4 + 4 * truth) * np.sin(along)
    return z, truth


def agreement(labels, truth):
    return max((labels == truth).mean(), (labels != truth).mean())


@pytest.mark.parametrize(("noise", "zdim"), [(0.4, 2), (0.1, 4), (0.4, 4)])
def test_bent_classes_are_parted(noise, zdim):
    z, truth = arcs(600, noise, zdim)
    assert agreement(find_classes(z, 2, seed=0).labels, truth) > 0.99
    assert agreement(gaussian_mixture(z, seed=0, n=2).labels, truth) < 0.8
    assert agreement(kmeans(z, 2, seed=0).labels, truth) < 0.8


def test_round_classes_in_order():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    z = np.stack([10.0 * truth, rng.normal(size=300)], axis=1) + 0.3 * rng.normal(size=(300, 2))
    np.testing.assert_array_equal(find_classes(z, 3, seed=0).labels, truth)


def test_the_same_seed_gives_the_same_classes():
    z, _ = arcs(200, 0.5, 3)
    np.testing.assert_array_equal(find_classes(z, 2, seed=3).labels, find_classes(z, 2, seed=3).labels)


def test_the_gap_ignores_a_few_strays():
    a = np.zeros((50, 1))
    b = np.full((50, 1), 7.0)
    b[:3] = 0.1
    assert _gap(a, b) == _gap(b, a) == pytest.approx(7)
