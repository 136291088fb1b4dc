"""A run folder of cryoDRGN in place of one of ours."""

import pickle

import numpy as np
import pytest
import torch
import yaml

from drgn.analyze import analyze
from drgn.command import compose
from drgn.errors import InputError
from drgn.filter import filter as select
from drgn.foreign_run import ForeignRun
from drgn.formats.cryodrgn import read_indices
from drgn.formats.mrc import StackWriter
from drgn.formats.particles import Particles
from drgn.generate import generate
from drgn.run import Run
from drgn.validate import validate

KEPT = np.arange(5, 95, 2)[::-1]


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    """A star file of 100 images of one grey value."""
    folder = tmp_path_factory.mktemp("particles")
    with StackWriter(folder / "images.mrcs", 100, 16, 2.0) as stack:
        stack.write(np.ones((100, 16, 16), np.float32))
    rows = "".join(f"{row:06d}@images.mrcs 0 0 {row}\n" for row in range(1, 101))
    names = "".join(f"_rln{name}\n" for name in ("ImageName", "AngleRot", "AngleTilt", "AnglePsi"))
    (folder / "images.star").write_text(f"data_\n\nloop_\n{names}{rows}")
    return folder / "images.star"


@pytest.fixture(scope="module")
def folder(star, tmp_path_factory):
    """A run on some of the particles of a star file, whose latents are in three groups."""
    folder = tmp_path_factory.mktemp("cryodrgn") / "vae"
    folder.mkdir()
    (folder.parent / "ind.pkl").write_bytes(pickle.dumps(KEPT))
    data = {"particles": str(star), "ind": str(folder.parent / "ind.pkl"), "invert_data": True}
    config = {"dataset_args": data, "lattice_args": {"D": 17}, "version": "4.3.1", "time": "2026-01-31 12"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    z = np.random.default_rng(0).normal(size=(len(KEPT), 3)).astype(np.float32)
    z[:, 0] += 20 * (KEPT % 3)
    (folder / "z.4.pkl").write_bytes(pickle.dumps(z) + pickle.dumps(z))
    (folder / "analyze.4").mkdir()
    return folder


@pytest.fixture(scope="module")
def report(folder):
    options = {**compose("analyze"), "run": folder, "kmeans": 3, "umap": False}
    return analyze(**options)


def test_its_latents_are_analysed_without_volumes(folder, report, capsys):
    assert report == folder / "drgn" / "analysis" / "report.html"
    assert not list(folder.rglob("*.mrc"))
    assert not list((folder / "analyze.4").iterdir())
    text = report.read_text()
    assert "epoch 4, cryoDRGN 4.3.1" in text
    assert "2026-01-31" in text
    assert "drgn filter" in text
    assert "drgn traverse" in text
    for verb in ("validate", "generate", "discover"):  # these need maps
        assert f"<pre>drgn {verb}" not in text
    analyze(**{**compose("analyze"), "run": folder, "kmeans": 3, "umap": False, "output": folder / "o"})
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].startswith("No maps are made: cryoDRGN's weights are not decoded here")
    assert "45 particles, zdim 3" in printed


def test_its_particles_are_filtered(folder, report, tmp_path, star):
    found = []
    for cluster in range(3):
        options = {**compose("filter"), "run": folder, "kmeans": 3, "clusters": [cluster]}
        select(**{**options, "output": tmp_path / "rows.pkl"})
        select(**{**options, "output": tmp_path / "rows.star"})
        rows = read_indices(tmp_path / "rows.pkl")
        assert len(set(rows % 3)) == 1  # the group that the latents were made with
        key = Particles.from_file(star).table["key"].to_numpy()[rows]
        names = [name.partition("@")[0] for name in Particles.from_file(tmp_path / "rows.star").table["key"]]
        assert names == [name.partition("@")[0] for name in key]
        found += rows.tolist()
    assert sorted(found) == sorted(KEPT.tolist())


def test_what_needs_its_weights_is_a_sentence(folder, tmp_path):
    with pytest.raises(InputError, match=r"whose weights \(there are no weights\) are not decoded here"):
        next(Run.open(folder).volumes(np.zeros((1, 3))))
    torch.save({"decoder.0.weight": torch.zeros(25, 10)}, folder / "weights.4.pkl")
    with pytest.raises(InputError, match=r"whose weights \(weights\.4\.pkl: decoder, 0\.001 MB\) are not"):
        next(Run.open(folder).volumes(np.zeros((1, 3))))
    (folder / "weights.4.pkl").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"whose weights \(weights\.4\.pkl cannot be read\) are not"):
        next(Run.open(folder).volumes(np.zeros((1, 3))))
    with pytest.raises(InputError, match="a run of cryoDRGN"):
        generate(**{**compose("generate"), "run": folder, "output": tmp_path / "maps"})
    with pytest.raises(InputError, match=r"a run of cryoDRGN.*drgn filter.*drgn backproject.*drgn fsc"):
        validate(**{**compose("validate"), "run": folder, "output": tmp_path / "validation"})


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match="or one of cryoDRGN"):
        Run.open(tmp_path)


def test_run_of_its_folder_is_one_of_cryodrgn(folder):
    run = Run(folder)
    assert type(run) is type(Run.open(folder)) is ForeignRun
    assert len(run.particles().table) == len(run.latents().z) == len(KEPT)
