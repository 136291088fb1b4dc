"""drgn discover on run folders made without training."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from drgn.analysis.discovery import States
from drgn.analysis.state_report import Motion, stability, words
from drgn.command import compose
from drgn.discover import discover
from drgn.errors import InputError
from drgn.formats.mrc import read_volume
from drgn.formats.particles import Particles
from drgn.run import Run
from drgn.training.encode import Encoded


def find(run, **options):
    return discover(**{**compose("discover"), "resamples": 3, "run": run, **options})


@pytest.fixture(scope="module")
def two_states(make_run):
    """A run whose latents are two clouds, and which particle is in which."""
    path = make_run(3)
    run = Run.open(path)
    n = len(run.latents().z)
    label = np.arange(n) % 3 == 0
    z = 0.1 * np.random.default_rng(0).normal(size=(n, 3))
    z[label, 0] += 2
    logvar = np.full((n, 3), np.log(0.01), np.float32)
    run.save_latents(Encoded(z.astype(np.float32), logvar, np.ones(n, np.float32)), np.arange(n) % 10 == 0)
    return path, label


@pytest.fixture(scope="module")
def report(two_states):
    return find(two_states[0])


def test_everything_is_written(report):
    folder = report.parent
    assert {path.name for path in folder.iterdir()} == {
        "report.html",
        "states.csv",
        "valleys.csv",
        "labels.npz",
        "discovery.json",
        "pca.png",
        "valleys.png",
        "maps.png",
        "state_0",
        "state_1",
    }
    for name in ("state_0", "state_1"):
        assert {path.name for path in (folder / name).iterdir()} == {
            "particles.star",
            "map.mrc",
            "initial_model_30A.mrc",
        }


def test_each_folder_has_the_particles_and_the_map_of_its_state(two_states, report):
    path, label = two_states
    run = Run.open(path)
    latents, all_particles = run.latents(), run.particles().table
    table = pd.read_csv(report.parent / "states.csv")
    with np.load(report.parent / "labels.npz") as found:
        states = dict(zip(found["key"], found["label"], strict=True))
        centres = found["centre_z"]
    truth = dict(zip(latents.key, label, strict=True))
    for state, expected in enumerate(run.volumes(centres)):
        place = report.parent / f"state_{state}"
        particles = Particles.from_file(place / "particles.star")
        images = set(particles.table["image_name"]) if "image_name" in particles.table else None
        members = [key for key, of in states.items() if of == state]
        assert len(particles) == len(members) == table["particles"][state]
        assert len({truth[key] for key in members}) == 1
        volume, pixel_size_A = read_volume(place / "map.mrc")
        np.testing.assert_allclose(volume, expected, rtol=1e-4, atol=1e-6)
        assert pixel_size_A == pytest.approx(12)
        smooth = read_volume(place / "initial_model_30A.mrc")[0]
        assert 0 < np.std(smooth) < np.std(volume)
        assert images is None or len(images) == len(particles)
    assert len(all_particles) == table["particles"].sum()


def test_the_columns_of_the_source_are_kept_and_the_state_is_added(two_states, report):
    source = Run.open(two_states[0]).particles().source.path
    text = (report.parent / "state_1" / "particles.star").read_text()
    for line in Path(source).read_text().splitlines():
        if line.startswith("_rln"):
            assert line.split()[0] in text
    for name in ("drgnCluster", "drgnProbability", "drgnLatent1"):
        assert f"_{name} " in text


def test_what_is_said(report, capsys, two_states):
    facts = json.loads((report.parent / "discovery.json").read_text())
    assert facts["found"].startswith("2 ")
    assert facts["stability_mean_ari"] > 0.98
    assert facts["states_in_resamples"] == {"2": 3}
    pair = pd.read_csv(report.parent / "valleys.csv")
    assert pair[["state_a", "state_b"]].to_numpy().tolist() == [[0, 1]]
    assert pair["valley_depth_95"][0] < 0.1
    find(two_states[0], output=report.parent)
    assert "3 of 3 resamples found 2 as well; mean adjusted Rand index 1.000." in capsys.readouterr().out
    assert "Valleys between the states" in report.read_text()


def test_a_state_that_is_gone_leaves_no_folder(two_states, tmp_path):
    find(two_states[0], output=tmp_path)
    assert (tmp_path / "state_1").is_dir()
    find(two_states[0], output=tmp_path, smallest_share=0.45)
    assert not (tmp_path / "state_1").exists()
    assert (tmp_path / "state_0").is_dir()


def test_what_a_person_put_there_is_kept(two_states, tmp_path):
    others = [
        tmp_path / "state_1" / "Refine3D" / "job001" / "run_data.star",
        tmp_path / "state_1_refined" / "map.mrc",
        tmp_path / "state_9.star",
    ]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text("hours of work")
    (tmp_path / "state_7").mkdir()
    (tmp_path / "state_7" / "map.mrc").write_text("of no discovery")
    find(two_states[0], output=tmp_path)
    assert (tmp_path / "state_7" / "map.mrc").exists()  # nothing said that it was made here
    find(two_states[0], output=tmp_path, smallest_share=0.45)
    assert all(other.read_text() == "hours of work" for other in others)
    assert [path.name for path in (tmp_path / "state_1").iterdir()] == ["Refine3D"]
    assert not (tmp_path / "state_7").exists()


def test_uncertain_particles_may_be_left_out(two_states, tmp_path):
    find(two_states[0], output=tmp_path, min_probability=1.0)
    table = pd.read_csv(tmp_path / "states.csv")
    assert (table["written"] <= table["particles"]).all()
    with np.load(tmp_path / "labels.npz") as found:
        assert len(found["label"]) == table["particles"].sum()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threshold": 1.5}, "threshold=1.5: expected a share from 0 to 1"),
        ({"smallest_share": -0.1}, "smallest_share=-0.1: expected a share"),
        ({"resamples": -1}, "resamples=-1: expected 0 or more"),
    ],
)
def test_a_mistake_is_one_sentence(two_states, options, sentence):
    with pytest.raises(InputError, match=sentence):
        find(two_states[0], **options)


def test_a_run_without_a_latent_has_no_states(make_run):
    with pytest.raises(InputError, match="has no latent"):
        find(make_run(0))


def made(k, diffuse=()):
    wide = np.isin(np.arange(k), diffuse)
    return States(
        np.arange(k),
        np.ones(k),
        np.arange(k),
        np.zeros((k, 3)),
        {},
        wide,
        np.full(5, 0.5),
        np.array([1, 2, 2, 2, 2]),
    )


STILL, MOVES, TWICE, UNKNOWN = (Motion(np.array(r)) for r in ([1.5, 1.2], [5.0, 1.4], [9.0, 5.0, 1.0], []))


@pytest.mark.parametrize(
    ("states", "moving", "text"),
    [
        (made(3), [STILL] * 3, "3 discrete states"),
        (made(1), [MOVES], "continuous: one state"),
        (made(1), [STILL], "one state, without motion beyond the noise"),
        (made(1), [UNKNOWN], "one state"),
        (made(2), [STILL, MOVES], "2 states, state 1 continuous along PC1"),
        (made(2), [TWICE, STILL], "2 states, state 0 continuous along PC1 to PC2"),
        (made(3, [1]), [STILL, MOVES, STILL], "2 discrete states and 1 diffuse group"),
        (made(2, [1]), [MOVES, STILL], "continuous: one state and 1 diffuse group"),
    ],
)
def test_words(states, moving, text):
    assert words(states, moving) == text


def test_an_unstable_number_is_called_so():
    assert stability(made(2)) == (
        "4 of 5 resamples found 2 as well; mean adjusted Rand index 0.500. This is not stable: take the"
        " number of states with caution."
    )
