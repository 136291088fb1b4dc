import numpy as np
import pytest

from drgn.errors import InputError
from drgn.formats.cryodrgn import load_pickle
from drgn.formats.cryosparc import rotvec_to_matrix
from drgn.formats.particles import Particles, read_images

FIELDS = [
    ("uid", "u8"),
    ("blob/path", "S40"),
    ("blob/idx", "u4"),
    ("blob/shape", "u4", (2,)),
    ("blob/psize_A", "f4"),
    ("blob/sign", "f4"),
    ("alignments3D/shift", "f4", (2,)),
    ("alignments3D/pose", "f4", (3,)),
    ("alignments3D/psize_A", "f4"),
    ("alignments3D/split", "u4"),
    ("location/micrograph_path", "S40"),
    ("location/micrograph_shape", "u4", (2,)),
    ("location/center_x_frac", "f4"),
    ("location/center_y_frac", "f4"),
    ("ctf/bfactor", "f4"),
    ("ctf/df_angle_rad", "f4"),
    ("ctf/phase_shift_rad", "f4"),
]


@pytest.fixture
def records():
    records = np.zeros(4, dtype=FIELDS)
    records["uid"] = [7, 2**63 + 5, 9, 1]
    records["blob/path"] = b">J1/extract/a.mrc"
    records["blob/idx"] = [3, 1, 0, 2]
    records["blob/shape"] = 8
    records["blob/psize_A"] = 1.5
    records["blob/sign"] = -1
    records["alignments3D/psize_A"] = 3.0
    records["alignments3D/shift"] = [[2, -1], [0, 0], [1, 0], [0, 1]]
    records["alignments3D/split"] = [0, 1, 0, 1]
    records["location/micrograph_path"] = b">J1/m.mrc"
    records["location/micrograph_shape"] = (3000, 4000)
    records["location/center_x_frac"] = 0.25
    records["location/center_y_frac"] = 0.5
    records["ctf/bfactor"] = 20
    records["ctf/df_angle_rad"] = np.pi / 2
    records["ctf/phase_shift_rad"] = np.pi
    return records


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


def test_a_cs_whose_poses_were_replaced_is_not_written_as_if_they_were_not(tmp_path, records, make_stack):
    make_stack("J1/extract/a.mrc", 4)
    np.savez(tmp_path / "poses.npz", rot=np.tile(np.eye(3), (4, 1, 1)))
    particles = Particles.from_file(save(tmp_path / "p.cs", records), poses=tmp_path / "poses.npz")
    with pytest.raises(InputError, match=r"save a \.star"):
        particles.save(tmp_path / "q.cs")
    with pytest.raises(InputError, match=r"can be written only from a \.cs"):
        Particles.from_file(tmp_path / "J1/extract/a.mrc").save(tmp_path / "q.cs")


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
    with pytest.raises(InputError, match="cannot be read as a cryoSPARC"):
        Particles.from_file(save(tmp_path / "p.cs", np.array([{}], dtype=object)))
    with pytest.raises(InputError, match="has no particles"):
        Particles.from_file(save(tmp_path / "p.cs", records[:0]))
