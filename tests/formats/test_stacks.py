import pickle
from concurrent.futures import ThreadPoolExecutor

import mrcfile
import numpy as np
import pandas as pd
import pytest

from drgn.errors import InputError
from drgn.formats.mrc import StackReader, write_volume
from drgn.formats.stacks import ImageReader, read_stack_headers


@pytest.fixture
def many(make_stack, tmp_path):
    """Return the images of three stacks in a mixed order and a reader of them."""
    images = [make_stack(f"{i}.mrcs", 40 + i) for i in range(3)]
    rows = [(s, i) for s in range(3) for i in range(40)]
    mixed = np.random.default_rng(0).permutation(len(rows))
    rows = [rows[i] for i in mixed[:60]] + rows[60:]  # half mixed, half one after the other
    paths = pd.Series([str(tmp_path / f"{s}.mrcs") for s, _ in rows], dtype="str")
    reader = ImageReader(paths, np.array([i for _, i in rows]))
    return np.stack([images[s][i] for s, i in rows]), reader


@pytest.mark.parametrize("dtype", ["i1", "<f4", ">f4", "<f2", ">i2"])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [2, 3], [4, 1, 2, 2, 0], [3], []])
def test_any_rows_of_a_stack_in_any_order(tmp_path, monkeypatch, dtype, rows):
    monkeypatch.setattr("drgn.formats.mrc._CONVERTED_BYTES", 100)  # two images at a time and fewer
    values = np.random.default_rng(0).integers(-100, 100, (5, 4, 4)).astype(dtype)
    mrcfile.new(tmp_path / "s.mrcs", data=values).close()
    reader = StackReader(tmp_path / "s.mrcs")
    rows = np.array(rows, dtype=np.int64)
    expected = values[rows].astype(np.float32)
    images = reader.read(rows)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, expected)
    out = np.full((len(rows) + 2, 4, 4), 7, dtype=np.float32)
    assert reader.read(rows, out[1:-1]).base is out
    np.testing.assert_array_equal(out[1:-1], expected)
    assert (out[[0, -1]] == 7).all()


def test_an_array_that_does_not_fit_is_refused(make_stack, tmp_path):
    make_stack("s.mrcs", 3)
    reader = StackReader(tmp_path / "s.mrcs")
    for out in (
        np.zeros((2, 8, 7), np.float32),
        np.zeros((2, 8, 8)),
        np.zeros((2, 8, 16), np.float32)[..., ::2],
    ):
        with pytest.raises(ValueError, match=r"out has the shape|contiguous float32"):
            reader.read(np.arange(2), out)
    images = ImageReader(pd.Series([str(tmp_path / "s.mrcs")] * 3, dtype="str"), np.arange(3))
    with pytest.raises(ValueError, match=r"out has the shape \(2, 8, 8\), where \(3, 8, 8\)"):
        images([0, 1, 2], np.zeros((2, 8, 8), np.float32))
    with pytest.raises(InputError, match="images of 8 pixels, others of the same table have 16"):
        images([0, 1], np.zeros((2, 16, 16), np.float32))


def test_rows_of_several_stacks_are_read_at_once_where_they_follow_each_other(many, monkeypatch):
    images, reader = many
    runs = []
    read_run = StackReader.read_run
    monkeypatch.setattr(
        StackReader, "read_run", lambda self, first, out: (runs.append(len(out)), read_run(self, first, out))
    )
    np.testing.assert_array_equal(reader(np.arange(60, 120)), images[60:])
    assert sorted(runs) == [20, 40]
    out = np.zeros((120, 8, 8), np.float32)
    assert reader(np.arange(120), out) is out
    np.testing.assert_array_equal(out, images)
    rows = np.random.default_rng(1).integers(0, 120, 300)
    np.testing.assert_array_equal(reader(rows), images[rows])
    assert reader([]).shape == (0, 0, 0)


def test_a_run_ends_with_its_stack(make_stack, tmp_path):
    images = [make_stack(f"{i}.mrcs", 4 + i) for i in range(2)]
    paths = pd.Series([str(tmp_path / f"{i}.mrcs") for i in (0, 0, 1, 1)], dtype="str")
    reader = ImageReader(paths, np.arange(4))  # the second stack goes on where the first one stopped
    np.testing.assert_array_equal(reader(np.arange(4)), [*images[0][:2], *images[1][2:4]])


def test_threads_read_from_one_reader(many, monkeypatch):
    monkeypatch.setattr("drgn.formats.stacks.OPEN_STACKS", 1)
    images, reader = many
    out = np.zeros_like(images)

    def fill(start):
        for _ in range(20):
            reader(np.arange(start, start + 5), out[start : start + 5])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fill, range(0, 120, 5)))
    np.testing.assert_array_equal(out, images)
    assert len(reader._open) == 1


def test_readers_travel_to_other_processes(many, make_stack, tmp_path):
    images, reader = many
    reader([0])
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again(np.arange(120)), images)
    stack = StackReader(tmp_path / "0.mrcs")
    stack.read(np.array([0]))
    sent = pickle.dumps(stack)
    assert len(sent) < 1000  # no image travels
    del stack  # and with it the open file
    np.testing.assert_array_equal(pickle.loads(sent).read(np.arange(40)), make_stack("x.mrcs", 40))


def test_a_stack_that_is_cut_while_it_is_read_is_named(make_stack, tmp_path):
    make_stack("s.mrcs", 3)
    reader = StackReader(tmp_path / "s.mrcs")
    reader.read(np.array([0]))
    with open(tmp_path / "s.mrcs", "r+b") as file:
        file.truncate(1100)
    with pytest.raises(InputError, match=r"s\.mrcs ended while it was read"):
        reader.read(np.array([2]))
    for wrong in (3, -1):
        with pytest.raises(InputError, match="has 3 images, but image"):
            reader.read(np.array([wrong]))


def test_headers_of_many_stacks_come_in_order_and_the_first_at_fault_is_named(make_stack, tmp_path):
    paths = []
    for i in range(150):
        write_volume(tmp_path / f"{i}.mrcs", np.zeros((1 + i % 7, 4, 4)), 1.0)
        paths.append(str(tmp_path / f"{i}.mrcs"))
    headers = read_stack_headers([*paths, None])
    assert [header and header.shape[0] for header in headers] == [*(1 + i % 7 for i in range(150)), None]
    for i in (140, 70, 90):
        write_volume(paths[i], np.zeros((1, 4, 5)), 1.0)
    with pytest.raises(InputError, match=r"/70\.mrcs has images of 5 x 4 pixels"):
        read_stack_headers(paths)
