import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from drgn.errors import InputError
from drgn.formats import star
from drgn.formats.cryodrgn import load_pickle
from drgn.formats.particles import Particles
from drgn.formats.relion import euler_to_matrix, matrix_to_euler

OPTICS = {
    "rlnOpticsGroup": [1, 2],
    "rlnOpticsGroupName": ["a", "b"],
    "rlnVoltage": [300, 200],
    "rlnSphericalAberration": [2.7, 1.4],
    "rlnAmplitudeContrast": [0.1, 0.07],
    "rlnImagePixelSize": [2.0, 1.5],
    "rlnImageSize": [8, 8],
    "rlnMtfFileName": ["k3.star", "k2.star"],
}
PARTICLES = {
    "rlnImageName": ["000002@s.mrcs", "000001@s.mrcs", "000003@s.mrcs"],
    "rlnOpticsGroup": [2, 1, 2],
    "rlnDefocusU": [15000, 16000, 17000.123456789],
    "rlnDefocusV": [14000, 15000, 16000],
    "rlnDefocusAngle": [10, 20, 30],
    "rlnAngleRot": [10, 0, -50],
    "rlnAngleTilt": [20, 0, 90],
    "rlnAnglePsi": [30, 0, 170],
    "rlnOriginXAngst": [3, 0, -1.5],
    "rlnOriginYAngst": [-4, 0, 0.1],
    "rlnRandomSubset": [1, 2, 1],
    "rlnMicrographName": ["m1.mrc", "m1.mrc", "m2.mrc"],
    "rlnCustomLabel": ["0001", "x", "y"],
}
OLD = {  # the dialect of RELION 3.0
    "rlnImageName": ["000001@s.mrcs", "000002@s.mrcs"],
    "rlnVoltage": [300, 300],
    "rlnSphericalAberration": [2.7, 2.7],
    "rlnAmplitudeContrast": [0.1, 0.1],
    "rlnDefocusU": [15000, 16000],
    "rlnMagnification": [50000, 50000],
    "rlnDetectorPixelSize": [5, 5],
    "rlnOriginX": [2, -1],
    "rlnOriginY": [0.5, 0],
}


def without(columns, *names):
    return {name: values for name, values in columns.items() if name not in names}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("rlnDefocusUU", "rlnDefocusU"),
        ("rlnAngleRto", "rlnAngleRot"),
        ("rlnRandomSubsets", "rlnRandomSubset"),
        ("rlnVoltag", "rlnVoltage"),
    ],
)
def test_a_misspelt_column_is_told(make_star, wrong, right):
    """It would be left out in silence: no CTF, no poses, halves drawn anew."""
    columns = {wrong if name == right else name: values for name, values in PARTICLES.items()}
    optics = {wrong if name == right else name: values for name, values in OPTICS.items()}
    with pytest.raises(InputError, match=f"has the column {wrong} but not {right}; rename it"):
        Particles.from_file(make_star(columns, optics))


def test_names_that_differ_by_an_axis_are_not_misspelt(make_star):
    columns = without(PARTICLES, "rlnOriginXAngst", "rlnOriginYAngst") | {
        "rlnOriginZAngst": [0, 0, 0],
        "rlnCoordinateZ": [1, 2, 3],
        "rlnAngleRotPrior": [0, 0, 0],
    }
    assert not Particles.from_file(make_star(columns, OPTICS)).table["shift_x_A"].any()


def test_golden_euler_angles():
    matrix = euler_to_matrix(np.array([[10.0, 20.0, 30.0]]))[0]
    expected = [
        [0.714610, 0.633718, -0.296198],
        [-0.613092, 0.771281, 0.171010],
        [0.336824, 0.059391, 0.939693],
    ]
    np.testing.assert_allclose(matrix, expected, atol=1e-6)


def test_angles_of_a_matrix_give_the_matrix_back():
    matrix = np.concatenate([Rotation.random(50, rng=np.random.default_rng(0)).as_matrix(), [np.eye(3)]])
    np.testing.assert_allclose(euler_to_matrix(matrix_to_euler(matrix)), matrix, atol=1e-12)


def test_a_real_star_of_relion_3_0_equals_cryodrgns_reading(shared):
    folder = shared / "cryodrgn-tests"
    particles = Particles.from_file(folder / "FinalRefinement-OriginalParticles-PfCRT.star")
    rotation, shift = load_pickle(folder / "pose.star.pkl")
    np.testing.assert_allclose(particles.rotation, rotation, atol=1e-12)
    table = particles.table
    np.testing.assert_allclose(table[["shift_x_A", "shift_y_A"]] / (300 * 1.035), shift, atol=1e-6)
    ctf = load_pickle(folder / "ctf1.pkl")
    columns = ["pixel_size_A", "defocus_u_A", "defocus_v_A", "defocus_angle_deg", "voltage_kV"]
    np.testing.assert_allclose(table[columns].to_numpy(), ctf[:, 1:6], rtol=1e-6)
    np.testing.assert_allclose(table["spherical_aberration_mm"], ctf[:, 6])
    assert table["half_set"].isin([1, 2]).all()
    with pytest.raises(InputError, match="a defocus but not amplitude_contrast"):
        _ = particles.has_ctf
    with pytest.raises(InputError, match="was not found"):
        _ = particles.box_size


def test_a_real_star_of_relion_3_1_in_either_order_of_blocks(shared):
    folder = shared / "cryodrgn-tests"
    first, second = (Particles.from_file(folder / name) for name in ("relion31.star", "relion31.v2.star"))
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.pixel_size_A == 2.806
    assert first.box_size == 256
    assert first.has_ctf
    row = first.table.iloc[0]
    assert (row["defocus_u_A"], row["defocus_v_A"]) == (13108.082418, 12845.582418)
    assert (row["coordinate_x_px"], row["coordinate_y_px"]) == (3277, 983)
    assert row["optics_group"] == "1"


@pytest.mark.parametrize("name", ["D", "E"])
def test_simulated_tilt_images_equal_their_pickles(shared, name):
    folder = shared / "tomodrgn"
    particles = Particles.from_file(folder / f"10076_class{name}_32_sim.star")
    rotation, shift = load_pickle(folder / f"pose_class{name}.pkl")
    np.testing.assert_allclose(particles.rotation, rotation, atol=1e-6)
    np.testing.assert_allclose(particles.table[["shift_x_A", "shift_y_A"]] / (32 * 13.1), shift, atol=1e-6)
    assert particles.table["group"].nunique() == 72
    assert (particles.table["b_factor_A2"] > 0).all()  # written as negative numbers
    assert particles.table["phase_shift_deg"].eq(90).all()


def test_a_real_tilt_series_star_of_warp(shared):
    folder = shared / "cryodrgn-tests"
    particles = Particles.from_file(folder / "sta_testing_bin8.star")
    assert len(particles) == 219
    assert particles.table["group"].nunique() == 6
    assert particles.pixel_size_A == 1.96
    ctf = load_pickle(folder / "sta_ctf.pkl")
    np.testing.assert_allclose(particles.table["defocus_u_A"], ctf[:, 2], rtol=1e-6)
    rotation, _ = load_pickle(folder / "sta_pose.pkl")
    np.testing.assert_allclose(particles.rotation, rotation, atol=1e-4)


def test_other_real_stars(shared):
    old = Particles.from_file(shared / "aspire" / "sample_particles_relion30.star")  # data_model_class_1
    assert len(old) == 17
    assert old.pixel_size_A == pytest.approx(5.0 * 1e4 / 37369.207031)
    assert old.table["shift_x_A"].iloc[0] == pytest.approx(0.1996 * old.pixel_size_A)
    projections = Particles.from_file(shared / "aspire" / "rln_proj_65.star")  # no optics, no pixel size
    assert not projections.has_ctf
    assert projections.box_size == 65
    with pytest.raises(InputError, match="set pixel_size_A=VALUE"):
        _ = projections.pixel_size_A
    both = Particles.from_file(shared / "simplecryoem" / "relion_proj_batch_pfac2.star")
    assert both.table["shift_x_A"].iloc[0] == -11.69620  # of rlnOriginXAngst, not rlnOriginX
    assert both.pixel_size_A == 3.54


def test_optics_are_joined_by_their_group(make_star, make_stack):
    make_stack("s.mrcs", 3)
    table = Particles.from_file(make_star(PARTICLES, OPTICS)).table
    assert table["pixel_size_A"].tolist() == [1.5, 2.0, 1.5]
    assert table["voltage_kV"].tolist() == [200, 300, 200]
    assert table["amplitude_contrast"].tolist() == [0.07, 0.1, 0.07]
    assert table["optics_group"].tolist() == ["2", "1", "2"]
    assert table["phase_shift_deg"].tolist() == [0, 0, 0]  # no such column
    assert table["half_set"].tolist() == [1, 2, 1]
    assert table["group"].tolist() == table["key"].tolist()
    assert table["key"].tolist() == PARTICLES["rlnImageName"]
    assert table["ctf_premultiplied"].tolist() == [False] * 3


def test_premultiplied_images_are_marked_by_their_optics_group(make_star):
    path = make_star(PARTICLES, {**OPTICS, "rlnCtfDataAreCtfPremultiplied": [0, 1]})
    assert Particles.from_file(path).table["ctf_premultiplied"].tolist() == [True, False, True]
    assert not Particles.from_file(path, ctf_premultiplied=False).table["ctf_premultiplied"].any()


@pytest.mark.parametrize("block", ["", "images", "particles", "model_class_1"])
def test_the_old_dialect_under_any_block_name(make_star, block):
    particles = Particles.from_file(make_star(OLD, particle_block=block))
    assert particles.pixel_size_A == 1.0
    assert particles.table["shift_x_A"].tolist() == [2.0, -1.0]
    assert particles.table["defocus_v_A"].tolist() == [15000, 16000]  # as U
    assert particles.table["defocus_angle_deg"].tolist() == [0, 0]
    assert not particles.has_poses


@pytest.mark.parametrize(
    ("columns", "pixel_size_A"),
    [
        (without(OLD, "rlnMagnification"), 5.0),
        (without(OLD, "rlnMagnification", "rlnDetectorPixelSize") | {"rlnPixelSize": [3, 3]}, 3.0),
        (OLD | {"rlnImagePixelSize": [4, 4]}, 4.0),
    ],
)
def test_pixel_sizes_of_the_old_dialect(make_star, columns, pixel_size_A):
    particles = Particles.from_file(make_star(columns))
    assert particles.pixel_size_A == pixel_size_A
    assert particles.table["shift_x_A"].tolist() == [2 * pixel_size_A, -pixel_size_A]


def test_an_optics_block_without_a_loop(tmp_path, make_star):
    path = make_star(without(OLD, "rlnMagnification", "rlnDetectorPixelSize") | {"rlnOpticsGroup": [1, 1]})
    path.write_text("data_optics\n\n_rlnOpticsGroup 1\n_rlnImagePixelSize 2.5\n\n" + path.read_text())
    assert Particles.from_file(path).pixel_size_A == 2.5


def test_group_name_is_the_particle_only_in_a_tilt_series(make_star):
    groups = {"rlnGroupName": ["p1", "p1"]}
    tilt = {"rlnCtfScalefactor": [1.0, 0.9], "rlnCtfBfactor": [-4.0, -8.0]}
    table = Particles.from_file(make_star(OLD | groups | tilt)).table
    assert table["group"].tolist() == ["p1", "p1"]
    assert table["b_factor_A2"].tolist() == [4.0, 8.0]
    for other in (
        tilt | {"rlnCtfScalefactor": [1.0, 1.0]},
        tilt | {"rlnCtfBfactor": [0.0, 0.0]},
        tilt | {"rlnGroupName": ["p1", "p2"]},
    ):
        table = Particles.from_file(make_star(OLD | groups | other)).table
        assert table["group"].tolist() == table["key"].tolist()


def test_a_selection_of_3_1_keeps_every_column_and_block(tmp_path, make_star):
    particles = Particles.from_file(make_star(PARTICLES, OPTICS))
    particles.select(np.array([2, 0])).save(tmp_path / "kept.star")
    before, after = star.read_blocks(tmp_path / "particles.star"), star.read_blocks(tmp_path / "kept.star")
    assert list(after) == ["optics", "particles"]
    pd.testing.assert_frame_equal(after["optics"], before["optics"])
    pd.testing.assert_frame_equal(after["particles"], before["particles"].iloc[[2, 0]].reset_index(drop=True))
    again = Particles.from_file(tmp_path / "kept.star")
    pd.testing.assert_frame_equal(
        again.table.drop(columns="source_row"),
        particles.table.iloc[[2, 0]].reset_index(drop=True).drop(columns="source_row"),
        check_categorical=False,
    )
    np.testing.assert_array_equal(again.rotation, particles.rotation[[2, 0]])


@pytest.mark.parametrize(
    "name",
    [
        "aspire/sample_particles_relion30.star",
        "tomodrgn/10076_both_32_sim.star",
        "cryodrgn-tests/relion31.v2.star",
        "simplecryoem/relion_proj_batch_pfac2.star",
    ],
)
def test_selections_of_real_stars_keep_every_number(tmp_path, shared, name):
    particles = Particles.from_file(shared / name)
    rows = np.arange(len(particles))[::-2]
    particles.select(rows).save(tmp_path / "kept.star")
    before, after = star.read_blocks(shared / name), star.read_blocks(tmp_path / "kept.star")
    assert list(after) == list(before)
    for block, frame in before.items():
        expected = frame if "rlnImageName" not in frame else frame.iloc[rows].reset_index(drop=True)
        pd.testing.assert_frame_equal(after[block], expected)


@pytest.mark.parametrize("name", ["", "_3.1"])
def test_replaced_poses_and_ctf_are_what_is_saved(tmp_path, make_star, make_stack, name):
    make_stack("s.mrcs", 3)
    new = name == "_3.1"
    path = make_star(PARTICLES, OPTICS) if new else make_star(OLD | {"rlnCustomLabel": ["u", "v"]})
    n = 3 if new else 2
    rotation = Rotation.random(n, rng=np.random.default_rng(1)).as_matrix()
    trans = np.random.default_rng(2).uniform(-0.1, 0.1, (n, 2))
    ctf = np.tile([8, 1.25, 9000, 8000, 5, 200, 1.4, 0.2, 90], (n, 1))
    np.savez(tmp_path / "given.npz", rot=rotation, trans=trans, ctf=ctf)
    particles = Particles.from_file(path, poses=tmp_path / "given.npz", ctf=tmp_path / "given.npz")
    np.testing.assert_allclose(particles.table[["shift_x_A", "shift_y_A"]], trans * 8 * 1.25)
    particles.save(tmp_path / "saved.star")
    again = Particles.from_file(tmp_path / "saved.star")
    np.testing.assert_allclose(again.rotation, rotation, atol=1e-9)
    columns = [
        "key",
        "image_path",
        "pixel_size_A",
        "defocus_u_A",
        "phase_shift_deg",
        "voltage_kV",
        "amplitude_contrast",
    ]
    pd.testing.assert_frame_equal(again.table[columns], particles.table[columns], check_categorical=False)
    np.testing.assert_allclose(again.table["shift_x_A"], particles.table["shift_x_A"])
    blocks = star.read_blocks(tmp_path / "saved.star")
    assert "rlnCustomLabel" in blocks["particles"]
    assert "rlnOriginX" not in blocks["particles"]
    if new:
        files = blocks["optics"].set_index("rlnOpticsGroup")["rlnMtfFileName"]
        assert files.loc[blocks["particles"]["rlnOpticsGroup"]].tolist() == ["k2.star", "k3.star", "k2.star"]


def test_a_star_is_written_from_a_cs_and_from_a_tilt_series(tmp_path, shared):
    particles = Particles.from_file(shared / "cryodrgn-tests" / "cryosparc_P12_J24_001_particles.cs")
    particles = particles.select(np.arange(0, 2019, 20))
    particles.save(tmp_path / "p.star")
    again = Particles.from_file(tmp_path / "p.star", data_sign=-1)
    same = [c for c in particles.table if c not in ("key", "source_row", "group", "optics_group")]
    pd.testing.assert_frame_equal(again.table[same], particles.table[same], check_categorical=False)
    np.testing.assert_allclose(again.rotation, particles.rotation, atol=1e-9)
    npz = shared / "warptools-flat" / "warptools_flat_050_076.npz"
    flat = Particles.from_file(npz.with_suffix(".mrcs"), poses=npz, ctf=npz, ctf_premultiplied=True)
    flat.save(tmp_path / "flat.star")
    again = Particles.from_file(tmp_path / "flat.star")
    same = [c for c in flat.table if c not in ("key", "optics_group")]
    pd.testing.assert_frame_equal(again.table[same], flat.table[same], check_categorical=False)


@pytest.mark.skipif(shutil.which("relion_star_handler") is None, reason="RELION is not installed")
def test_relion_reads_what_is_written(tmp_path, shared):
    npz = shared / "warptools-flat" / "warptools_flat_050_076.npz"
    particles = Particles.from_file(npz.with_suffix(".mrcs"), poses=npz, ctf=npz, pixel_size_A=12.0)
    particles.select(np.arange(40)).save(tmp_path / "ours.star")
    subprocess.run(
        ["relion_star_handler", "--i", "ours.star", "--o", "theirs.star", "--combine"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    back = Particles.from_file(tmp_path / "theirs.star")
    np.testing.assert_allclose(back.rotation, particles.rotation[:40], atol=1e-6)
    columns = [
        "pixel_size_A",
        "voltage_kV",
        "defocus_u_A",
        "b_factor_A2",
        "ctf_scale",
        "image_index",
        "box_size_px",
    ]
    np.testing.assert_allclose(back.table[columns], particles.table[columns].iloc[:40], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rlnDefocusU": [15000, "nan"]}, r"particle row 2: rlnDefocusU is nan, where a finite number"),
        ({"rlnDefocusU": [15000, "inf"]}, r"particle row 2: rlnDefocusU is inf"),
        ({"rlnDefocusU": ["abc", 1]}, r"particle row 1: rlnDefocusU is abc"),
        (
            {"rlnImageName": ["000001@s.mrcs", "1@s.mrcs"]},
            r"particle rows 1 and 2 are the same image, 000001@s\.mrcs",
        ),
        ({"rlnImageName": ["0@s.mrcs", "1@s.mrcs"]}, r"particle row 1: rlnImageName is 0@s\.mrcs"),
        ({"rlnImageName": ["1@s.mrcs", "x@s.mrcs"]}, r"particle row 2: rlnImageName is x@s\.mrcs"),
        (
            {"rlnImageName": ["1@s.mrcs", "9@s.mrcs"]},
            r"particle row 2: image 9 is asked for, but the stack .* has 3",
        ),
        ({"rlnMagnification": [0, 1]}, r"particle row 1: rlnMagnification is 0\.0"),
        ({"rlnVoltage": [300, -1]}, "particle row 2: voltage_kV is -1.0, but it must be positive"),
    ],
)
def test_values_that_cannot_be_used(make_star, make_stack, change, sentence):
    make_stack("s.mrcs", 3)
    with pytest.raises(InputError, match=rf"particles\.star.*{sentence}"):
        Particles.from_file(make_star(OLD | change))


def test_optics_that_cannot_be_used(make_star):
    with pytest.raises(InputError, match="particle row 3: optics group 7 is not in the block data_optics"):
        Particles.from_file(make_star(PARTICLES | {"rlnOpticsGroup": [2, 1, 7]}, OPTICS))
    with pytest.raises(InputError, match="2 optics groups, but its particles have no column"):
        Particles.from_file(make_star(without(PARTICLES, "rlnOpticsGroup"), OPTICS))
    with pytest.raises(InputError, match="optics row 2: rlnVoltage is nan"):
        Particles.from_file(make_star(PARTICLES, OPTICS | {"rlnVoltage": [300, "nan"]}))
    with pytest.raises(InputError, match="unique numbers"):
        Particles.from_file(make_star(PARTICLES, OPTICS | {"rlnOpticsGroup": [1, 1]}))


def test_a_star_of_something_else(make_star, tmp_path):
    path = make_star({"rlnMicrographName": ["a", "b"]}, particle_block="micrographs")
    with pytest.raises(InputError, match="holds data_micrographs, but no block with the column rlnImageName"):
        Particles.from_file(path)
    with pytest.raises(InputError, match="does not exist"):
        Particles.from_file(tmp_path / "absent.star")
    with pytest.raises(InputError, match="has no particles"):
        Particles.from_file(make_star({"rlnImageName": []}))


@pytest.mark.parametrize("rows", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("extra", [True, False])
def test_an_incomplete_row_is_named_by_its_line(make_star, rows, extra):
    path = make_star(PARTICLES, OPTICS)
    lines = path.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("000002@"))
    for row in rows:
        line = lines[first + row]
        lines[first + row] = line + " 1.0" if extra else line.rsplit(" ", 1)[0]
    path.write_text("\n".join(lines) + "\n")
    values = 14 if extra else 12
    line = first + rows[0] + 1
    with pytest.raises(InputError, match=rf"line {line}: {values} values where block data_particles has 13"):
        Particles.from_file(path)


def test_quoted_names_may_hold_blanks(make_star, make_stack):
    images = make_stack("my stack.mrcs", 2)
    path = make_star(OLD | {"rlnImageName": ['"1@my stack.mrcs"', '"2@my stack.mrcs"']})
    particles = Particles.from_file(path)
    np.testing.assert_array_equal(particles.image_reader()(np.arange(2)), images)
    other = path.with_name("other.star")
    particles.save(other)
    assert Particles.from_file(other).table["key"].tolist() == [
        "000001@my stack.mrcs",
        "000002@my stack.mrcs",
    ]
