import numpy as np
import pytest
import torch

from drgn.analysis import embedding
from drgn.errors import InputError


@pytest.fixture
def cloud():
    rng = np.random.default_rng(0)
    return rng.normal(size=(500, 3)) * [1, 5, 2] + [10, 0, -3]


def test_pca_finds_the_planted_axes(cloud):
    result = embedding.pca(cloud)
    assert np.abs(result.components).argmax(axis=1).tolist() == [1, 2, 0]
    np.testing.assert_allclose(result.explained_variance_ratio, np.array([25, 4, 1]) / 30, atol=0.03)
    np.testing.assert_allclose(result.coordinates @ result.components + result.mean, cloud, atol=1e-10)


def test_pca_agrees_with_scikit_learn(cloud):
    from sklearn.decomposition import PCA

    other = PCA().fit(cloud)
    result = embedding.pca(cloud)
    np.testing.assert_allclose(result.explained_variance_ratio, other.explained_variance_ratio_)
    np.testing.assert_allclose(np.abs(result.components), np.abs(other.components_), atol=1e-10)


def test_pca_signs_do_not_depend_on_the_rows(cloud):
    shuffled = embedding.pca(cloud[::-1])
    np.testing.assert_allclose(shuffled.components, embedding.pca(cloud).components, atol=1e-10)


def test_pca_of_identical_latents_has_no_variance():
    result = embedding.pca(np.ones((10, 2)))
    assert result.explained_variance_ratio.tolist() == [0, 0]


def test_pca_refuses_latents_that_are_not_finite():
    z = np.ones((10, 2))
    z[7, 1] = np.nan
    with pytest.raises(InputError, match=r"1 of 10 particles .*first: row 7\)"):
        embedding.pca(z)


def test_traverse_runs_from_the_5th_to_the_95th_percentile(cloud):
    result = embedding.pca(cloud)
    steps, z = result.traverse(0)
    assert z.shape == (5, 3)
    np.testing.assert_allclose(np.diff(steps), np.diff(steps)[0])
    np.testing.assert_allclose(steps[[0, -1]], np.percentile(result.coordinates[:, 0], [5, 95]))
    others = (z - result.mean) @ result.components[1:].T
    np.testing.assert_allclose(others, 0, atol=1e-5)


def test_percentiles_of_a_one_dimensional_latent():
    z = np.arange(101, dtype=np.float32)[:, None]
    assert embedding.percentiles_1d(z)[:, 0].tolist() == [5, 23, 41, 59, 77, 95]


@pytest.mark.parametrize("zdim", [1, 2])
def test_umap_keeps_a_flat_latent(zdim):
    z = np.random.default_rng(0).normal(size=(20, zdim)).astype(np.float32)
    result = embedding.umap(z, seed=0)
    assert result.is_latent
    np.testing.assert_array_equal(result.coordinates, z)


def test_umap_separates_two_clouds_and_repeats():
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(size=(60, 4)), rng.normal(size=(60, 4)) + 20])
    result = embedding.umap(z, seed=1)
    assert result.coordinates.shape == (120, 2)
    assert not result.is_latent
    a, b = result.coordinates[:60], result.coordinates[60:]
    spread = max(np.linalg.norm(cloud - cloud.mean(axis=0), axis=1).max() for cloud in (a, b))
    assert np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)) > spread
    np.testing.assert_array_equal(result.coordinates, embedding.umap(z, seed=1).coordinates)


def test_umap_of_a_handful_of_particles():
    z = np.random.default_rng(0).normal(size=(6, 3))
    assert np.isfinite(embedding.umap(z, seed=0).coordinates).all()


def test_umap_by_landmarks(monkeypatch):
    """Landmarks stay where UMAP put them; the others are at the weighted mean of the nearest of them."""
    from sklearn.neighbors import KNeighborsRegressor

    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(size=(150, 4)), rng.normal(size=(150, 4)) + 20]).astype(np.float32)
    monkeypatch.setattr(embedding, "MOST_LAID_OUT", 200)
    monkeypatch.setattr(embedding, "LANDMARKS", 100)
    monkeypatch.setattr(embedding, "_CHUNK", 64)
    found = embedding.umap(z, seed=0).coordinates
    distinct = np.unique(z, axis=0)
    landmarks = distinct[np.sort(np.random.default_rng(0).choice(300, 100, replace=False))]
    laid_out = embedding.umap(landmarks, seed=0).coordinates
    reference = KNeighborsRegressor(5, weights="distance").fit(landmarks, laid_out)
    np.testing.assert_allclose(found, reference.predict(z), atol=1e-3)
    a, b = found[:150], found[150:]
    assert np.linalg.norm(a.mean(0) - b.mean(0)) > max(a.std(), b.std())


def test_counts_along_an_axis():
    counts = embedding.counts_along(np.array([-9, 0.4, 0.6, 1.2, 1.4, 9]), np.array([0.0, 1.0, 2.0]))
    assert counts.tolist() == [2, 3, 1]


def test_umap_of_shared_latents_is_shared():
    z = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    once = embedding.umap(np.unique(z, axis=0), seed=0).coordinates
    again = embedding.umap(np.repeat(np.unique(z, axis=0), 5, axis=0), seed=0).coordinates
    np.testing.assert_array_equal(again[::5], once)


def test_umap_leaves_the_number_of_threads_as_it_was(cloud):
    # numba, which UMAP runs on, shares OpenMP with torch: what trains next would use more cores than it may
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        embedding.umap(cloud, seed=0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore::ImportWarning")  # its parametric variant would want Tensorflow
def test_umap_is_that_of_umap_learn():
    from umap import UMAP

    z = np.random.default_rng(4).normal(size=(120, 4)).astype(np.float32)
    z = z[np.lexsort(z.T[::-1])]  # in the order of np.unique
    reference = UMAP(n_neighbors=15, min_dist=0.1, random_state=3, n_jobs=1).fit_transform(z)
    np.testing.assert_allclose(embedding.umap(z, seed=3).coordinates, reference, rtol=1e-5, atol=1e-5)
