import numpy as np
import pandas as pd
import pytest

from drgn.scoring.latents import confusion, coordinates, imbalance, similarity

RNG = np.random.default_rng(0)


def test_a_monotone_map_is_balanced_and_an_independent_one_is_not():
    x = RNG.uniform(size=(1000, 1))
    assert imbalance(x, np.exp(3 * x)).value < 0.005
    assert imbalance(np.exp(3 * x), x).value < 0.005
    assert imbalance(RNG.uniform(size=(1000, 1)), x).value == pytest.approx(1, abs=0.06)


def test_imbalance_is_its_definition_where_there_are_no_ties():
    a, b = RNG.normal(size=(60, 2)), RNG.normal(size=(60, 3))
    ranks = []
    for i in range(60):
        nearest = np.argsort(((a - a[i]) ** 2).sum(1))[1]
        ranks.append(np.argsort(np.argsort(((b - b[i]) ** 2).sum(1)))[nearest])  # itself has rank 0
    found = imbalance(a, b)
    assert found.value == pytest.approx(2 * np.mean(ranks) / 60)
    assert found.best == pytest.approx(2 / 60)


def test_the_imbalance_knows_which_of_two_says_more():
    plane = RNG.uniform(size=(1500, 2))
    line = plane[:, :1]
    assert imbalance(plane, line).value < 0.1
    assert 0.2 < imbalance(line, plane).value < 1


def test_ties_have_the_mean_of_their_ranks():
    # 4 classes of 50: the nearest of a perfect latent is one of 49 of its class, whose ranks are 1 to 49
    truth = np.repeat(np.arange(4.0), 50)[:, None]
    z = truth + 1e-3 * RNG.normal(size=truth.shape)
    found = imbalance(z, truth)
    assert found.value == found.best == pytest.approx(2 * 25 / 200)
    assert imbalance(RNG.normal(size=(200, 1)), truth).value == pytest.approx(1, abs=0.15)
    # the truth tells its class alone: within it the nearest is any, of rank 25 on average
    assert imbalance(truth, z).value == pytest.approx(2 * 25 / 200)


def test_neighbours_of_the_same_points_are_shared_and_of_others_are_chance():
    x = RNG.normal(size=(900, 2))
    same = similarity(2 * x, x, 20)
    assert same.value == 1
    assert same.chance == pytest.approx(20 / 899)
    assert similarity(RNG.normal(size=(900, 2)), x, 20).value == pytest.approx(20 / 899, abs=0.004)


def test_neighbours_are_those_of_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    a, b = RNG.normal(size=(150, 3)), RNG.normal(size=(150, 2))
    near = [NearestNeighbors(n_neighbors=12).fit(p).kneighbors(return_distance=False) for p in (a, b)]
    expected = np.mean([len(set(i) & set(j)) / 12 for i, j in zip(*near, strict=True)])
    assert similarity(a, b, 12).value == pytest.approx(expected)


def test_neighbours_of_equal_states_all_count():
    truth = np.repeat(np.arange(5.0), 40)[:, None]
    found = similarity(truth + 1e-3 * RNG.normal(size=truth.shape), truth, 10)
    assert found.value == 1
    assert found.chance == pytest.approx(39 / 199)
    assert similarity(truth, truth, 10).value == 1  # latents that are classes: any of the class are near
    assert similarity(np.zeros((200, 1)), truth, 10).value == pytest.approx(39 / 199)  # collapsed


def test_states_of_a_truth_as_points():
    states = pd.DataFrame({"angle": [10.0, 30.0, 20.0], "kind": [4, 7, 4]})
    points = coordinates(states)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert distance[0, 2] == pytest.approx(0.5)
    assert distance[1, 2] == pytest.approx(np.hypot(0.5, 1))


def test_permuted_names_are_matched():
    truth = RNG.integers(0, 4, 300)
    found = confusion(np.array([7, 2, 9, 4])[truth], truth)
    assert found.accuracy == 1
    np.testing.assert_array_equal(found.counts, np.diag(np.bincount(truth)))


def test_the_best_match_is_found_and_what_is_left_comes_last():
    truth = np.array([0] * 6 + [1] * 4)
    found = confusion(np.array([2, 2, 2, 0, 0, 0, 0, 0, 0, 1]), truth)
    # 2 with 0 (3 agree) and 0 with 1 (3 agree) is better than 0 with 0 (3) and 1 with 1 (1)
    np.testing.assert_array_equal(found.counts, [[3, 3, 0], [0, 3, 1]])
    assert found.accuracy == pytest.approx(0.6)
