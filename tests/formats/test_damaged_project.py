"""What goes wrong with the files of a project (a star, its stack, poses), each with its sentence."""

import os

import numpy as np
import pytest

from drgn.errors import InputError
from drgn.formats.mrc import StackWriter
from drgn.formats.particles import Particles

N = 6
COLUMNS = ("ImageName", "AngleRot", "AngleTilt", "AnglePsi", "DefocusU", "PhaseShift")
ROWS = [f"{i + 1:06d}@s.mrcs {i}.5 {2 * i}.5 {3 * i}.5 {15000 + i}.5 {90 + i}.5" for i in range(N)]


@pytest.fixture
def project(tmp_path):
    """A stack of six images, and their poses once more, by row."""
    with StackWriter(tmp_path / "s.mrcs", N, 8, 2.0) as stack:
        stack.write(np.random.default_rng(0).normal(size=(N, 8, 8)).astype(np.float32))
    np.savez(tmp_path / "poses.npz", rot=np.tile(np.eye(3), (N, 1, 1)))
    return tmp_path


def read(project, rows=ROWS, columns=COLUMNS, name="p.star", **options):
    header = "".join(f"_rln{column}\n" for column in columns)
    (project / name).write_text(f"data_particles\n\nloop_\n{header}" + "\n".join(rows) + "\n")
    return Particles.from_file(project / name, **options)


def test_a_row_deleted(project):
    deleted = [*ROWS[:2], *ROWS[3:]]
    with pytest.raises(InputError, match=r"poses\.npz has 6 poses, but .*p\.star has 5 particles"):
        read(project, deleted, poses=project / "poses.npz")
    whole = read(project, name="whole.star")
    # by name nothing shifts: each particle has the pose of its own row, and the one without is named
    alone = ["ImageName"]
    posed = read(project, [row.split()[0] for row in deleted], alone, poses=project / "whole.star")
    np.testing.assert_allclose(posed.rotation, whole.rotation[[0, 1, 3, 4, 5]])
    read(project, deleted, name="deleted.star")
    with pytest.raises(InputError, match=r"deleted\.star does not hold .*whole\.star: .*000003@s\.mrcs"):
        Particles.from_file(project / "whole.star", poses=project / "deleted.star")


def test_a_row_duplicated(project):
    with pytest.raises(
        InputError, match=r"p\.star: particle rows 2 and 7 are the same image, 000002@s\.mrcs"
    ):
        read(project, [*ROWS, ROWS[1]])


def test_columns_shuffled(project):
    order = [3, 0, 5, 1, 4, 2]
    rows = [" ".join(row.split()[i] for i in order) for row in ROWS]
    expected, found = read(project), read(project, rows, [COLUMNS[i] for i in order])
    assert found.table.equals(expected.table)
    np.testing.assert_array_equal(found.rotation, expected.rotation)
    with pytest.raises(InputError, match=r"particle row 1: rlnAngleRot is 000001@s\.mrcs, where a finite"):
        read(project, rows)  # with the header as it was


def test_a_phase_shift_missing(project):
    missing = ROWS[3].rpartition(" ")[0]
    with pytest.raises(InputError, match="line 13: 5 values where block data_particles has 6 columns"):
        read(project, [*ROWS[:3], missing, *ROWS[4:]])
    for word in ("<NA>", '""', "None"):
        with pytest.raises(InputError, match=r"particle row 4: rlnPhaseShift is .*, where a finite number"):
            read(project, [*ROWS[:3], f"{missing} {word}", *ROWS[4:]])


def test_a_defocus_that_is_nan(project):
    with pytest.raises(
        InputError, match="particle row 5: rlnDefocusU is nan, where a finite number is expected"
    ):
        read(project, [row.replace("15004.5", "nan") for row in ROWS])


def test_a_stack_one_image_short(project):
    with StackWriter(project / "s.mrcs", N - 1, 8, 2.0) as stack:
        stack.write(np.zeros((N - 1, 8, 8), np.float32))
    with pytest.raises(
        InputError, match=r"particle row 6: image 6 is asked for, but the stack .* has 5 images"
    ):
        read(project)


def test_a_stack_cut_short(project):
    os.truncate(project / "s.mrcs", 1024 + 4 * 8 * 8 * N - 100)
    with pytest.raises(InputError, match=r"s\.mrcs .*truncated"):
        read(project)
