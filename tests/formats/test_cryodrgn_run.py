import os
import pickle

import numpy as np
import pytest
import yaml

from drgn.errors import InputError
from drgn.formats.cryodrgn_run import is_run, read_run
from drgn.formats.euler import ANGLES, matrix_to_euler
from drgn.formats.particles import Particles

N, KEPT = 6, np.array([4, 1, 5])
Z = np.arange(6, dtype=np.float32).reshape(3, 2)


def dump(path, *values):
    """Pickles one after the other in a file, as cryoDRGN writes its latents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(pickle.dumps(value) for value in values))
    return path


def rotations(n):
    from scipy.spatial.transform import Rotation

    return Rotation.random(n, rng=np.random.default_rng(n)).as_matrix().astype("f4")


@pytest.fixture
def project(tmp_path, make_stack):
    """A project folder with a stack of six images, its poses, CTF and a selection of three."""
    make_stack("data/particles.mrcs", N, pixel_size_A=2.0)
    dump(tmp_path / "data/poses.pkl", (rotations(N), np.full((N, 2), 0.125, "f4")))
    ctf = np.tile(np.array([8, 2, 1e4, 9e3, 30, 300, 2.7, 0.1, 0], "f4"), (N, 1))
    ctf[:, 2] += np.arange(N)
    dump(tmp_path / "data/ctf.pkl", ctf)
    dump(tmp_path / "data/ind.pkl", [np.int64(row) for row in KEPT])
    return tmp_path


def config(project, **changes):
    """What cryoDRGN 4 writes, of which `changes` are in dataset_args."""
    data = project / "data"
    return {
        "cmd": ["cryodrgn", "train_vae"],
        "dataset_args": {
            "particles": str(data / "particles.mrcs"),
            "poses": str(data / "poses.pkl"),
            "ctf": str(data / "ctf.pkl"),
            "ind": str(data / "ind.pkl"),
            "datadir": None,
            "invert_data": True,
            "window": True,
            "window_r": 0.85,
            "norm": [0.0, 26.0],
            **changes,
        },
        "lattice_args": {"D": 9, "extent": 0.5, "ignore_DC": True},
        "model_args": {"zdim": 2, "encode_mode": "resid", "tilt_params": {"ntilts": 10}},
        "seed": 0,
        "version": "4.3.1",
    }


@pytest.fixture
def make_run(project):
    """Write a run folder; keywords go to dataset_args."""

    def make(z=(Z, Z - 9), name="z.1.pkl", **changes):
        folder = project / "runs" / "vae"
        dump(folder / name, *z)
        (folder / "config.yaml").write_text(yaml.safe_dump(config(project, **changes)))
        return folder

    return make


def test_each_latent_is_tied_to_its_particle(project, make_run):
    folder = make_run()
    run = read_run(folder)
    assert is_run(folder)
    np.testing.assert_array_equal(run.z, Z)
    np.testing.assert_array_equal(run.logvar, Z - 9)
    assert run.rows.tolist() == KEPT.tolist()
    table = run.particles.table
    assert table["key"].tolist() == [f"{row + 1:06d}@particles.mrcs" for row in KEPT]
    assert table["source_row"].tolist() == KEPT.tolist()
    assert table["defocus_u_A"].tolist() == (10000.0 + KEPT).tolist()
    assert set(table["shift_x_A"]) == {2.0}  # an eighth of 8 pixels of 2 A
    np.testing.assert_allclose(run.particles.rotation, rotations(N)[KEPT])
    assert (run.epoch, run.box_size, run.version) == (1, 8, "4.3.1")


@pytest.mark.parametrize(("invert", "sign"), [(True, 1.0), (False, -1.0)])
def test_what_cryodrgn_inverts_has_bright_protein(make_run, invert, sign):
    assert set(read_run(make_run(invert_data=invert)).particles.table["data_sign"]) == {sign}


def test_an_old_run_has_a_pickled_config(project, make_run):
    folder = make_run(name="z.0.pkl")
    old = config(project, norm=(0, np.float32(26)))
    del old["version"]
    (folder / "config.yaml").unlink()
    dump(folder / "config.pkl", old)
    run = read_run(folder)
    assert (run.epoch, run.version, len(run.rows)) == (0, "", 3)


def test_a_pickled_config_runs_no_code(project, make_run):
    folder = make_run()
    (folder / "config.yaml").unlink()
    (folder / "config.pkl").write_bytes(b"cos\nmkdir\n(V" + str(project / "harm").encode() + b"\ntR.")
    with pytest.raises(InputError, match=r"config\.pkl was not loaded"):
        read_run(folder)
    (folder / "config.yaml").write_text(f"!!python/object/apply:os.mkdir ['{project / 'harm'}']")
    with pytest.raises(InputError, match="no config of cryoDRGN: it has no dataset_args"):
        read_run(folder)
    assert not (project / "harm").exists()


def test_python_tags_in_a_config_are_plain_values(make_run):
    folder = make_run()
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("norm:", "norm: !!python/tuple"))
    assert read_run(folder).config["dataset_args"]["norm"] == [0.0, 26.0]


def test_a_run_without_variances_poses_and_selection(make_run):
    z = np.zeros((N, 2))  # abinit writes float64
    run = read_run(make_run(z=(z,), ind=None, poses=None))
    assert run.logvar is None
    assert run.z.dtype == np.float32
    assert run.rows.tolist() == list(range(N))
    assert not run.particles.has_poses


def test_which_epoch_is_read(make_run):
    folder = make_run(name="z.9.pkl")
    make_run(z=(Z + 1, Z), name="z.10.pkl")
    assert read_run(folder).epoch == 10  # by number, not by name
    assert read_run(folder, epoch=9).z[0, 0] == 0
    with pytest.raises(InputError, match=r"no z\.3\.pkl \(it has the epochs: 9, 10\)"):
        read_run(folder, epoch=3)
    make_run(z=(Z + 2, Z), name="z.pkl")
    for age, first, epoch in ((0, 2, None), (-100, 1, 10)):  # newer than z.10.pkl, or of an earlier end
        made = (folder / "z.10.pkl").stat().st_mtime
        os.utime(folder / "z.pkl", (made + age, made + age))
        assert (read_run(folder).z[0, 0], read_run(folder).epoch) == (first, epoch)


def test_a_project_that_was_moved(project, make_run, tmp_path_factory):
    make_run()
    new = tmp_path_factory.mktemp("moved") / "project"
    project.rename(new)
    assert read_run(new / "runs" / "vae").particles.source.path == str(new / "data" / "particles.mrcs")
    (new / "data" / "poses.pkl").unlink()
    with pytest.raises(InputError, match=r"config\.yaml: poses .*poses\.pkl was not found"):
        read_run(new / "runs" / "vae")


@pytest.mark.parametrize(
    ("z", "changes", "sentence"),
    [
        ((Z[:2],), {}, r"z\.1\.pkl has 2 particles, but .*ind\.pkl has 3"),
        ((Z,), {"ind": None}, r"z\.1\.pkl has 3 particles, but .*particles\.mrcs has 6"),
        ((Z[:, :1],), {}, r"z\.1\.pkl has 1 dimensions, but .*config\.yaml says zdim 2"),
        ((np.where(Z == 3, np.nan, Z),), {}, r"z\.1\.pkl, row 2: a value is not finite"),
        ((Z, Z[:2]), {}, "does not hold latents"),
        (("no array",), {}, "does not hold latents"),
        ((Z.astype(int),), {}, "does not hold latents"),
        ((Z,), {"particles": None}, "names no particles"),
        ((Z,), {"ind": 100}, "ind is 100, where the path of a file is expected"),
    ],
)
def test_what_does_not_belong_together_is_a_sentence(make_run, z, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        read_run(make_run(z=z, **changes))


def test_runs_that_have_no_latent_of_each_image(make_run):
    folder = make_run()
    (folder / "z.1.pkl").rename(folder / "weights.1.pkl")
    assert is_run(folder)
    with pytest.raises(InputError, match="a homogeneous run of cryoDRGN has no latents"):
        read_run(folder)
    (folder / "config.yaml").write_text(
        (folder / "config.yaml").read_text().replace("encode_mode: resid", "encode_mode: tilt")
    )
    with pytest.raises(InputError, match="this run is of tilt series"):
        read_run(folder)


@pytest.mark.parametrize("content", [b"", b"\x00", b"[1", b"a: 2026-99-99"])
def test_a_damaged_config_is_a_sentence(make_run, content):
    folder = make_run()
    (folder / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.yaml"):
        read_run(folder)


@pytest.mark.parametrize("length", [1, 20, 150])
def test_latents_cut_short_are_a_sentence(make_run, length):
    folder = make_run()
    (folder / "z.1.pkl").write_bytes((folder / "z.1.pkl").read_bytes()[:-length])
    with pytest.raises(InputError, match=r"z\.1\.pkl"):
        read_run(folder)


def test_a_particle_file_whose_own_poses_were_used_keeps_its_columns(project, make_run, records):
    many = np.zeros(N, records.dtype)
    many[:4] = records
    many["uid"] = np.arange(N) + 100
    many["blob/path"], many["blob/shape"], many["blob/psize_A"] = b"data/particles.mrcs", 8, 2
    many["blob/sign"], many["alignments3D/psize_A"] = -1, 2
    many["alignments3D/pose"] = np.random.default_rng(0).normal(size=(N, 3))
    with open(project / "particles.cs", "wb") as file:
        np.save(file, many)
    own = Particles.from_file(project / "particles.cs").rotation
    dump(project / "data" / "own.pkl", (own.astype("f4"), np.zeros((N, 2), "f4")))
    where = {"particles": str(project / "particles.cs"), "ctf": None}
    run = read_run(make_run(poses=str(project / "data" / "own.pkl"), **where))
    run.particles.save(project / "kept.cs")
    assert np.load(project / "kept.cs")["uid"].tolist() == [104, 101, 105]
    run = read_run(make_run(**where))  # with other poses than those of the .cs
    np.testing.assert_allclose(run.particles.rotation, rotations(N)[KEPT])
    run.particles.save(project / "kept.cs")
    found = Particles.from_file(project / "kept.cs")
    np.testing.assert_allclose(found.rotation, rotations(N)[KEPT], atol=1e-6)


@pytest.fixture
def star_run(project, make_run, make_star):
    """A function: shifts (in boxes) and changes of the CTF table of a run -> its particles, from a star."""
    columns = {
        "rlnImageName": [f"{row + 1:06d}@data/particles.mrcs" for row in range(N)],
        **dict(zip(ANGLES, matrix_to_euler(rotations(N)).T.tolist(), strict=True)),
        "rlnOriginXAngst": [2.0] * N,
        "rlnOriginYAngst": [2.0] * N,
        "rlnDefocusU": [1e4 + row for row in range(N)],
        "rlnDefocusV": [9e3] * N,
        "rlnDefocusAngle": [30.0] * N,
        "rlnPhaseShift": [0.0] * N,
        "rlnOpticsGroup": [1] * N,
    }
    optics = {
        "rlnOpticsGroup": [1],
        "rlnVoltage": [300],
        "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
        "rlnImagePixelSize": [2.0],
    }
    star = make_star(columns, optics=optics)

    def make(fraction=0.125, **changes):
        dump(project / "data/poses.pkl", (rotations(N), np.full((N, 2), fraction, "f4")))
        ctf = np.tile(np.array([8, 2, 1e4, 9e3, 30, 300, 2.7, 0.1, 0], "f4"), (N, 1))
        ctf[:, 2] += np.arange(N)
        for name, value in changes.items():
            ctf[:, {"pixel_size_A": 1, "phase_shift_deg": 8}[name]] = value
        dump(project / "data/ctf.pkl", ctf)
        return read_run(make_run(particles=str(star))).particles

    return make


@pytest.mark.parametrize(
    ("changes", "replaced", "expected"),
    [
        ({}, "", {"shift_x_A": 2, "phase_shift_deg": 0, "pixel_size_A": 2}),
        ({"fraction": 0.13}, "", {"shift_x_A": 2}),  # 0.04 pixels away
        ({"fraction": 0.25}, "poses", {"shift_x_A": 4, "phase_shift_deg": 0}),
        ({"phase_shift_deg": 90}, "values", {"shift_x_A": 2, "phase_shift_deg": 90}),
        ({"pixel_size_A": 2.5}, "values", {"shift_x_A": 2.5, "pixel_size_A": 2.5}),
    ],
)
def test_shifts_phase_shift_and_pixel_size_are_those_of_the_run(star_run, changes, replaced, expected):
    particles = star_run(**changes)
    assert particles.source.replaced == replaced
    assert {name: particles.table[name].unique().tolist() for name in expected} == {
        name: [pytest.approx(value, rel=1e-6)] for name, value in expected.items()
    }


def test_cryodrgns_own_analysis(make_run):
    folder = make_run()
    dump(folder / "analyze.0" / "kmeans2" / "labels.pkl", np.array([0, 0, 0]))
    dump(folder / "analyze.1" / "kmeans2" / "labels.pkl", np.array([1, 0, 1]))
    dump(folder / "analyze.1" / "umap.pkl", np.ones((3, 2), "f4"))
    run = read_run(folder)
    assert run.labels(2).tolist() == [1, 0, 1]
    assert run.umap().shape == (3, 2)
    with pytest.raises(InputError, match=r"kmeans3.labels\.pkl cannot be read"):
        run.labels(3)
    dump(folder / "analyze.1" / "umap.pkl", np.ones((2, 2)))
    with pytest.raises(InputError, match=r"umap\.pkl holds float64 \(2, 2\), but z has 3 particles"):
        run.umap()
