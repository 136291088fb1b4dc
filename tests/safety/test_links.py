"""Links in a stranger's run folder that lead out of it: nothing outside is written, or shown."""

import os
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from drgn.analyze import analyze
from drgn.cluster import cluster
from drgn.command import bind, compose
from drgn.errors import InputError
from drgn.explorer.server import create
from drgn.explorer.session import Session
from drgn.filter import filter as filter_
from drgn.generate import generate
from drgn.run import Run
from drgn.train import train


@pytest.fixture
def outside(tmp_path):
    """A folder of one's own, with a file that must stay as it is."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("precious\n")
    return folder


@pytest.fixture
def untouched(outside):
    yield
    assert [path.name for path in outside.rglob("*")] == ["precious"]
    assert (outside / "precious").read_text() == "precious\n"


def quick(run, **more):
    return {
        **compose("analyze"),
        "run": run,
        "kmeans": 2,
        "volumes": False,
        "umap": False,
        "audit": False,
        **more,
    }


FOLDERS = {
    "analysis": lambda run: analyze(**quick(run)),
    "analysis/kmeans2": lambda run: analyze(**quick(run)),
    "analysis/gmm2": lambda run: cluster(**{**compose("cluster"), "run": run, "by": "gmm", "n": 2}),
    "volumes": lambda run: generate(**{**compose("generate"), "run": run, "z": [[0.0, 0.0]]}),
    "explorer": lambda run: Session(Run.open(run), []),
    "explorer/selections": lambda run: Session(Run.open(run), []),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_leads_out_is_not_written_to(stranger, outside, untouched, name):
    place = stranger / "run" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        for path in place.iterdir():
            path.unlink() if path.is_file() else [inner.unlink() for inner in path.iterdir()] and path.rmdir()
        place.rmdir()
    place.symlink_to(outside)
    with pytest.raises(InputError, match=rf"{Path(name).name} leads to .*outside, outside .*remove the link"):
        FOLDERS[name](stranger / "run")


@pytest.mark.parametrize("name", ["report.html", "pca.png", "embedding.npz", "kmeans2/labels.npz"])
def test_a_file_that_leads_out_is_not_written_through(stranger, outside, untouched, name):
    place = stranger / "run" / "analysis" / name
    place.unlink(missing_ok=True)
    place.symlink_to(outside / "precious")
    with pytest.raises(InputError, match=r"leads to .*precious"):
        analyze(**quick(stranger / "run"))


def test_training_does_not_go_on_through_a_link(stranger, outside, untouched):
    folder = stranger / "run"
    (folder / "checkpoints" / "last.ckpt").symlink_to(outside / "precious")
    options = ["dataset=custom", f"dataset.particles={Run.open(folder).particles().source.path}"]
    options += ["model=128x3", "model.hidden_dim=16", "latent.zdim=2", "warmstart=none", "trainer=cpu"]
    options += ["trainer.precision=32-true", "epochs=1", "dataset.preflight=false", "analyze=false"]
    options += ["logger=none", f"output={folder}", f"dataset.cache={folder.parent / 'cache'}"]
    with pytest.raises(InputError, match=r"last\.ckpt leads to .*precious"):
        train(**bind(train, compose("train", options)))


def test_filter_reads_through_a_link_and_replaces_one(stranger, outside, untouched):
    run = stranger / "run"
    (run / "kept.star").symlink_to(outside / "precious")
    options = {**compose("filter", ["output=x"]), "run": run, "kmeans": 2, "clusters": [0]}
    assert filter_(**{**options, "output": run / "kept.star"}) == 6
    assert not (run / "kept.star").is_symlink()


def test_links_inside_the_run_are_fine(stranger):
    run = stranger / "run"
    (run / "elsewhere").mkdir()
    (run / "volumes").symlink_to(run / "elsewhere")
    assert Run.open(run).folder("volumes").resolve() == (run / "elsewhere").resolve()


@pytest.fixture
def client(stranger):
    session = Session(Run.open(stranger / "run"), [])
    with TestClient(create(session, "secret"), base_url="http://127.0.0.1") as made:
        made.headers["x-drgn-token"] = "secret"
        yield made


@pytest.mark.parametrize(
    "name",
    [
        *["../run.json", "..%2f..%2frun.json", "/etc/passwd", "%2fetc%2fpasswd", "a/../../run.json", "link"],
        *["links/precious", "%00", "x" * 5000, "circle"],
    ],
)
def test_the_explorer_serves_nothing_from_outside(client, stranger, outside, name):
    folder = stranger / "run" / "explorer"
    folder.mkdir()
    (folder / "link").symlink_to(outside / "precious")
    (folder / "links").symlink_to(outside)
    (folder / "circle").symlink_to(folder / "circle")
    answer = client.get(f"/api/file/{name}")
    assert answer.status_code in (400, 404)
    assert "precious\n" not in answer.text
    assert "root:" not in answer.text


def test_a_selection_that_is_a_link_is_replaced(client, stranger, outside, untouched):
    folder = stranger / "run" / "explorer" / "selections"
    folder.mkdir(parents=True)
    (folder / "mine.txt").symlink_to(outside / "precious")
    assert client.get("/api/selections/mine").status_code == 400  # it is no list of rows
    assert client.put("/api/selections/mine", content=np.arange(3, dtype="<u4").tobytes()).status_code == 200
    assert not (folder / "mine.txt").is_symlink()


def test_a_pipe_in_a_folder_is_not_waited_for(stranger):
    os.mkfifo(stranger / "formats" / "a.csg")
    os.mkfifo(stranger / "formats" / "J1_passthrough_particles.cs")
    from drgn.formats.particles import Particles

    assert len(Particles.from_file(stranger / "formats" / "p.cs")) == 2


@pytest.mark.parametrize(
    "name", ["/dev/zero", "/dev/stdin", "../../../../../../../../etc/passwd", "pipe.mrcs"]
)
def test_image_names_that_are_no_stack(stranger, name):
    from drgn.formats.particles import Particles, read_images

    os.mkfifo(stranger / "formats" / "pipe.mrcs")
    table = stranger / "formats" / "p.star"
    table.write_text(table.read_text().replace("s.mrcs", name))
    with pytest.raises(InputError) as told:
        read_images(Particles.from_file(table), np.arange(1))
    assert "root:" not in str(told.value)
