from types import SimpleNamespace

import numpy as np
import pytest

from drgn.analysis import points
from drgn.errors import InputError


def test_a_list_of_numbers_is_one_point():
    assert points.from_list([0.5, -1], 2).tolist() == [[0.5, -1]]


def test_a_list_of_lists_is_several_points():
    assert points.from_list([[0, 1], [2, 3], [4, 5]], 2).shape == (3, 2)


def test_with_one_dimension_each_number_is_a_point():
    assert points.from_list([1, 2, 3], 1).tolist() == [[1], [2], [3]]
    assert points.from_list([[1], [2]], 1).tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("z", "sentence"),
    [
        ([1, 2, 3], "point 0 has 3 numbers, but the latent of this run has 2 dimensions"),
        ([[1, 2], [1]], "point 1 has 1 number, but"),
        ([[1, 2], 3], "point 1 has 1 number, but"),
        ([], "point 0 has 0 numbers"),
        (["a", "b"], "not a number"),
        ([1, float("nan")], "point 0 is not finite"),
    ],
)
def test_a_wrong_list_is_refused(z, sentence):
    with pytest.raises(InputError, match=sentence):
        points.from_list(z, 2)


@pytest.mark.parametrize("text", ["1 2\n3 4\n", "1,2\n3,4\n", "# z\n1\t2\n\n3 4"])
def test_a_text_file_has_one_point_in_each_line(tmp_path, text):
    path = tmp_path / "z.txt"
    path.write_text(text)
    assert points.from_file(path, 2).tolist() == [[1, 2], [3, 4]]


def test_a_one_dimensional_file(tmp_path):
    path = tmp_path / "z.txt"
    path.write_text("1\n2\n3\n")
    assert points.from_file(path, 1).tolist() == [[1], [2], [3]]
    np.save(tmp_path / "z.npy", np.arange(3.0))
    assert points.from_file(tmp_path / "z.npy", 1).tolist() == [[0], [1], [2]]
    assert points.from_file(tmp_path / "z.npy", 3).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1 2 3\n", r"shape \(1, 3\).*2 dimensions"),
        ("a b\n", "cannot be read"),
        ("1 2\nnan 1\n", "point 1 is not"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, sentence):
    path = tmp_path / "z.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        points.from_file(path, 2)


def test_an_empty_and_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        points.from_file(tmp_path / "z.txt", 2)
    (tmp_path / "z.txt").write_text("\n")
    with pytest.raises(InputError, match=r"z\.txt"):
        points.from_file(tmp_path / "z.txt", 2)


def run(zdim=2, n=40):
    z = np.random.default_rng(0).normal(size=(n, zdim)).astype(np.float32)
    key = np.array([f"{i:06d}@stack.mrcs" for i in range(n)])
    return SimpleNamespace(
        path="outputs/run",
        zdim=zdim,
        latents=lambda: SimpleNamespace(z=z, key=key),
    )


NONE = {"z": None, "z_file": None, "kmeans": None, "labels": None, "particles": None, "seed": 0}


def test_wanted_kmeans_are_particles():
    found = points.wanted(run(), **{**NONE, "kmeans": 4})
    z = run().latents().z
    assert len(found) == 4
    assert all((z == point).all(axis=1).any() for point in found)


def test_wanted_class_means_are_joined_by_key(tmp_path):
    latents = run().latents()
    label = (latents.z[:, 0] > 0).astype(int)
    shuffled = np.random.default_rng(1).permutation(len(label))
    np.savez(tmp_path / "labels.npz", key=latents.key[shuffled], label=label[shuffled])
    found = points.wanted(run(), **{**NONE, "labels": tmp_path / "labels.npz"})
    assert found[0, 0] < 0 < found[1, 0]


def test_wanted_particles_are_named_by_key():
    latents = run().latents()
    found = points.wanted(run(), **{**NONE, "particles": [latents.key[5], latents.key[2]]})
    np.testing.assert_array_equal(found, latents.z[[5, 2]])
    with pytest.raises(InputError, match="nobody is no particle of this run; their keys are like"):
        points.wanted(run(), **{**NONE, "particles": [latents.key[5], "nobody"]})


def test_wanted_needs_exactly_one():
    with pytest.raises(
        InputError, match="exactly one of z, z_file, kmeans, labels, particles; none is given"
    ):
        points.wanted(run(), **NONE)
    with pytest.raises(InputError, match="z and kmeans are given"):
        points.wanted(run(), **{**NONE, "z": [0, 0], "kmeans": 3})


def test_wanted_without_a_latent():
    assert points.wanted(run(zdim=0), **NONE).shape == (1, 0)
    with pytest.raises(InputError, match=r"no latent.*leave out kmeans"):
        points.wanted(run(zdim=0), **{**NONE, "kmeans": 3})
