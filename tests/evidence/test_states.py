"""Which particles stand behind a state, and with which weights."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from drgn.errors import InputError
from drgn.evidence import states


def latents(n=400):
    return np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)


@pytest.mark.parametrize("n_effective", [4, 40, 300])
def test_the_width_gives_the_number_asked_for(n_effective):
    z = latents()
    weight, width = states.neighbours(z, z[3], n_effective)
    assert states.effective(weight) == pytest.approx(n_effective, rel=0.05)
    distance = np.linalg.norm(z - z[3], axis=1)
    expected = np.exp(-(distance**2) / (2 * width**2))
    np.testing.assert_allclose(weight, np.where(expected < 1e-3, 0, expected), atol=1e-6)


def test_a_point_far_away_has_the_nearest_particles():
    z = latents()
    weight, _ = states.neighbours(z, np.array([1000.0, 0.0]), 20)
    assert states.effective(weight) == pytest.approx(20, rel=0.05)
    assert weight.argmax() == z[:, 0].argmax()
    assert weight[z[:, 0] < np.median(z[:, 0])].sum() < 0.05 * weight.sum()


def test_the_effective_number_of_equal_weights_is_their_number():
    assert states.effective(np.array([0, 3, 3, 3, 0.0])) == 3
    assert states.effective(np.array([1, 1e-9])) == pytest.approx(1)


def test_images_of_one_particle_count_once():
    z = np.repeat(latents(100), 3, axis=0)
    state = states.of_point(z, np.repeat(np.arange(100), 3), z[0], 10, "z_0")
    assert states.effective(state.weight[::3]) == pytest.approx(10, rel=0.05)
    np.testing.assert_array_equal(state.weight[::3], state.weight[2::3])
    assert state.title.startswith("z = [0.126, -0.132]")


@pytest.mark.parametrize(("labels", "expected"), [("../x.npz", "above"), ("x.npz", "here"), ("a/x.npz", "a")])
def test_states_of_a_file_are_named_after_its_folder(tmp_path, monkeypatch, labels, expected):
    here = tmp_path / "above" / "here"
    (here / "a").mkdir(parents=True)
    monkeypatch.chdir(here)
    key = np.arange(20).astype(str)
    np.savez(labels, key=key, label=np.arange(20) % 2)
    z = latents(20)
    run = SimpleNamespace(path=tmp_path, zdim=2, latents=lambda: SimpleNamespace(z=z, key=key))
    particles = SimpleNamespace(table=pd.DataFrame({"key": key}))
    none = dict.fromkeys(("clusters", "indices", "z", "z_file", "n_effective"))
    _, name = states.choose(run, particles, np.arange(20), kmeans=2, labels=Path(labels), **none)
    assert name == expected


@pytest.mark.parametrize("n_effective", [3, 361, 0])
def test_too_many_or_too_few_are_one_sentence(n_effective):
    with pytest.raises(InputError, match=rf"n_effective={n_effective}: expected from 4 to .* 360"):
        states.neighbours(latents(), np.zeros(2), n_effective)


def test_clusters_are_decoded_at_a_member():
    z = latents()
    labels = (z[:, 0] > 0).astype(int)
    found = states.of_clusters(z, labels, None)
    assert [state.name for state in found] == ["cluster_0", "cluster_1"]
    for number, state in enumerate(found):
        np.testing.assert_array_equal(state.weight, labels == number)
        at = np.flatnonzero((z == state.z).all(axis=1))
        assert labels[at] == number
    with pytest.raises(InputError, match="2 is not one of the clusters, which are numbered from 0 to 1"):
        states.of_clusters(z, labels, [2])
    with pytest.raises(InputError, match="names none"):
        states.of_clusters(z, labels, [])
    with pytest.raises(InputError, match=r"kept\.star selects no particle"):
        states.of_rows(z, np.empty(0, int), "kept.star")
