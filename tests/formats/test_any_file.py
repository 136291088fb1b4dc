"""Any table goes through every writer and back, and any bytes through every reader."""

import pickle
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from drgn.errors import InputError
from drgn.formats.cryodrgn import load_pickle, load_pickles, read_ctf, read_indices, read_poses
from drgn.formats.cryodrgn_run import read_run
from drgn.formats.cryosparc_group import write_group
from drgn.formats.mrc import StackWriter, read_volume, write_volume
from drgn.formats.particles import Particles, read_images
from drgn.formats.torch_file import look_into

CTF = np.array([64, 1.5, 15000, 14000, 25, 300, 2.7, 0.1, 0])


def numbers(low, high, n):
    return st.lists(st.floats(low, high, width=32), min_size=n, max_size=n).map(np.array)


@st.composite
def projects(draw, folder):
    """A stack of random images, and a star with random poses, CTF and order of rows."""
    n, box = draw(st.integers(1, 6)), draw(st.integers(4, 9))
    images = np.random.default_rng(draw(st.integers(0, 9))).normal(size=(n, box, box)).astype(np.float32)
    with StackWriter(folder / "s.mrcs", n, box, 1.5) as stack:
        stack.write(images)
    columns = {name: draw(numbers(-180, 180, n)) for name in ("AngleRot", "AngleTilt", "AnglePsi")}
    columns |= {f"Origin{axis}Angst": draw(numbers(-2, 2, n)) for axis in "XY"}
    columns |= {name: draw(numbers(1000, 50000, n)) for name in ("DefocusU", "DefocusV")}
    columns |= {"DefocusAngle": draw(numbers(-180, 180, n)), "PhaseShift": draw(numbers(0, 180, n))}
    columns |= {"Voltage": np.full(n, 300.0), "SphericalAberration": np.full(n, 2.7)}
    columns |= {"AmplitudeContrast": np.full(n, 0.1), "ImagePixelSize": np.full(n, 1.5)}
    order = draw(st.permutations(range(n)))
    header = "".join(f"_rln{name}\n" for name in columns)
    rows = "".join(f"{i + 1}@s.mrcs {' '.join(repr(float(v[i])) for v in columns.values())}\n" for i in order)
    (folder / "p.star").write_text(f"data_\n\nloop_\n_rlnImageName\n{header}{rows}")
    return Particles.from_file(folder / "p.star"), images[list(order)]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_particles_through_every_writer_and_back(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("project")
    particles, images = data.draw(projects(folder))
    n = len(particles)
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True)))
    chosen = particles.select(rows)
    numeric = [name for name in particles.table if particles.table[name].dtype.kind == "f"]

    def same(again, pose, value):
        np.testing.assert_array_equal(read_images(again, np.arange(len(rows))), images[rows])
        np.testing.assert_allclose(again.rotation, chosen.rotation, atol=pose)
        np.testing.assert_allclose(again.table[numeric], chosen.table[numeric], rtol=value, atol=value)

    for version in ("3.1", "3.0"):
        chosen.save(folder / "q.star", star_version=version)
        same(Particles.from_file(folder / "q.star"), 1e-12, 1e-12)
    chosen.copy_images(folder / "copy.mrcs").save(folder / "copied.star")
    same(Particles.from_file(folder / "copied.star"), 1e-12, 1e-12)
    for suffix in (".pkl", ".npy", ".txt"):  # rows of the file
        chosen.save(folder / f"rows{suffix}")
        same(Particles.from_file(folder / "p.star", indices=folder / f"rows{suffix}"), 0, 0)
    chosen.save(folder / "new")  # for cryoDRGN: single precision, shifts as fractions of the box
    again = Particles.from_file(
        folder / "new" / "particles.star",
        poses=folder / "new" / "poses.pkl",
        ctf=folder / "new" / "ctf.pkl",
        datadir=folder,
    )
    same(again, 1e-6, 1e-5)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*3 * [st.integers(1, 6)]), pixel_A=st.floats(0.125, 50, width=32), seed=st.integers(0, 99)
)
def test_maps_and_stacks_through_their_writers_and_back(tmp_path_factory, shape, pixel_A, seed):
    folder = tmp_path_factory.mktemp("maps")
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    write_volume(folder / "v.mrc", values, pixel_A)
    volume, size_A = read_volume(folder / "v.mrc")
    np.testing.assert_array_equal(volume, values)
    np.testing.assert_allclose(size_A, pixel_A, rtol=1e-6)


def seeds(folder):
    """A sound file of every kind that is read."""
    with StackWriter(folder / "s.mrcs", 2, 8, 1.5) as stack:
        stack.write(np.ones((2, 8, 8), np.float32))
    records = np.zeros(
        2, [("uid", "u8"), ("blob/path", "S8"), ("blob/idx", "u4"), ("alignments3D/pose", "f4", 3)]
    )
    records["uid"], records["blob/path"], records["blob/idx"] = [5, 6], b"s.mrcs", [0, 1]
    write_group(folder / "p.cs", records)
    (folder / "s.txt").write_text("# stacks\ns.mrcs\n")
    rotation = Rotation.random(2, random_state=0).as_matrix()
    (folder / "poses.pkl").write_bytes(pickle.dumps((rotation, np.zeros((2, 2)))))
    np.savez(folder / "poses.npz", rot=rotation, trans=np.zeros((2, 2)))
    (folder / "ctf.pkl").write_bytes(pickle.dumps(np.tile(CTF, (2, 1))))
    np.savez(folder / "ctf.npz", ctf=np.tile(CTF, (2, 1)), dose=[1.0, 2.0])
    (folder / "ind.pkl").write_bytes(pickle.dumps(np.array([1])))
    np.save(folder / "ind.npy", np.array([1]))
    (folder / "ind.txt").write_text("1\n")
    z = np.zeros((2, 2), np.float32)
    (folder / "z.1.pkl").write_bytes(pickle.dumps(z) + pickle.dumps(z))
    config = {"dataset_args": {"particles": str(folder / "s.mrcs")}, "model_args": {"zdim": 2}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save({"decoder.0.weight": torch.zeros(2)}, folder / "weights.1.pkl")
    write_volume(folder / "v.mrc", np.ones((3, 4, 5), np.float32), 1.5)


READERS = {
    "s.mrcs": lambda path: read_images(Particles.from_file(path), np.arange(1)),
    "p.cs": Particles.from_file,
    "p.csg": Particles.from_file,
    "s.txt": Particles.from_file,
    "poses.pkl": partial(read_poses, n=2, particles="x"),
    "poses.npz": partial(read_poses, n=2, particles="x"),
    "ctf.pkl": partial(read_ctf, n=2, particles="x", box_size_px=np.zeros(2, int)),
    "ctf.npz": partial(read_ctf, n=2, particles="x", box_size_px=np.zeros(2, int)),
    "ind.pkl": read_indices,
    "ind.npy": read_indices,
    "ind.txt": read_indices,
    "z.1.pkl": lambda path: (load_pickle(path), load_pickles(path), read_run(path.parent)),
    "config.yaml": lambda path: read_run(path.parent),
    "weights.1.pkl": look_into,
    "v.mrc": read_volume,
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, about values that no sound file has
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=40, deadline=None)
@given(
    cut=st.floats(0, 2),
    faults=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=3)), max_size=3),
    whole=st.none() | st.binary(max_size=200),
)
@example(cut=2, faults=[], whole=b"")
@example(cut=2, faults=[], whole=b"\x00")
def test_any_bytes_give_a_sentence_or_a_result(tmp_path_factory, name, cut, faults, whole):
    folder: Path = tmp_path_factory.mktemp("bytes")
    seeds(folder)
    READERS[name](folder / name)  # sound
    content = (folder / name).read_bytes()
    for place, put in faults:
        at = int(place * len(content))
        content = content[:at] + put + content[at + 1 :]
    (folder / name).write_bytes(whole if whole is not None else content[: int(cut * len(content))])
    with suppress(InputError):
        READERS[name](folder / name)
