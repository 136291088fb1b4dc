"""States against maps of their particles alone: right and wrong ones, what is written, and bad input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from drgn.analyze import analyze
from drgn.command import compose
from drgn.data.progress import CheckProgress
from drgn.errors import InputError
from drgn.evidence import states, validation
from drgn.formats.mrc import read_volume, write_volume
from drgn.run import Run
from drgn.validate import validate

N, SIZE, PIXEL_A = 300, 16, 12.0  # of the set `toy`


def make(run, **options):
    return validate(**{**compose("validate"), "run": run, "kmeans": 2, **options})


@pytest.fixture(scope="module")
def run(train_tiny):
    """Linear modes, which are found in a second, with two clusters; `toy` has a part that is there or not."""
    path = train_tiny("model=linear", "latent.zdim=2")
    analyze(**{**compose("analyze"), "run": path, "kmeans": 2, "volumes": False, "umap": False})
    return path


@pytest.fixture(scope="module")
def validated(run):
    return make(run)


def test_the_right_particles_support_a_map_and_those_of_another_state_do_not(run):
    opened = Run.open(run)
    dataset, particles = validation.dataset_of(opened)
    attached = opened.truth()["attached"].to_numpy()
    folder = Path(particles.source.path).parent / "maps"
    names = ["detached", "attached"]
    maps = [
        torch.from_numpy(
            sum(read_volume(folder / f"motion{motion}_{name}.mrc")[0] for motion in ("0.0", "0.5", "1.0"))
        )
        for name in names
    ]
    z = np.zeros((N, 2), np.float32)
    found = [
        [
            validation.examine(
                dataset,
                particles,
                states.of_rows(z, np.flatnonzero(attached == whose), names[whose]),
                maps[of],
                half_sets="random",
                mask=None,
                seed=0,
                progress=CheckProgress("test"),
            )
            for of in (0, 1)
        ]
        for whose in (0, 1)
    ]
    agreement = np.array([[f.agreement_curve[1:7].mean().item() for f in row] for row in found])
    assert agreement.diagonal().min() > 0.9
    assert (np.diag(agreement) > agreement[[0, 1], [1, 0]] + 0.03).all()
    # a quantity that does not mind what all states have in common
    densities = [found[i][i].density.numpy() for i in (0, 1)]
    own = validation.differences([m.numpy() for m in maps], densities, PIXEL_A)
    other = validation.differences([m.numpy() for m in maps], densities[::-1], PIXEL_A)
    assert min(own) > 0.8
    np.testing.assert_allclose(other, -np.array(own))  # two states differ from their mean by opposites
    right = found[1][1]
    assert right.n_particles == right.n_effective == (attached == 1).sum()
    assert right.supported_A == max(right.halves_A, right.neural_A) < 40
    assert "attached: " in right.sentence()
    assert f"supported to {right.supported_A:.3g} A." in right.sentence()
    # noise in place of a map is supported by nothing
    noise = right.__class__(**{**vars(right), "agreement": right.agreement._replace(loose=torch.zeros(9))})
    assert noise.sentence().endswith("to no resolution: not supported by these particles.")


def test_what_is_written(run, validated):
    assert validated == run / "validation" / "kmeans2"
    table = pd.read_csv(validated / "states.csv")
    labels = np.load(run / "analysis" / "kmeans2" / "labels.npz")
    np.testing.assert_array_equal(table["n_particles"], np.bincount(labels["label"]))
    np.testing.assert_array_equal(table["supported_A"], table[["halves_A", "neural_A"]].max(axis=1))
    folder = validated / "cluster_1"
    assert {p.name for p in folder.iterdir()} == {
        *(f"{name}.mrc" for name in ("half_map_1", "half_map_2", "map", "neural")),
        *("fsc.csv", "fsc.png", "views.png", "validate.json", "weights.npz"),
    }
    found = json.loads((folder / "validate.json").read_text())
    np.testing.assert_allclose(found["z"], labels["centre_z"][1], rtol=1e-6)
    assert table["sentence"][1].startswith(found["sentence"])
    assert table["difference"].min() > 0.8
    neural, pixel_A = read_volume(folder / "neural.mrc")
    np.testing.assert_array_equal(neural, next(Run.open(run).volumes(labels["centre_z"][1:])))
    assert pixel_A == PIXEL_A
    with np.load(folder / "weights.npz") as file:
        np.testing.assert_array_equal(file["weight"], labels["label"] == 1)
    curves = pd.read_csv(folder / "fsc.csv")
    assert len(curves) == SIZE // 2 + 1
    assert {"halves_unmasked", "halves_loose", "halves_masked", "halves_corrected"} < set(curves)
    assert {"neural_unmasked", "neural_loose", "neural_masked", "neural_corrected"} < set(curves)
    assert curves["neural_loose"][1:6].min() > 0.5  # linear modes are a good map of these images


def test_labels_that_say_nothing_do_not_tell_states_apart(run, validated, tmp_path):
    path = run / "analysis" / "kmeans4"
    path.mkdir()
    labels = np.load(run / "analysis" / "kmeans2" / "labels.npz")
    shuffled = np.random.default_rng(0).permutation(labels["label"])
    np.savez(path / "labels.npz", key=labels["key"], label=shuffled)
    wrong = pd.read_csv(make(run, kmeans=4, output=tmp_path / "shuffled") / "states.csv")
    assert wrong["difference"].abs().max() < 0.5 < pd.read_csv(validated / "states.csv")["difference"].min()
    assert "correlates" in wrong["sentence"][0]


def test_one_line_for_each_state(run, capsys):
    make(run, clusters=[1], output=run / "one")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("cluster 1: ")
    assert lines[0].endswith(" A.")
    assert lines[1] == f"Maps, curves and pictures: {run / 'one'}"
    assert sorted(p.name for p in (run / "one").iterdir()) == ["cluster_1", "states.csv"]


def test_the_neighbours_of_points_and_rows_of_a_file(run, validated, tmp_path):
    folder = make(run, z=[[0, 0], [1, 0]], n_effective=100, output=tmp_path / "z")
    table = pd.read_csv(folder / "states.csv")
    np.testing.assert_allclose(table["n_effective"], 100, rtol=0.05)
    assert (table["n_particles"] > 100).all()
    assert json.loads((folder / "z_1" / "validate.json").read_text())["kernel_width"] > 0
    np.savetxt(tmp_path / "z.txt", [[1, 0]])
    again = make(run, z_file=tmp_path / "z.txt", n_effective=100, output=tmp_path / "file")
    one = pd.read_csv(again / "states.csv")
    assert one.iloc[0, :6].tolist() == table.iloc[1, :6].tolist()
    assert one["difference"].isna().all()  # there is one state

    labels = np.load(run / "analysis" / "kmeans2" / "labels.npz")
    np.save(tmp_path / "rows.npy", np.flatnonzero(labels["label"] == 1))
    folder = make(run, indices=tmp_path / "rows.npy", output=tmp_path / "rows")
    selected, cluster = folder / "selection" / "map.mrc", validated / "cluster_1" / "map.mrc"
    np.testing.assert_array_equal(read_volume(selected)[0], read_volume(cluster)[0])


def test_a_state_with_too_few_particles_does_not_stop_the_others(run, tmp_path):
    path = run / "analysis" / "kmeans3"
    path.mkdir()
    labels = np.load(run / "analysis" / "kmeans2" / "labels.npz")
    few = labels["label"].copy()
    few[0] = 2
    np.savez(path / "labels.npz", key=labels["key"], label=few)
    table = pd.read_csv(make(run, kmeans=3, clusters=[2, 1], output=tmp_path / "two") / "states.csv")
    assert table["state"].tolist() == ["cluster 2", "cluster 1"]
    assert table["n_particles"].notna().tolist() == [False, True]
    assert "where at least 2 are expected" in table["sentence"][0]
    with pytest.raises(InputError, match=r"cluster 2: .*half set 1 has 1 particle, where at least 2 are"):
        make(run, kmeans=3, clusters=[2], output=tmp_path / "x")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"clusters": [7]}, "7 is not one of the clusters"),
        ({"clusters": []}, r"clusters=\[\] names none"),
        ({"kmeans": 9}, r"no k-means with 9 clusters \(it has kmeans=2"),
        ({"clusters": [0], "z": [0, 0]}, "clusters and z are given"),
        ({"z": [0, 0, 0]}, "has 3 numbers, but the latent of this run has 2 dimensions"),
        ({"z": [0, 0], "n_effective": 290.0}, "n_effective=290: expected from 4 to"),
        ({"mask": "nowhere.mrc"}, "mask=nowhere.mrc is not there"),
    ],
)
def test_bad_input_is_one_sentence(run, tmp_path, options, sentence):
    if "mask" in options:
        options = {"mask": tmp_path / "nowhere.mrc"}
        sentence = "nowhere.mrc is not there"
    with pytest.raises(InputError, match=sentence):
        make(run, output=tmp_path / "x", **options)


def test_an_empty_selection_and_a_mask_that_does_not_fit_are_one_sentence(run, tmp_path):
    np.save(tmp_path / "none.npy", np.empty(0, np.int64))
    with pytest.raises(InputError, match="selects none of the particles"):
        make(run, indices=tmp_path / "none.npy")
    write_volume(tmp_path / "small.mrc", np.ones((8, 8, 8), np.float32), PIXEL_A)
    with pytest.raises(InputError, match="has a box of 8 voxels and the training box one of 16"):
        make(run, mask=tmp_path / "small.mrc")
    write_volume(tmp_path / "fine.mrc", np.ones((SIZE,) * 3, np.float32), 1.0)
    with pytest.raises(InputError, match=r"has voxels of 1 A and the training box of 12 A"):
        make(run, mask=tmp_path / "fine.mrc")


def test_a_mask_takes_the_place_of_both(run, tmp_path):
    write_volume(tmp_path / "all.mrc", np.ones((SIZE,) * 3, np.float32), PIXEL_A)
    folder = make(run, clusters=[1], mask=tmp_path / "all.mrc", output=tmp_path / "masked")
    curves = pd.read_csv(folder / "cluster_1" / "fsc.csv")
    np.testing.assert_allclose(curves["halves_masked"], curves["halves_unmasked"], atol=1e-5)
    found = json.loads((folder / "cluster_1" / "validate.json").read_text())
    assert found["neural_A"] == found["fsc_neural_A"]["masked"]["0.5"]


def test_a_run_without_a_latent_is_one_sentence(make_run, tmp_path):
    with pytest.raises(InputError, match=r"has no latent \(latent=none\).*drgn backproject"):
        make(make_run(0))


def test_images_that_make_another_box_are_one_sentence(run, monkeypatch):
    monkeypatch.setattr(Run, "pixel_size_A", 11.0)
    with pytest.raises(InputError, match="was trained in a box of 16 pixels of 11 A, and its images now"):
        make(run)
