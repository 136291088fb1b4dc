"""What the server answers, and what it refuses."""

import copy
import dataclasses
import io
import json
import socket
import time
import zipfile

import mrcfile
import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from drgn.command import bind, compose
from drgn.errors import InputError
from drgn.explorer import decoding, paths
from drgn.explorer.server import LARGEST_REQUEST, create, serve
from drgn.explorer.session import Session
from drgn.filter import filter as select
from drgn.formats.particles import Particles
from drgn.generate import generate
from drgn.physics import fourier
from drgn.physics.fsc import fsc
from drgn.run import Run

TOKEN = "a-token"


@pytest.fixture(scope="module")
def folder(train_tiny):
    return train_tiny()


@pytest.fixture(scope="module")
def session(folder):
    return Session(Run.open(folder), [])


@pytest.fixture(scope="module")
def anyone(session):
    """A client without the token."""
    with TestClient(create(session, TOKEN), base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.fixture(scope="module")
def client(session):
    headers = {"X-Drgn-Token": TOKEN}
    with TestClient(create(session, TOKEN), base_url="http://127.0.0.1:8000", headers=headers) as client:
        yield client


def rows_bytes(rows):
    return np.asarray(rows, "<u4").tobytes()


def test_the_run_and_its_columns(client, folder):
    facts = client.get("/api/run").json()
    assert (facts["n"], facts["zdim"], facts["box_size"]) == (300, 2, 16)
    names = [column["name"] for column in facts["columns"]]
    assert {"PC1", "PC2", "z1", "z2", "z_norm", "reconstruction_loss", "tilt_deg", "defocus_u_A"} <= set(
        names
    )
    for name in names:
        answer = client.get(f"/api/column/{name}")
        assert answer.status_code == 200, answer.text
        assert len(np.frombuffer(answer.content, "<f4")) == 300
    z = Run.open(folder).latents().z
    np.testing.assert_array_equal(np.frombuffer(client.get("/api/column/z2").content, "<f4"), z[:, 1])


def test_a_column_that_is_not_there(client):
    for name in ("z3", "z0", "PC9", "nothing"):
        answer = client.get(f"/api/column/{name}")
        assert answer.status_code == 400
        assert name in answer.json()["error"]


def test_a_volume_is_that_of_generate(client, folder, tmp_path):
    z = Run.open(folder).latents().z[7]
    options = {**compose("generate"), "run": folder, "z": z.tolist(), "output": tmp_path}
    (path,) = generate(**options)
    with mrcfile.open(path) as file:
        expected = file.data.copy()
    for asked in ({"row": 7}, {"z": z.tolist()}):
        answer = client.post("/api/volume", json=asked)
        (tmp_path / "got.mrc").write_bytes(answer.content)
        with mrcfile.open(tmp_path / "got.mrc") as file:
            np.testing.assert_allclose(file.data, expected, atol=1e-5)
            assert float(file.voxel_size.x) == 12
        assert expected.min() < float(answer.headers["X-Level"]) < expected.max()
    difference = client.post("/api/volume", json={"row": 7, "minus": {"row": 7}})
    (tmp_path / "got.mrc").write_bytes(difference.content)
    with mrcfile.open(tmp_path / "got.mrc") as file:
        assert np.abs(file.data).max() == 0


@pytest.mark.parametrize(
    "asked",
    [
        {"row": 300},
        {"row": -1},
        {"row": "1"},
        {},
        {"z": [1]},
        {"z": [1, float("nan")]},
        {"row": 1, "half": 1},
    ],
)
def test_a_volume_that_cannot_be(client, asked):
    answer = client.post("/api/volume", content=json.dumps(asked))
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_selections_are_kept_as_files_of_filter(client, folder, tmp_path):
    rows = [3, 5, 200]
    client.put("/api/selections/mine", content=rows_bytes([5, 3, 200, 3]))
    assert client.get("/api/selections").json() == [{"name": "mine", "count": 3}]
    assert np.frombuffer(client.get("/api/selections/mine").content, "<u4").tolist() == rows
    again = Session(Run.open(folder), [])  # another server
    assert again.selections.load("mine").tolist() == rows
    options = {
        **compose("filter", ["output=x.star"]),
        "run": folder,
        "indices": again.selections.path("mine"),
    }
    assert select(**{**options, "output": tmp_path / "kept.star"}) == 3
    with (tmp_path / "kept.star").open("rb") as file:
        answer = client.post("/api/selected?file=kept.star", content=file.read())
    assert np.frombuffer(answer.content, "<u4").tolist() == rows
    buffer = io.BytesIO()
    np.save(buffer, np.array([9, 8]))
    answer = client.post("/api/selected?file=rows.npy", content=buffer.getvalue())
    assert np.frombuffer(answer.content, "<u4").tolist() == [8, 9]
    assert client.delete("/api/selections/mine").json() == []


def test_export_is_read_back_with_the_same_particles(client, session):
    rows = np.arange(0, 300, 7)
    for form in ("star", "npy", "txt", "pkl"):
        answer = client.post(f"/api/export/{form}/some", content=rows_bytes(rows)).json()
        np.testing.assert_array_equal(session.selections.read(answer["path"]), rows)
        assert client.get(f"/api/file/{answer['files'][0]}").status_code == 200
    star = Particles.from_file(session.folder / "exports" / "some.star")
    expected = session.run.particles().table["key"].iloc[rows]
    assert star.table["key"].str.split("@").str[0].tolist() == expected.str.split("@").str[0].tolist()
    assert (
        client.post("/api/export/cs/some", content=rows_bytes(rows)).status_code == 400
    )  # a star is its origin


def test_a_coarse_volume_is_the_whole_one_without_its_high_frequencies(client, monkeypatch, tmp_path):
    assert not client.get("/api/run").json()["coarse_first"]  # 16 pixels are few
    monkeypatch.setattr(decoding, "COARSE", 8)
    maps = []
    for more in ({}, {"coarse": True}):
        answer = client.post("/api/volume", json={"row": 3, **more})
        (tmp_path / "got.mrc").write_bytes(answer.content)
        with mrcfile.open(tmp_path / "got.mrc") as file:
            maps.append((torch.from_numpy(file.data.copy()), float(file.voxel_size.x)))
    (whole, pixel_A), (coarse, coarse_pixel_A) = maps
    assert coarse.shape == (8, 8, 8)
    assert coarse_pixel_A == pytest.approx(2 * pixel_A)
    low = fourier.ifft(fourier.crop(fourier.fft(whole, 3), 8, 3), 3).real / 8
    assert fsc(low, coarse)[1:4].min() > 0.98
    assert float(low.std() / coarse.std()) == pytest.approx(1, abs=0.2)


def test_the_address_answers_when_it_is_told(session):
    class Told(Exception):
        pass

    def started(port):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        raise Told

    with pytest.raises(Told):
        serve(session, TOKEN, 0, started)


@pytest.mark.parametrize("port", ["taken", 65536, -1])
def test_a_port_that_cannot_be(session, port):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1] if port == "taken" else port
        with pytest.raises(InputError, match=f"port={port} cannot be used"):
            serve(session, TOKEN, port, lambda _: pytest.fail("told"))


@pytest.mark.parametrize("rows", [[], [300], [2**32 - 1]])
def test_a_selection_that_cannot_be(client, rows):
    for answer in (
        client.put("/api/selections/bad", content=rows_bytes(rows)),
        client.post("/api/export/star/bad", content=rows_bytes(rows)),
    ):
        assert answer.status_code == 400
    assert client.get("/api/selections").json() == []


@pytest.mark.parametrize("name", ["..", "a.b", "a b", "%2e%2e%2fx", "x" * 65, "-a"])
def test_a_name_that_is_no_name(client, name, session):
    answer = client.put(f"/api/selections/{name}", content=rows_bytes([1]))
    assert answer.status_code in (400, 404, 405)
    if name == "%2e%2e%2fx":
        assert "The name '../x' cannot be used" in answer.text
    assert client.get("/api/selections").json() == []


@pytest.mark.parametrize(
    "name",
    [
        "../config.yaml",
        "..%2fconfig.yaml",
        "%2e%2e/run.json",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "link.yaml",
        "a\\..\\b",
        "",
    ],
)
def test_no_file_outside_is_served(client, session, name):
    session.folder.mkdir(exist_ok=True)
    link = session.folder / "link.yaml"
    link.unlink(missing_ok=True)
    link.symlink_to(session.run.path / "config.yaml")
    answer = client.get(f"/api/file/{name}")
    assert answer.status_code in (400, 404)
    assert "dataset" not in answer.text
    assert client.get(f"/static/{name}").status_code in (400, 404, 405)
    link.unlink()


def test_without_the_token_nothing_is_told(anyone, session):
    for path in ("run", "live", "column/z1", "selections", "jobs", "file/x"):
        assert anyone.get(f"/api/{path}").status_code == 403
    for path in ("volume", "images", "jobs", "selected?file=a.npy", "export/star/x", "route", "confidence"):
        assert anyone.post(f"/api/{path}", json={}).status_code == 403
    for path in ("selections/x", "scenes/x"):
        assert anyone.put(f"/api/{path}", content=rows_bytes([1])).status_code == 403
    assert anyone.get("/api/run", headers={"X-Drgn-Token": "other"}).status_code == 403
    assert anyone.get("/api/run?token=a-token").status_code == 403
    assert anyone.get("/").status_code == 200  # the page itself holds nothing of the run


def test_other_sites_are_refused(client):
    for origin in ("http://evil.example", "http://127.0.0.1:9999", "null"):
        assert client.post("/api/volume", json={"row": 1}, headers={"Origin": origin}).status_code == 403
    assert client.get("/api/run", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 200
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert client.get("/api/run", headers={"Host": "127.0.0.1.evil.example:8000"}).status_code == 403
    assert client.get("/api/run", headers={"Host": "localhost:8000"}).status_code == 200
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


def test_large_requests_are_refused(client):
    large = b"x" * (LARGEST_REQUEST + 1)
    for answer in (
        client.post("/api/volume", content=large),
        client.put("/api/selections/large", content=large),
        client.post("/api/volume", content=iter([large])),  # without a length
    ):
        assert answer.status_code == 413
        assert "larger than" in answer.json()["error"]


def test_images_beside_their_reconstruction(client):
    answer = client.post("/api/images", json={"rows": [4, 2], "lowpass_A": 40})
    assert answer.headers["X-Shape"] == "2,4,16,16"
    grey = np.frombuffer(answer.content, np.uint8).reshape(2, 4, 16, 16).astype(float)
    assert grey.std(axis=(2, 3)).min() > 5
    smooth = [np.abs(np.diff(panel, axis=-1)).mean() for panel in grey.swapaxes(0, 1)]
    assert smooth[2] < smooth[1]  # low-passed
    for rows in ([], [300], list(range(73))):
        assert client.post("/api/images", json={"rows": rows}).status_code == 400
    assert client.post("/api/images", json={"rows": [1], "lowpass_A": 0}).status_code == 400


def test_an_image_that_is_a_particle_of_its_own_has_no_other_tilts(client):
    assert not client.get("/api/run").json()["tilts"]
    assert client.get("/api/tilts/7").json() == {"rows": [7], "b_factor_A2": [100.0]}
    assert client.get("/api/tilts/300").status_code == 400


def finished(client, number, seconds=120):
    for _ in range(seconds * 5):
        job = client.get(f"/api/jobs/{number}").json()
        if job["state"] != "running":
            return job
        time.sleep(0.2)
    raise AssertionError(job)


def test_evidence_and_path_are_jobs(client, session):
    client.put("/api/selections/third", content=rows_bytes(range(0, 300, 3)))
    client.post("/api/jobs", json={"kind": "evidence", "selection": "third"})
    asked = {"kind": "path", "how": "line", "name": "walk", "anchors": [3, 9], "points": 3}
    jobs = client.post("/api/jobs", json=asked).json()
    assert [job["title"] for job in jobs] == ["evidence for third", "path walk"]
    assert client.post("/api/jobs", json=asked).status_code == 400  # two are running
    evidence, path = (finished(client, job["number"]) for job in jobs)
    assert evidence["state"] == path["state"] == "done", (evidence, path)
    assert any("supported" in line for line in evidence["lines"])
    files = set(evidence["result"]["files"])
    assert {
        f"evidence/third/selection/{name}" for name in ("map.mrc", "neural.mrc", "half_map_1.mrc")
    } <= files
    assert {f"paths/walk/{name}" for name in ("vol_002.mrc", "chimerax.cxc")} <= set(path["result"]["files"])
    z = session.required().z
    np.testing.assert_allclose(path["result"]["z"], [z[3], (z[3] + z[9]) / 2, z[9]], rtol=1e-5)
    client.delete("/api/selections/third")


def test_a_job_is_cancelled(client, session):
    session.selections.save("all", np.arange(300))
    number = client.post("/api/jobs", json={"kind": "evidence", "selection": "all"}).json()[-1]["number"]
    assert client.delete(f"/api/jobs/{number}").json()["state"] == "cancelled"
    job = session.jobs[number]
    assert job.process.wait(20) != 0
    assert finished(client, number)["state"] == "cancelled"
    session.selections.remove("all")


def test_a_path_is_found_without_a_job(client, session):
    z = session.required().z
    found = client.post("/api/route", json={"how": "line", "points": 3, "anchors": [3, 9]}).json()
    np.testing.assert_allclose(found["z"], [z[3], (z[3] + z[9]) / 2, z[9]], rtol=1e-5)
    assert (found["nearest"][0], found["nearest"][-1]) == (3, 9)
    np.testing.assert_allclose(found["at"]["z2"], np.array(found["z"])[:, 1])
    coordinates = session.required().axes.coordinates
    np.testing.assert_allclose(found["at"]["PC1"][0], coordinates[3, 0], atol=1e-5)
    found = client.post("/api/route", json={"how": "graph", "points": 9, "anchors": [3, 9]}).json()
    np.testing.assert_allclose(found["z"], z[found["nearest"]], rtol=1e-6)  # always on data
    found = client.post("/api/route", json={"how": "pc", "points": 5, "pc": 2}).json()
    assert np.ptp(found["at"]["PC2"]) > 100 * np.ptp(found["at"]["PC1"])
    ends = np.percentile(coordinates[:, 1], [5, 95])
    np.testing.assert_allclose(np.array(found["at"]["PC2"])[[0, -1]], ends, rtol=1e-4)
    assert not (session.folder / "paths" / "path").exists()
    columns = session.required()
    apart = copy.copy(columns)
    apart.latents = dataclasses.replace(
        columns.latents, z=np.where(np.arange(300)[:, None] == 3, np.float32(1e3), z)
    )
    asked = {"kind": "graph", "points": 9, "anchors": [3, 9], "disconnected": "widen"}
    found = paths.route(apart, asked)
    assert found["disconnected"] == "largest"
    assert found["nearest"][0] != 3
    assert "anchor 1" in found["said"][-1]
    for bad in ({"how": "pc", "points": 5, "pc": 3}, {"how": "line", "points": 5, "anchors": [3, 300]}, {}):
        assert client.post("/api/route", json=bad).status_code == 400


def scene(*layers):
    """The body of a scene; each layer is (its description, bytes)."""
    head = json.dumps({"layers": [{"label": "x", "bytes": len(data), **more} for more, data in layers]})
    return head.encode() + b"\n" + b"".join(data for _, data in layers)


def test_a_scene_for_chimerax(client, session):
    one = client.post("/api/volume", json={"row": 7}).content
    layer = {"label": 'a "b"; close\n', "levels": [[0.5, "#0072b2"], [-0.5, "#d55e00"]]}
    made = client.put("/api/scenes/both", content=scene((layer, one), (layer, one))).json()["files"]
    assert made == ["chimerax/both/both.cxc", "chimerax/both/both.zip"]
    script = (session.folder / made[0]).read_text().splitlines()
    assert 'rename #2 "a b close"' in script
    assert "volume #2 style surface step 1 level 0.5 color #0072b2 level -0.5 color #d55e00" in script
    assert (session.folder / "chimerax" / "both" / "map_1.mrc").read_bytes() == one
    with zipfile.ZipFile(io.BytesIO(client.get(f"/api/file/{made[1]}").content)) as packed:
        assert packed.namelist() == ["both/both.cxc", "both/map_0.mrc", "both/map_1.mrc"]


@pytest.mark.parametrize(
    ("more", "data"),
    [
        ({"levels": []}, None),
        ({"levels": [[float("nan"), "#0072b2"]]}, None),
        ({"levels": [[1, "red; close"]]}, None),
        ({"levels": [[1, "#0072b2"]], "bytes": -4}, None),
        ({"levels": [[1, "#0072b2"]]}, b"x" * 5000),
        ({"levels": [[1, "#0072b2"]]}, b""),
        ({"levels": 3}, None),
        ({"levels": [[1, "#0072b2"]], "bytes": "many"}, None),
    ],
)
def test_a_scene_that_cannot_be(client, more, data):
    data = client.post("/api/volume", json={"row": 7}).content if data is None else data
    answer = client.put("/api/scenes/bad", content=scene((more, data)))
    assert answer.status_code == 400
    assert answer.json()["error"]
    for content in (b"", b"[]\n", b'{"layers": []}\n', b"{" * 5000):
        assert client.put("/api/scenes/bad", content=content).status_code == 400
    assert client.put("/api/scenes/a.b", content=scene()).status_code == 400


def test_local_resolution_needs_half_maps(client):
    answer = client.post("/api/confidence", json={"row": 7})
    assert answer.status_code == 400
    assert "half_sets" in answer.json()["error"]


@pytest.mark.parametrize(
    "asked",
    [
        {"kind": "rm"},
        {"kind": "evidence", "selection": "none"},
        {"kind": "evidence", "selection": "../x"},
        {"kind": "path", "how": "line", "points": 3, "anchors": [1]},
        {"kind": "path", "how": "line", "points": 3, "anchors": [1, 999]},
        {"kind": "path", "how": "pc", "points": 3, "pc": 3},
        {"kind": "path", "how": "pc", "points": 1, "pc": 1},
        {"kind": "path", "how": "pc", "points": 3, "pc": 1, "name": "a/b"},
    ],
)
def test_a_job_that_cannot_be(client, asked):
    answer = client.post("/api/jobs", json=asked)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_training_that_goes_on_is_followed(train_tiny, tmp_path):
    folder = train_tiny("epochs=2")
    held = folder / "latents.npz"
    kept = held.read_bytes()
    held.unlink()  # as it is before training ends
    session = Session(Run.open(folder), [])
    with TestClient(
        create(session, TOKEN), base_url="http://localhost", headers={"X-Drgn-Token": TOKEN}
    ) as client:
        live = client.get("/api/live").json()
        assert (live["latents"], live["epochs"]) == (False, [1, 2])
        assert len(live["losses"]["heldout/loss"]) == 2
        assert client.get("/api/run").json()["columns"] == []
        assert client.post("/api/volume", json={"z": [0, 0]}).status_code == 200  # of the newest weights
        assert "no latents yet" in client.get("/api/column/z1").json()["error"]
        number = client.post("/api/jobs", json={"kind": "encode"}).json()[0]["number"]
        assert finished(client, number)["state"] == "done"
        after = client.get("/api/live").json()
        assert after["latents"]
        assert after["stamp"] != live["stamp"]
        assert client.get("/api/column/z1").status_code == 200
    assert len(held.read_bytes()) == len(kept)


def test_options_bind():
    from drgn.explore import explore

    assert bind(explore, compose("explore"))["port"] == 8000
