"""What a run's particle file has beyond the particle table is offered too."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from starlette.testclient import TestClient

from drgn.errors import InputError
from drgn.explorer.columns import Columns
from drgn.explorer.server import create
from drgn.explorer.session import Session
from drgn.formats import star
from drgn.formats.cryosparc_records import write_records
from drgn.formats.particles import Particles
from drgn.run import Run


def listed(columns):
    return {column.name for column in columns.listed() if column.group == "particle file"}


def of(particles, folder):
    """The columns of a run, of which there are latents and these particles."""
    n = len(particles)
    latents = SimpleNamespace(
        key=particles.table["key"].to_numpy(str),
        z=np.zeros((n, 1), np.float32),
        reconstruction_loss=np.ones(n, np.float32),
    )
    run = SimpleNamespace(particles=lambda: particles, latents=lambda: latents, place=lambda _: folder)
    return Columns(run)


def test_columns_of_a_star_in_a_run_of_drgn(toy, train_tiny, tmp_path):
    blocks = star.read_blocks(toy)
    rows = blocks["particles"]
    rows["rlnClassNumber"], rows["rlnHelicalTubeID"] = 1 + np.arange(300) % 3, 7
    rows["rlnImageName"] = [
        f"{name.partition('@')[0]}@{toy.parent / 'particles.mrcs'}" for name in rows["rlnImageName"]
    ]
    star.write_blocks(tmp_path / "more.star", blocks)
    run = Run.open(train_tiny(f"dataset.particles={tmp_path / 'more.star'}"))
    assert run.particles().source.rows is None  # they were left in the file
    with TestClient(
        create(Session(run, []), "t"), base_url="http://localhost", headers={"X-Drgn-Token": "t"}
    ) as client:
        facts = client.get("/api/run").json()
        names = [one["name"] for one in facts["columns"] if one["group"] == "particle file"]
        assert "rlnClassNumber" in names
        assert not {"rlnHelicalTubeID", "rlnImageName"} & set(names), "numbers that are not all the same"
        for name in names:
            got = np.frombuffer(client.get(f"/api/column/{name}").content, "<f4")
            np.testing.assert_allclose(got, rows[name].astype("f4"))


@pytest.fixture
def of_cryosparc(tmp_path):
    """Four particles of a .cs, opened as a run does, with a field that drgn does not know."""
    fields = [("uid", "<u8"), ("blob/path", "S9"), ("blob/idx", "<u4"), ("blob/shape", "<u4", 2)]
    records = np.zeros(4, [*fields, ("alignments3D/error", "<f8"), ("alignments3D/class", "<u4")])
    records["uid"], records["blob/idx"], records["blob/shape"] = 2**40 + np.arange(4), np.arange(4), 16
    records["blob/path"], records["alignments3D/error"] = b"images.mrcs", [1e300, 2, np.nan, 3]
    write_records(tmp_path / "particles.cs", records)
    return Particles.from_file(tmp_path / "particles.cs").leaving_rows()


def test_fields_of_a_cs(of_cryosparc, tmp_path):
    columns = of(of_cryosparc, tmp_path)
    assert listed(columns) == {"blob/idx", "alignments3D/error"}
    np.testing.assert_array_equal(columns.values("alignments3D/error"), [math.inf, 2, math.nan, 3])


def test_a_name_with_a_slash_is_asked_for(of_cryosparc, tmp_path):
    columns = of(of_cryosparc, tmp_path)
    session = SimpleNamespace(
        n=4,
        run=SimpleNamespace(box_size=16),
        required=lambda: columns,
        jobs=SimpleNamespace(close=lambda: None),
    )
    headers = {"X-Drgn-Token": "t"}
    with TestClient(create(session, "t"), base_url="http://localhost", headers=headers) as client:
        answer = client.get("/api/column/alignments3D%2Ferror")
    assert np.frombuffer(answer.content, "<f4")[1] == 2


@pytest.mark.parametrize("taken", [True, False])
def test_a_file_that_is_not_what_it_was_has_no_columns(of_cryosparc, tmp_path, taken):
    if taken:
        (tmp_path / "particles.cs").unlink()
    else:
        (tmp_path / "particles.cs").write_bytes(b"something else")
    columns = of(of_cryosparc, tmp_path)
    assert listed(columns) == set()
    assert "z1" in {column.name for column in columns.listed()}


def test_a_stack_alone_has_no_columns_of_its_own(toy, tmp_path):
    columns = of(Particles.from_file(next(toy.parent.glob("*.mrcs"))), tmp_path)
    assert listed(columns) == set()
    with pytest.raises(InputError, match="has no column rlnClassNumber"):
        columns.values("rlnClassNumber")
