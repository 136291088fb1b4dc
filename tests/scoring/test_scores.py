import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from drgn.analysis.volumes import write_volumes
from drgn.command import compose
from drgn.errors import InputError
from drgn.formats.mrc import read_volume, write_volume
from drgn.run import Run
from drgn.score import score
from drgn.scoring.ceiling import of_ceiling
from drgn.scoring.maps import choose
from drgn.scoring.scores import class_scores, printed
from drgn.scoring.subject import of_truth, subject_of


def scored(**options):
    return score(**{**compose("score", ["n_images=12", "n_maps=3"]), **options})


def test_foreign_files_score_as_the_run_that_has_the_same_numbers(run, noisy, tmp_path, capsys):
    own = scored(run=run)
    assert own["n_particles"] == 200
    assert own["fsc_images"] == 12
    assert own["fsc_maps"] == 3
    folder = run / "analysis" / "score"
    assert json.loads((folder / "score.json").read_text()) == own
    for name in ("fsc_images.png", "fsc_maps.png", "latent_truth.png", "latents.csv", "fsc.csv"):
        assert (folder / name).is_file()
    opened = Run.open(run)
    np.save(tmp_path / "z.npy", opened.latents().z)
    files = {"latents": tmp_path / "z.npy", "truth": noisy, "output": tmp_path / "scores"}
    first = scored(**files)
    assert "volumes=FOLDER" in capsys.readouterr().out
    assert first == {name: value for name, value in own.items() if not name.startswith(("fsc", "map"))}
    write_volumes(opened, np.loadtxt(tmp_path / "scores" / "z.txt", ndmin=2), tmp_path / "maps")
    images = tmp_path / "scores" / "images.csv"
    second = scored(**files, volumes=str(tmp_path / "maps"), images=images)
    assert {name: second[name] for name in own} == pytest.approx(own, rel=1e-3, abs=1e-4)
    assert abs(second["volumes_sign"]) == 1


def test_the_ceiling_is_above_the_run(run, noisy, tmp_path, capsys):
    found = scored(run=run, oracle=True, oracle_images=150, output=tmp_path / "with")
    # 150 images and those whose maps are compared
    assert 150 <= found["oracle_images"] <= 165
    assert found["spearman_motion"] < found["oracle_spearman_motion"] <= 1
    assert found["fsc_auc_mean"] < 0.9 < found["oracle_fsc_auc_mean"]
    assert found["backprojection_fsc_auc_mean"] > found["map_fsc_auc_mean"]
    shown = capsys.readouterr().out
    assert f"{found['oracle_spearman_motion']:.4f}" in shown
    alone = scored(run=None, truth=noisy, oracle=True, output=tmp_path / "alone")
    assert alone["oracle_images"] == 200
    assert "spearman_motion" not in alone
    assert alone["oracle_spearman_motion"] == pytest.approx(found["oracle_spearman_motion"], abs=0.05)


def test_the_map_of_a_run_without_a_latent_is_scored(train_tiny, tmp_path):
    found = scored(run=train_tiny("latent=none"), output=tmp_path)
    assert 0 < found["map_fsc_auc_mean"] < 1
    assert not any(name.startswith(("spearman", "ari", "neighbourhood")) for name in found)


def test_classes_are_matched_and_counted(tmp_path):
    truth = np.repeat([0, 1, 2], 20)
    found = class_scores("state", np.array([5, 3, 4])[truth], truth, tmp_path)
    assert found == {"ari_state": 1, "ami_state": pytest.approx(1), "accuracy_state": 1}
    table = pd.read_csv(tmp_path / "confusion_state.csv")
    np.testing.assert_array_equal(table.iloc[:, 1:], 20 * np.eye(3))


def test_what_is_missing_is_said(noisy, tmp_path):
    with pytest.raises(InputError, match="truth=FOLDER"):
        scored(run=None, output=tmp_path)
    with pytest.raises(InputError, match="output=FOLDER"):
        scored(run=None, truth=noisy)
    with pytest.raises(InputError, match="n_images=-1"):
        scored(n_images=-1)


def test_the_printed_table():
    text = printed(
        {
            "n_particles": 1200.0,
            "spearman_a": 0.9,
            "oracle_spearman_a": 0.95,
            "x": 0.5,
            "x_chance": 0.1,
            "x_best": 0.7,
        }
    )
    assert [line.split() for line in text.splitlines()] == [
        ["score", "value", "ceiling", "chance"],
        ["n_particles", "1,200"],
        ["spearman_a", "0.9000", "0.9500"],
        ["x", "0.5000", "0.7000", "0.1000"],
    ]


def test_a_run_of_cryodrgn_is_asked_for_its_maps_and_then_scored(run, noisy, tmp_path, capsys):
    folder = tmp_path / "vae"
    folder.mkdir()
    data = {"particles": str(noisy / "particles.mrcs"), "invert_data": True}
    config = {"dataset_args": data, "lattice_args": {"D": 17}, "version": "4.3.1"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    z = Run.open(run).latents().z
    (folder / "z.4.pkl").write_bytes(pickle.dumps(z) + pickle.dumps(z))
    (folder / "weights.4.pkl").touch()
    own = scored(run=folder)
    assert own["spearman_motion"] == scored(run=run, n_images=0, n_maps=0)["spearman_motion"]
    place = folder / "drgn" / "analysis" / "score"
    said = next(line for line in capsys.readouterr().out.splitlines() if "eval_vol" in line)
    assert said.split()[2:6] == [
        str(folder / "weights.4.pkl"),
        "--config",
        str(folder / "config.yaml"),
        "--zfile",
    ]
    assert said.split()[-1] == "24"
    listed = pd.read_csv(place / "images.csv")
    assert listed["use"].to_list() == ["image"] * 12 + ["centre"] * 3
    (place / "maps").mkdir()
    for i, file in enumerate(listed["map"]):  # a program that finds the true maps, dark
        volume, pixel_size_A = read_volume(noisy / "maps" / file)
        write_volume(place / "maps" / f"vol_{i + 1:03d}.mrc", -volume, pixel_size_A)
    found = scored(run=folder, volumes=str(place / "maps"))
    assert found["fsc_auc_mean"] == pytest.approx(1)
    assert found["map_fsc05_nyquist_least"] == 1
    assert found["volumes_sign"] == -1
    assert "sign -1" in capsys.readouterr().out


def test_images_that_a_table_groups_are_multiplied(noisy, tmp_path):
    alone = scored(run=None, truth=noisy, oracle=True, output=tmp_path / "alone")
    subject = of_truth(noisy)
    # pairs of images of one map are taken for one particle
    order = subject.truth.order(np.arange(200))
    group = np.empty(200, dtype=object)
    group[order] = [f"{i // 2}" for i in range(200)]
    subject.particles.table["group"] = group.astype(str)
    paired = subject_of(subject.truth, subject.particles, subject.z, None)
    assert len(paired.rows) == 100
    found = of_ceiling(paired, choose(paired, 5, 2), None, 8, tmp_path, 0)
    assert found["oracle_images"] == 200
    assert len(pd.read_csv(tmp_path / "oracle.csv")) == 100
    assert found["oracle_spearman_motion"] > alone["oracle_spearman_motion"]
    assert len(pd.read_csv(tmp_path / "oracle_fsc_curves.csv").columns) == 4 + 5  # shells of a box of 8
    some = of_ceiling(paired, choose(paired, 5, 2), 20, 16, tmp_path, 0)
    assert some["oracle_images"] % 2 == 0
    assert 40 <= some["oracle_images"] <= 54


def test_true_maps_are_needed_where_maps_are_given(noisy, tmp_path):
    shutil.copytree(noisy, tmp_path / "without", ignore=shutil.ignore_patterns("maps"))
    np.save(tmp_path / "z.npy", np.zeros((200, 1)))
    files = {"latents": tmp_path / "z.npy", "truth": tmp_path / "without", "output": tmp_path / "scores"}
    found = scored(**files)
    assert found["spearman_motion"] == 0  # collapsed
    assert not any(name.startswith("fsc") for name in found)
    with pytest.raises(InputError, match="no true maps"):
        scored(**files, volumes="maps")
    with pytest.raises(InputError, match="has no maps"):
        scored(**files, oracle=True)
