import numpy as np
import pytest
from scipy.stats import norm

from drgn.analysis import clusters
from drgn.errors import InputError


@pytest.fixture
def line():
    """Six tight clouds along a line, in shuffled order; truth counts along the line."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 6, 600)
    return np.stack([10.0 * truth, 3.0 * truth], axis=1) + rng.normal(size=(600, 2)) * 0.3, truth


def test_kmeans_finds_planted_clusters_in_planted_order(line):
    z, truth = line
    result = clusters.kmeans(z, 6, seed=0)
    np.testing.assert_array_equal(result.labels, truth)  # also the order: 0 to 5 along the line
    np.testing.assert_array_equal(result.sizes, np.bincount(truth))


def test_kmeans_centres_are_particles_of_their_own_cluster(line):
    z, _ = line
    result = clusters.kmeans(z, 6, seed=0)
    np.testing.assert_array_equal(result.centres, z[result.on_data_rows].astype(np.float32))
    np.testing.assert_array_equal(result.labels[result.on_data_rows], np.arange(6))


def test_kmeans_repeats_with_its_seed(line):
    z = np.random.default_rng(0).normal(size=(300, 3))
    a, b = clusters.kmeans(z, 7, seed=5), clusters.kmeans(z, 7, seed=5)
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.on_data_rows, b.on_data_rows)


def test_kmeans_of_many_starts_on_a_draw(line, monkeypatch):
    z, truth = line
    monkeypatch.setattr(clusters, "STARTED", 100)
    np.testing.assert_array_equal(clusters.kmeans(z, 6, seed=0).labels, truth)


def test_hdbscan_is_that_of_scikit_learn(line):
    from sklearn.cluster import HDBSCAN

    z, truth = line
    found = clusters.hdbscan(z, 30, seed=0).labels
    expected = HDBSCAN(min_cluster_size=30, copy=True).fit_predict(z)
    np.testing.assert_array_equal(found < 0, expected < 0)
    inside = expected >= 0
    np.testing.assert_array_equal(found[inside], truth[inside])


def test_hdbscan_of_many_takes_the_nearest_of_a_draw(line, monkeypatch):
    z, truth = line
    monkeypatch.setattr(clusters, "FITTED", 300)
    found = clusters.hdbscan(z, 30, seed=0).labels
    inside = found >= 0
    assert inside.mean() > 0.8
    np.testing.assert_array_equal(found[inside], truth[inside])


def test_mixture_is_that_of_scikit_learn(line):
    from sklearn.decomposition import PCA
    from sklearn.metrics import adjusted_rand_score
    from sklearn.mixture import GaussianMixture

    z = 4.0 * np.eye(3)[line[1] // 2] + np.random.default_rng(2).normal(size=(600, 3)) * [[0.5, 1, 1.5]]
    fit = GaussianMixture(3, covariance_type="full", n_init=10, random_state=1)
    expected = fit.fit_predict(PCA(whiten=True).fit_transform(z))
    assert adjusted_rand_score(clusters.gaussian_mixture(z, seed=0, n=3).labels, expected) > 0.98


def test_on_data_mean_by_hand():
    z = np.array([[0.0], [1.0], [5.0], [100.0], [104.0], [101.0]])
    labels = np.array(["b", "b", "b", "a", "a", "a"])
    # means 2 and 101.67: nearest members 1.0 (row 1) and 101.0 (row 5); classes in sorted order a, b
    assert clusters.on_data_mean(z, labels).tolist() == [5, 1]


def test_on_data_mean_stays_within_the_class():
    z = np.array([[0.0], [10.0], [5.0]])
    assert clusters.on_data_mean(z, np.array([0, 0, 1])).tolist() == [0, 2]


@pytest.mark.parametrize("k", [0, 4])
def test_kmeans_refuses_more_clusters_than_latents(k):
    z = np.array([[0.0], [1.0], [2.0], [2.0]])
    with pytest.raises(InputError, match=f"kmeans={k}.*between 1 and .* 3"):
        clusters.kmeans(z, k, seed=0)


@pytest.fixture
def parallel():
    """Two long parallel clouds: k-means cuts across them, a full-covariance mixture does not."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 800)
    return np.stack([rng.uniform(-20, 20, 800), 3 * truth + rng.normal(size=800) * 0.3], axis=1), truth


def test_mixture_separates_elongated_classes(parallel):
    z, truth = parallel
    labels = clusters.gaussian_mixture(z, seed=0, n=2).labels
    assert max((labels == truth).mean(), (labels != truth).mean()) == 1
    kmeans = clusters.kmeans(z, 2, seed=0).labels
    assert max((kmeans == truth).mean(), (kmeans != truth).mean()) < 0.7


def test_mixture_does_not_depend_on_the_scale(parallel):
    z, _ = parallel
    a = clusters.gaussian_mixture(z, seed=0, n=2).labels
    b = clusters.gaussian_mixture(z * [1e-3, 1e3], seed=0, n=2).labels
    assert (a == b).all() or (a != b).all()


def test_mixture_chooses_the_number_of_components(line):
    z, truth = line
    result = clusters.gaussian_mixture(z, seed=0)
    np.testing.assert_array_equal(result.labels, truth)


def test_mixture_ignores_a_collapsed_dimension(parallel):
    z, truth = parallel
    labels = clusters.gaussian_mixture(np.column_stack([z, np.full(len(z), 1e-9)]), seed=0, n=2).labels
    assert max((labels == truth).mean(), (labels != truth).mean()) == 1


def test_mixture_refuses_too_few_particles():
    with pytest.raises(InputError, match="needs at least 8 particles; there are 5"):
        clusters.gaussian_mixture(np.random.default_rng(0).normal(size=(5, 2)), seed=0, n=4)


def test_a_mixture_fitted_to_a_sample_labels_all(monkeypatch, parallel):
    monkeypatch.setattr(clusters, "FITTED", 200)
    z, truth = parallel
    labels = clusters.gaussian_mixture(z, seed=0, n=2).labels
    assert max((labels == truth).mean(), (labels != truth).mean()) == 1


def test_membership_is_the_chance_to_be_nearest():
    z = np.array([[-2.0], [-2], [-0.1], [2], [2]], np.float32)  # the means of the clusters are -1.367 and 2
    labels = np.array([0, 0, 0, 1, 1])
    found = clusters.membership(z, np.log(np.full_like(z, 0.25)), labels, seed=0)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    border = (z[labels == 0].mean() + 2) / 2
    expected = norm.cdf((border - z[:, 0]) / 0.5)
    np.testing.assert_allclose(found[:, 0], expected, atol=4 * 0.5 / 8)  # 64 draws
    assert 0.6 < found[2, 0] < 0.95
    sure = clusters.membership(z, np.full_like(z, -20), labels, seed=0)
    np.testing.assert_allclose(sure, np.eye(2)[labels], atol=1e-6)
