"""A run folder of cryoDRGN in the explorer."""

import pickle
import time

import numpy as np
import pytest
import yaml
from starlette.testclient import TestClient

from drgn.explorer.server import create
from drgn.explorer.session import Session
from drgn.formats.particles import Particles
from drgn.run import Run


@pytest.fixture(scope="module")
def session(toy, tmp_path_factory):
    """A folder as cryoDRGN 4.3.1 writes it, without weights."""
    folder = tmp_path_factory.mktemp("cryodrgn") / "vae"
    folder.mkdir()
    args = {"zdim": 2, "pe_type": "gaussian", "pe_dim": 12, "players": 2, "pdim": 12, "activation": "relu"}
    config = {
        "dataset_args": {"particles": str(toy), "invert_data": True, "norm": [0.0, 1.0]},
        "lattice_args": {"D": 17, "extent": 0.5},
        "model_args": args,
        "version": "4.3.1",
        "time": "2026-01-31 12",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    z = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    (folder / "z.4.pkl").write_bytes(pickle.dumps(z) + pickle.dumps(z))
    return Session(Run.open(folder), [])


@pytest.fixture(scope="module")
def client(session):
    with TestClient(
        create(session, "t"), base_url="http://localhost", headers={"X-Drgn-Token": "t"}
    ) as client:
        yield client


def test_its_latents_selections_and_images(client, session, tmp_path):
    facts = client.get("/api/run").json()
    assert (facts["n"], facts["zdim"], facts["has_images"], facts["decodes"]) == (300, 2, False, False)
    assert len(np.frombuffer(client.get("/api/column/PC1").content, "<f4")) == 300
    assert client.get("/api/live").json()["latents"]
    rows = np.arange(0, 300, 2)
    client.put("/api/selections/even", content=rows.astype("<u4").tobytes())
    made = client.post("/api/export/star/even", content=rows.astype("<u4").tobytes()).json()
    assert len(Particles.from_file(made["path"])) == 150
    assert session.folder == session.run.path / "drgn" / "explorer"
    answer = client.post("/api/images", json={"rows": [1, 2], "lowpass_A": 40})
    assert answer.headers["X-Panels"] == "raw,low-passed"
    assert answer.headers["X-Shape"] == "2,2,16,16"


def test_its_evidence_is_a_back_projection(client, session):
    session.selections.save("odd", np.arange(1, 300, 2))
    number = client.post("/api/jobs", json={"kind": "evidence", "selection": "odd"}).json()[-1]["number"]
    while (job := client.get(f"/api/jobs/{number}").json())["state"] == "running":
        time.sleep(0.2)
    assert job["state"] == "done", job["lines"]
    assert "evidence/odd/map.mrc" in job["result"]["files"]
    assert any("half maps" in line for line in job["lines"]), job["lines"]


def test_its_weights_are_named_where_they_are_not_read(client):
    answer = client.post("/api/volume", json={"row": 1})
    assert answer.status_code == 400
    assert "run of cryoDRGN" in answer.json()["error"]
