"""Every file of ../shared/data is read into numbers that are checked, or refused with a sentence held here.

The numbers come from data/README.md, from another file of the folder, or from a reader that is not ours:
mrcfile, np.load, and the few lines of `star_columns`.
"""

import re
from functools import partial
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from drgn.errors import InputError
from drgn.formats import cryodrgn
from drgn.formats.cryodrgn import load_pickle, read_ctf, read_poses
from drgn.formats.mrc import StackReader, read_volume
from drgn.formats.mrc_header import read_header
from drgn.formats.particles import Particles, read_images
from drgn.formats.reading import read_indices

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:mrcfile")  # about empty machine stamps

CTF_COLUMNS = {
    "defocus_u_A": "rlnDefocusU",
    "defocus_v_A": "rlnDefocusV",
    "defocus_angle_deg": "rlnDefocusAngle",
    "voltage_kV": "rlnVoltage",
    "spherical_aberration_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
    "phase_shift_deg": "rlnPhaseShift",
}


def star_columns(path):
    """Return the columns of a star file as texts, (N,); those of the optics block, of one row, are (1,)."""
    blocks = []
    for line in path.read_text().splitlines():
        words = line.split()
        if line.startswith("data_"):
            blocks.append(([], []))
        elif line.startswith("_"):
            blocks[-1][0].append(words[0][1:])
        elif words and not line.startswith(("#", "loop_")):
            blocks[-1][1].append(words)
    merged = {}
    for names, rows in sorted(blocks, key=lambda block: "rlnImageName" in block[0]):
        assert len(rows) == 1 or "rlnImageName" in names
        merged |= {name: np.array([row[i] for row in rows]) for i, name in enumerate(names)}
    return merged


def relion_matrix(rot, tilt, psi):
    """Return RELION's Euler_angles2matrix, written out as in its source of 1998."""
    (ca, cb, cg), (sa, sb, sg) = (f(np.radians([rot, tilt, psi])) for f in (np.cos, np.sin))
    cc, cs, sc, ss = cb * ca, cb * sa, sb * ca, sb * sa
    rows = [
        [cg * cc - sg * sa, cg * cs + sg * ca, -cg * sb],
        [-sg * cc - cg * sa, -sg * cs + cg * ca, sg * sb],
        [sc, ss, cb],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def check_volume(path, shape, pixel_size_A):
    volume, size_A = read_volume(path)
    assert volume.shape == shape
    assert_array_equal(size_A, pixel_size_A)
    header = read_header(path)
    with mrcfile.open(path, permissive=True) as other:
        order = [header.axes.index(axis) for axis in (3, 2, 1)]  # of x, y, z among columns, rows, sections
        assert_array_equal(volume, other.data.transpose(2 - np.array(order)))


def check_point_mass(path):
    check_volume(path, (64, 64, 64), np.nan)
    assert np.argwhere(read_volume(path)[0]).tolist() == [[32, 32, 49]]


def check_stack(path, n, box, pixel_size_A):
    images = StackReader(path).read(np.arange(n))
    with mrcfile.mmap(path, permissive=True) as other:
        assert_array_equal(images, other.data)
    assert images.shape == (n, box, box)
    particles = Particles.from_file(path)
    assert (len(particles), particles.box_size) == (n, box)
    assert_array_equal(particles.table["pixel_size_A"], pixel_size_A)
    assert_array_equal(particles.table["image_index"], np.arange(n))
    assert not particles.has_poses
    assert not particles.has_ctf


def check_star(path, n, box, pixel_size_A, groups=None):
    """Compare a star file with its own text; `box` is 0 where its stack is not in the folder."""
    particles = Particles.from_file(path)
    table, columns = particles.table, star_columns(path)
    assert len(table) == n == len(columns["rlnImageName"])
    numbers, stacks = np.char.partition(columns["rlnImageName"], "@")[:, [0, 2]].T
    assert_array_equal(table["image_index"], numbers.astype(int) - 1)
    if box:
        assert particles.box_size == box
        assert [Path(p).name for p in table["image_path"]] == [Path(s).name for s in stacks]
        images = read_images(particles, np.array([n - 1, 0]))
        with mrcfile.mmap(table["image_path"].iloc[-1], permissive=True) as other:
            assert_array_equal(images[0], other.data[int(numbers[-1]) - 1])
    else:
        with pytest.raises(InputError, match=f"row 1: the image stack {stacks[0]} was not found"):
            particles.require_images()
    assert_allclose(table["pixel_size_A"], pixel_size_A, rtol=1e-6)
    for ours, theirs in CTF_COLUMNS.items():
        if theirs in columns:
            assert_allclose(table[ours], np.broadcast_to(columns[theirs].astype(float), n), err_msg=theirs)
    assert particles.has_ctf == ("rlnDefocusU" in columns and "rlnAmplitudeContrast" in columns)
    assert particles.has_poses == ("rlnAngleRot" in columns)
    if particles.has_poses:
        angles = [columns[f"rlnAngle{angle}"].astype(float) for angle in ("Rot", "Tilt", "Psi")]
        assert_allclose(particles.rotation, relion_matrix(*angles), atol=1e-12)
    for ours, theirs in (("shift_x_A", "rlnOriginX"), ("shift_y_A", "rlnOriginY")):
        in_px = columns.get(theirs, np.zeros(n)).astype(float)
        in_A = (
            columns[theirs + "Angst"].astype(float) if theirs + "Angst" in columns else in_px * pixel_size_A
        )
        assert_allclose(table[ours], in_A, rtol=1e-6)
    assert table["group"].nunique() == (groups or n)


def check_star_without_amplitude_contrast(path):
    with pytest.raises(InputError, match="gives a defocus but not amplitude_contrast"):
        _ = Particles.from_file(path).has_ctf
    particles = Particles.from_file(path, ctf=path.with_name("ctf1.pkl"))
    assert (len(particles), particles.has_ctf, particles.has_poses) == (5, True, True)
    assert particles.pixel_size_A == pytest.approx(1.035)
    columns = star_columns(path)
    angles = [columns[f"rlnAngle{angle}"].astype(float) for angle in ("Rot", "Tilt", "Psi")]
    assert_allclose(particles.rotation, relion_matrix(*angles), atol=1e-12)
    assert_allclose(particles.table["defocus_u_A"], columns["rlnDefocusU"].astype(float), rtol=1e-6)
    with pytest.raises(InputError, match=r"stack Extract/job012/FinalRefinement-.*\.mrcs was not found"):
        particles.require_images()


def check_two_orders_of_blocks(path):
    tables = [Particles.from_file(path.with_name(name)) for name in ("relion31.star", "relion31.v2.star")]
    columns = [name for name in tables[0].table if name != "key"]
    assert tables[0].table[columns].equals(tables[1].table[columns])
    assert_array_equal(tables[0].rotation, tables[1].rotation)


def check_cs(path):
    records = np.load(path)
    particles = Particles.from_file(path)
    table = particles.table
    assert len(particles) == 2019
    assert (particles.pixel_size_A, particles.has_poses, particles.has_ctf) == (
        pytest.approx(2.95),
        True,
        True,
    )
    assert_array_equal(table["key"], records["uid"].astype(str))
    assert_array_equal(table["image_index"], records["blob/idx"])
    assert_array_equal(table["defocus_u_A"], records["ctf/df1_A"])
    assert_allclose(table["defocus_angle_deg"], np.degrees(records["ctf/df_angle_rad"]), rtol=1e-6)
    assert set(table["voltage_kV"]) == {200.0}
    assert set(table["box_size_px"]) == {180}
    shift_A = records["alignments3D/shift"] * records["alignments3D/psize_A"][:, None]
    assert_allclose(table[["shift_x_A", "shift_y_A"]], shift_A, rtol=1e-6)
    rotation, shift = load_pickle(path.with_name("pose.cs.pkl"))
    assert_allclose(particles.rotation, rotation, atol=1e-6)
    assert_allclose(table[["shift_x_A", "shift_y_A"]], shift * 180 * 2.95, rtol=1e-5)
    with pytest.raises(InputError, match=r"row 1: the image stack .*mrc was not found"):
        particles.require_images()


def check_poses(path, star=None, n=None, against=None):
    """Compare poses with those of a star file, or with arrays read otherwise."""
    if star is not None:
        particles = Particles.from_file(path.with_name(star))
        rotation, shift = read_poses(path, len(particles), star)
        assert_allclose(rotation, particles.rotation, atol=1e-6)
        columns = star_columns(path.with_name(star))
        shift_px = [columns.get(f"rlnOrigin{axis}", np.zeros(len(particles))).astype(float) for axis in "XY"]
        box = 300 if "PfCRT" in star else particles.box_size
        # the star of sta_pose.pkl gives no shifts, and cryoDRGN wrote what lay in memory
        assert_allclose(
            shift, np.stack(shift_px, 1) / box, atol=2e-3 if path.name == "sta_pose.pkl" else 1e-7
        )
    else:
        rotation, shift = read_poses(path, n, "the stack")
        for ours, theirs in zip((rotation, shift), against(path.parent), strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert_array_equal(ours, theirs)
    assert_allclose(
        rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (len(rotation), 1, 1)), atol=1e-5
    )
    with pytest.raises(InputError, match=f"{path.name} has {len(rotation)} poses, but x has 7 particles"):
        read_poses(path, 7, "x")


def check_ctf(path, particles, box, pixel_size_A):
    """Compare a CTF table with the columns of the particle file that it was made from."""
    table = Particles.from_file(path.with_name(particles)).table
    ctf = read_ctf(path, len(table), particles, np.full(len(table), box))
    assert_allclose(ctf["pixel_size_A"], pixel_size_A, rtol=1e-6)
    for column in CTF_COLUMNS:
        if table[column].notna().all():
            assert_allclose(ctf[column], table[column], rtol=1e-5, atol=1e-4, err_msg=column)


def check_toy_ctf(path):
    particles = Particles.from_file(path.with_name("toy_projections.mrcs"), ctf=path)
    assert (len(particles), particles.pixel_size_A, particles.has_ctf) == (1000, 1.0, True)
    star = Particles.from_file(path.with_name("toy.star")).table
    for column in CTF_COLUMNS:
        assert_allclose(particles.table[column], star[column], rtol=1e-6)


def check_indices(path, expected):
    rows = read_indices(path, 105247, "the stack")
    assert_array_equal(rows, expected(path.parent))


def check_labels(path):
    labels = load_pickle(path)
    assert_array_equal(labels, np.repeat([0.0, 1.0], 72))
    with pytest.raises(InputError, match="selects 142 rows of the stack more than once"):
        read_indices(path, 144, "the stack")


def check_shifts_alone(path):
    shift = load_pickle(path)
    assert shift.shape == (1000, 2)
    with pytest.raises(InputError, match=r"shape \(1000, 2\) where rotations \(N, 3, 3\) are expected"):
        read_poses(path, 1000, "the stack")


def check_list(path):
    particles = Particles.from_file(path)
    assert set(particles.table["image_path"]) == {str(path.with_name("toy_projections.mrcs"))}
    assert (len(particles), particles.box_size) == (1000, 30)


def check_empiar_ctf(path):
    with np.load(path) as arrays:
        values, names = arrays["ctf"], arrays["columns"]
    assert values.shape == (105247, 9)
    ctf = read_ctf(path, 105247, "the stack", np.zeros(105247, dtype=int))
    assert len(names) == 9
    assert_array_equal(ctf["defocus_u_A"], values[:, 2])
    assert (round(ctf["defocus_u_A"].min(), -2), round(ctf["defocus_u_A"].max(), -2)) == (8100, 38500)
    assert len(np.unique(values, axis=0)) == 1081
    for column, value in [
        ("voltage_kV", 300),
        ("spherical_aberration_mm", 2.0),
        ("amplitude_contrast", 0.1),
        ("pixel_size_A", 1.34),
    ]:
        assert_allclose(ctf[column], value, rtol=1e-6)


def check_warptools(path):
    stack = path.with_suffix(".mrcs")
    particles = Particles.from_file(stack, poses=path, ctf=path)
    with np.load(path) as arrays:
        assert_array_equal(particles.rotation, arrays["rot"])
        assert (particles.table[["shift_x_A", "shift_y_A"]] == 0).all(axis=None)
        assert_array_equal(particles.table["b_factor_A2"], 16 * arrays["dose"].astype(float))
        assert_array_equal(particles.table["ctf_scale"], arrays["scale"])
        assert_array_equal(particles.table["group"], arrays["particle"].astype(str))
        assert_array_equal(particles.table["defocus_u_A"], arrays["ctf"][:, 2])
    assert (len(particles), particles.box_size, particles.pixel_size_A) == (720, 32, 12.0)
    assert particles.table["group"].nunique() == 20


def check_refused(path, sentences):
    """Hold the sentences of a file that is neither particles nor a map: reader -> its words."""
    readers = {
        "particles": Particles.from_file,
        "volume": read_volume,
        "poses": partial(read_poses, n=5, particles="x"),
        "ctf": partial(read_ctf, n=5, particles="x", box_size_px=np.zeros(5, dtype=int)),
        "indices": cryodrgn.read_indices,
        "pickle": load_pickle,
    }
    for reader, words in sentences.items():
        with pytest.raises(InputError, match=re.escape(path.name) + ".*" + words):
            readers[reader](path)


NOT_OURS = {
    "particles": r"is not a particle file: \.star, \.cs, \.csg, \.mrcs, \.mrc or \.txt is expected",
    "volume": "is not an MRC file that can be read",
    "indices": r"is not an index file: \.pkl, \.npy or \.txt is expected",
    "pickle": "is not a pickle that can be read|was not loaded: the pickle asks for",
}
star = partial(partial, check_star)
stack = partial(partial, check_stack)
volume = partial(partial, check_volume)
toy = partial(check_poses, n=1000)
filtered = partial(check_indices, expected=lambda folder: np.load(folder / "filtered.ind.npy"))
CHECKS = {
    "adk-dims/adk.psf": partial(check_refused, sentences=NOT_OURS),
    "adk-dims/adk_closed.pdb": partial(check_refused, sentences=NOT_OURS),
    "adk-dims/adk_dims.dcd": partial(check_refused, sentences=NOT_OURS),
    "adk-dims/adk_open.pdb": partial(check_refused, sentences=NOT_OURS),
    "aspire/clean70SRibosome_vol_65p.mrc": volume(shape=(65, 65, 65), pixel_size_A=np.nan),
    "aspire/rln_proj_65.mrcs": stack(n=5, box=65, pixel_size_A=np.nan),
    "aspire/rln_proj_65.star": star(n=5, box=65, pixel_size_A=np.nan),
    "aspire/sample.mrcs": stack(n=17, box=200, pixel_size_A=np.nan),
    "aspire/sample_particles_relion30.star": star(n=17, box=200, pixel_size_A=5e4 / 37369.207031),
    "cryodrgn-tests/FinalRefinement-OriginalParticles-PfCRT.star": check_star_without_amplitude_contrast,
    "cryodrgn-tests/ay19102021_L3_position6_ribo_it09_bin8_1.82A.mrcs": stack(n=220, box=64, pixel_size_A=1),
    "cryodrgn-tests/cryosparc_P12_J24_001_particles.cs": check_cs,
    "cryodrgn-tests/ctf1.pkl": partial(
        check_ctf, particles="FinalRefinement-OriginalParticles-PfCRT.star", box=300, pixel_size_A=1.035
    ),
    "cryodrgn-tests/ctf2.pkl": partial(
        check_ctf, particles="cryosparc_P12_J24_001_particles.cs", box=180, pixel_size_A=2.95
    ),
    "cryodrgn-tests/hand-vol.mrc": volume(shape=(64, 64, 64), pixel_size_A=1),
    "cryodrgn-tests/hand.mrcs": stack(n=100, box=64, pixel_size_A=1),
    "cryodrgn-tests/hand_rot.pkl": partial(
        check_poses, n=100, against=lambda folder: (load_pickle(folder / "hand_rot.pkl"), None)
    ),
    "cryodrgn-tests/hand_rot_trans.pkl": partial(
        check_poses, n=100, against=lambda folder: load_pickle(folder / "hand_rot_trans.pkl")
    ),
    "cryodrgn-tests/ind100.pkl": partial(check_indices, expected=lambda _: np.arange(100)),
    "cryodrgn-tests/ind4.pkl": partial(check_indices, expected=lambda _: [0, 1, 3, 4]),
    "cryodrgn-tests/pose.cs.pkl": lambda path: check_cs(path.with_name("cryosparc_P12_J24_001_particles.cs")),
    "cryodrgn-tests/pose.star.pkl": partial(check_poses, star="FinalRefinement-OriginalParticles-PfCRT.star"),
    "cryodrgn-tests/relion31.mrcs": stack(n=5, box=256, pixel_size_A=1),  # the header is wrong
    "cryodrgn-tests/relion31.star": star(n=5, box=256, pixel_size_A=2.806),
    "cryodrgn-tests/relion31.v2.star": check_two_orders_of_blocks,
    "cryodrgn-tests/sta_ctf.pkl": partial(
        check_ctf, particles="sta_testing_bin8.star", box=64, pixel_size_A=8 * 1.82
    ),
    "cryodrgn-tests/sta_pose.pkl": partial(check_poses, star="sta_testing_bin8.star"),
    "cryodrgn-tests/sta_testing_bin8.star": star(n=219, box=64, pixel_size_A=1.96, groups=6),
    "cryodrgn-tests/test_ctf.pkl": check_toy_ctf,
    "cryodrgn-tests/toy.star": star(n=1000, box=30, pixel_size_A=1),
    "cryodrgn-tests/toy_angles.pkl": partial(
        toy, against=lambda folder: (load_pickle(folder / "toy_rot_trans.pkl")[0], None)
    ),
    "cryodrgn-tests/toy_projections.mrcs": stack(n=1000, box=30, pixel_size_A=1),
    "cryodrgn-tests/toy_projections.star": star(n=1000, box=30, pixel_size_A=1),
    "cryodrgn-tests/toy_projections.txt": check_list,
    "cryodrgn-tests/toy_rot_trans.pkl": partial(
        toy, against=lambda folder: [load_pickle(folder / f"toy_{name}.pkl") for name in ("angles", "trans")]
    ),
    "cryodrgn-tests/toy_rot_zerotrans.pkl": partial(
        toy, against=lambda folder: (load_pickle(folder / "toy_angles.pkl"), np.zeros((1000, 2)))
    ),
    "cryodrgn-tests/toy_trans.pkl": check_shifts_alone,
    "cryodrgn-tests/toymodel_small_nocenter.mrc": volume(shape=(30, 30, 30), pixel_size_A=1),
    "emdb/EMD-3001.map": volume(shape=(73, 25, 43), pixel_size_A=0.44825),
    "emdb/EMD-3197.map": volume(shape=(20, 20, 20), pixel_size_A=11.4),
    "empiar-10028/ctf.npz": check_empiar_ctf,
    "empiar-10028/filtered.ind.npy": filtered,
    "empiar-10028/filtered.ind.pkl": filtered,
    "igg-1igt/1igt.pdb": partial(check_refused, sentences=NOT_OURS),
    **{
        f"maven-10076/vol_{number:03d}.mrc": volume(shape=(64, 64, 64), pixel_size_A=6.55)
        for number in (18, 115, 194, 288, 293, 383, 386, 390, 455)
    },
    "ribosome-4v5a/4V5A.mmtf": partial(check_refused, sentences=NOT_OURS),
    "ribosome-4v5a/4V5A_copy1.cif.gz": partial(check_refused, sentences=NOT_OURS),
    "ribosome-4v5a/4V5A_copy1.npz": partial(
        check_refused,
        sentences=NOT_OURS | {"poses": "has no array rot", "ctf": "does not hold a CTF table"},
    ),
    "simplecryoem/pointmass.mrc": check_point_mass,
    "simplecryoem/relion_proj_batch_pfac2.mrcs": stack(n=24, box=64, pixel_size_A=3.54),
    "simplecryoem/relion_proj_batch_pfac2.star": star(n=24, box=64, pixel_size_A=3.54),
    "tomodrgn/10076_both_32_sim.star": star(n=1296, box=32, pixel_size_A=13.1, groups=144),
    "tomodrgn/10076_classD_32.mrc": volume(shape=(32, 32, 32), pixel_size_A=1),  # the header is wrong
    "tomodrgn/10076_classD_32_sim.mrcs": stack(n=576, box=32, pixel_size_A=13.1),
    "tomodrgn/10076_classD_32_sim.star": star(n=576, box=32, pixel_size_A=13.1, groups=72),
    "tomodrgn/10076_classE_32.mrc": volume(shape=(32, 32, 32), pixel_size_A=1),
    "tomodrgn/10076_classE_32_sim.mrcs": stack(n=720, box=32, pixel_size_A=13.1),
    "tomodrgn/10076_classE_32_sim.star": star(n=720, box=32, pixel_size_A=13.1, groups=72),
    "tomodrgn/ctf_classD.pkl": partial(
        check_ctf, particles="10076_classD_32_sim.star", box=32, pixel_size_A=13.1
    ),
    "tomodrgn/ctf_classE.pkl": partial(
        check_ctf, particles="10076_classE_32_sim.star", box=32, pixel_size_A=13.1
    ),
    "tomodrgn/pose_classD.pkl": partial(check_poses, star="10076_classD_32_sim.star"),
    "tomodrgn/pose_classE.pkl": partial(check_poses, star="10076_classE_32_sim.star"),
    "tomodrgn/ptcl_labels_D0_E1.pkl": check_labels,
    "warptools-flat/warptools_flat_050_076.mrcs": stack(n=720, box=32, pixel_size_A=12),
    "warptools-flat/warptools_flat_050_076.npz": check_warptools,
    "warptools-flat/warptools_test_box-32_angpix-12_reconstruct.mrc": volume(
        shape=(32, 32, 32), pixel_size_A=12.0024
    ),
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_real_file_gives_its_numbers_or_a_sentence(shared, name):
    CHECKS[name](shared / name)


def test_no_file_is_left_out(shared):
    listed = {
        line.split(maxsplit=1)[1].removeprefix("./")
        for line in (shared / "SHA256SUMS").read_text().splitlines()
    }
    there = {path.relative_to(shared).as_posix() for path in shared.rglob("*") if path.is_file()}
    assert listed == set(CHECKS)
    assert there - {"README.md", "SHA256SUMS"} == set(CHECKS)
