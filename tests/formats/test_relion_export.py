"""Selections as star files of RELION 3.0 and 3.1: the same particles, and the same map made by RELION."""

import os
import pickle
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn.errors import InputError
from drgn.formats import star
from drgn.formats.mrc import StackWriter, read_volume
from drgn.formats.particles import Particles
from drgn.formats.relion import to_blocks

REAL = [
    "aspire/sample_particles_relion30.star",
    "cryodrgn-tests/FinalRefinement-OriginalParticles-PfCRT.star",
    "cryodrgn-tests/relion31.star",
    "cryodrgn-tests/relion31.v2.star",
    "cryodrgn-tests/sta_testing_bin8.star",
    "simplecryoem/relion_proj_batch_pfac2.star",
    "tomodrgn/10076_both_32_sim.star",
]
MAGNIFIED = {"rlnMagnification", "rlnDetectorPixelSize", "rlnPixelSize", "rlnImagePixelSize"}
SHIFTS = {f"rlnOrigin{axis}{unit}" for axis in "XYZ" for unit in ("", "Angst")}
NEW = {"rlnOpticsGroup", "rlnOpticsGroupName", "rlnImageDimensionality", "rlnImageSize"}
FLAGS = {"rlnCtfDataAreCtfPremultiplied", "rlnCtfDataArePhaseFlipped"}


def converted(particles, path, version, **more):
    """Return the particles after they were written in a dialect and read again, and the blocks written."""
    blocks = to_blocks(particles.source, particles.table, particles.rotation, version=version, **more)
    star.write_blocks(path, blocks)
    return Particles.from_file(path, datadir=particles.source.datadir), star.read_blocks(path)


def same(after, before, *, groups=True):
    """Assert that two tables are equal to the last bit; shifts and pixel sizes but for one digit of 16."""
    scaled = ["shift_x_A", "shift_y_A"]
    other = [
        c for c in before.table if c not in (*scaled, "source_row", *(() if groups else ("optics_group",)))
    ]
    pd.testing.assert_frame_equal(
        after.table[other], before.table[other], check_exact=True, check_categorical=False
    )
    np.testing.assert_allclose(after.table[scaled], before.table[scaled], rtol=5e-16, atol=0)
    if before.rotation is None:
        assert after.rotation is None
    else:
        np.testing.assert_array_equal(after.rotation, before.rotation)


def everything(blocks):
    """Return all columns per particle, from the optics too."""
    (name,) = (block for block in blocks if "rlnImageName" in blocks[block])
    particles = blocks[name].copy()
    if "optics" in blocks:
        optics = blocks["optics"].set_index("rlnOpticsGroup")
        for column in optics:
            particles[column] = optics.loc[particles["rlnOpticsGroup"], column].to_numpy()
    return particles


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("versions", [("3.0", "3.1"), ("3.1", "3.0")])
def test_real_stars_there_and_back(tmp_path, shared, name, versions):
    particles = Particles.from_file(shared / name, datadir=shared / name.split("/")[0])
    particles = particles.select(np.arange(len(particles))[::-2])
    before = everything({**particles.source.blocks, particles.source.particle_block: particles.source.rows})
    now = particles
    for step, version in enumerate(versions):
        now, blocks = converted(now, tmp_path / f"{step}.star", version)
        same(now, particles, groups="rlnOpticsGroup" in before)
        assert ("optics" in blocks) == (version == "3.1")
        after = everything(blocks)
        assert bool({"rlnOriginXAngst", "rlnImagePixelSize"} & set(after)) == (version == "3.1")
        assert {"rlnMagnification", "rlnDetectorPixelSize"} <= set(after) or version == "3.1"
        assert set(before) - MAGNIFIED - SHIFTS <= set(after)
        assert set(after) - MAGNIFIED - SHIFTS - NEW - FLAGS <= set(before)
        kept = [column for column in before if column not in MAGNIFIED | SHIFTS]
        pd.testing.assert_frame_equal(after[kept], before[kept], check_exact=True, check_dtype=False)


@pytest.mark.parametrize("name", REAL)
def test_a_star_in_its_own_dialect_is_left_alone(shared, name):
    particles = Particles.from_file(shared / name)
    version = "3.1" if "optics" in particles.source.blocks else "3.0"
    own = to_blocks(particles.source, particles.table, particles.rotation)
    blocks = to_blocks(particles.source, particles.table, particles.rotation, version=version)
    assert list(blocks) == list(own)
    for block, frame in own.items():
        added = MAGNIFIED if name.startswith("tomodrgn") else set()  # its star has no magnification
        kept = [column for column in frame if column not in added]
        pd.testing.assert_frame_equal(blocks[block][kept], frame[kept])
        assert set(blocks[block]) - added == set(kept)


@pytest.mark.parametrize("version", ["3.1", "3.0"])
def test_other_origins_in_both_dialects(tmp_path, shared, version):
    particles = Particles.from_file(shared / "cryodrgn-tests" / "cryosparc_P12_J24_001_particles.cs")
    particles = particles.select(np.arange(0, 2019, 20))
    after, blocks = converted(particles, tmp_path / "p.star", version)
    assert list(blocks) == (["optics", "particles"] if version == "3.1" else [""])
    columns = [c for c in particles.table if c not in ("key", "source_row", "group", "data_sign")]
    columns = [c for c in columns if not c.startswith(("shift", "optics"))]
    texts = dict.fromkeys(["image_path", "micrograph"], "str")  # other categories are the same texts
    pd.testing.assert_frame_equal(
        after.table[columns].astype(texts), particles.table[columns].astype(texts), check_exact=True
    )
    shifts = ["shift_x_A", "shift_y_A"]
    np.testing.assert_allclose(after.table[shifts], particles.table[shifts], rtol=5e-16)
    np.testing.assert_allclose(after.rotation, particles.rotation, atol=1e-12)


def finite(low, high):
    return st.floats(low, high, allow_subnormal=False)


@st.composite
def stars(draw):
    """Blocks of RELION 3.1 with several optics groups, some of them unused."""
    groups = draw(st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True))
    n = draw(st.integers(1, 6))

    def column(values, size=n):
        return draw(st.lists(values, min_size=size, max_size=size))

    def optics(values):
        return column(values, len(groups))

    text = st.text(st.characters(categories=["L", "N", "Zs"], include_characters="#_'\"."), max_size=8)
    blocks = {
        "general": pd.DataFrame({"rlnNote": column(text, 1)}),
        "optics": pd.DataFrame(
            {
                "rlnOpticsGroup": groups,
                "rlnOpticsGroupName": [f"group {group}" for group in groups],
                "rlnVoltage": optics(finite(1, 1000)),
                "rlnSphericalAberration": optics(finite(-10, 10)),
                "rlnAmplitudeContrast": optics(finite(0, 1)),
                "rlnImagePixelSize": optics(finite(1e-3, 1e3)),
                "rlnImageSize": optics(st.integers(1, 10**4)),
                "rlnCtfDataArePhaseFlipped": optics(st.integers(0, 1)),
                "rlnBeamTiltX": optics(finite(-1, 1)),
                "rlnMtfFileName": optics(text),
                "rlnImageDimensionality": 2,
            }
        ),
        "particles": pd.DataFrame(
            {
                "rlnImageName": [f"{i + 1:06d}@{name}.mrcs" for i, name in enumerate(column(text))],
                "rlnMicrographName": column(text),
                "rlnOpticsGroup": column(st.sampled_from(groups)),
                "rlnDefocusU": column(finite(-1e6, 1e6)),
                "rlnAngleRot": column(finite(-360, 360)),
                "rlnAngleTilt": column(finite(-180, 180)),
                "rlnAnglePsi": column(finite(-360, 360)),
                "rlnOriginXAngst": column(finite(-1e4, 1e4).map(lambda x: 0.0 if abs(x) < 1e-300 else x)),
                "rlnOriginYAngst": column(st.just(0.0) | finite(-100, -1e-9)),
                "größe": column(st.integers(-(2**63), 2**63 - 1)),
                "rlnLabel": column(text),
            }
        ),
    }
    order = draw(st.permutations(list(blocks)))
    return {name: blocks[name] for name in order}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(stars())
def test_random_stars_there_and_back(tmp_path_factory, blocks):
    folder = tmp_path_factory.getbasetemp()
    star.write_blocks(folder / "first.star", blocks)
    first = Particles.from_file(folder / "first.star")
    second, old = converted(first, folder / "second.star", "3.0")
    same(second, first)
    assert list(old) == ["", "general"]
    third, new = converted(second, folder / "third.star", "3.1")
    same(third, first)
    used = blocks["optics"][blocks["optics"]["rlnOpticsGroup"].isin(blocks["particles"]["rlnOpticsGroup"])]
    used = used.sort_values("rlnOpticsGroup").reset_index(drop=True)
    pd.testing.assert_frame_equal(new["optics"][list(used)], used, check_exact=True)
    columns = [c for c in blocks["particles"] if c not in ("rlnOriginXAngst", "rlnOriginYAngst")]
    pd.testing.assert_frame_equal(new["particles"][columns], blocks["particles"][columns], check_exact=True)
    pd.testing.assert_frame_equal(new["general"], blocks["general"])


OPTICS = {"rlnOpticsGroup": [1, 2], "rlnImagePixelSize": [2.0, 1.5], "rlnVoltage": [300, 200]}
PARTICLES = {
    "rlnImageName": ["000001@s.mrcs", "000002@s.mrcs"],
    "rlnOpticsGroup": [2, 2],
    "rlnOriginXAngst": [3, -1.5],
    "rlnOriginYAngst": [0, 0.3],
    "rlnClassNumber": [7, 8],
}


@pytest.mark.parametrize("version", [None, "3.1", "3.0"])
def test_extra_columns(tmp_path, make_star, version):
    particles = Particles.from_file(make_star(PARTICLES, OPTICS))
    extra = pd.DataFrame({"drgnZ1": np.array([0.1, -2], np.float32), "rlnClassNumber": [1, 2]}, index=[5, 6])
    _, blocks = converted(particles, tmp_path / "x.star", version, extra=extra)
    rows = blocks["" if version == "3.0" else "particles"]
    assert list(rows)[-2:] == ["drgnZ1", "rlnClassNumber"]
    assert rows["drgnZ1"].tolist() == [0.1, -2]
    assert rows["rlnClassNumber"].tolist() == [1, 2]
    assert particles.source.rows["rlnClassNumber"].tolist() == [7, 8]
    with pytest.raises(ValueError, match="1 rows of extra columns for 2 particles"):
        converted(particles, tmp_path / "x.star", version, extra=extra[:1])


def test_unused_optics_groups_are_kept(tmp_path, make_star):
    particles = Particles.from_file(make_star(PARTICLES, OPTICS))
    for version in (None, "3.1"):
        _, blocks = converted(particles, tmp_path / "x.star", version)
        assert blocks["optics"]["rlnOpticsGroup"].tolist() == [1, 2]


def test_optics_groups_keep_their_names_where_values_are_replaced(tmp_path, make_star):
    columns = {**PARTICLES, "rlnImageName": ["000001@s.mrcs", "000002@s.mrcs"]}
    path = make_star(columns, {**OPTICS, "rlnOpticsGroupName": ["March", "grid2"]})
    _, blocks = converted(Particles.from_file(path, pixel_size_A=2.0), tmp_path / "x.star", None)
    assert blocks["optics"]["rlnOpticsGroup"].tolist() == [2]  # those that have particles
    assert blocks["optics"]["rlnOpticsGroupName"].tolist() == ["grid2"]
    ctf = np.tile([8, 2, 1e4, 9e3, 30, 300, 2.7, 0.1, 0], (2, 1))
    ctf[1, 5] = 200  # of one group, which is split
    (tmp_path / "ctf.pkl").write_bytes(pickle.dumps(ctf))
    _, blocks = converted(Particles.from_file(path, ctf=tmp_path / "ctf.pkl"), tmp_path / "x.star", None)
    assert blocks["optics"]["rlnOpticsGroupName"].tolist() == ["grid2_1", "grid2_2"]
    assert blocks["optics"]["rlnVoltage"].tolist() == [300, 200]


def test_the_optics_outrank_a_magnification(tmp_path, make_star):
    stale = {"rlnMagnification": [10000.0, 10000.0], "rlnDetectorPixelSize": [1.0, 1.5]}
    particles = Particles.from_file(make_star(PARTICLES | stale, OPTICS))
    after, _ = converted(particles, tmp_path / "x.star", "3.0")
    assert after.table["pixel_size_A"].tolist() == particles.table["pixel_size_A"].tolist() == [1.5, 1.5]


def test_shifts_without_a_pixel_size(tmp_path, make_star):
    columns = {name: values for name, values in PARTICLES.items() if name != "rlnOpticsGroup"}
    particles = Particles.from_file(make_star(columns))
    with pytest.raises(
        InputError, match=r"particles\.star, particle row 1: the shift 3.0 cannot be converted"
    ):
        converted(particles, tmp_path / "x.star", "3.0")
    columns |= {"rlnOriginXAngst": [0, 0], "rlnOriginYAngst": [0, 0]}
    after, blocks = converted(Particles.from_file(make_star(columns)), tmp_path / "x.star", "3.0")
    assert blocks["particles"]["rlnOriginX"].tolist() == [0, 0]
    assert not after.table["shift_x_A"].any()


@pytest.fixture(scope="module")
def reconstruct():
    """Return a function that writes blocks and has RELION make a map of them."""
    if shutil.which("relion_reconstruct") is None:
        if os.environ.get("DRGN_REQUIRE_RELION") == "1":
            pytest.fail("relion_reconstruct is not on PATH")
        pytest.skip("relion_reconstruct is not on PATH")

    def run(folder, blocks):
        star.write_blocks(folder / "x.star", blocks)
        command = ["relion_reconstruct", "--i", "x.star", "--o", "x.mrc", "--ctf"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return read_volume(folder / "x.mrc")[0], done.stdout + done.stderr

    return run


def test_relion_makes_one_map_of_both_dialects(tmp_path, shared, reconstruct):
    npz = shared / "warptools-flat" / "warptools_flat_050_076.npz"
    particles = Particles.from_file(npz.with_suffix(".mrcs"), poses=npz, ctf=npz, pixel_size_A=12.0)
    particles = particles.select(np.arange(60))
    for name in ("s.mrcs", "a stack.mrcs"):
        with StackWriter(tmp_path / name, 60, 32, 12.0) as stack:
            stack.write(particles.image_reader()(np.arange(60)))
    shift = {"shift_x_A": np.linspace(-30, 30, 60), "shift_y_A": np.linspace(10, -30, 60)}
    table = particles.table.assign(image_path="s.mrcs", **shift)
    extra = pd.DataFrame({"drgnZ1": np.linspace(0, 1, 60), "drgnLabel": ["a b", "", "c"] * 20})

    def blocks(table, **options):
        return to_blocks(particles.source, table, particles.rotation, **options)

    expected, _ = reconstruct(tmp_path, blocks(table))
    other, _ = reconstruct(tmp_path, blocks(table.assign(shift_x_A=0.0)))
    assert np.abs(other - expected).max() > 0.05 * np.abs(expected).max()
    quoted = table.assign(image_path="a stack.mrcs")
    unused = blocks(table)
    unused["optics"] = pd.concat([unused["optics"].assign(rlnOpticsGroup=n) for n in (1, 2)])
    unused["particles"]["rlnOpticsGroup"] = 2
    for variant in (
        blocks(table, version="3.0"),
        blocks(table, version="3.1", extra=extra),
        blocks(table, version="3.0", extra=extra),
        blocks(quoted),
        unused,
    ):
        image, said = reconstruct(tmp_path, variant)
        assert ("unknown label: drgnZ1" in said) == ("drgnZ1" in list(variant.values())[-1])
        np.testing.assert_allclose(image, expected, atol=1e-6 * np.abs(expected).max())
