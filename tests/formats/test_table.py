"""The particle table is small, and names are numbered in their order."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from drgn.formats.particles import Particles
from drgn.formats.star import write_blocks
from drgn.formats.table import build_table, codes_of, hash_of_values


@pytest.mark.parametrize("n", [0, 1, 2, 500])
def test_names_are_numbered_as_pandas_does_it(n):
    random = np.random.default_rng(n)
    names = [f"{chr(random.integers(0x21, 0x2FFF))}{i}é" for i in random.integers(0, n // 2 + 1, n)]
    column = pd.Series(names, dtype="str")[::-1]
    codes, count = codes_of(column)
    expected, different = pd.factorize(column, sort=True)
    np.testing.assert_array_equal(codes, expected)
    assert count == len(different)


def test_what_is_in_a_table_is_taken_out():
    columns = {"defocus_u_A": np.arange(3.0), "shift_x_A": np.ones(3)}
    table = build_table(3, columns)
    assert not columns
    np.testing.assert_array_equal(table["defocus_u_A"], [0, 1, 2])


def test_the_hash_of_poses_and_ctf_sees_what_a_person_changed():
    random = np.random.default_rng(0)
    columns = {"defocus_u_A": 1e4 * random.random(50), "shift_x_A": random.normal(size=50)}
    table, rotation = build_table(50, dict(columns)), random.normal(size=(50, 3, 3))
    rotation[0] = 0
    known, order = hash_of_values(table, rotation), random.permutation(50)
    assert hash_of_values(table.iloc[order], rotation[order]) == known
    assert hash_of_values(table, -(-rotation - 1e-12)) == known  # another processor, and zeros with a sign
    for column in columns:
        assert hash_of_values(table.assign(**{column: table[column] + 0.001}), rotation) != known
    assert hash_of_values(table, rotation + 0.001) != known
    assert hash_of_values(table, None) != known


def test_rows_that_are_left_in_their_file_are_not_in_memory(tmp_path):
    n = 2000
    names = [f"{i + 1:06d}@{'folder/' * 20}stack.mrcs" for i in range(n)]
    write_blocks(tmp_path / "a.star", {"particles": pd.DataFrame({"rlnImageName": names})})
    before = pa.total_allocated_bytes()
    particles = Particles.from_file(tmp_path / "a.star").leaving_rows()
    key = sum(map(len, names)) + 8 * n
    assert len(particles) == n
    assert pa.total_allocated_bytes() - before < 1.2 * key  # the key alone, not the column as well
