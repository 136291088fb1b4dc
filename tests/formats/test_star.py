"""Star files of every dialect, with the starfile library as oracle where it reads them."""

import os
import re

import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from drgn.errors import InputError
from drgn.formats import star

FEW = settings(max_examples=60, deadline=None, derandomize=True)
PLAIN = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
1 opticsGroup1 300.0

data_particles

loop_
_rlnImageName #1
_rlnDefocusU #2
_rlnClassNumber #3
000001@a.mrcs 1.5 1
000002@a.mrcs -2e-3 2
"""
OPTICS = pd.DataFrame({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"], "rlnVoltage": [300.0]})
PARTICLES = pd.DataFrame(
    {
        "rlnImageName": ["000001@a.mrcs", "000002@a.mrcs"],
        "rlnDefocusU": [1.5, -2e-3],
        "rlnClassNumber": [1, 2],
    }
)


@pytest.fixture
def read(tmp_path):
    """Return a function that reads text or bytes as a star file."""

    def blocks(text):
        path = tmp_path / "x.star"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return star.read_blocks(path)

    return blocks


def equal(blocks, expected):
    assert list(blocks) == list(expected)
    for name, frame in expected.items():
        pd.testing.assert_frame_equal(blocks[name], frame, check_exact=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t,
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.replace("\n", "\r"),
        lambda t: t.replace("\n000002", "\r000002"),
        lambda t: "\ufeff" + t.lstrip(),
        lambda t: t.rstrip("\n"),
        lambda t: t.replace(" ", "\t"),
        lambda t: t.replace("\n", "   \n  "),
        lambda t: t.replace(" 1.5 ", "  1.50000    "),
        lambda t: re.sub(" #[0-9]+", "", t),
        lambda t: t.replace("\n00", "\n\n# a comment\n \n00"),
        lambda t: t.replace("1.5 1\n", "1.5 1 # a comment\n"),
        lambda t: t.replace("opticsGroup1", '"opticsGroup1"').replace("000001@a.mrcs", "'000001@a.mrcs'"),
        lambda t: t.replace("loop_", "LOOP_ # here").replace("data_", "DATA_"),
        lambda t: t.replace("\n000002", "\nloop_\n_rlnImageName\n_rlnDefocusU\n_rlnClassNumber\n000002"),
        lambda t: t.replace("\n000002", "\n_rlnImageName #1\n_rlnDefocusU #2\n_rlnClassNumber #3\n000002"),
        lambda t: t + t[t.index("data_optics") : t.index("data_particles")],
        lambda t: t.replace("-2e-3", "-2.0E-03").replace("1.5", "+1.5"),
        lambda t: t.replace("# version 30001", "# version 50001"),
    ],
)
def test_the_same_table_in_other_words(read, change):
    equal(read(change(PLAIN)), {"optics": OPTICS, "particles": PARTICLES})


def test_blocks_without_loop(read, tmp_path):
    blocks = read(
        "data_general\n_rlnA 'x y' # why\n_rlnB 2\n_rlnC\n\ndata_\nloop_\n_a\n_b\n1 2.5\n\ndata_empty\n"
    )
    expected = pd.DataFrame({"rlnA": ["x y"], "rlnB": [2], "rlnC": [""]})
    equal(blocks, {"general": expected, "": pd.DataFrame({"a": [1], "b": [2.5]}), "empty": pd.DataFrame()})
    star.write_blocks(tmp_path / "out.star", blocks)
    assert "data_general\n\n_rlnA" in (tmp_path / "out.star").read_text()
    equal(star.read_blocks(tmp_path / "out.star"), blocks)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["1", "-2"], np.array([1, -2])),
        (["1", "2.0"], np.array([1.0, 2.0])),
        (["1", "nan"], np.array([1.0, np.nan])),
        (["1.5", "<NA>"], np.array([1.5, np.nan])),
        (["-0", "5"], np.array([-0.0, 5.0])),
        (["18446744073709551615", "1"], np.array([2**64 - 1, 1], dtype=np.uint64)),
        (["123456789012345678901234567890", "1"], ["123456789012345678901234567890", "1"]),
        (["001", "002"], ["001", "002"]),
        (["0x1A", "1"], ["0x1A", "1"]),
        (["1.5", "abc"], ["1.5", "abc"]),
        (['"1"', "2"], ["1", "2"]),
        (['""', "''"], ["", ""]),
        (["<NA>", "<NA>"], ["<NA>", "<NA>"]),
        (["True", "1_0"], ["True", "1_0"]),
        (["a#b", "c'd\"e"], ["a#b", "c'd\"e"]),
        (['"a "b"', "'it''s'"], ['a "b', "it''s"]),
        (["'a\"b c'", "\"it's 5' end\""], ['a"b c', "it's 5' end"]),
        (["5e-324", "1.7976931348623157e308"], np.array([5e-324, 1.7976931348623157e308])),
    ],
)
def test_words(read, words, values):
    text = "data_x\nloop_\n_first\n_value\n" + "".join(f"{i} {word}\n" for i, word in enumerate(words))
    column = read(text)["x"]["value"]
    pd.testing.assert_series_equal(column, pd.Series(values, name="value"), check_exact=True)
    if column.dtype == np.float64:
        assert np.signbit(column).tolist() == np.signbit(values).tolist()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("1.5 1", "1.5"), "line 18: 2 values where block data_particles has 3 columns"),
        (("1.5 1", "1.5 1 7"), "line 18: 4 values where block data_particles has 3 columns"),
        (
            ("\n000002", "\nloop_\n_rlnImageName\n_rlnAngleRot\n000002"),
            "before this line, block data_particles",
        ),
        (
            ("\n000002", "\n_rlnAngleRot #4\n000002"),
            "line 20: before this line, block data_particles has a second",
        ),
        (("000002", "loop_\n_rlnB\n\ndata_z\n"), "block data_particles has a second header"),
        (("data_optics", "data_particles"), "line 12: a second block data_particles, with other values"),
        (
            ("_rlnClassNumber", "_rlnDefocusU"),
            "line 17: a second column _rlnDefocusU in block data_particles",
        ),
        (("data_optics", ""), "line 6: values before the first block"),
        (("loop_\n_rlnImage", "_rlnImage"), "line 17: values without a column in block data_particles"),
        (("loop_\n_rlnImageName #1", "_rlnX 1\nloop_"), "line 15: loop_ after values without it"),
        (("opticsGroup1", '"optics Group1'), "line 10: a quotation mark has no partner"),
        (("opticsGroup1", "optics\0Group1"), "line 10: the control character 0x00"),
        (("data_optics", "data_my optics"), "line 4: a name of a block with blanks"),
        (("loop_\n_rlnOpticsGroup #1", "_rlnOpticsGroup 1 2"), "line 6: 2 values of _rlnOpticsGroup"),
        (("_rlnVoltage #3", "_ #3"), "line 9: a column without a name in block data_optics"),
    ],
)
def test_sentences(read, change, sentence):
    text = PLAIN.replace(*change, 1)
    assert text != PLAIN
    with pytest.raises(InputError, match=f"x.star, {sentence}" if sentence.startswith("line") else sentence):
        read(text)


def test_bytes_that_are_no_text(read, tmp_path):
    with pytest.raises(InputError, match="line 10: not text in UTF-8"):
        read(PLAIN.replace("opticsGroup1", "µ").encode("latin-1"))
    with pytest.raises(InputError, match="line 1: not text in UTF-8"):
        read(PLAIN.encode("utf-16"))
    with pytest.raises(InputError, match="does not exist"):
        star.read_blocks(tmp_path)
    assert read("") == read("# a comment\n\n") == {}


@pytest.mark.parametrize(
    "name",
    [
        "aspire/sample_particles_relion30.star",
        "aspire/rln_proj_65.star",
        "cryodrgn-tests/relion31.star",
        "cryodrgn-tests/relion31.v2.star",
        "cryodrgn-tests/sta_testing_bin8.star",
        "cryodrgn-tests/toy_projections.star",
        "simplecryoem/relion_proj_batch_pfac2.star",
        "tomodrgn/10076_both_32_sim.star",
    ],
)
def test_real_files_are_what_starfile_reads(shared, tmp_path, name):
    theirs = starfile.read(shared / name, always_dict=True, parse_as_string=list(star.TEXT_COLUMNS))
    ours = star.read_blocks(shared / name)
    star.write_blocks(tmp_path / "ours.star", ours)
    again = starfile.read(tmp_path / "ours.star", always_dict=True, parse_as_string=list(star.TEXT_COLUMNS))
    assert list(ours) == list(theirs) == list(again)
    for block, frame in ours.items():
        # pandas, which starfile reads with, may be one digit of sixteen off
        pd.testing.assert_frame_equal(frame, pd.DataFrame(theirs[block]), check_exact=False, rtol=1e-15)
        pd.testing.assert_frame_equal(frame, pd.DataFrame(again[block]), check_exact=False, rtol=1e-15)
    starfile.write(theirs, tmp_path / "theirs.star", float_format="%.17g")
    for block, frame in star.read_blocks(tmp_path / "theirs.star").items():
        pd.testing.assert_frame_equal(frame, pd.DataFrame(theirs[block]), check_dtype=False, check_exact=True)


CONTROLS = [*map(chr, range(32)), "\x7f"]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=CONTROLS) | st.just("\t"))
LOOKS = ["", " ", "nan", "<NA>", "1", "001", "-0", "1e5", "_x", "data_x", "loop_", "#", "'", '"', "None"]
WORDS = st.sampled_from([*LOOKS, "\ufeff", "\u3000"])
COLUMNS = {
    "text": TEXT | WORDS,
    "int": st.integers(-(2**63), 2**63 - 1),
    "unsigned": st.integers(0, 2**64 - 1),
    "float": st.floats() | st.integers(-(10**20), 10**20).map(float),
    "single": st.floats(width=32),
    "integral": st.integers(-3, 3).map(float),
    "flag": st.booleans(),
}
DTYPES = {"text": "str", "unsigned": "uint64", "single": "float32", "int": "int64"}
NAMES = ["rlnImageName", "rlnMicrographName", "rlnClassNumber", "größe", "粒子", "a.b-c@d", "loop_x"]


@st.composite
def frames(draw):
    n = draw(st.integers(1, 6))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    columns = {}
    for name in names:
        kind = "text" if name in star.TEXT_COLUMNS else draw(st.sampled_from(list(COLUMNS)))
        values = draw(st.lists(COLUMNS[kind], min_size=n, max_size=n))
        columns[name] = pd.Series(values, dtype=DTYPES.get(kind))
    return pd.DataFrame(columns)


@FEW
@given(st.dictionaries(st.sampled_from(["", "optics", "粒子"]), frames(), min_size=1, max_size=2))
def test_what_is_written_is_read(tmp_path_factory, blocks):
    path = tmp_path_factory.getbasetemp() / "written.star"
    texts = [value for frame in blocks.values() for value in frame.select_dtypes("str").to_numpy().ravel()]
    assume(not any(re.search('"[ \t]', text) and re.search("'[ \t]", text) for text in texts))
    star.write_blocks(path, blocks)
    again = star.read_blocks(path)
    assert list(again) == list(blocks)
    for name, frame in blocks.items():
        assert list(again[name]) == list(frame)
        for column in frame:
            before, after = frame[column].to_numpy(), again[name][column].to_numpy()
            if before.dtype == np.float32:
                after = after.astype(np.float32)
            elif before.dtype == np.float64:
                assert after.dtype == np.float64
                np.testing.assert_array_equal(np.signbit(after[after == 0]), np.signbit(before[before == 0]))
            np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(
    "texts",
    [["1", "2"], ["1.5", "nan"], ['a" b', "it's"], ["it' s", '"'], ["_x", "data_"], ["#a", " "], ["", "\t"]],
)
def test_texts_come_back_as_texts(tmp_path, texts):
    frame = pd.DataFrame({"a": texts, "b": texts})
    star.write_blocks(tmp_path / "x.star", {"x": frame})
    equal(star.read_blocks(tmp_path / "x.star"), {"x": frame})


def test_every_bit_of_a_float_comes_back(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**64, 50_000, dtype=np.uint64, endpoint=False)
    values = bits.view(np.float64)
    values = values[np.isfinite(values)]
    star.write_blocks(tmp_path / "x.star", {"x": pd.DataFrame({"a": values})})
    after = star.read_blocks(tmp_path / "x.star")["x"]["a"].to_numpy()
    np.testing.assert_array_equal(after.view(np.uint64), values.view(np.uint64))


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        ({"a b": [1]}, "'a b' cannot be a name in a star file"),
        ({"": [1]}, "'' cannot be a name"),
        ({"#a": [1]}, "'#a' cannot be a name"),
        ({"a": ["x", "y\nz"]}, r"row 2 of column a is 'y\\nz', but a star file cannot hold a line break"),
        ({"a": ["x\x7f"]}, "row 1 of column a"),
        ({"a": ["\"' \" ' "]}, "row 1 of column a .* both kinds of quotation marks"),
    ],
)
def test_what_cannot_be_written(tmp_path, frame, sentence):
    with pytest.raises(InputError, match=sentence):
        star.write_blocks(tmp_path / "x.star", {"x": pd.DataFrame(frame)})
    assert not any(tmp_path.iterdir())
    twice = pd.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(InputError, match="two columns a"):
        star.write_blocks(tmp_path / "x.star", {"x": twice})


def test_more_rows_than_are_held_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(star, "_ROWS_AT_A_TIME", 7)
    frame = pd.DataFrame({"a": np.arange(100), "b": [f"\ufeff{i}" for i in range(100)]})
    star.write_blocks(tmp_path / "x.star", {"x": frame[["b", "a"]], "y": frame})
    equal(star.read_blocks(tmp_path / "x.star"), {"x": frame[["b", "a"]], "y": frame})
    text = (tmp_path / "x.star").read_text().replace("\ufeff42\t42\n", "\ufeff42\n", 1)
    (tmp_path / "x.star").write_text(text)
    with pytest.raises(InputError, match="line 50: 1 values where block data_x has 2 columns"):
        star.read_blocks(tmp_path / "x.star")


def rows_of(text):
    """Count the rows of the last block of a file without quotation marks, line by line."""
    rows = 0
    for line in re.split("\r\n|\r|\n", text):
        words = re.sub("(^|[ \t])#.*", "", line).split()
        if len(words) == 1 and words[0].lower().startswith("data_"):
            rows = 0
        elif len(words) > 1 or (words and words[0][0] != "_" and words[0].lower() != "loop_"):
            rows += 1
    return rows


@pytest.mark.parametrize("length", range(len(PLAIN)))
def test_a_file_cut_off_anywhere(read, length):
    try:
        blocks = read(PLAIN[:length])
    except InputError:
        return
    frame = blocks.get("particles", pd.DataFrame())
    if len(frame):
        assert len(frame) == rows_of(PLAIN[:length])
        pd.testing.assert_frame_equal(frame.iloc[:-1], PARTICLES.iloc[: len(frame) - 1], check_exact=True)
        assert frame["rlnImageName"].iloc[-1] == PARTICLES["rlnImageName"][len(frame) - 1]
        assert frame["rlnDefocusU"].iloc[-1] == PARTICLES["rlnDefocusU"][len(frame) - 1]


@settings(FEW, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(PLAIN)),
            st.integers(0, 30),
            st.binary(max_size=3)
            | st.sampled_from([b"\n", b"\r", b" ", b"#", b"loop_\n", b"\ndata_x\n", b"\n_b\n"]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_file_with_planted_faults(tmp_path_factory, faults):
    data = PLAIN.encode()
    for place, removed, put in faults:
        data = data[:place] + put + data[place + removed :]
    path = tmp_path_factory.getbasetemp() / "faults.star"
    path.write_bytes(data)
    try:
        blocks = star.read_blocks(path)
    except InputError as error:
        named = str(error).startswith(str(path))
        assert named
        return
    last = list(blocks.values())[-1] if blocks else None
    if (
        last is not None
        and last.attrs.get("loop", True)
        and not set(b"\"'") & set(data)
        and b"\n_b" not in data
    ):
        assert len(last) == rows_of(data.decode())


@FEW
@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda b: b"data_\nloop_\n_a\n" + b))
def test_any_bytes(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.star"
    path.write_bytes(data)
    try:
        assert isinstance(star.read_blocks(path), dict)
    except InputError as error:
        named = str(error).startswith(str(path))
        assert named


@pytest.mark.parametrize("folder", ["/a/b c", "/my/data_set/é#%25\n", os.fsdecode(b"/\xff")])
def test_the_folder_of_the_images_is_a_comment_that_starts_no_block(tmp_path, folder):
    path = tmp_path / "a.star"
    star.write_blocks(
        path, {"particles": pd.DataFrame({"rlnImageName": ["1@a.mrcs"], "rlnClassNumber": [1]})}, folder
    )
    assert star.named_from(path) == folder
    text = path.read_text()
    assert text.count("data_") == 1
    assert starfile.read(path)["rlnImageName"].tolist() == ["1@a.mrcs"]
    assert text.splitlines()[1].startswith("# Images are named from /")
    assert star.read_blocks(path)["particles"]["rlnImageName"].tolist() == ["1@a.mrcs"]
    star.write_blocks(
        path, {"particles": pd.DataFrame({"rlnImageName": ["1@a.mrcs"], "rlnClassNumber": [1]})}
    )
    assert star.named_from(path) is None
