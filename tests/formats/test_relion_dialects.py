"""Particle star files as programs and people write them: read into the same table, or refused."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn.errors import InputError
from drgn.formats import relion
from drgn.formats.particles import Particles

STAR = """
# version 50001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
1 a 300.0 2.7 0.1 1.25 64 2
2 b 200.0 1.4 0.07 2.0 48 2

data_particles

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnCoordinateX #3
_rlnCoordinateY #4
_rlnOpticsGroup #5
_rlnDefocusU #6
_rlnDefocusV #7
_rlnDefocusAngle #8
_rlnPhaseShift #9
_rlnAngleRot #10
_rlnAngleTilt #11
_rlnAnglePsi #12
_rlnOriginXAngst #13
_rlnOriginYAngst #14
000001@s.mrcs m1.mrc 10.0 20.0 1 15000.0 14000.0 10.0 90.0 1.0 2.0 3.0 4.0 5.0
000002@s.mrcs m1.mrc 30.0 40.0 2 16000.0 15000.0 20.0 80.0 4.0 5.0 6.0 -7.0 8.0
000001@t.mrcs m2.mrc 50.0 60.0 1 17000.0 16000.0 30.0 70.0 7.0 8.0 9.0 0.0 0.5
"""


@pytest.fixture
def read(tmp_path):
    """Return a function that reads text as the particles of a star file."""

    def particles(text):
        (tmp_path / "x.star").write_text(text)
        return Particles.from_file(tmp_path / "x.star")

    return particles


def turned(text):
    """The particle block with its columns in the opposite order."""
    head, rows = text.rsplit("_rlnOriginYAngst #14\n", 1)
    head, _, names = (head + "_rlnOriginYAngst #14\n").rpartition("loop_\n")
    columns = "".join(f"{name}\n" for name in names.splitlines()[::-1])
    words = "".join(" ".join(row.split()[::-1]) + "\n" for row in rows.splitlines())
    return f"{head}loop_\n{columns}{words}"


def swapped(text):
    optics, particles = text.split("data_particles")
    return "\ndata_particles" + particles + optics


@pytest.mark.parametrize(
    "change",
    [
        turned,
        swapped,
        lambda t: t.replace("data_particles", "data_"),
        lambda t: t.replace("data_particles", "data_images"),
        lambda t: t.replace("data_optics", "data_groups"),
        lambda t: (
            t.replace("\n1 a", "\n01 a").replace(" 1 15000", " 1.0 15000").replace(" 1 17000", " 1 17000")
        ),
        lambda t: "data_general\n\n_rlnTomoSomething 5\n" + t,
        lambda t: t.replace("_rlnMicrographName", "_rlnTomoName #2\n_rlnMicrographName").replace(
            " m", " T m"
        ),
        lambda t: t.replace("000001@", "1@"),
    ],
)
def test_the_same_particles_in_other_files(read, change):
    expected = read(STAR)
    assert expected.table["voltage_kV"].tolist() == [300, 200, 300]
    assert expected.table["pixel_size_A"].tolist() == [1.25, 2.0, 1.25]
    assert expected.table["box_size_px"].tolist() == [64, 48, 64]
    assert expected.table["phase_shift_deg"].tolist() == [90, 80, 70]
    assert expected.table["shift_x_A"].tolist() == [4, -7, 0]
    assert expected.table["optics_group"].tolist() == ["1", "2", "1"]
    text = change(STAR)
    assert text != STAR
    after = read(text)
    pd.testing.assert_frame_equal(after.table, expected.table)
    np.testing.assert_array_equal(after.rotation, expected.rotation)


def dropped(text, *names):
    """The file without some columns of its particle block."""
    head, body = text.split("data_particles")
    lines = body.splitlines()
    columns = [line.split()[0][1:] for line in lines if line.startswith("_")]
    kept = [place for place, column in enumerate(columns) if column not in names]
    rows = [line.split() for line in lines if "@" in line]
    names = "\n".join(f"_{columns[place]}" for place in kept)
    return f"{head}data_particles\nloop_\n{names}\n" + "\n".join(" ".join(r[p] for p in kept) for r in rows)


def test_what_is_absent_is_zero_or_unknown(read):
    text = dropped(STAR, "rlnPhaseShift", "rlnDefocusV", "rlnDefocusAngle", "rlnMicrographName")
    table = read(text).table
    assert table["phase_shift_deg"].eq(0).all()
    assert table["defocus_v_A"].tolist() == table["defocus_u_A"].tolist() == [15000, 16000, 17000]
    assert table["micrograph"].eq("").all()
    assert read(dropped(STAR, "rlnAngleRot")).rotation is None  # a 2-D classification has psi alone
    assert not read(dropped(STAR, "rlnOriginXAngst", "rlnOriginYAngst")).table["shift_x_A"].any()
    unknown = read(STAR.replace("m1.mrc", "None").replace("m2.mrc", "<NA>")).table
    assert unknown["micrograph"].tolist() == ["", "", ""]
    flipped = STAR.replace("_rlnImageSize #7", "_rlnCtfDataArePhaseFlipped #7\n_rlnImageSize")
    flipped = flipped.replace(" 64 2", " 0 64 2").replace(" 48 2", " 1 48 2")
    assert read(flipped).table["phase_flipped"].tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("16000.0", ""), "line 36: 13 values where block data_particles has 14 columns"),
        (("000002@s", "1e1@s"), "particle row 2: rlnImageName is 1e1@s.mrcs, where a number from 1"),
        (("000002@s", "1.5@s"), "particle row 2: rlnImageName is 1.5@s.mrcs"),
        (("000002@s", "@s"), "particle row 2: rlnImageName is @s.mrcs"),
        (("000002@s", "٢@s"), "particle row 2: rlnImageName is ٢@s.mrcs"),
        (("000001@t", "000001@s"), "particle rows 1 and 3 are the same image, 000001@s.mrcs"),
        (("16000.0", "nan"), "particle row 2: rlnDefocusU is nan, where a finite number"),
        (("16000.0", "unknown"), "particle row 2: rlnDefocusU is unknown"),
        (("16000.0", '""'), "particle row 2: rlnDefocusU is empty"),
        (("16000.0", "<NA>"), "particle row 2: rlnDefocusU is nan"),
        (("80.0", "x"), "particle row 2: rlnPhaseShift is x"),
        (("2 16000.0", "3 16000.0"), "particle row 2: optics group 3 is not in the block data_optics"),
        (("200.0", "high"), "optics row 2: rlnVoltage is high"),
        (("data_optics", "data_particles"), "a second block data_particles"),
        (
            ("_rlnImageName", "_rlnMicrograph"),
            "holds data_optics, data_particles, but no block with the column",
        ),
        (("_rlnImageName", "_rlnimagename"), "rename its column rlnimagename"),
        (("_rlnOriginYAngst", "_rlnOther"), "has the column rlnOriginXAngst but not rlnOriginYAngst"),
        (("1.25 64 2", "1.25 64 3"), "describes subtomograms"),
        (("_rlnMicrographName", "_rlnTomoVisibleFrames"), "describes subtomograms"),
        (
            ("\ndata_optics", "\ndata_general\n_rlnTomoSubTomosAre2DStacks 1\n\ndata_optics"),
            "describes subtom",
        ),
        (("_rlnOpticsGroupName", "_rlnImageName"), "has 2 blocks with the column rlnImageName"),
    ],
)
def test_sentences(read, change, sentence):
    text = STAR.replace(*change, 1)
    assert text != STAR
    with pytest.raises(InputError, match=rf"x\.star.*{sentence}"):
        read(text)


def test_cistem(read):
    names = ["PositionInStack", "AnglePsi", "AngleTheta", "AnglePhi", "XShift", "YShift", "Defocus1"]
    header = "".join(f"_cisTEM{name} #{i}\n" for i, name in enumerate(names, 1))
    with pytest.raises(
        InputError, match=r"x\.star is a star file of cisTEM: rlnImageName.*export the particles"
    ):
        read(f"data_\n\nloop_\n{header}1 2 3 4 5 6 7\n")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.integers(0, len(STAR)),
    st.integers(0, 40),
    st.binary(max_size=2)
    | st.sampled_from([b"nan", b'""', b"\n", b"9", b"data_\n", b"loop_\n", b"@", b"-", b"e9"]),
)
def test_planted_faults(tmp_path_factory, place, removed, put):
    path = tmp_path_factory.getbasetemp() / "faults.star"
    data = STAR.encode()
    path.write_bytes(data[:place] + put + data[place + removed :])
    try:
        parsed = relion.read(str(path))
    except InputError as error:
        named = str(error).startswith(str(path))
        assert named
        return
    n = len(parsed.image_index)
    assert n == len(parsed.image_name) == len(parsed.source.rows) > 0
    assert (parsed.image_index >= 0).all()
    for column in parsed.columns.values():
        assert len(column) == n
        assert pd.api.types.is_string_dtype(column) or np.isfinite(column).all()


@pytest.mark.parametrize("length", range(0, len(STAR), 3))
def test_a_particle_file_cut_off_anywhere(tmp_path, length):
    path = tmp_path / "x.star"
    path.write_text(STAR[:length])
    try:
        parsed = relion.read(str(path))
    except InputError:
        return
    assert len(parsed.image_index) == STAR[:length].strip().count("@")
