import numpy as np
import pandas as pd
import pytest

from drgn.errors import InputError
from drgn.formats.identity import match
from drgn.formats.table import build_table


def table(n=6, **columns):
    keys = [f"{i + 1:06d}@stack.mrcs" for i in range(n)]
    given = {
        "key": pd.Series(keys),
        "image_path": pd.Series(["/data/stack.mrcs"] * n),
        "image_index": np.arange(n),
        **columns,
    }
    return build_table(n, given)


ORDER = np.array([3, 0, 5, 1])


def shuffled(frame):
    return frame.iloc[ORDER].reset_index(drop=True)


def positions(frame, shift=0.0, folder="MotionCorr/"):
    n = len(frame)
    frame["micrograph"] = [f"{folder}mic{i % 2}.mrc" for i in range(n)]
    frame["coordinate_x_px"] = 100.0 * np.arange(n) + shift
    frame["coordinate_y_px"] = 50.0
    return frame


def test_rows_are_found_by_key_in_any_order():
    np.testing.assert_array_equal(match(shuffled(table()), table(), "a", "b"), ORDER)


def test_folders_of_the_stack_do_not_matter():
    known = table(image_path=pd.Series(["/elsewhere/stack.mrcs"] * 6))
    known["key"] = [f"J7/extract/{key}" for key in known["key"]]
    np.testing.assert_array_equal(match(shuffled(table()), known, "a", "b"), ORDER)


@pytest.mark.parametrize("side", ["wanted", "known", "both"])
def test_the_image_that_another_was_made_from(side):
    """A downsampled stack has names of its own; it, or both, say what they were made from."""
    plain = table()
    small = table(
        key=pd.Series([f"{i + 1}@small.mrcs" for i in range(6)][::-1]),
        image_path=pd.Series(["/data/small.mrcs"] * 6),
        image_index=np.arange(6)[::-1].copy(),
        original_image=pd.Series([f"{i + 1:06d}@Extract/stack.mrcs" for i in range(6)]),
    )
    other = small.copy()
    other["key"] = [f"x{i}" for i in range(6)]
    other["image_path"] = "/data/tiny.mrcs"
    known = {"wanted": plain, "known": small, "both": other}[side]
    wanted = {"wanted": small, "known": plain, "both": small}[side]
    np.testing.assert_array_equal(match(shuffled(wanted), known, "a", "b"), ORDER)


def test_micrograph_and_position():
    known = positions(table(), folder="J3/motioncorrected/")
    known["micrograph"] = "J3/012345678901234567890_" + known["micrograph"].str.rpartition("/")[2]
    wanted = positions(table(image_path=pd.Series(["/data/other.mrcs"] * 6)), shift=0.4)
    wanted["key"] = [f"{i}@other" for i in range(6)]
    np.testing.assert_array_equal(match(shuffled(wanted), known, "a", "b"), ORDER)


def test_equal_names_at_other_positions_are_other_particles():
    """Both stacks are called stack.mrcs, but the second was written in another order."""
    known = positions(table())
    wanted = known.copy()
    wanted["coordinate_x_px"] = known["coordinate_x_px"].to_numpy()[::-1]
    wanted["micrograph"] = known["micrograph"].to_numpy()[::-1]
    np.testing.assert_array_equal(match(wanted, known, "a", "b"), np.arange(6)[::-1])


def test_what_is_not_there_is_an_error_that_names_both_files():
    with pytest.raises(
        InputError, match=r"small\.star does not hold the particles of big\.cs: of 6, 4 by key"
    ):
        match(table(), table(4), "big.cs", "small.star")


def test_two_that_are_one_are_an_error():
    known = positions(table())
    wanted = known.copy()
    wanted["key"] = [f"k{i}" for i in range(6)]
    wanted["image_path"] = "/x/y.mrcs"
    wanted.loc[1, ["micrograph", "coordinate_x_px"]] = ["MotionCorr/mic0.mrc", 0.3]
    with pytest.raises(InputError, match=r"6 by micrograph and position \(1 of them not uniquely\)"):
        match(wanted, known, "a", "b")
