import numpy as np
import pytest

from drgn.analysis import metrics


def test_spearman_of_a_monotone_warp_is_one():
    truth = np.random.default_rng(0).uniform(size=200)
    assert metrics.spearman(np.exp(3 * truth)[:, None], truth) == pytest.approx(1)
    assert metrics.spearman(-np.exp(3 * truth)[:, None], truth) == pytest.approx(1)


def test_spearman_reads_an_arc_in_the_plane():
    rng = np.random.default_rng(0)
    truth = rng.uniform(size=1000)
    arc = np.stack([np.cos(3 * np.pi / 2 * truth), np.sin(3 * np.pi / 2 * truth)], axis=1)
    assert metrics.spearman(arc, truth) > 0.995  # neither axis alone ranks it
    assert abs(metrics.spearman(arc[:, :1], truth)) < 0.9


def test_spearman_of_unrelated_latents_is_near_zero():
    rng = np.random.default_rng(0)
    assert abs(metrics.spearman(rng.normal(size=(2000, 4)), rng.uniform(size=2000))) < 0.1


def test_spearman_never_sees_a_particles_own_truth():
    rng = np.random.default_rng(0)
    truth = rng.uniform(size=400)
    # pairs of identical latents with unrelated truths: a particle that counted itself would score 0.7
    z = np.repeat(rng.normal(size=(200, 2)), 2, axis=0)
    assert abs(metrics.spearman(z, truth, neighbours=1)) < 0.2
    many = np.zeros((400, 2))  # all latents identical: the particle is hidden among its neighbours
    assert metrics._leave_one_out(many, truth, 20).shape == (400,)


def test_adjusted_rand():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 1000)
    assert metrics.adjusted_rand(np.array([2, 3, 1, 0])[truth], truth) == 1
    assert abs(metrics.adjusted_rand(rng.integers(0, 4, 1000), truth)) < 0.02


@pytest.mark.parametrize("zdim", [2, 4])
def test_class_rand_separates_class_from_motion(zdim, monkeypatch):
    monkeypatch.setattr(metrics, "SCORED", 500)
    rng = np.random.default_rng(0)
    attached, along = rng.integers(0, 2, 600), rng.uniform(0, 3, 600)
    z = 0.1 * rng.normal(size=(600, zdim))
    z[:, 0] += (4 + 4 * attached) * np.cos(along)
    z[:, 1] += (4 + 4 * attached) * np.sin(along)
    assert metrics.class_rand(z, attached, seed=0) > 0.99
    assert metrics.class_rand(z, rng.permutation(attached), seed=0) < 0.05


def test_fsc_area_orders_maps_by_likeness():
    rng = np.random.default_rng(0)
    volume, noise = rng.normal(size=(2, 16, 16, 16)).astype(np.float32)
    assert metrics.fsc_area(volume, 3 * volume) == pytest.approx(1, abs=1e-4)
    near, far = (metrics.fsc_area(volume, volume + amount * noise) for amount in (0.5, 3))
    assert 1 > near > far > metrics.fsc_area(volume, noise)


def test_truth_scores_by_kind_of_column():
    import pandas as pd

    rng = np.random.default_rng(0)
    motion, attached = rng.uniform(-10, 10, 300), rng.integers(0, 2, 300)
    z = np.stack([motion, 5.0 * attached + 0.1 * rng.normal(size=300)], axis=1)
    truth = pd.DataFrame({"motion": motion, "attached": attached, "one": 1.0, "same": 0})
    scores = metrics.truth_scores(z, truth, seed=0)
    assert list(scores) == ["spearman_motion", "ari_attached"]  # a column that does not vary has no score
    assert min(scores.values()) > 0.99


def test_images_that_share_a_latent_count_once():
    import pandas as pd

    rng = np.random.default_rng(0)
    motion = rng.uniform(size=100)
    z = rng.normal(size=(100, 3))  # unrelated, but shared by the ten images of each particle
    truth = pd.DataFrame({"motion": np.repeat(motion, 10)})
    assert abs(metrics.truth_scores(np.repeat(z, 10, axis=0), truth, seed=0)["spearman_motion"]) < 0.4
    assert metrics.spearman(np.zeros((100, 1)), motion) == 0
