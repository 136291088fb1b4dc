"""Sketches of maps, their principal components and clusters, and where all particles are among them."""

import numpy as np
import pytest

from drgn.analysis import landscape, sketch
from drgn.errors import InputError
from drgn.formats.mrc import write_volume


def test_the_centres_are_particles_and_stand_for_those_around_them():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 2))
    rows, nearest = sketch.centres(z, 20, 0)
    assert len(rows) == len(np.unique(rows)) == nearest.max() + 1 == 20
    assert (nearest[rows] == np.arange(20)).all()
    own = np.linalg.norm(z - z[rows[nearest]], axis=1)
    assert own.mean() < 0.5 * np.linalg.norm(z, axis=1).mean()
    assert len(sketch.centres(z[:40], 20, 0)[0]) == 10  # a quarter of the particles


def test_components_of_maps_are_those_of_a_weighted_covariance():
    rng = np.random.default_rng(1)
    voxels = rng.normal(size=(30, 50)).astype(np.float32)
    weights = rng.integers(1, 5, 30)
    found = sketch.pca(voxels, 4, weights)
    repeated = np.repeat(voxels, weights, axis=0).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(repeated.T, bias=True))
    np.testing.assert_allclose(found.mean, repeated.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.variances, values[::-1][:4], rtol=1e-4)
    np.testing.assert_allclose(found.share, values[::-1][:4] / values.sum(), rtol=1e-4)
    np.testing.assert_allclose(np.abs((found.components * vectors[:, ::-1][:, :4].T).sum(1)), 1, atol=1e-3)
    np.testing.assert_allclose(found.coordinates, (voxels - found.mean) @ found.components.T, rtol=1e-4)


def test_the_mask_is_where_any_map_has_density():
    maps = np.zeros((2, 16, 16, 16), np.float32)
    maps[0, 4:6, 4:6, 4:6] = maps[1, 10:12, 10:12, 10:12] = 1
    np.testing.assert_array_equal(sketch.union_mask(maps, 3.0, 0.0), maps.any(axis=0))
    grown = sketch.union_mask(maps, 3.0, 3.0)
    assert grown[3, 4, 4]
    assert not grown[3, 3, 4]  # 4.2 A away


def test_a_mask_of_a_file_is_brought_into_the_box(tmp_path):
    ball = (np.stack(np.indices((32,) * 3)) - 16).astype(float)
    ball = (np.linalg.norm(ball, axis=0) < 8).astype(np.float32)
    write_volume(tmp_path / "mask.mrc", ball, 2.0)
    for box_size in (16, 32, 64):
        inside = sketch.read_mask(tmp_path / "mask.mrc", box_size, 64.0)
        assert inside.shape == (box_size,) * 3
        assert inside.mean() == pytest.approx(ball.mean(), rel=0.1)
        assert inside[(box_size // 2,) * 3]
    with pytest.raises(
        InputError, match=r"32 x 32 x 32 voxels of 2 A; the maps of this run are cubes of 96\.0"
    ):
        sketch.read_mask(tmp_path / "mask.mrc", 32, 96.0)
    write_volume(tmp_path / "empty.mrc", 0 * ball, 2.0)
    with pytest.raises(InputError, match="is empty"):
        sketch.read_mask(tmp_path / "empty.mrc", 32, 64.0)
    with pytest.raises(InputError, match="is not there"):
        sketch.read_mask(tmp_path / "none.mrc", 32, 64.0)


def test_clusters_are_counted_by_silhouette_and_ordered_by_particles():
    rng = np.random.default_rng(2)
    truth = np.repeat([0, 1, 2], 30)
    points = 10 * np.eye(3)[truth] + rng.normal(size=(90, 3))
    weights = np.array([1, 3, 2])[truth]
    found = landscape.cluster(points, weights, None)
    np.testing.assert_array_equal(found.labels, np.array([2, 0, 1])[truth])
    assert max(found.silhouette, key=lambda k: found.silhouette[k]) == 3
    assert landscape.cluster(points, weights, 7).labels.max() == 6
    with pytest.raises(InputError, match=r"clusters=90: expected from 1 to 89"):
        landscape.cluster(points, weights, 90)


def test_mean_and_spread_count_particles():
    rng = np.random.default_rng(3)
    maps = rng.normal(size=(5, 4, 4, 4)).astype(np.float32)
    weights = np.array([1, 2, 3, 1, 4])
    mean, spread = landscape.mean_and_spread(maps, weights)
    repeated = np.repeat(maps, weights, axis=0)
    np.testing.assert_allclose(mean, repeated.mean(0), atol=1e-5)
    np.testing.assert_allclose(spread, repeated.std(0), atol=1e-5)


def test_a_regression_that_can_be_learnt_is_and_one_that_cannot_says_so():
    rng = np.random.default_rng(4)
    z = rng.uniform(-1, 1, (200, 2))
    target = 100 * np.stack([np.sin(2 * z[:, 0]) + z[:, 1] ** 2, z[:, 0] * z[:, 1], z[:, 1]], axis=1)
    found = landscape.learn(z, target, 0)
    assert set(found.scores) == {"perceptron", "Gaussian process", "nearest neighbours"}
    assert found.scores[found.name] == max(found.scores.values()) > 0.99
    assert found.by_component.min() > 0.98
    fresh = rng.uniform(-0.9, 0.9, (50, 2))
    expected = 100 * (np.sin(2 * fresh[:, 0]) + fresh[:, 1] ** 2)
    np.testing.assert_allclose(found.predict(fresh)[:, 0], expected, atol=8)
    noise = landscape.learn(z, rng.normal(size=(200, 2)), 0)
    assert noise.scores[noise.name] < 0.2


def test_minus_log_density_is_zero_at_the_peak_and_that_of_a_gaussian_beside_it():
    points = np.random.default_rng(5).normal(size=(200_000, 2))
    values, (left, right, bottom, top) = landscape.free_energy_like(points)
    assert np.nanmin(values) == 0
    assert np.isnan(values[0, 0])
    x = left + (np.arange(100) + 0.5) * (right - left) / 100
    y = bottom + (np.arange(100) + 0.5) * (top - bottom) / 100
    near = (np.abs(x[None]) < 1.5) & (np.abs(y[:, None]) < 1.5)
    exact = (x[None] ** 2 + y[:, None] ** 2) / 2
    assert np.abs(values - exact)[near].max() < 0.35
    assert "not a physical free energy" in landscape.CAVEAT
