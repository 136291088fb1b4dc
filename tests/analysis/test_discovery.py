"""Discrete states are found without being told how many, and continuous motion is left in one piece."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from drgn.analysis import valleys
from drgn.analysis.discovery import discover, noise_units, partition

N = 2000
SD = 0.15  # typical noise of a latent; that of single particles differs


def noisy(points, rng):
    """Latents in 8 dimensions with noise of another size for each particle, and its variance."""
    points = np.pad(points, ((0, 0), (0, 8 - points.shape[1])))
    sd = SD * rng.lognormal(0, 0.4, (len(points), 1)) * np.ones(8)
    return points + sd * rng.normal(size=points.shape), sd**2


def blobs(k, rng, shares=None):
    """k places at least 6 noise standard deviations apart, and who is where."""
    while True:
        centres = 0.7 * rng.normal(size=(k, 8))
        apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1) + 99 * np.eye(k)
        if apart.min() > 6 * 1.1 * SD:
            break
    label = rng.choice(k, N, p=shares)
    return centres[label], label


def found(points, rng, **options):
    return discover(*noisy(points, rng), 0, **{"resamples": 0, **options})


@pytest.mark.parametrize("k", range(1, 9))
def test_as_many_states_as_there_are(k):
    rng = np.random.default_rng(k)
    points, label = blobs(k, rng)
    states = found(points, rng)
    assert len(states.centres) == k
    assert adjusted_rand_score(label, states.labels) > 0.95 or k == 1
    assert len(states.valleys) == k * (k - 1) // 2
    assert all(valley.depth <= valley.upper <= 0.5 for valley in states.valleys.values())
    assert not states.diffuse.any()
    assert (states.labels[states.on_data_rows] == np.arange(k)).all()
    assert (states.probability > 0).all()
    assert states.probability.max() <= 1 + 1e-9


def test_states_are_found_without_variances():
    rng = np.random.default_rng(3)
    points, label = blobs(3, rng)
    z, _ = noisy(points, rng)
    states = discover(z, None, 0, resamples=0)
    assert adjusted_rand_score(label, states.labels) > 0.95
    assert noise_units(z, None).shape == z.shape  # no dimension is taken for noise
    np.testing.assert_allclose(np.var(noise_units(z, None), axis=0).sum(), 8)


def test_rare_states_are_found_down_to_the_share_asked_for():
    rng = np.random.default_rng(0)
    points, label = blobs(3, rng, shares=[0.9, 0.06, 0.04])
    assert adjusted_rand_score(label, found(points, rng).labels) > 0.95
    rng = np.random.default_rng(0)
    points, label = blobs(3, rng, shares=[0.9, 0.06, 0.04])
    assert len(found(points, rng, smallest_share=0.05).centres) == 2


def shape(name, u):
    turn = {"arc": 1.3, "circle": 2.0}.get(name, 0) * np.pi * u
    return {
        "segment": (4 * u - 2)[:, None],
        "short segment": u[:, None],
        "arc": 1.2 * np.stack([np.cos(turn), np.sin(turn)], axis=1),
        "circle": 1.2 * np.stack([np.cos(turn), np.sin(turn)], axis=1),
    }[name]


@pytest.mark.parametrize("name", ["segment", "short segment", "arc", "circle"])
def test_continuous_motion_is_one_state(name):
    rng = np.random.default_rng(1)
    states = found(shape(name, rng.uniform(size=N)), rng)
    assert len(states.centres) == 1
    assert states.valleys == {}
    assert (states.labels == 0).all()


def test_a_broad_or_skewed_cloud_is_one_state():
    rng = np.random.default_rng(2)
    assert len(discover(rng.standard_t(3, (N, 8)), np.full((N, 8), 0.1), 0, resamples=0).centres) == 1
    skewed = 0.2 * rng.normal(size=(N, 8))
    skewed[:, 0] = rng.exponential(1, N)
    assert len(discover(skewed, np.full((N, 8), 0.04), 0, resamples=0).centres) == 1


@pytest.mark.parametrize("centre", [0.0, -1.2])  # inside the bend, and where the arc has its gap
def test_a_cluster_beside_an_arc_is_a_state_of_its_own(centre):
    rng = np.random.default_rng(3)
    label = (rng.uniform(size=N) < 0.3).astype(int)
    points = np.where(label[:, None], [0, centre], shape("arc", rng.uniform(size=N)))
    states = found(points, rng)
    assert len(states.centres) == 2
    assert adjusted_rand_score(label, states.labels) > 0.95


def test_scattered_particles_are_diffuse_and_spoil_no_state():
    rng = np.random.default_rng(4)
    points, label = blobs(3, rng)
    junk = rng.uniform(size=N) < 0.1
    states = found(np.where(junk[:, None], rng.uniform(-2.5, 2.5, (N, 8)), points), rng)
    assert len(states.centres) - states.diffuse.sum() == 3
    assert adjusted_rand_score(label[~junk], states.labels[~junk]) > 0.95


def test_stability_is_high_for_states_and_the_same_seed_gives_the_same():
    rng = np.random.default_rng(5)
    points, _ = blobs(3, rng)
    z, variance = noisy(points, rng)
    first, second = (discover(z, variance, 7, resamples=4) for _ in range(2))
    assert (first.counts == 3).all()
    assert first.agreement.min() > 0.98
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.agreement, second.agreement)


def test_dimensions_of_noise_alone_are_dropped():
    rng = np.random.default_rng(6)
    z = np.stack([rng.normal(size=500), 0.02 * rng.normal(size=500)], axis=1)
    units = noise_units(z, np.tile([0.01, 1.0], (500, 1)))
    assert units.shape == (500, 1)
    np.testing.assert_allclose(
        np.abs(units[:, 0]), np.abs(z[:, 0] - z[:, 0].mean()) / 0.1, rtol=1e-2, atol=0.01
    )


def gaussians(apart, n=20_000):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + np.array([apart, 0])


@pytest.mark.parametrize("apart", [4.0, 5.0, 6.0])
def test_the_depth_of_a_valley_is_that_of_the_density(apart):
    valley = valleys.valley(*gaussians(apart), 0)
    density = np.exp(-(np.array([0, apart / 2, apart]) ** 2) / 2)
    exact = 2 * density[1] / (density[0] + density[2])
    assert valley.depth == pytest.approx(exact, abs=0.04)
    assert valley.depth <= valley.upper < valley.depth + 0.06
    np.testing.assert_allclose(valley.side.sum(axis=0), valley.density)
    assert valley.density.sum() * np.diff(valley.position[:2])[0] == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_each_side_of_a_valley_is_of_its_own_state(seed):
    """States are numbered anew after their valleys were found: the sides and the line go with them."""
    rng = np.random.default_rng(seed)
    states = found(blobs(3, rng, shares=[0.6, 0.3, 0.1])[0], rng)
    assert sorted(states.valleys) == [(0, 1), (0, 2), (1, 2)]
    for pair, valley in states.valleys.items():
        first, second = valley.side.sum(axis=1)
        assert (first > second) == (states.sizes[pair[0]] > states.sizes[pair[1]])
        at = valley.side @ valley.position / valley.side.sum(axis=1)
        assert at[0] < at[1]
        assert (np.diff(valley.position) > 0).all()


def test_halves_of_one_cloud_have_no_valley():
    cloud = np.random.default_rng(0).normal(size=(5000, 3))
    left = cloud[:, 0] < 0.3
    assert valleys.valley(cloud[left], cloud[~left], 0).depth > 0.9


def test_passes_join_over_others_but_not_over_a_thin_bridge():
    """Heights along a line: 0 and 2 are peaks of 1, the way between them leads over 1."""

    def groups(bridge):
        log = np.log([[1, bridge, 0.01], [bridge, bridge, bridge], [0.01, bridge, 1]])
        return len(np.unique(valleys.merged(log, 0.5)))

    assert groups(0.9) == 1
    assert groups(0.1) == 2  # the bridge belongs to one of them


def test_the_pass_is_the_lowest_point_of_the_straight_way():
    centres = np.array([[-2.0, 0], [2.0, 0]])
    lowest = valleys.passes(centres, lambda points: points[:, 0] ** 2)
    np.testing.assert_allclose(lowest, [[4, 0], [0, 4]], atol=1e-12)


@pytest.mark.parametrize(("n", "seed"), [(300, 88), (500, 227)])
def test_a_gap_of_one_draw_alone_is_chance(n, seed):
    """Of few particles on an arc the whole has a gap, most resamples have none."""
    rng = np.random.default_rng(seed)
    z, variance = noisy(shape("arc", rng.uniform(size=n)), rng)
    assert partition(noise_units(z, variance), 0, threshold=0.5, smallest=20).n == 2
    states = discover(z, variance, 0, resamples=12)
    assert len(states.centres) == np.median(states.counts) == 1
    assert states.agreement.mean() > 0.5
