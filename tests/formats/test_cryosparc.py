import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drgn.errors import InputError
from drgn.formats.cryodrgn import load_pickle
from drgn.formats.cryosparc import rotvec_to_matrix
from drgn.formats.particles import Particles, read_images
from drgn.physics.rotations import random_rotations


def save(path, records):
    with open(path, "wb") as file:
        np.save(file, records)
    return path


def test_golden_rodrigues_vector():
    matrix = rotvec_to_matrix(np.array([[0.1, 0.2, 0.3], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(matrix[0, 0], [0.935755, 0.302933, -0.180540], atol=1e-6)
    np.testing.assert_array_equal(matrix[1], np.eye(3))  # no division by the angle


def test_a_real_refinement_equals_cryodrgns_reading_without_its_images(shared):
    folder = shared / "cryodrgn-tests"
    particles = Particles.from_file(folder / "cryosparc_P12_J24_001_particles.cs")
    rotation, shift = load_pickle(folder / "pose.cs.pkl")
    np.testing.assert_allclose(particles.rotation, rotation, atol=1e-6)
    table = particles.table
    np.testing.assert_allclose(table[["shift_x_A", "shift_y_A"]] / (180 * 2.95), shift, atol=1e-6)
    ctf = load_pickle(folder / "ctf2.pkl")
    columns = ["box_size_px", "pixel_size_A", "defocus_u_A", "defocus_v_A", "defocus_angle_deg", "voltage_kV"]
    columns += ["spherical_aberration_mm", "amplitude_contrast", "phase_shift_deg"]
    np.testing.assert_allclose(table[columns].to_numpy(), ctf, rtol=1e-6, atol=1e-5)
    assert len(particles) == 2019
    assert particles.box_size == 180
    assert particles.has_ctf
    assert set(table["data_sign"]) == {-1.0}
    assert set(table["half_set"]) == {1, 2}
    assert table["key"].iloc[0] == "15494748553812943456"
    with pytest.raises(InputError, match=r"particle row 1: the image stack J19/extract/.* was not found"):
        particles.require_images()


def test_shifts_are_in_pixels_of_the_alignment(tmp_path, records):
    particles = Particles.from_file(save(tmp_path / "p.cs", records))
    assert particles.table["shift_x_A"].tolist() == [6.0, 0.0, 3.0, 0.0]
    kept = [name for name in records.dtype.names if name != "alignments3D/psize_A"]
    particles = Particles.from_file(save(tmp_path / "q.cs", records[kept].copy()))
    assert particles.table["shift_x_A"].tolist() == [3.0, 0.0, 1.5, 0.0]


def test_fields_of_the_table(tmp_path, records, make_stack):
    images = make_stack("J1/extract/a.mrc", 4, pixel_size_A=1.5)
    particles = Particles.from_file(save(tmp_path / "p.cs", records))
    table = particles.table
    assert table["key"].tolist() == ["7", "9223372036854775813", "9", "1"]
    assert table["half_set"].tolist() == [1, 2, 1, 2]
    assert set(table["micrograph"]) == {"J1/m.mrc"}
    assert set(table["coordinate_x_px"]) == {1000.0}
    assert set(table["coordinate_y_px"]) == {1500.0}
    assert set(table["b_factor_A2"]) == {20.0}
    np.testing.assert_allclose(table["defocus_angle_deg"], 90, rtol=1e-6)
    np.testing.assert_allclose(table["phase_shift_deg"], 180, rtol=1e-6)
    assert set(table["image_path"]) == {str(tmp_path / "J1/extract/a.mrc")}
    np.testing.assert_array_equal(read_images(particles, np.arange(4)), images[[3, 1, 0, 2]])


def test_a_selection_keeps_fields_and_types(tmp_path, records):
    particles = Particles.from_file(save(tmp_path / "p.cs", records))
    particles.select(np.array([2, 1])).save(tmp_path / "kept.cs")
    kept = np.load(tmp_path / "kept.cs")
    assert kept.dtype == records.dtype
    np.testing.assert_array_equal(kept, records[[2, 1]])
    again = Particles.from_file(tmp_path / "kept.cs")
    assert again.table["key"].tolist() == ["9", "9223372036854775813"]


def test_a_cs_whose_ctf_was_replaced_is_not_written_as_if_it_was_not(tmp_path, records, make_stack):
    make_stack("J1/extract/a.mrc", 4)
    particles = Particles.from_file(save(tmp_path / "p.cs", records), pixel_size_A=2)
    with pytest.raises(InputError, match=r"save a \.star"):
        particles.save(tmp_path / "q.cs")
    with pytest.raises(InputError, match=r"save a \.star"):
        posed(particles).save(tmp_path / "q.cs")
    with pytest.raises(InputError, match=r"can be written only from a \.cs"):
        Particles.from_file(tmp_path / "J1/extract/a.mrc").save(tmp_path / "q.cs")


def posed(particles):
    """The particles with drawn poses."""
    n = len(particles)
    table = particles.table.assign(shift_x_A=np.linspace(-9, 7, n), shift_y_A=np.linspace(4, -5, n))
    rotation = random_rotations(n, torch.Generator().manual_seed(0)).numpy()
    return particles.posed_as(replace(particles, table=table, rotation=rotation), np.arange(n))


def same_poses(written, read):
    np.testing.assert_allclose(read.rotation, written.rotation, atol=1e-6)
    shifts = ["shift_x_A", "shift_y_A"]
    np.testing.assert_allclose(read.table[shifts], written.table[shifts], rtol=1e-5, atol=1e-5)
    pd.testing.assert_frame_equal(read.table.drop(columns=shifts), written.table.drop(columns=shifts))


def test_given_poses_are_written_into_a_real_refinement(shared, tmp_path):
    path = shared / "cryodrgn-tests" / "cryosparc_P12_J24_001_particles.cs"
    particles = posed(Particles.from_file(path))
    particles.save(tmp_path / "q.cs")
    before, after = np.load(path), np.load(tmp_path / "q.cs")
    assert after.dtype == before.dtype
    for name in set(before.dtype.names) - {"alignments3D/pose", "alignments3D/shift"}:
        np.testing.assert_array_equal(after[name], before[name])
    for file in ("q.cs", "q.csg"):
        same_poses(particles, Particles.from_file(tmp_path / file))
    some = particles.select(np.array([5, 2]))
    some.save(tmp_path / "some.cs")
    np.testing.assert_allclose(Particles.from_file(tmp_path / "some.cs").rotation, some.rotation, atol=1e-6)


def test_given_poses_are_read_before_those_of_classes_or_of_a_passthrough(tmp_path, records):
    several = classes(records, POSTERIOR)
    particles = posed(Particles.from_file(save(tmp_path / "p.cs", several)))
    particles.save(tmp_path / "q.cs")
    same_poses(particles, Particles.from_file(tmp_path / "q.cs"))
    own = without(records, "alignments3D")
    aligned = [name for name in records.dtype.names if name.startswith("alignments3D")]
    save(tmp_path / "J1_passthrough_particles.cs", records[["uid", *aligned]])
    particles = posed(Particles.from_file(save(tmp_path / "J1_particles.cs", own)))
    particles.save(tmp_path / "r.cs")
    assert set(aligned) <= set(np.load(tmp_path / "r.cs").dtype.names)
    for file in ("r.cs", "r.csg"):
        same_poses(particles, Particles.from_file(tmp_path / file))


def test_what_cannot_be_used(tmp_path, records):
    bad = records.copy()
    bad["alignments3D/shift"][2] = np.nan
    with pytest.raises(InputError, match=r"p\.cs, particle row 3: alignments3D/shift is nan"):
        Particles.from_file(save(tmp_path / "p.cs", bad))
    bad = records.copy()
    bad["uid"][3] = 7
    with pytest.raises(InputError, match=r"particle rows 1 and 4 are the same image, 7"):
        Particles.from_file(save(tmp_path / "p.cs", bad))
    with pytest.raises(InputError, match="not its passthrough"):
        Particles.from_file(save(tmp_path / "p.cs", records[["uid", "ctf/bfactor"]].copy()))
    with pytest.raises(InputError, match="holds no list of records"):
        Particles.from_file(save(tmp_path / "p.cs", np.array([{}], dtype=object)))
    texts = np.zeros(2, dtype=[("uid", "u8"), ("blob/path", object), ("blob/idx", "u4")])
    with pytest.raises(InputError, match="holds Python objects and was not loaded"):
        Particles.from_file(save(tmp_path / "p.cs", texts))
    with pytest.raises(InputError, match="has no particles"):
        Particles.from_file(save(tmp_path / "p.cs", records[:0]))


def with_fields(records, added):
    """The records with fields {name: values} added, of float32 where the values are floats."""
    arrays = {name: np.asarray(values) for name, values in added.items()}
    arrays = {
        name: array.astype("f4") if array.dtype.kind == "f" else array for name, array in arrays.items()
    }
    extra = [(name, array.dtype, array.shape[1:]) for name, array in arrays.items()]
    result = np.zeros(len(records), dtype=[*records.dtype.descr, *extra])
    for name in records.dtype.names:
        result[name] = records[name]
    for name, array in arrays.items():
        result[name] = array
    return result


def without(records, prefix):
    return records[[name for name in records.dtype.names if not name.startswith(prefix)]].copy()


def classes(records, posterior, stem="alignments_class_"):
    """The records with poses of the K classes of `posterior` (N, K), each turned and moved by its number."""
    fields = {}
    for k in range(posterior.shape[1]):
        fields[f"{stem}{k}/pose"] = np.full((4, 3), 0.1 * (k + 1))
        fields[f"{stem}{k}/shift"] = np.full((4, 2), k + 1.0)
        fields[f"{stem}{k}/psize_A"] = np.full(4, 2.0 + k)
        fields[f"{stem}{k}/class_posterior"] = posterior[:, k]
    return with_fields(without(records, "alignments3D"), fields)


POSTERIOR = np.array([[0.7, 0.3, 0], [0.1, 0.8, 0.1], [0, 0.2, 0.8], [0.5, 0.5, 0]])
BEST = np.array([0, 1, 2, 0])


@pytest.mark.parametrize("stem", ["alignments_class_", "alignments_class3D_"])
def test_of_several_classes_the_likeliest_gives_pose_shift_and_pixel(tmp_path, records, stem):
    particles = Particles.from_file(save(tmp_path / "p.cs", classes(records, POSTERIOR, stem)))
    pose = 0.1 * (BEST + 1)[:, None] * np.ones(3)
    np.testing.assert_allclose(particles.rotation, rotvec_to_matrix(pose), atol=1e-6)
    np.testing.assert_allclose(particles.table["shift_x_A"], (BEST + 1) * (BEST + 2))


def test_a_pose_of_another_class_may_be_missing(tmp_path, records):
    several = classes(records, POSTERIOR)
    several["alignments_class_1/pose"][0] = np.nan
    assert np.isfinite(Particles.from_file(save(tmp_path / "p.cs", several)).rotation).all()
    several["alignments_class_0/pose"][0] = np.nan
    with pytest.raises(InputError, match="particle row 1: pose of the best class is nan"):
        Particles.from_file(save(tmp_path / "p.cs", several))


def test_classes_without_posteriors_are_refused_but_one_class_needs_none(tmp_path, records):
    fields = without(classes(records, POSTERIOR), "alignments_class_2/class_posterior")
    with pytest.raises(InputError, match="poses of 3 classes but 2 fields class_posterior"):
        Particles.from_file(save(tmp_path / "p.cs", fields))
    abinitio = without(classes(records, POSTERIOR[:, :1]), "alignments_class_0/class_posterior")
    particles = Particles.from_file(save(tmp_path / "p.cs", abinitio))
    assert set(particles.table["shift_x_A"]) == {2.0}  # one pixel of 2 A


@pytest.mark.parametrize("size", [np.array([3.0, 3, 3, 3]), np.tile([3.0, 4.0, 5.0], (4, 1))])
def test_classes_as_columns(tmp_path, records, size):
    number = np.arange(1.0, 4)
    fields = {
        "alignments3D_multi/pose": np.tile(0.1 * number[:, None] * np.ones(3), (4, 1, 1)),
        "alignments3D_multi/shift": np.tile(number[:, None] * np.ones(2), (4, 1, 1)),
        "alignments3D_multi/class_posterior": POSTERIOR,
        "alignments3D_multi/psize_A": size,
    }
    several = with_fields(without(records, "alignments3D"), fields)
    particles = Particles.from_file(save(tmp_path / "p.cs", several))
    pose = 0.1 * (BEST + 1)[:, None] * np.ones(3)
    np.testing.assert_allclose(particles.rotation, rotvec_to_matrix(pose), atol=1e-6)
    expected = size if size.ndim == 1 else size[np.arange(4), BEST]
    np.testing.assert_allclose(particles.table["shift_y_A"], (BEST + 1) * expected)
    with pytest.raises(InputError, match="no alignments3D_multi/class_posterior"):
        Particles.from_file(save(tmp_path / "p.cs", without(several, "alignments3D_multi/class_posterior")))


def test_a_selection_of_one_half_keeps_its_half_set(tmp_path, records):
    def half_sets(split):
        records["alignments3D/split"] = split
        return Particles.from_file(save(tmp_path / "p.cs", records)).table["half_set"].tolist()

    assert half_sets([1, 1, 1, 1]) == [2, 2, 2, 2]
    assert half_sets([0, 0, 0, 0]) == [0, 0, 0, 0]  # the same as unset
    assert half_sets([0, 1, 0, 2]) == [0, 0, 0, 0]


def test_signs_boxes_and_pixels_may_differ_between_particles(tmp_path, records):
    records["blob/sign"] = [1, -1, 1, -1]
    records["blob/shape"][:2] = 16
    records["blob/psize_A"][:2] = 0.75
    table = Particles.from_file(save(tmp_path / "p.cs", records)).table
    assert table["data_sign"].tolist() == [1, -1, 1, -1]
    assert table["box_size_px"].tolist() == [16, 16, 8, 8]
    assert table["pixel_size_A"].tolist() == [0.75, 0.75, 1.5, 1.5]
    assert table["shift_x_A"].tolist() == [6.0, 0.0, 3.0, 0.0]  # of the alignment's pixel all the same


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("width", "48")
def test_texts_of_any_kind_and_numbers_of_any_width(tmp_path, records, order, width):
    dtype = []
    for name in records.dtype.names:
        field = records.dtype[name]
        if field.kind == "S":
            dtype.append((name, f"{order}U60"))
        elif field.base.kind == "f":
            dtype.append((name, f"{order}f{width}", field.shape))
        else:
            dtype.append((name, field.newbyteorder(order)))
    other = Particles.from_file(save(tmp_path / "q.cs", records.astype(dtype)))
    one = Particles.from_file(save(tmp_path / "p.cs", records))
    columns = [name for name in one.table if one.table[name].dtype.kind == "f"]
    np.testing.assert_allclose(other.table[columns], one.table[columns])
    for name in ("key", "image_path", "micrograph"):
        assert other.table[name].tolist() == one.table[name].tolist()


def test_a_header_of_many_classes_is_longer_than_numpy_reads_by_itself(tmp_path, records):
    several = classes(records, np.tile(np.eye(1, 60), (4, 1)))
    path = save(tmp_path / "p.cs", several)
    with pytest.raises(ValueError, match="Header"):
        np.load(path)
    np.testing.assert_allclose(Particles.from_file(path).table["shift_x_A"], 2.0)


@pytest.mark.parametrize(
    ("field", "values", "sentence"),
    [
        ("blob/shape", np.tile([8, 6], (4, 1)), r"row 1: blob/shape is \[8, 6\], where square"),
        ("blob/idx", np.array([0, -1, 2, 3]), "row 2: blob/idx is negative"),
        ("blob/idx", np.zeros(4), "blob/idx as float32, where whole numbers"),
        ("blob/path", np.zeros(4), "blob/path as float32, where text"),
        ("blob/path", np.array([b"\xff"] * 4), "blob/path that cannot be read as text"),
        ("alignments3D/pose", np.zeros((4, 2)), "alignments3D/pose as .*, where 3 numbers a particle"),
        ("alignments3D/psize_A", np.array([1.0, 0, 1, 1]), "row 2: alignments3D/psize_A is 0"),
        ("blob/sign", np.array([b"dark"] * 4), "blob/sign as .*, where one number a particle"),
        ("blob/sign", np.array([1.0, 0, 1, 1]), r"data_sign is \[1.0, 0.0\]"),
    ],
)
def test_a_field_of_another_form_is_a_sentence(tmp_path, records, field, values, sentence):
    bad = with_fields(
        records[[name for name in records.dtype.names if name != field]].copy(), {field: values}
    )
    with pytest.raises(InputError, match=sentence):
        Particles.from_file(save(tmp_path / "p.cs", bad))


def header(text):
    content = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        header("{'descr': [('uid', '<u8')], 'fortran_order': False, 'shape': (10**15,)}\n"),
        header("{'descr': [('uid', '<u8')], 'fortran_order': False, 'shape': (1000000000000000,)}\n")
        + b"x" * 99,
        header("{'descr': [('uid', '<u8')], 'fortran_order': False, 'shape': (-1,)}\n"),
        header("{'descr': [('uid', '<u8')], 'fortran_order': False, 'shape': (99999999999999999999999,)}\n"),
        header("{'descr': [('uid', 'S999999999')], 'fortran_order': False, 'shape': (1,)}\n"),
        header("{'descr': [('uid', 'V0')], 'fortran_order': False, 'shape': (1,)}\n"),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': ()}\n") + b"x" * 8,
        header("(" * 9000 + "\n"),
        header("-" * 9000 + "1\n"),
    ],
)
def test_a_header_is_not_believed(tmp_path, content):
    (tmp_path / "p.cs").write_bytes(content)
    with pytest.raises(InputError, match=r"p\.cs"):
        Particles.from_file(tmp_path / "p.cs")


def test_the_compressed_form_is_named(tmp_path):
    (tmp_path / "p.cs").write_bytes(b"\x95CSDAT\x00\x00\x00\x00")
    with pytest.raises(InputError, match=r"compressed form; write it as a plain \.cs with cryosparc-tools"):
        Particles.from_file(tmp_path / "p.cs")


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_bytes_are_an_input_error_or_a_table(tmp_path, records, data):
    content = bytearray(save(tmp_path / "good.cs", records).read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        content[place : place + 1] = data.draw(st.binary(max_size=3))
    (tmp_path / "bad.cs").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a float that overflows
        try:
            particles = Particles.from_file(tmp_path / "bad.cs")
        except InputError:
            return
    assert len(particles) == 4
