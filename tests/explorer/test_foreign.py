"""A run folder of cryoDRGN in the explorer."""

import io
import os
import pickle
import shutil
import subprocess
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
import yaml
from starlette.testclient import TestClient

from drgn.command import compose
from drgn.explorer.server import create
from drgn.explorer.session import Session
from drgn.formats.cryodrgn import write_cryodrgn
from drgn.formats.cryosparc import matrix_to_rotvec
from drgn.formats.cryosparc_group import write_group
from drgn.formats.particles import Particles
from drgn.run import Run
from drgn.simulate import simulate


def folder_of(folder, particles):
    """Write a folder as cryoDRGN 4.3.1 writes it, without weights."""
    folder.mkdir()
    args = {
        "pe_type": "gaussian",
        "activation": "relu",
        "domain": "fourier",
        "players": 2,
        "pdim": 12,
        "zdim": 2,
    }
    config = {
        "dataset_args": {"particles": str(particles), "invert_data": True, "norm": [0.0, 1.0]},
        "lattice_args": {"D": 17, "extent": 0.5},
        "model_args": args,
        "version": "4.3.1",
        "time": "2026-01-31 12",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    z = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    (folder / "z.4.pkl").write_bytes(pickle.dumps(z) + pickle.dumps(z))
    return folder


@pytest.fixture(scope="module")
def session(toy, tmp_path_factory):
    return Session(Run.open(folder_of(tmp_path_factory.mktemp("cryodrgn") / "vae", toy)), [])


@pytest.fixture(scope="module")
def of_cryosparc(toy, tmp_path_factory):
    """The same particles in a .cs, and a run of cryoDRGN on them."""
    folder = tmp_path_factory.mktemp("cryosparc")
    particles = Particles.from_file(toy)
    fields = {
        "blob/idx": particles.table["image_index"],
        "blob/psize_A": particles.table["pixel_size_A"],
        "alignments3D/psize_A": particles.table["pixel_size_A"],
        "ctf/accel_kv": particles.table["voltage_kV"],
        "ctf/cs_mm": particles.table["spherical_aberration_mm"],
        "ctf/amp_contrast": particles.table["amplitude_contrast"],
        "ctf/df1_A": particles.table["defocus_u_A"],
        "ctf/df2_A": particles.table["defocus_v_A"],
        "ctf/df_angle_rad": np.deg2rad(particles.table["defocus_angle_deg"]),
    }
    numbers = [(name, "u4" if name == "blob/idx" else "f4") for name in fields]
    more = [("uid", "u8"), ("blob/path", "S20"), ("blob/shape", "u4", 2), ("blob/sign", "f4")]
    records = np.zeros(
        300, [*more, *numbers, ("alignments3D/pose", "f4", 3), ("alignments3D/shift", "f4", 2)]
    )
    for name, values in fields.items():
        records[name] = values
    stack = toy.parent / particles.table["image_path"].iloc[0]
    (folder / "images.mrcs").write_bytes(stack.read_bytes())
    records["uid"], records["blob/path"], records["blob/shape"] = np.arange(300) + 2**40, b"images.mrcs", 16
    records["blob/sign"], records["alignments3D/pose"] = -1, matrix_to_rotvec(particles.rotation)
    write_group(folder / "particles.cs", records)
    return folder_of(folder / "vae", folder / "particles.cs")


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
    sent = io.BytesIO()
    np.save(sent, rows)
    assert not session.folder.parent.exists()  # a file is read before anything is kept
    answer = client.post("/api/selected?file=even.npy", content=sent.getvalue())
    np.testing.assert_array_equal(np.frombuffer(answer.content, "<u4"), rows)
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


def test_one_on_particles_of_cryosparc_gives_a_group_back(of_cryosparc, serve, open_page, explored, tmp_path):
    generator = torch.Generator().manual_seed(0)
    shapes = {"0": (12, 18), "2.linear": (12, 12), "4.linear": (12, 12), "6": (2, 12)}
    weights = {"decoder.rand_freqs": 0.2 * torch.randn(8, 3, generator=generator)}
    for name, shape in shapes.items():
        at = f"decoder.decoder.main.{name}"
        weights[f"{at}.weight"] = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        weights[f"{at}.bias"] = torch.randn(shape[0], generator=generator)
    torch.save({"epoch": 4, "model_state_dict": weights}, of_cryosparc / "weights.4.pkl")
    session = Session(Run.open(of_cryosparc), [])
    page = open_page(serve(of_cryosparc))
    explored(page, session)
    page.select_option("#threshold-column", "z1")
    page.fill("#threshold-high", "0")
    page.click("#threshold-apply")
    low = np.flatnonzero(session.required().z[:, 0] <= 0)
    page.wait_for_function(f"explorer.selection.rows.length == {len(low)}")
    rows = np.array(page.evaluate("Array.from(explorer.selection.rows)"))
    np.testing.assert_array_equal(rows, low)

    # with all fields, as a group of cryoSPARC
    page.select_option("#export-form", "cs")
    page.fill("#selection-name", "low")
    downloads = []
    page.on("download", lambda download: downloads.append(download))
    page.click("#export")
    while len(downloads) < 2:
        page.wait_for_timeout(100)
    assert {one.suggested_filename for one in downloads} == {"low.cs", "low.csg"}
    for one in downloads:
        one.save_as(tmp_path / one.suggested_filename)
    kept, given = np.load(tmp_path / "low.cs"), np.load(of_cryosparc.parent / "particles.cs")
    np.testing.assert_array_equal(np.sort(kept["uid"]), given["uid"][rows])
    assert kept.dtype == given.dtype
    np.testing.assert_array_equal(np.sort(session.selections.read(tmp_path / "low.cs")), rows)
    assert "low.cs" in (tmp_path / "low.csg").read_text()


def test_a_run_of_cryodrgn_is_explored_in_the_browser(toy, serve, open_page, explored, tmp_path):
    """`cryodrgn_4.3.1` is what cryodrgn train_vae left of three epochs on the images of `toy`."""
    folder = tmp_path / "vae"
    shutil.copytree(Path(__file__).with_name("cryodrgn_4.3.1"), folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    particles = Particles.from_file(toy)
    write_cryodrgn(tmp_path / "given", particles.table, particles.rotation)
    given = {name: str(tmp_path / "given" / f"{name}.pkl") for name in ("poses", "ctf")}
    config["dataset_args"] |= {"particles": str(toy), "datadir": str(toy.parent), **given}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    explored(open_page(serve(folder)), Session(Run.open(folder), []))


@pytest.mark.full
def test_a_run_that_cryodrgn_made_is_explored_in_the_browser(serve, open_page, explored, tmp_path):
    program = os.environ.get("CRYODRGN")
    if not program:
        pytest.skip("CRYODRGN, the path of cryoDRGN's program in an environment of its own, is not set")
    options = compose("simulate", ["n_particles=300", "box_size=32", "pixel_size_A=6", "snr=1"])
    star = simulate(**{**options, "output": tmp_path / "set"})
    particles = Particles.from_file(star)
    write_cryodrgn(tmp_path / "given", particles.table, particles.rotation)
    command = [program, "train_vae", star, "--datadir", star.parent, "--zdim", "2", "-n", "3"]
    command += ["--poses", tmp_path / "given/poses.pkl", "--ctf", tmp_path / "given/ctf.pkl"]
    command += ["-o", tmp_path / "vae", "--uninvert-data", "--no-analysis"]
    command += ["--enc-dim", "64", "--enc-layers", "2", "--dec-dim", "64", "--dec-layers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    session = Session(Run.open(tmp_path / "vae"), [])
    explored(open_page(serve(tmp_path / "vae")), session)


@pytest.fixture
def explored(coloured, lasso, on_page, tmp_path):
    """Return a function that goes the way: colour, lasso, volume, path, evidence, star."""

    def way(page, session):
        assert "cryoDRGN 4.3.1" in page.inner_text("#run-facts")
        page.select_option("#colour", "tilt_deg")
        page.wait_for_function("explorer.scatter.colour.name == 'tilt_deg'")
        assert coloured(page.locator("#plot").screenshot(), "points.png", tmp_path) > 0.001

        places = on_page(page, range(300))
        rows, _, _ = lasso(page, places, np.median(places, axis=0), 100)
        page.click("[data-mode=panZoom]")

        highest = page.evaluate("explorer.scatter.y.at[1]")
        page.mouse.click(*on_page(page, [highest])[0])
        page.wait_for_function("explorer.volumes.layers.length == 1")
        assert page.evaluate("explorer.state.picked") == highest
        shown = page.evaluate("Array.from(new Float32Array(explorer.volumes.layers[0].data.slice(1024)))")
        expected = next(iter(session.run.volumes(session.required().z[[highest]])))
        np.testing.assert_allclose(shown, expected.ravel(), atol=1e-4 * np.abs(expected).max())
        page.wait_for_timeout(1500)
        assert coloured(page.locator("#viewer").screenshot(), "surface.png", tmp_path) > 0.01

        page.click("[data-tab=path]")
        page.click("#path-make")
        page.wait_for_function("explorer.panels.path?.volumes.length == 5")
        page.click("[data-tab=evidence]")
        page.click("#evidence")

        # the images of the selection by themselves, beside what the network makes
        page.wait_for_selector("#evidence-result p")
        assert "half maps agree" in page.inner_text("#evidence-result p")
        with mrcfile.open(session.folder / "evidence" / f"selection-{len(rows)}" / "map.mrc") as file:
            assert file.data.std() > 0
        page.click("#evidence-result button")
        page.wait_for_function("explorer.volumes.layers.some(l => l.label == 'images alone')")
        assert page.evaluate("explorer.volumes.layers.length") == 2  # that of the path is there still

        page.select_option("#export-form", "star")
        with page.expect_download() as download:
            page.click("#export")
        download.value.save_as(tmp_path / "selected.star")
        np.testing.assert_array_equal(
            np.sort(session.run.particles().rows_of(tmp_path / "selected.star")), rows
        )

    return way
