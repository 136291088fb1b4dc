"""drgn cluster and drgn compare on run folders made without training."""

import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from drgn.cluster import cluster
from drgn.command import compose
from drgn.compare import compare
from drgn.errors import InputError
from drgn.filter import filter as select
from drgn.formats.particles import Particles
from drgn.run import Run


def parted(run, **options):
    return cluster(**{**compose("cluster"), "run": run, "volumes": False, **options})


def compared(of, output, **options):
    return compare(**{**compose("compare", [f"of=[{','.join(map(str, of))}]"]), "output": output, **options})


def labels_of(path):
    with np.load(path) as arrays:
        return arrays["key"], arrays["label"]


def test_a_mixture_as_large_as_held_out_particles_prefer(finished, capsys):
    path = parted(finished)
    assert path == finished / "analysis" / "gmm" / "labels.npz"
    key, label = labels_of(path)
    np.testing.assert_array_equal(key, Run.open(finished).latents().key)
    # what comes off is told apart from what stays, however the motion is cut
    attached = Run.open(finished).truth()["attached"].to_numpy()
    for number in np.unique(label):
        assert len(np.unique(attached[label == number])) == 1
    table = pd.read_csv(path.with_name("clusters.csv"))
    np.testing.assert_array_equal(table["particles"], np.bincount(label))
    assert table["share"].sum() == pytest.approx(1)
    assert path.with_name("latent.png").stat().st_size > 5_000
    assert f"{len(table)} clusters by gmm:" in capsys.readouterr().out


def test_maps_are_made_in_the_middle_of_each(finished):
    path = parted(finished, by="gmm", n=2, volumes=True)
    assert path.parent.name == "gmm2"
    assert len(list(path.parent.glob("vol_*.mrc"))) == 2
    assert path.with_name("maps.png").stat().st_size > 5_000


def test_what_is_in_no_group_is_an_outlier(make_run):
    run = make_run(2)
    latents = Run.open(run).latents()
    z = 0.05 * np.random.default_rng(0).normal(size=(120, 2)) + 3.0 * (np.arange(120) % 2)[:, None]
    z[:3] = [[20, 0], [-20, 5], [0, 30]]
    arrays = dict(np.load(run / "latents.npz"))
    np.savez(run / "latents.npz", **{**arrays, "z": z.astype(np.float32)})
    key, label = labels_of(parted(run, by="hdbscan", smallest=20))
    assert (label[:3] == -1).all()
    assert adjusted_rand_score(label[3:], np.arange(3, 120) % 2) > 0.95
    kept = select(
        **{
            **compose("filter"),
            "run": run,
            "labels": run / "analysis" / "hdbscan" / "labels.npz",
            "clusters": [-1],
            "invert": True,
            "output": run / "kept.npy",
        }
    )
    assert kept == (label >= 0).sum()
    assert len(latents.key) == len(key)


@pytest.fixture
def classes(star, tmp_path):
    """A star file of the same particles with a class of each, and the classes."""
    number = 1 + (pd.read_csv(star.with_name("truth.csv"))["attached"].to_numpy() == 1) * 4
    path = star.with_name("classes.star")
    Particles.from_file(star).save(path, extra=pd.DataFrame({"rlnClassNumber": number}))
    return path, number


def test_published_classes(finished, classes, tmp_path, capsys):
    """Compared with the clusters of a run, class by class (P27)."""
    path, _ = classes
    report = compared([f"{path}:rlnClassNumber", finished], tmp_path / "out", by="kmeans", n=2)
    pairs = pd.read_csv(tmp_path / "out" / "pairs.csv")
    key, label = labels_of(tmp_path / "out" / "labels.npz")
    assert set(label) == {0, 1}
    assert len(key) == 120
    assert "120 particles in common, 0 left out" in capsys.readouterr().out
    assert pairs["ari"][0] <= 1
    states = pd.read_csv(tmp_path / "out" / "states.csv")
    assert states["name"].tolist() == [1, 5]
    assert report.read_text().count("data:image/png") == 1


def test_given_classes_have_their_middle(make_run, star, tmp_path):
    """A column of the file is a partition; each class is shown at its own particle (P17)."""
    run = make_run(2)
    number = np.arange(120) % 3 + 1
    copy = tmp_path / "classes.star"
    Particles.from_file(star).save(copy, extra=pd.DataFrame({"rlnClassNumber": number}))
    shutil.copy(star.with_name("particles.mrcs"), tmp_path)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(star), str(copy)))
    key, label = labels_of(parted(run, by="rlnClassNumber"))
    np.testing.assert_array_equal(label, number - 1)
    table = pd.read_csv(run / "analysis" / "rlnClassNumber" / "clusters.csv")
    assert table["name"].tolist() == [1, 2, 3]
    middle = pd.Index(key).get_indexer(table["centre_key"])
    np.testing.assert_array_equal(number[middle], [1, 2, 3])


def test_replicates_are_matched_as_the_hungarian_method_does(tmp_path):
    rng = np.random.default_rng(0)
    key = np.array([f"{i:06d}@a.mrcs" for i in range(400)])
    truth = rng.integers(0, 4, 400)
    second = np.array([2, 3, 1, 0])[truth]
    second[:40] = rng.integers(0, 4, 40)
    third = np.array([1, 0, 3, 2])[truth]
    order = rng.permutation(400)
    for name, label, rows in (("a", truth, slice(None)), ("b", second, order), ("c", third, slice(0, 390))):
        np.savez(tmp_path / f"{name}.npz", key=key[rows], label=label[rows])
    compared([tmp_path / f"{name}.npz" for name in "abc"], tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "agreement.csv").set_index("key").loc[key[:390]]
    np.testing.assert_array_equal(table["label_0"], truth[:390])
    np.testing.assert_array_equal(table["label_2"], truth[:390])
    counts = np.zeros((4, 4))
    np.add.at(counts, (truth[:390], second[:390]), 1)
    ours, theirs = linear_sum_assignment(-counts)
    np.testing.assert_array_equal(table["label_1"], ours[np.argsort(theirs)][second[:390]])
    np.testing.assert_array_equal(table["consensus"], truth[:390])  # two of three
    equal = table["label_1"] == truth[:390]
    np.testing.assert_allclose(table["share"], np.where(equal, 1, 2 / 3), rtol=1e-5)
    pairs = pd.read_csv(tmp_path / "out" / "pairs.csv")
    expected = adjusted_rand_score(truth[:390], second[:390])
    np.testing.assert_allclose(pairs["ari"], [expected, 1, expected], rtol=1e-5)
    states = pd.read_csv(tmp_path / "out" / "states.csv")
    np.testing.assert_array_equal(states["particles"], np.bincount(truth[:390]))
    np.testing.assert_array_equal(states["all_agree"], [(equal & (truth[:390] == k)).sum() for k in range(4)])


def test_replicates_of_a_run(finished, make_run, tmp_path, capsys):
    other = make_run(2)
    compared([finished, other], tmp_path / "out", n=2)
    assert "All agree on" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "out" / "pairs.csv")["ari"][0] == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"by": "kmeans"}, "by=kmeans needs a number of clusters"),
        ({"by": "hdbscan", "n": 3}, "by=hdbscan has no number of clusters"),
        ({"by": "gmm", "smallest": 3}, "smallest=3 is for by=hdbscan"),
        ({"by": "hdbscan", "smallest": 1000}, "expected 2 to the number of particles, 120"),
        ({"by": "rlnNothing"}, "has no column rlnNothing"),
        ({"by": "defocus_u_A"}, "has 120 values|values, more than"),
    ],
)
def test_mistakes_of_cluster(finished, options, sentence, monkeypatch):
    monkeypatch.setattr("drgn.analysis.partitions.MOST_CLASSES", 20)
    with pytest.raises(InputError, match=sentence):
        parted(finished, **options)


def test_mistakes_of_compare(finished, make_run, tmp_path):
    with pytest.raises(InputError, match="expected at least two"):
        compared([finished], tmp_path / "out")
    with pytest.raises(InputError, match=r"nothing is no folder, no \.npz"):
        compared([finished, "nothing"], tmp_path / "out")
    np.savez(tmp_path / "other.npz", key=np.array(["x", "y"]), label=np.array([0, 1]))
    with pytest.raises(InputError, match="has no particle of"):
        compared([finished, tmp_path / "other.npz"], tmp_path / "out", n=2)
    with pytest.raises(InputError, match="by=kmeans needs a number"):
        compared([finished, finished], tmp_path / "out", by="kmeans")
    with pytest.raises(InputError, match="no latent"):
        compared([make_run(0), finished], tmp_path / "out", n=2)
    assert not (tmp_path / "out").exists()
