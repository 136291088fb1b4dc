from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from drgn.scoring import maps
from drgn.scoring.subject import of_truth
from drgn.scoring.truth import Truth


@pytest.fixture
def reference():
    """The true map `a` is noise in a box of 32, `b` other noise; the mask is one everywhere."""
    rng = np.random.default_rng(0)
    known = {name: torch.from_numpy(rng.normal(size=(32, 32, 32)).astype(np.float32)) for name in "ab"}

    class Known:
        box_size, pixel_size_A = 32, 2.0

        def __call__(self, file):
            return known[file], torch.ones(32, 32, 32)

    return Known()


def test_the_same_map_has_area_one_and_another_none(reference):
    same = reference("a")[0].numpy()
    curve = maps.curves([same, 3 * same + 5, same], ["a", "a", "b"], reference)
    assert curve.shape == (3, 2, 17)
    np.testing.assert_allclose(maps.area(curve[:2]), 1, atol=1e-6)
    # the shell 0 counts as 1, by half
    np.testing.assert_allclose(maps.area(curve[2]), 0.5 / 15, atol=0.05)


def test_a_displaced_map_has_the_correlation_of_its_phases(reference):
    moved = np.roll(reference("a")[0].numpy(), 1, axis=2)
    curve = maps.curves([moved], ["a"], reference)[0, 0]
    # the mean of cos(2 pi k.d) over a sphere of radius |k|
    expected = np.sinc(2 * np.arange(17) / 32)
    np.testing.assert_allclose(curve[4:16], expected[4:16], atol=0.06)
    assert maps.area(curve) == pytest.approx(maps.area(expected), abs=0.03)


def test_the_area_is_that_of_scikit_learn():
    from sklearn.metrics import auc

    curve = np.random.default_rng(0).uniform(size=17)
    curve[0] = 1
    frequency = np.arange(16) / 32
    assert maps.area(curve) == pytest.approx(auc(frequency, curve[:16]) / frequency[-1])


def test_numbers_of_a_comparison(reference):
    choice = pd.DataFrame({"use": ["image", "image", "centre"], "key": list("xyz"), "map": "a", "row": 0})
    line = np.linspace(1, 0, 17)  # 0.5 at half of Nyquist
    curve = np.stack([np.ones((2, 17)), np.tile(line, (2, 1)), np.tile(line, (2, 1))])
    found = maps.summary(choice, curve, reference)
    low = float(maps.area(line))
    assert found["fsc_auc_mean"] == pytest.approx((1 + low) / 2)
    assert found["fsc_auc_sd"] == pytest.approx((1 - low) / 2)
    assert found["fsc_auc_masked_median"] == pytest.approx((1 + low) / 2)
    assert found["map_fsc05_nyquist_mean"] == pytest.approx(0.5)
    assert found["map_fsc05_masked_A_median"] == pytest.approx(8)
    assert found["map_fsc0143_nyquist_least"] == pytest.approx(1 - 0.143)
    table = maps.table(choice, curve, reference)
    assert table["fsc05_unmasked_A"].to_list() == pytest.approx([4, 8, 8])


def test_images_are_spread_over_the_states_and_centres_are_on_data(noisy):
    subject = of_truth(noisy)
    z = np.random.default_rng(0).normal(size=(len(subject.rows), 2)).astype(np.float32)
    told = SimpleNamespace(truth=subject.truth, rows=subject.rows, key=subject.key, z=z)
    chosen = maps.choose(told, 20, 3)
    motion = subject.truth.table["motion"]
    images = chosen[chosen["use"] == "image"]
    values = motion.loc[images["key"]].to_numpy()
    assert (np.diff(values) >= 0).all()
    counts = motion.value_counts()
    assert (np.abs(images["map"].value_counts() - 20 * counts.to_numpy() / 200) < 1.01).all()
    assert images["key"].is_unique
    centres = chosen[chosen["use"] == "centre"]
    assert centres["map"].to_list() == ["map1.mrc", "map3.mrc", "map5.mrc"]
    for file, row in zip(centres["map"], centres["row"], strict=True):
        members = np.flatnonzero((subject.truth.table["map"] == file).to_numpy())
        distance = ((z[members] - z[members].mean(0)) ** 2).sum(1)
        assert row == members[distance.argmin()]
    # the same for every program
    again = maps.choose(SimpleNamespace(**{**vars(told), "z": -3 * z}), 20, 0)
    assert again["key"].to_list() == images["key"].to_list()


def test_true_maps_are_cropped_to_the_box_of_a_run(noisy):
    truth = Truth(noisy)
    reference = maps.Reference(truth, 8)
    assert reference.pixel_size_A == 48
    volume, mask = reference("map2.mrc")
    assert volume.shape == mask.shape == (8, 8, 8)
    whole = truth.read_map("map2.mrc")
    assert float(volume.sum()) * 8 == pytest.approx(float(whole.sum()), rel=1e-4)  # grey values are kept


def test_the_mask_is_made_of_the_true_map(noisy):
    reference = maps.Reference(Truth(noisy), 16)
    _, mask = reference("map1.mrc")
    assert 0 < float(mask.mean()) < 1
    true = reference("map1.mrc")[0].numpy()
    noise = true.max() * np.random.default_rng(0).normal(size=true.shape)
    spoilt = np.where((mask > 0).numpy(), true, noise)  # outside of the mask anything may be
    curve = maps.curves([spoilt], ["map1.mrc"], reference)
    assert maps.area(curve[0, 1]) == pytest.approx(1, abs=1e-6)
    assert maps.area(curve[0, 0]) < 0.6
