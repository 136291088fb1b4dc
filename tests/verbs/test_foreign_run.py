"""A run folder of cryoDRGN in place of one of ours."""

import pickle
import shutil

import numpy as np
import pytest
import torch
import yaml

from drgn.analyze import analyze
from drgn.command import compose
from drgn.discover import discover
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
    assert printed.splitlines()[0].startswith("No maps are made: these weights of cryoDRGN are not decoded")
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
    with pytest.raises(InputError, match=r"whose weights \(there are no weights\) are not read here"):
        next(Run.open(folder).volumes(np.zeros((1, 3))))
    torch.save({"decoder.0.weight": torch.zeros(25, 10)}, folder / "weights.4.pkl")
    with pytest.raises(InputError, match=r"whose weights \(weights\.4\.pkl: decoder, 0\.001 MB\) are not"):
        next(Run.open(folder).volumes(np.zeros((1, 3))))
    (folder / "weights.4.pkl").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"whose weights \(weights\.4\.pkl cannot be read\) are not"):
        next(Run.open(folder).volumes(np.zeros((1, 3))))
    with pytest.raises(InputError, match="a run of cryoDRGN"):
        generate(**{**compose("generate"), "run": folder, "kmeans": 3, "output": tmp_path / "maps"})
    with pytest.raises(InputError, match=r"a run of cryoDRGN.*drgn filter.*drgn backproject.*drgn fsc"):
        validate(**{**compose("validate"), "run": folder, "output": tmp_path / "validation"})


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match="or one of cryoDRGN"):
        Run.open(tmp_path)


def test_run_of_its_folder_is_one_of_cryodrgn(folder):
    run = Run(folder)
    assert type(run) is type(Run.open(folder)) is ForeignRun
    assert len(run.particles().table) == len(run.latents().z) == len(KEPT)


PART = {"pe_type": "gaussian", "activation": "relu", "domain": "fourier", "players": 2, "pdim": 12, "zdim": 3}


@pytest.fixture(scope="module")
def decoding(folder, tmp_path_factory):
    """The same run with the weights of a small network, and these."""
    whole = tmp_path_factory.mktemp("whole") / "vae"
    shutil.copytree(folder, whole, ignore=shutil.ignore_patterns("drgn", "o"))
    config = yaml.safe_load((whole / "config.yaml").read_text())
    config["model_args"] = PART
    config["dataset_args"]["norm"] = [0.5, 2.0]
    (whole / "config.yaml").write_text(yaml.safe_dump(config))
    generator = torch.Generator().manual_seed(0)
    shapes = {"0": (12, 27), "2.linear": (12, 12), "4.linear": (12, 12), "6": (2, 12)}
    weights = {"decoder.rand_freqs": 0.2 * torch.randn(12, 3, generator=generator)}
    for name, shape in shapes.items():
        at = f"decoder.decoder.main.{name}"
        weights[f"{at}.weight"] = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        weights[f"{at}.bias"] = torch.randn(shape[0], generator=generator)
    torch.save({"epoch": 4, "model_state_dict": weights}, whole / "weights.4.pkl")
    return whole, weights


def test_its_maps_are_those_of_its_weights(decoding):
    """Against plain sums. Of a run of cryoDRGN 4.3.1 they were its eval_vol's to 2e-6 of their deviation."""
    folder, weights = decoding
    z = np.array([[0.3, -1.0, 0.5]], np.float32)
    (volume,) = Run.open(folder).volumes(z)
    layers = [weights[f"decoder.decoder.main.{n}.weight"].numpy() for n in ("0", "2.linear", "4.linear", "6")]
    biases = [weights[f"decoder.decoder.main.{n}.bias"].numpy() for n in ("0", "2.linear", "4.linear", "6")]

    def transform(k):
        """Real minus imaginary part at a frequency (x, y, z) in cycles per box."""
        mate = tuple(k[::-1]) > (0, 0, 0)
        phase = weights["decoder.rand_freqs"].numpy() @ (np.array(k) / 16 * (-1 if mate else 1)) * 8
        x = np.concatenate([np.sin(phase), np.cos(phase), z[0]])
        x = np.maximum(layers[0] @ x + biases[0], 0)
        for i in (1, 2):
            x = np.maximum(layers[i] @ x + biases[i] + x, 0)
        real, imaginary = layers[3] @ x + biases[3]
        return real + imaginary if mate else real - imaginary

    places = np.arange(-8, 8)
    grid = np.array(
        [(x, y, w) for w in places for y in places for x in places if x * x + y * y + w * w <= 64]
    )
    values = np.array([transform(k) for k in grid])
    for x, y, w in ((0, 0, 0), (3, -2, 1), (-8, 5, 7)):
        angle = 2 * np.pi * (grid @ [x, y, w]) / 16
        expected = 0.5 + 2 * (values * (np.cos(angle) + np.sin(angle))).sum() / 16**3
        assert volume[w + 8, y + 8, x + 8] == pytest.approx(expected, abs=1e-4)
    (small,) = Run.open(folder).volumes(z, box_size=8)
    assert small.shape == (8, 8, 8)


def test_it_is_analysed_with_maps(decoding, tmp_path):
    folder, _ = decoding
    analyze(**{**compose("analyze"), "run": folder, "kmeans": 3, "pcs": 1, "umap": False})
    made = folder / "drgn" / "analysis"
    assert len(list((made / "kmeans3").glob("vol_*.mrc"))) == 3
    assert (made / "pc1" / "movie.gif").is_file()
    maps = generate(**{**compose("generate"), "run": folder, "kmeans": 3, "output": tmp_path})
    assert len(maps) == 3
    with pytest.raises(InputError, match="whose images are not prepared here"):
        validate(**{**compose("validate"), "run": folder, "output": tmp_path / "validation"})


def test_networks_of_another_kind_are_named(decoding, tmp_path):
    folder, _ = decoding
    other = tmp_path / "vae"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("drgn"))
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["model_args"] = {**PART, "pe_type": "geom_lowf"}
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="a network with pe_type=geom_lowf, where only gaussian is known"):
        next(Run.open(other).volumes(np.zeros((1, 3))))
    config["model_args"] = {**PART, "players": 5}
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=r"have no decoder\.decoder\.main\.6\.linear\.weight, which config"):
        next(Run.open(other).volumes(np.zeros((1, 3))))


def test_it_has_states_but_no_spread_without_variances(decoding, tmp_path, capsys):
    folder = tmp_path / "vae"
    shutil.copytree(decoding[0], folder, ignore=shutil.ignore_patterns("drgn", "o"))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["dataset_args"]["ind"] = None
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    state = np.arange(100) % 2
    z = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    z[:, 0] += 20 * state
    (folder / "z.4.pkl").write_bytes(pickle.dumps(z))
    assert np.isnan(Run.open(folder).latents().logvar).all()
    discover(**{**compose("discover"), "run": folder, "resamples": 1})
    assert "has no variances of its latents" in capsys.readouterr().out
    with np.load(folder / "drgn" / "discover" / "labels.npz") as found:
        assert len(set(zip(found["label"], state, strict=True))) == 2
    key = str(Run.open(folder).latents().key[0])
    options = {**compose("generate"), "run": folder, "particles": [key], "output": tmp_path / "maps"}
    with pytest.raises(InputError, match=r"samples=4: .* has no variances of these latents"):
        generate(**{**options, "samples": 4})
    assert not (tmp_path / "maps").exists()
