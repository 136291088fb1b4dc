import os
import pickle

import numpy as np
import pytest

from drgn.errors import InputError
from drgn.formats import cryodrgn
from drgn.formats.particles import Particles


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def rotations(n):
    from scipy.spatial.transform import Rotation

    return Rotation.random(n, rng=np.random.default_rng(n)).as_matrix()


def dump(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def test_a_pickle_that_runs_code_is_refused_before_it_runs(tmp_path):
    path = dump(tmp_path / "poses.pkl", (np.eye(3), Command(tmp_path / "harm")))
    with pytest.raises(InputError, match=r"poses\.pkl was not loaded: the pickle asks for posix\.mkdir"):
        cryodrgn.load_pickle(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"cbuiltins\neval\n.", b"cnumpy\nload\n.", b"cnumpy\nf2py\n."])
def test_other_names_of_builtins_and_numpy_are_refused(tmp_path, content):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(InputError, match="only numpy arrays are admitted"):
        cryodrgn.load_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(np.arange(1000))[:-300]])
def test_a_damaged_pickle_is_an_input_error(tmp_path, content):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pkl is not a pickle that can be read"):
        cryodrgn.load_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", [b"numpy._core", b"numpy.core"])
def test_arrays_of_every_protocol_and_of_both_numpy_generations(tmp_path, protocol, module):
    value = [np.arange(6.0).reshape(2, 3), np.int64(7), {"a": (1, "b")}]
    content = pickle.dumps(value, protocol=protocol)
    if protocol < 4:  # from 4 on, names carry their length
        content = content.replace(b"numpy._core", module)
    (tmp_path / "x.pkl").write_bytes(content)
    array, scalar, plain = cryodrgn.load_pickle(tmp_path / "x.pkl")
    np.testing.assert_array_equal(array, value[0])
    assert (scalar, plain) == (7, {"a": (1, "b")})


def test_every_layout_of_poses(tmp_path):
    rotation = rotations(4)
    shift = np.random.default_rng(0).uniform(-0.2, 0.2, (4, 2))
    for layout, has_shift in [
        ((rotation, shift), True),
        ([rotation, shift], True),
        ((rotation,), False),
        (rotation, False),
    ]:
        read, read_shift = cryodrgn.read_poses(dump(tmp_path / "p.pkl", layout), 4, "x.mrcs")
        np.testing.assert_array_equal(read, rotation)
        assert (read_shift is not None) == has_shift
    np.savez(tmp_path / "p.npz", rot=rotation, trans=shift)
    read, read_shift = cryodrgn.read_poses(tmp_path / "p.npz", 4, "x.mrcs")
    np.testing.assert_array_equal(read, rotation)
    np.testing.assert_array_equal(read_shift, shift)


def spoilt(change):
    rotation, shift = rotations(4), np.zeros((4, 2))
    change(rotation, shift)
    return rotation, shift


def mirror(rotation, shift):
    rotation[2] *= -1


def stretch(rotation, shift):
    rotation[1] *= 1.01


def unknown(rotation, shift):
    rotation[3, 0, 0] = np.nan


def in_pixels(rotation, shift):
    shift[0] = 5


@pytest.mark.parametrize(
    ("poses", "sentence"),
    [
        (spoilt(mirror), "particle row 3: the 3 x 3 matrix is not a rotation"),
        (spoilt(stretch), "particle row 2: the 3 x 3 matrix is not a rotation"),
        (spoilt(unknown), "particle row 4: rotation is nan"),
        (spoilt(in_pixels), "shifts up to 5, where fractions of the box"),
        ((rotations(3), np.zeros((3, 2))), r"p\.pkl has 3 poses, but x\.mrcs has 4 particles"),
        ((rotations(4), np.zeros((4, 3))), r"shifts of shape \(4, 3\)"),
        (np.zeros((4, 3)), r"shape \(4, 3\) where rotations .* angles are not read"),
        ("text", "does not hold poses"),
        ((rotations(4), np.zeros((4, 2)), 1), "does not hold poses"),
    ],
)
def test_poses_that_cannot_be_used(tmp_path, poses, sentence):
    with pytest.raises(InputError, match=sentence):
        cryodrgn.read_poses(dump(tmp_path / "p.pkl", poses), 4, "x.mrcs")


def ctf_table(n=3, box=64, pixel_size_A=1.5):
    return np.tile([box, pixel_size_A, 15000, 14000, 25, 300, 2.7, 0.1, 0], (n, 1)).astype(np.float32)


def test_the_pixel_size_follows_the_binning(tmp_path):
    box = np.array([32, 64, 0])
    columns = cryodrgn.read_ctf(dump(tmp_path / "c.pkl", ctf_table()), 3, "x.mrcs", box)
    assert columns["pixel_size_A"].tolist() == [3.0, 1.5, 1.5]
    assert columns["box_size_px"].tolist() == [32, 64, 64]  # where it is unknown, the table's own
    assert columns["defocus_v_A"].tolist() == [14000.0] * 3


def test_dose_scale_and_particle_of_an_npz(tmp_path):
    np.savez(
        tmp_path / "c.npz", ctf=ctf_table(), dose=[1.0, 2.0, 3.0], scale=[1.0, 0.9, 0.8], particle=[0, 0, 1]
    )
    columns = cryodrgn.read_ctf(tmp_path / "c.npz", 3, "x.mrcs", np.full(3, 64))
    s = 0.05  # 1/A
    np.testing.assert_allclose(
        np.exp(-columns["b_factor_A2"] / 4 * s**2), np.exp(-4 * np.array([1, 2, 3]) * s**2)
    )
    assert columns["ctf_scale"].tolist() == [1.0, 0.9, 0.8]
    assert columns["group"].tolist() == ["0", "0", "1"]


def test_ctf_tables_that_cannot_be_used(tmp_path):
    path = tmp_path / "c.pkl"
    for table, sentence in [
        (ctf_table(2), r"c\.pkl has 2 CTF rows, but x\.mrcs has 3 particles"),
        (ctf_table()[:, :8], r"an array \(N, 9\)"),
        (np.where(np.arange(9) == 8, np.nan, ctf_table()), "particle row 1: phase_shift_deg is nan"),
    ]:
        with pytest.raises(InputError, match=sentence):
            cryodrgn.read_ctf(dump(path, table), 3, "x.mrcs", np.full(3, 64))
    np.savez(tmp_path / "c.npz", ctf=ctf_table(), dose=[1.0])
    with pytest.raises(InputError, match="has 1 dose"):
        cryodrgn.read_ctf(tmp_path / "c.npz", 3, "x.mrcs", np.full(3, 64))


def test_indices_in_every_form(tmp_path):
    dump(tmp_path / "a.pkl", np.array([2, 0]))
    dump(tmp_path / "b.pkl", [np.int64(2), np.int64(0)])
    np.save(tmp_path / "c.npy", np.array([2, 0], dtype=np.int32))
    (tmp_path / "d.txt").write_text("2\n0\n")
    for name in ("a.pkl", "b.pkl", "c.npy", "d.txt"):
        assert cryodrgn.read_indices(tmp_path / name).tolist() == [2, 0]
    np.save(tmp_path / "e.npy", np.array([0.5]))
    with pytest.raises(InputError, match="a list of row indices is expected"):
        cryodrgn.read_indices(tmp_path / "e.npy")
    with pytest.raises(InputError, match=r"\.pkl, \.npy or \.txt is expected"):
        cryodrgn.read_indices(tmp_path / "e.csv")


def test_written_pickles_are_what_cryodrgn_reads(tmp_path, shared):
    folder = shared / "tomodrgn"
    particles = Particles.from_file(folder / "10076_classD_32_sim.star")
    shift_A = particles.table[["shift_x_A", "shift_y_A"]].to_numpy()
    cryodrgn.write_poses_pkl(tmp_path / "p.pkl", particles.rotation, shift_A, particles.box_size, 13.1)
    cryodrgn.write_ctf_pkl(tmp_path / "c.pkl", particles.table)
    rotation, shift = pickle.loads((tmp_path / "p.pkl").read_bytes())
    true_rotation, true_shift = cryodrgn.load_pickle(folder / "pose_classD.pkl")
    assert rotation.dtype == shift.dtype == np.float32
    np.testing.assert_allclose(rotation, true_rotation, atol=1e-6)
    np.testing.assert_allclose(shift, true_shift, atol=1e-6)
    ctf = pickle.loads((tmp_path / "c.pkl").read_bytes())
    assert ctf.dtype == np.float32
    np.testing.assert_allclose(ctf, cryodrgn.load_pickle(folder / "ctf_classD.pkl"), rtol=1e-6)


@pytest.mark.parametrize(("sign", "option"), [(1.0, []), (-1.0, ["--uninvert-data"])])
def test_a_full_export_is_what_was_read(tmp_path, shared, sign, option):
    folder = shared / "tomodrgn"
    particles = Particles.from_file(folder / "10076_classD_32_sim.star", data_sign=sign)
    rows = np.array([5, 3, 100])
    place = tmp_path / "new"
    options = cryodrgn.write_cryodrgn(place, particles.table, particles.rotation, rows)
    files = [str(place / name) for name in ("poses.pkl", "ctf.pkl", "ind.pkl")]
    assert options == ["--poses", files[0], "--ctf", files[1], "--ind", files[2], *option]
    again = Particles.from_file(
        folder / "10076_classD_32_sim.star", poses=files[0], ctf=files[1], indices=files[2], data_sign=sign
    )
    chosen = particles.select(rows)
    np.testing.assert_allclose(again.rotation, chosen.rotation, atol=1e-6)
    numbers = [name for name in again.table if again.table[name].dtype.kind == "f"]
    for name in set(numbers) - {"b_factor_A2", "ctf_scale"}:
        np.testing.assert_allclose(again.table[name], chosen.table[name], rtol=1e-5, atol=1e-4)
    assert again.table["key"].tolist() == chosen.table["key"].tolist()
    cryodrgn.write_cryodrgn(place, particles.table, None)
    assert not (place / "ind.pkl").exists()  # of the earlier selection, which the files no longer go with


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("pixel_size_A", 2.0, "differ in their pixel size"),
        ("box_size_px", 16, "differ in their box size"),
        ("data_sign", -1.0, "differ in their sign of the data"),
        ("ctf_premultiplied", True, "multiplied by the CTF"),
        ("phase_flipped", True, "multiplied by the sign of their CTF"),
        ("voltage_kV", np.nan, "particle row 4: voltage_kV is nan"),
    ],
)
def test_particles_that_cryodrgn_cannot_be_given(tmp_path, shared, column, value, sentence):
    particles = Particles.from_file(shared / "tomodrgn" / "10076_classD_32_sim.star")
    particles.table.loc[3, column] = value
    with pytest.raises(InputError, match=sentence):
        cryodrgn.write_cryodrgn(tmp_path, particles.table, None)
    selected = particles.select(np.array([4, 5])).table
    with pytest.raises(ValueError, match="the table of a whole file"):
        cryodrgn.write_cryodrgn(tmp_path, selected, None, np.array([0]))
    assert not list(tmp_path.iterdir())


def test_real_index_files(shared):
    filtered = cryodrgn.read_indices(shared / "empiar-10028" / "filtered.ind.pkl")  # a list of numpy scalars
    np.testing.assert_array_equal(filtered, np.load(shared / "empiar-10028" / "filtered.ind.npy"))
    assert len(filtered) == 93852
    assert cryodrgn.read_indices(shared / "cryodrgn-tests" / "ind100.pkl").tolist() == list(range(100))
    assert cryodrgn.read_indices(shared / "cryodrgn-tests" / "ind4.pkl").shape == (4,)


def test_the_toy_set_with_each_of_its_pose_files(shared):
    folder = shared / "cryodrgn-tests"
    stack = folder / "toy_projections.mrcs"
    poses = {
        name: Particles.from_file(stack, poses=folder / f"{name}.pkl", ctf=folder / "test_ctf.pkl")
        for name in ("toy_rot_trans", "toy_rot_zerotrans", "toy_angles")
    }
    for particles in poses.values():
        np.testing.assert_array_equal(
            particles.rotation, poses["toy_angles"].rotation
        )  # matrices, by any name
        assert particles.pixel_size_A == 1.0
        assert particles.has_ctf
    fraction = cryodrgn.load_pickle(folder / "toy_trans.pkl")
    moved = poses["toy_rot_trans"].table[["shift_x_A", "shift_y_A"]].to_numpy()
    np.testing.assert_allclose(moved, fraction * 30 * 1.0)
    assert not poses["toy_rot_zerotrans"].table[["shift_x_A", "shift_y_A"]].to_numpy().any()
    with pytest.raises(InputError, match=r"shape \(1000, 2\) where rotations"):
        Particles.from_file(stack, poses=folder / "toy_trans.pkl")
    hand = Particles.from_file(folder / "hand.mrcs", poses=folder / "hand_rot_trans.pkl")
    assert hand.rotation.shape == (100, 3, 3)


def test_the_ctf_table_of_empiar_10028(shared):
    name = shared / "empiar-10028" / "ctf.npz"
    columns = cryodrgn.read_ctf(name, 105247, "particles", np.full(105247, 256))
    assert columns["pixel_size_A"][0] == pytest.approx(1.34 * 360 / 256)
    assert columns["defocus_u_A"].min() > 8000
    assert set(columns["spherical_aberration_mm"]) == {2.0}


def test_warptools_flat(shared):
    npz = shared / "warptools-flat" / "warptools_flat_050_076.npz"
    stack = npz.with_suffix(".mrcs")
    particles = Particles.from_file(stack, poses=npz, ctf=npz, ctf_premultiplied=True)
    assert len(particles) == 720
    assert particles.pixel_size_A == 12.0
    assert particles.table["ctf_premultiplied"].all()
    assert particles.table["group"].nunique() == 20
    assert not particles.table[["shift_x_A", "shift_y_A"]].to_numpy().any()
    arrays = np.load(npz)
    np.testing.assert_allclose(particles.table["b_factor_A2"], 16 * arrays["dose"], rtol=1e-6)
    np.testing.assert_allclose(particles.table["ctf_scale"], arrays["scale"], rtol=1e-6)
    np.testing.assert_array_equal(particles.rotation, arrays["rot"])
