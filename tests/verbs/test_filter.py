import numpy as np
import pytest

from drgn.analysis import clusters, selection
from drgn.backproject import backproject
from drgn.command import bind, compose
from drgn.errors import InputError
from drgn.filter import filter as select
from drgn.formats.particles import Particles, read_images
from drgn.formats.star import named_from
from drgn.prepare import prepare
from drgn.run import Run


def make(run, output, **options):
    return select(**{**compose("filter"), "run": run, "kmeans": 4, "output": output, **options})


@pytest.fixture(scope="module")
def labels(finished):
    """Labels of a k-means that was written with the particles in another order."""
    latents = Run.open(finished).latents()
    shuffled = np.random.default_rng(0).permutation(len(latents.key))
    result = clusters.kmeans(latents.z[shuffled], 4, seed=0)
    folder = finished / "analysis" / "kmeans4"
    folder.mkdir(parents=True, exist_ok=True)
    selection.write_labels(folder / selection.LABELS, latents.key[shuffled], result)
    back = np.empty(len(shuffled), np.int64)
    back[shuffled] = result.labels
    return back


def test_clusters_are_joined_by_key(finished, labels, tmp_path):
    kept = make(finished, tmp_path / "kept.star", clusters=[0, 2])
    expected = np.isin(labels, [0, 2])
    assert kept == expected.sum()
    found = Particles.from_file(tmp_path / "kept.star")
    key = Run.open(finished).particles().table["key"].to_numpy()
    assert set(found.table["image_index"]) == set(np.flatnonzero(expected))
    assert {name.partition("@")[0] for name in found.table["key"]} == {
        name.partition("@")[0] for name in key[expected]
    }


@pytest.mark.parametrize("suffix", [".pkl", ".npy", ".txt"])
def test_rows_of_the_original_file(finished, labels, tmp_path, suffix):
    from drgn.formats.cryodrgn import read_indices

    make(finished, tmp_path / f"rows{suffix}", clusters=[1], invert=True)
    np.testing.assert_array_equal(read_indices(tmp_path / f"rows{suffix}"), np.flatnonzero(labels != 1))


def test_conditions_intersect(finished, labels, tmp_path, capsys):
    z = Run.open(finished).latents().z
    np.save(tmp_path / "half.npy", np.arange(0, len(z), 2))
    limit = float(np.median(np.linalg.norm(z, axis=1)))
    expected = np.isin(labels, [0, 1]) & (np.linalg.norm(z, axis=1) <= limit) & (np.arange(len(z)) % 2 == 0)
    kept = make(
        finished, tmp_path / "k.npy", clusters=[0, 1], max_z_norm=limit, indices=tmp_path / "half.npy"
    )
    assert kept == expected.sum() > 0
    np.testing.assert_array_equal(np.load(tmp_path / "k.npy"), np.flatnonzero(expected))
    assert f"Kept {kept} of {len(z)} particles" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "needs a condition"),
        ({"max_z_norm": -1.0}, "keeps none of the 120 particles"),
        ({"clusters": [9]}, "clusters: 9 is not one of"),
        ({"clusters": [0], "kmeans": 7}, r"no k-means with 7 clusters .it has kmeans=4"),
    ],
)
def test_mistakes_are_one_sentence(finished, labels, tmp_path, options, sentence):
    with pytest.raises(InputError, match=sentence):
        make(finished, tmp_path / "kept.star", **options)
    assert not list(tmp_path.iterdir())


def test_a_wrong_suffix(finished, labels, tmp_path):
    with pytest.raises(InputError, match=r"\.star, \.cs, \.pkl, \.npy or \.txt"):
        make(finished, tmp_path / "kept.csv", clusters=[0])


def test_a_selection_finds_its_images_from_anywhere_and_keeps_its_names(
    finished, star, labels, tmp_path, monkeypatch
):
    make(finished, tmp_path / "kept" / "half.star", clusters=[0, 1])
    (tmp_path / "third").mkdir()
    monkeypatch.chdir(tmp_path / "third")
    known, own = np.isin(labels, [0, 1]), Run.open(finished).particles()
    half = Particles.from_file("../kept/half.star")
    assert half.table["key"].tolist() == own.table["key"][known].tolist()
    np.testing.assert_array_equal(
        read_images(half, np.arange(9)), read_images(own.select(known), np.arange(9))
    )
    half.select(np.arange(40)).save(tmp_path / "third" / "less.star")  # a selection of a selection
    (tmp_path / "third" / "particles.mrcs").write_text("of something else")
    Particles.from_file("less.star").require_images()
    data = ["dataset=custom", "dataset.particles=less.star", "dataset.preflight=false"]
    prepare(**bind(prepare, compose("prepare", data)))
    key = own.table["key"].to_numpy(str)
    np.savez("weights.npz", key=key, weight=np.ones(len(key)))
    options = compose("backproject", [*data, "weights=weights.npz", "output=maps"])
    assert (backproject(**bind(backproject, options)) / "map.mrc").is_file()
    # where the names lead to the images, nothing is said
    make(finished, star.parent / "kept.star", clusters=[0])
    assert named_from(star.parent / "kept.star") is None
    assert named_from("less.star") == str(star.parent)


@pytest.mark.parametrize(("name", "images"), [("particles.star", False), ("particles.cs", True), ("", False)])
def test_what_is_read_is_not_replaced(finished, star, labels, name, images):
    before = {path: path.read_bytes() for path in star.parent.glob("particles.*")}
    assert len(before) >= 2
    with pytest.raises(InputError, match=r"output=\S*particles\.\w+ is the (table|stack) that is read; give"):
        make(finished, star.parent / name, clusters=[0], images=images)
    assert {path: path.read_bytes() for path in star.parent.glob("particles.*")} == before


def test_a_selection_that_is_read_is_not_replaced(finished, labels, tmp_path):
    make(finished, tmp_path / "rows.npy", clusters=[0, 1])
    before = (tmp_path / "rows.npy").read_bytes()
    with pytest.raises(InputError, match=r"output=\S*rows\.npy is the selection that is read; give"):
        make(finished, tmp_path / "rows.npy", clusters=[0], indices=tmp_path / "rows.npy")
    assert (tmp_path / "rows.npy").read_bytes() == before


def test_several_files_intersect_or_unite(finished, labels, tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.arange(0, 60))
    np.save(tmp_path / "b.npy", np.arange(40, 100))
    both = {"indices": [tmp_path / "a.npy", tmp_path / "b.npy"]}
    assert make(finished, tmp_path / "and.npy", **both) == 20
    assert f"indices={tmp_path / 'a.npy'} keeps 60 of 120 particles" in capsys.readouterr().out
    make(finished, tmp_path / "or.npy", **both, any=True)
    np.testing.assert_array_equal(np.load(tmp_path / "or.npy"), np.arange(100))
    make(finished, tmp_path / "rest.npy", **both, any=True, invert=True)
    np.testing.assert_array_equal(np.load(tmp_path / "rest.npy"), np.arange(100, 120))


def test_images_that_are_explained_worst_are_left_out(make_run, tmp_path):
    run = make_run(2)
    loss = np.random.default_rng(0).permutation(120).astype(np.float32)
    np.savez(run / "latents.npz", **{**np.load(run / "latents.npz"), "reconstruction_loss": loss})
    assert make(run, tmp_path / "kept.npy", max_loss_percentile=90) == 108
    np.testing.assert_array_equal(np.load(tmp_path / "kept.npy"), np.flatnonzero(loss < 107.5))
    with pytest.raises(InputError, match="max_loss_percentile=0: expected a number above 0"):
        make(run, tmp_path / "kept.npy", max_loss_percentile=0)
    np.savez(run / "latents.npz", **{**np.load(run / "latents.npz"), "reconstruction_loss": loss * np.nan})
    with pytest.raises(InputError, match="does not say how well each image is explained"):
        make(run, tmp_path / "kept.npy", max_loss_percentile=90)


def test_a_range_of_a_one_dimensional_latent(make_run, finished, tmp_path):
    run = make_run(1)
    z = Run.open(run).latents().z[:, 0]
    low, high = np.percentile(z, [20, 70]).tolist()
    assert make(run, tmp_path / "kept.npy", z_between=[low, high]) == ((z >= low) & (z <= high)).sum()
    with pytest.raises(InputError, match="expected two numbers, the lower one first"):
        make(run, tmp_path / "kept.npy", z_between=[2.0, 1.0])
    with pytest.raises(InputError, match="for a latent of one dimension, and this one has 3"):
        make(finished, tmp_path / "kept.npy", z_between=[1.0, 2.0])


def test_a_run_without_a_latent_is_chosen_from_by_other_means(make_run, labels, finished, tmp_path):
    run = make_run(0)
    for options in ({"clusters": [0]}, {"split": True}, {"max_z_norm": 3.0}, {"z_between": [0.0, 1.0]}):
        with pytest.raises(
            InputError, match=r"has no latent .*give max_loss_percentile=\.\.\., indices=FILE, or"
        ):
            make(run, tmp_path / "kept.star", **options)
    of_other = finished / "analysis" / "kmeans4" / selection.LABELS
    assert make(run, tmp_path / "kept.npy", clusters=[1], labels=of_other) == (labels == 1).sum()
    assert make(run, tmp_path / "kept.npy", max_loss_percentile=50) > 0


def test_a_selection_of_a_run_without_latents(make_run, tmp_path):
    run = make_run(2)
    (run / "latents.npz").unlink()
    np.save(tmp_path / "half.npy", np.arange(0, 120, 2))
    assert make(run, tmp_path / "kept.star", indices=tmp_path / "half.npy") == 60
    with pytest.raises(InputError, match="drgn encode"):
        make(run, tmp_path / "kept.star", max_z_norm=3.0)
