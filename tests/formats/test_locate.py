import os
from pathlib import Path

import numpy as np
import pytest

from drgn.errors import InputError
from drgn.formats.locate import find_stacks, folder_for, missing_stack
from drgn.formats.mrc import write_volume
from drgn.formats.particles import Particles


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Make empty files below a folder that is not the working one; return a function from names to paths."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("written", "table", "datadir", "place", "as_written"),
    [
        # RELION: names start at the project, which lies above the table
        (
            "Extract/job7/m/a.mrcs",
            "proj/Refine3D/job12/run_data.star",
            None,
            "proj/Extract/job7/m/a.mrcs",
            True,
        ),
        # a project that moved, with absolute names of its old place
        (
            "/old/proj/Extract/job7/a.mrcs",
            "new/Refine3D/job12/r.star",
            None,
            "new/Extract/job7/a.mrcs",
            False,
        ),
        ("/old/proj/Extract/job7/a.mrcs", "r.star", "d", "d/Extract/job7/a.mrcs", False),
        ("/old/proj/Extract/job7/a.mrcs", "r.star", "d", "d/a.mrcs", False),
        ("/old/proj/Extract/job7/a.mrcs", "t/r.star", None, "t/job7/a.mrcs", False),
        ("/old/proj/Extract/job7/a.mrcs", "t/r.star", None, "work/job7/a.mrcs", False),
        # cryoSPARC: names start at the project's folder, some with a leading >
        (">J12/imported/a.mrc", "P3/J14/p.cs", None, "P3/J12/imported/a.mrc", True),
        ("J12/imported/012345678901234567890_a.mrc", "J14/p.cs", "d", "d/a.mrc", False),
        ("J12/imported/012345678901234567890_a.mrc", "J14/p.cs", "d", "d/x/y/a.mrcs", False),
        # other spellings
        ("s/a.mrcs", "t/p.star", None, "t/s/a.mrc", False),
        ("s/a.mrc", "t/p.star", None, "t/a.mrcs", False),
        ("s/A.mrcs", "t/p.star", None, "t/s/a.MRCS", False),
        # by the last part of the name
        ("s/a.mrcs", "t/p.star", "d", "d/x/y/z/a.mrcs", False),
        ("./s/../a.mrcs", "t/p.star", None, "t/s/../a.mrcs", True),
        ("a.mrcs", "t/p.star", None, "work/a.mrcs", True),
    ],
)
def test_where_a_stack_is_found(tree, written, table, datadir, place, as_written):
    root = tree(table, place)
    (root / "d").mkdir(exist_ok=True)
    located = find_stacks([written], str(root / table), datadir and str(root / datadir))
    assert located.paths == [os.path.abspath(root / place)]
    if as_written:
        assert (located.mapping, located.note) == ({}, "")
    else:
        folder = os.path.dirname(os.path.abspath(root / place))
        assert located.mapping == {os.path.dirname(written): folder}
        assert located.note == f"stacks written as {os.path.dirname(written)}/... were found in {folder}"


@pytest.mark.parametrize(
    "place",
    [
        "a.mrcs",  # above the table a file of the same last part alone is another file
        "t/s/b.mrcs",
        "t/u/a.mrcs",
        "d/1/2/3/4/a.mrcs",
        "t/s/a.mrcs/x",  # a folder of this name
    ],
)
def test_what_is_not_taken_for_the_stack(tree, place):
    root = tree("t/p.star", place)
    (root / "d").mkdir(exist_ok=True)
    assert find_stacks(["s/a.mrcs"], str(root / "t/p.star"), str(root / "d")).paths == [None]


@pytest.mark.parametrize(
    ("place", "shape", "taken"),
    [
        ("Micrographs/m.mrc", (1, 8, 8), False),  # a micrograph of the same name as its stack
        ("Micrographs/m.mrc", (3, 8, 8), True),
        ("Micrographs/m.mrcs", (1, 8, 8), True),
        ("Micrographs/m.mrcs", (3, 8, 6), False),  # a movie
        ("d/x/m.mrc", (1, 8, 8), False),
        ("d/x/m.mrcs", (3, 8, 6), False),
        ("d/x/m.mrcs", (1, 8, 8), True),
        ("Extract/job7/Micrographs/m.mrcs", (3, 8, 6), True),  # as written: to be refused by its reader
    ],
)
def test_a_micrograph_or_movie_elsewhere_is_not_taken_for_the_stack(tree, place, shape, taken):
    root = tree("Select/job9/p.star")
    (root / place).parent.mkdir(parents=True)
    (root / "d").mkdir(exist_ok=True)
    write_volume(root / place, np.zeros(shape), 1.0)
    name = "Extract/job7/Micrographs/m.mrcs"
    located = find_stacks([name], str(root / "Select/job9/p.star"), str(root / "d"))
    assert located.paths == [str(root / place) if taken else None]


def test_the_likeliest_place_is_taken(tree):
    places = [
        "d/s/a.mrcs",
        "t/s/a.mrcs",
        "work/s/a.mrcs",
        "s/a.mrcs",
        "d/a.mrcs",
        "t/a.mrcs",
        "t/s/a.mrc",
        "d/x/a.mrcs",
    ]
    root = tree("t/p.star", *places)
    for place in places:
        located = find_stacks(["s/a.mrcs"], str(root / "t/p.star"), str(root / "d"))
        assert located.paths == [str(root / place)]
        (root / place).unlink()


def test_two_names_never_lead_to_one_file_under_any_spelling(tree):
    root = tree("p.star", "s/a.mrcs")
    for other in ("s/a.mrc", "u/a.mrcs", "s/A.mrcs"):
        (root / "a.mrcs").touch()
        (root / "s/a.mrcs").unlink(missing_ok=True)
        with pytest.raises(InputError, match=rf"names both s/a\.mrcs and {other}, but only one file"):
            find_stacks(["s/a.mrcs", other], str(root / "p.star"), None)
    assert find_stacks(["./a.mrcs", "a.mrcs"], str(root / "p.star"), None).paths == [str(root / "a.mrcs")] * 2


def test_links_are_followed_and_a_broken_one_is_named(tree):
    root = tree("J1/p.cs", "raw/a.mrcs")
    (root / "J1/imported").mkdir()
    link = root / "J1/imported/1_a.mrcs"
    link.symlink_to(root / "raw/a.mrcs")
    assert find_stacks(["J1/imported/1_a.mrcs"], str(root / "J1/p.cs"), None).paths == [str(link)]
    (root / "raw/a.mrcs").unlink()
    assert find_stacks(["J1/imported/1_a.mrcs"], str(root / "J1/p.cs"), None).paths == [None]
    error = missing_stack("J1/imported/1_a.mrcs", str(root / "J1/p.cs"), 0, None)
    assert f"{link} is a link to {root}/raw/a.mrcs, which does not exist" in str(error)


def test_a_name_that_several_files_have_is_not_decided(tree):
    root = tree("p.star", "d/x/a.mrcs", "d/y/a.mrcs")
    assert find_stacks(["s/a.mrcs"], str(root / "p.star"), str(root / "d")).paths == [None]
    error = missing_stack("s/a.mrcs", str(root / "p.star"), 4, str(root / "d"))
    assert "d/x/a.mrcs and" in str(error)
    assert "both have its name" in str(error)


def test_the_sentence_for_a_stack_that_is_not_there(tree):
    root = tree("t/p.star")
    error = missing_stack("/old/Extract/a.mrcs", str(root / "t/p.star"), 6, "d", 9998, 10000)
    assert str(error) == (
        f"{root}/t/p.star, particle row 7: the image stack /old/Extract/a.mrcs was not found (looked in "
        f"/old/Extract, {root}/work/d, {root}/t, {root}/work and the folders above the table, with all its "
        "folders and with the leading ones taken off; the folder d does not exist; 9998 of the 10000 stacks "
        "that the table names were found); set dataset.datadir=FOLDER to the folder that holds it."
    )


def test_a_table_says_where_its_stacks_were_found(tmp_path, make_stack, make_star):
    make_stack("data/a.mrcs", 2)
    make_stack("data/b.mrcs", 2)
    star = make_star(
        {"rlnImageName": ["1@Extract/job7/a.mrcs", "2@Extract/job8/b.mrcs"], "rlnImagePixelSize": [2, 2]}
    )
    particles = Particles.from_file(star, datadir=tmp_path / "data")
    assert particles.source.mapping == (
        f"stacks written as Extract/job7/... were found in {tmp_path}/data (and 1 others likewise)"
    )
    assert particles.select(np.array([1])).source.mapping == particles.source.mapping
    assert Particles.from_file(tmp_path / "data/a.mrcs").source.mapping == ""


def test_a_list_of_stacks_is_looked_up_as_any_table(tmp_path, make_stack):
    make_stack("data/a.mrcs", 2)
    make_stack("here/b.mrcs", 3)
    path = tmp_path / "lists/l.txt"
    path.parent.mkdir()
    path.write_text(f"# absolute, then moved\n{tmp_path}/here/b.mrcs\nold/a.mrcs\n")
    particles = Particles.from_file(path, datadir=tmp_path / "data")
    assert particles.table["image_path"].unique().tolist() == [
        str(tmp_path / "here/b.mrcs"),
        str(tmp_path / "data/a.mrcs"),
    ]
    with pytest.raises(InputError, match=r"old/a\.mrcs was not found .* 1 of the 2 stacks"):
        Particles.from_file(path)
    path.write_text("# nothing\n")
    with pytest.raises(InputError, match="lists no stacks"):
        Particles.from_file(path)


@pytest.mark.parametrize(
    ("names", "stacks", "table", "folder"),
    [
        (["a.mrcs"], ["set/a.mrcs"], "set/b.star", None),
        (["a.mrcs"], ["set/a.mrcs"], "b.star", "set"),
        (["a.mrcs"], ["work/a.mrcs"], "set/b.star", "work"),  # not all programs work where this one does
        (
            ["Extract/m/a.mrcs", "Extract/n/a.mrcs"],
            ["p/Extract/m/a.mrcs", "p/Extract/n/a.mrcs"],
            "p/S/b.star",
            None,
        ),
        (
            ["Extract/m/a.mrcs", "Extract/n/a.mrcs"],
            ["p/Extract/m/a.mrcs", "p/Extract/n/a.mrcs"],
            "set/b.star",
            "p",
        ),
        (["/old/m/a.mrcs", "/old/m/b.mrcs"], ["d/a.mrcs", "d/b.mrcs"], "b.star", "d"),
        (["m/a.mrcs", "n/b.mrcs"], ["p/m/a.mrcs", "q/b.mrcs"], "b.star", None),  # no folder serves
    ],
)
def test_from_which_folder_a_table_must_say_its_stacks_are_named(tree, names, stacks, table, folder):
    root = tree(*stacks, "set/particles.star")
    paths = [str(root / stack) for stack in stacks]
    found = folder_for(names, paths, str(root / table))
    assert found == (None if folder is None else str(root / folder))
    if found:
        assert find_stacks(names, str(root / table), None, found).paths == paths


def test_another_stack_of_the_name_beside_the_table_is_not_taken(tree):
    root = tree("set/a.mrcs", "other/a.mrcs")
    folder = folder_for(["a.mrcs"], [str(root / "set/a.mrcs")], str(root / "other/b.star"))
    assert folder == str(root / "set")
    assert find_stacks(["a.mrcs"], str(root / "other/b.star"), None, folder).paths == [
        str(root / "set/a.mrcs")
    ]
