import pickle
import re
import shlex

import numpy as np
import pytest

from drgn.analysis import clusters, selection
from drgn.errors import InputError

KEY = np.array([f"{i:06d}@a.mrcs" for i in range(1, 31)])


@pytest.fixture
def analysis(tmp_path):
    """An analysis folder with a k-means of three clusters; also the label of each of KEY."""
    z = np.repeat([[0.0], [10.0], [20.0]], 10, axis=0) + np.linspace(0, 1, 30)[:, None]
    result = clusters.kmeans(z, 3, seed=0)
    (tmp_path / "kmeans3").mkdir()
    selection.write_labels(tmp_path / "kmeans3" / selection.LABELS, KEY, result)
    return tmp_path, result


def test_labels_follow_the_key_when_rows_are_shuffled(analysis):
    folder, result = analysis
    shuffled = np.random.default_rng(0).permutation(30)
    labels = selection.labels_of_analysis(folder, 3, KEY[shuffled])
    np.testing.assert_array_equal(labels, result.labels[shuffled])
    part = selection.labels_of_analysis(folder, 3, KEY[[29, 2]])
    np.testing.assert_array_equal(part, result.labels[[29, 2]])


def test_the_file_names_the_centres(analysis):
    folder, result = analysis
    with np.load(folder / "kmeans3" / selection.LABELS) as file:
        np.testing.assert_array_equal(file["centre_key"], KEY[result.on_data_rows])
        np.testing.assert_array_equal(file["centre_z"], result.centres)


def test_another_k_is_refused_with_those_there(analysis):
    with pytest.raises(InputError, match=r"no k-means with 5 clusters \(it has kmeans=3\)"):
        selection.labels_of_analysis(analysis[0], 5, KEY)


def test_no_analysis_is_refused(tmp_path):
    of_ours, of_cryodrgn = tmp_path / "drgn" / "analysis", tmp_path / "other" / "drgn" / "analysis"
    of_ours.mkdir(parents=True)
    (of_ours.parent / "run.json").touch()
    for folder, run in (
        (of_ours, "drgn"),
        (of_cryodrgn, "other"),
        (tmp_path / "a run" / "analysis", "a run"),
    ):
        command = shlex.join(["drgn", "analyze", f"run={tmp_path / run}", "kmeans=20"])
        with pytest.raises(InputError, match=rf"it has none\); run {re.escape(command)} first"):
            selection.labels_of_analysis(folder, 20, KEY)


def test_labels_of_other_particles_are_refused(analysis):
    with pytest.raises(InputError, match=r"1 of 31 particles .first: 000001@b.mrcs."):
        selection.labels_of_analysis(analysis[0], 3, np.append(KEY, "000001@b.mrcs"))


@pytest.mark.parametrize("content", [b"", b"1 2 3", b"PK\x03\x04 not a zip"])
def test_a_file_that_holds_no_labels(tmp_path, content):
    (tmp_path / "labels.npz").write_bytes(content)
    with pytest.raises(InputError, match="not a file of labels"):
        selection.read_labels(tmp_path / "labels.npz", KEY)


def test_a_pickled_file_is_not_loaded(tmp_path):
    (tmp_path / "labels.npz").write_bytes(pickle.dumps({"key": KEY, "label": KEY}))
    with pytest.raises(InputError, match="not a file of labels"):
        selection.read_labels(tmp_path / "labels.npz", KEY)


@pytest.mark.parametrize(
    ("label", "there"),
    [
        (np.where(np.arange(30) < 9, "open", "closed"), "closed, open;"),
        (np.arange(30) / 2, r"0\.0, 0\.5, 1\.0, 1\.5, 2\.0, \.\.\.;"),
    ],
)
def test_labels_that_are_no_numbers_are_refused_with_those_there(tmp_path, label, there):
    np.savez(tmp_path / "classes.npz", key=KEY, label=label)
    with pytest.raises(InputError, match=rf"classes\.npz has the labels {there} expected a whole number"):
        selection.labels_of(tmp_path, 3, tmp_path / "classes.npz", KEY)


def test_in_clusters():
    labels = np.array([0, 1, 2, 1])
    assert selection.in_clusters(labels, [1, 2]).tolist() == [False, True, True, True]
    with pytest.raises(InputError, match=r"clusters: 3, 7 .* numbered from 0 to 2"):
        selection.in_clusters(labels, [1, 7, 3])


def test_within_norm():
    assert selection.within_norm(np.array([[3.0, 4.0], [3.0, 4.1]]), 5).tolist() == [True, False]


def test_choose_intersects_and_inverts():
    masks = [np.array([True, True, False, True]), np.array([True, False, True, True])]
    assert selection.choose(masks, invert=False).tolist() == [0, 3]
    assert selection.choose(masks, invert=True).tolist() == [1, 2]
    with pytest.raises(InputError, match="keeps none of the 4 particles"):
        selection.choose([masks[0], ~masks[0]], invert=False)


def test_by_key():
    values = np.array([10, 20, 30])
    assert selection.by_key(values, np.array(["a", "b", "c"]), np.array(["c", "a"])).tolist() == [30, 10]
    with pytest.raises(InputError, match=r"1 of 2 particles have no latent .first: d."):
        selection.by_key(values, np.array(["a", "b", "c"]), np.array(["a", "d"]))
