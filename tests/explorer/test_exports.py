"""What an export hands over: all files that it wrote, and no others."""

from types import SimpleNamespace

import numpy as np
import pytest
from starlette.testclient import TestClient

from drgn.explorer.selections import Selections
from drgn.explorer.server import create
from drgn.formats.cryosparc_records import write_records
from drgn.formats.particles import Particles

N = 6
_OWN = [
    ("uid", "<u8"),
    ("alignments3D/pose", "<f4", 3),
    ("alignments3D/shift", "<f4", 2),
    ("alignments3D/psize_A", "<f4"),
]
_PASSED = [("uid", "<u8"), ("blob/path", "S20"), ("blob/idx", "<u4"), ("blob/shape", "<u4", 2)]


@pytest.fixture
def particles(tmp_path):
    """Particles of a job of cryoSPARC whose images are named in its passthrough file."""
    own, passed = np.zeros(N, _OWN), np.zeros(N, [*_PASSED, ("blob/psize_A", "<f4")])
    own["uid"] = passed["uid"] = 12345 * (1 + np.arange(N))
    own["alignments3D/psize_A"] = passed["blob/psize_A"] = 1.5
    passed["blob/path"], passed["blob/idx"], passed["blob/shape"] = b"J1/x.mrcs", np.arange(N), 64
    write_records(tmp_path / "J5_003_particles.cs", own)
    write_records(tmp_path / "J5_passthrough_particles.cs", passed[::-1])
    return Particles.from_file(tmp_path / "J5_003_particles.cs")


@pytest.fixture
def export(particles, tmp_path):
    """Return a function: form, name, rows -> the names that the server answers, and what one may download."""
    session = SimpleNamespace(
        n=N,
        run=SimpleNamespace(box_size=64),
        folder=tmp_path / "explorer",
        jobs=SimpleNamespace(close=lambda: None),
        selections=Selections(tmp_path / "explorer" / "selections", particles),
    )
    headers = {"X-Drgn-Token": "t"}
    with TestClient(create(session, "t"), base_url="http://localhost", headers=headers) as client:

        def ask(form, name, rows, into):
            answer = client.post(f"/api/export/{form}/{name}", content=np.asarray(rows, "<u4").tobytes())
            if answer.status_code != 200:
                return answer.json()["error"]
            into.mkdir(parents=True)
            for file in answer.json()["files"]:
                got = client.get(f"/api/file/{file}")
                assert got.status_code == 200
                (into / file.rpartition("/")[2]).write_bytes(got.content)
            assert answer.json()["path"] == str(session.folder / "exports" / f"{name}.{form}")
            return sorted(path.name for path in into.iterdir())

        yield ask


def test_a_group_is_handed_over_with_its_passthrough(export, particles, tmp_path):
    here = tmp_path / "downloaded"
    assert export("cs", "kept", [1, 3], here) == ["kept.cs", "kept.csg", "kept_passthrough.cs"]
    for name in ("kept.cs", "kept.csg"):
        read = Particles.from_file(here / name)
        assert read.table["key"].tolist() == particles.table["key"].iloc[[1, 3]].tolist()
        assert read.table["image_index"].tolist() == particles.table["image_index"].iloc[[1, 3]].tolist()


def test_a_star_is_handed_over_without_a_group_of_before(export, tmp_path):
    export("cs", "kept", [1, 3], tmp_path / "first")
    assert export("star", "kept", [2], tmp_path / "second") == ["kept.star"]


def test_a_passthrough_of_before_does_not_stay(export, particles, tmp_path):
    export("cs", "kept", [1, 3], tmp_path / "first")
    whole = tmp_path / "whole.cs"
    write_records(whole, particles.source.rows)  # with the fields of both files
    kept = Selections(tmp_path / "selections", Particles.from_file(whole))
    exports = tmp_path / "explorer" / "exports"
    assert [p.name for p in kept.export("kept", "cs", np.array([2]), exports)] == ["kept.cs", "kept.csg"]
    assert sorted(p.name for p in exports.iterdir()) == ["kept.cs", "kept.csg"]


def test_the_name_of_a_passthrough_is_refused(export, tmp_path):
    assert "take another" in export("cs", "kept_passthrough", [1], tmp_path / "first")
    assert export("star", "kept_passthrough", [1], tmp_path / "second") == ["kept_passthrough.star"]
