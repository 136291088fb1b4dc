"""drgn traverse on run folders made without training: every kind of path, every file, every mistake."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from drgn.analysis.chimerax import FRAMES_PER_MAP
from drgn.command import compose
from drgn.errors import InputError
from drgn.formats.mrc import StackWriter, read_volume
from drgn.run import Run
from drgn.traverse import traverse


def make(run, **options):
    return traverse(**{**compose("traverse"), "run": run, **options})


def quick(run, **options):
    """The path alone."""
    return pd.read_csv(make(run, volumes=False, **options) / "z.csv", keep_default_na=False)


def latents_of(table):
    return table[[name for name in table if name[0] == "z"]].to_numpy(np.float32)


@pytest.fixture(scope="module")
def component(finished):
    return make(finished, pc=2, frames=9)


def test_a_component_has_everything(finished, component):
    assert component == finished / "traverse" / "pc2"
    assert {path.name for path in component.iterdir()} - {"movie.mp4"} == {
        "z.csv",
        "path.npz",
        "path.png",
        "movie.gif",
        "chimerax.cxc",
        "traverse.json",
        "z_values.txt",
        *(f"vol_{i:03d}.mrc" for i in range(5)),
    }


def test_its_maps_are_those_of_its_points(finished, component):
    table = pd.read_csv(component / "z.csv", keep_default_na=False)
    with np.load(component / "path.npz") as arrays:
        np.testing.assert_allclose(arrays["z"], latents_of(table), rtol=1e-5)
        z = arrays["z"]
    assert (table["key"] == "").all()  # a component passes between the particles
    assert set(table["nearest_key"]) <= set(Run.open(finished).latents().key)
    for i, expected in enumerate(Run.open(finished).volumes(z)):
        np.testing.assert_allclose(
            read_volume(component / f"vol_{i:03d}.mrc")[0], expected, rtol=1e-4, atol=1e-6
        )


def test_its_movie_goes_there_and_back(component):
    with Image.open(component / "movie.gif") as movie:
        assert movie.size == (320, 320)
        assert movie.info["loop"] == 0
        shown = []
        for i in range(movie.n_frames):
            movie.seek(i)
            shown.append((np.asarray(movie.convert("RGB"), np.int64), movie.info["duration"]))
    assert len(shown) == 16  # 9 there, 7 back between the ends; equal ones are one, shown for longer
    assert shown[0][1] > 4 * shown[1][1]
    assert shown[8][1] > 4 * shown[7][1]
    for i in range(1, 8):
        assert (shown[8 - i][0] == shown[8 + i][0]).all()
    assert (shown[0][0] != shown[8][0]).any()


def test_its_script_for_chimerax_opens_the_maps_beside_it(component):
    lines = (component / "chimerax.cxc").read_text().splitlines()
    commands = [line for line in lines if not line.startswith("#")]
    facts = json.loads((component / "traverse.json").read_text())
    opened = next(line for line in commands if line.startswith("open ")).split()
    assert opened[1:-2] == [f"vol_{i:03d}.mrc" for i in range(5)]
    assert opened[-2:] == ["vseries", "true"]
    shown = next(line for line in commands if line.startswith("volume #1 ")).split()
    assert float(shown[shown.index("level") + 1]) == pytest.approx(facts["level"], rel=1e-5)
    assert f"wait {8 * FRAMES_PER_MAP}" in commands
    assert not [line for line in lines if "/" in line.split("#")[0]]
    assert commands.index("view orient") < commands.index("view")


def test_the_level_and_how_it_was_chosen_are_said(finished, component, tmp_path):
    facts = json.loads((component / "traverse.json").read_text())
    assert facts["level_is"].startswith("the median over the maps")
    assert facts["kind"] == "pc"
    assert facts["view"] in ("along x", "along y", "along z")
    options = {"level": 0.5, "view": "along x", "movie": False, "points": 2, "output": tmp_path / "own"}
    given = json.loads((make(finished, **options) / "traverse.json").read_text())
    assert (given["level"], given["level_is"], given["view"]) == (0.5, "given", "along x")
    assert "turn y -90" in (tmp_path / "own" / "chimerax.cxc").read_text().splitlines()
    assert not (tmp_path / "own" / "movie.gif").exists()


def test_what_an_earlier_path_left_is_removed(finished, tmp_path):
    make(finished, points=3, frames=3, output=tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    make(finished, volumes=False, output=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "notes.txt",
        "z.csv",
        "path.npz",
        "path.png",
        "traverse.json",
    }


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the reader leaves its pipes open
def test_an_mp4_where_the_encoder_is_installed(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    from drgn.analysis.movies import write_mp4

    pictures = [np.full((64, 64, 3), grey, np.uint8) for grey in range(0, 250, 10)]
    path = write_mp4(pictures, tmp_path / "movie.mp4", 15)
    frames = imageio_ffmpeg.read_frames(str(path))
    facts = next(frames)
    assert (facts["size"], facts["fps"], facts["codec"]) == ((64, 64), 15, "h264")
    means = [np.frombuffer(frame, np.uint8).mean() for frame in frames]
    np.testing.assert_allclose(means, range(0, 250, 10), atol=4)


def test_percentiles_of_one_dimension(make_run, finished):
    run = make_run(1)
    z = Run.open(run).latents().z
    found = latents_of(quick(run, kind="percentiles"))
    np.testing.assert_allclose(found, np.percentile(z, [5, 23, 41, 59, 77, 95], axis=0), rtol=1e-5)
    with pytest.raises(InputError, match="one dimension, and this one has 3; use kind=pc"):
        quick(finished, kind="percentiles")


def test_a_line_between_rows_keys_and_latents(finished):
    latents = Run.open(finished).latents()
    table = quick(finished, kind="line", anchors=[3, str(latents.key[50]), [0.5, 1, -1]], points=3)
    found = latents_of(table)
    np.testing.assert_allclose(found[[0, 2]], latents.z[[3, 50]], rtol=1e-5)
    np.testing.assert_allclose(found[4], [0.5, 1, -1])
    np.testing.assert_allclose(found[1], latents.z[[3, 50]].mean(axis=0), rtol=1e-4, atol=1e-5)
    assert table["key"].tolist() == [latents.key[3], "", latents.key[50], "", ""]
    assert table["anchor"].tolist() == [1, 0, 1, 0, 1]


def test_a_graph_path_visits_particles(finished):
    latents = Run.open(finished).latents()
    table = quick(finished, kind="graph", anchors=[3, [0.0, 0, 0], 50], disconnected="widen")
    row = pd.Series(range(len(latents.key)), index=latents.key)[table["key"]].to_numpy()
    np.testing.assert_allclose(latents_of(table), latents.z[row], rtol=1e-5)
    anchors = table["key"][table["anchor"] == 1].tolist()
    nearest = latents.key[np.linalg.norm(latents.z, axis=1).argmin()]
    assert {anchors[0], anchors[-1]} == {latents.key[3], latents.key[50]}
    assert nearest in anchors
    assert len(quick(finished, kind="graph", random=4, disconnected="widen", points=3)) == 3


def test_a_pathway_of_labels(finished, tmp_path):
    latents = Run.open(finished).latents()
    label = np.where(latents.z[:, 1] > 1, "bound", "free")
    np.savez(tmp_path / "labels.npz", key=latents.key[::-1], label=label[::-1])
    options = {"kind": "line", "labels": tmp_path / "labels.npz"}
    table = quick(finished, **options, pathway=["free", "bound", "free"], points=2)
    which = pd.Series(label, index=latents.key)[table["key"]].tolist()
    assert which == ["free", "bound", "free"]
    with pytest.raises(InputError, match="pathway: open is not there; there are bound, free"):
        quick(finished, **options, pathway=["open", "free"])


def test_the_centres_of_an_analysis(make_run):
    from drgn.analyze import analyze

    run = make_run(2)
    with pytest.raises(InputError, match=rf"run drgn analyze run={run} kmeans=4 first"):
        quick(run, kind="line", kmeans=4)
    analyze(**{**compose("analyze"), "run": run, "kmeans": 4, "volumes": False})
    table = quick(run, kind="line", kmeans=4, pathway=[2, 0], points=2)
    with np.load(run / "analysis" / "kmeans4" / "labels.npz") as arrays:
        assert table["key"].tolist() == arrays["centre_key"][[2, 0]].tolist()
    quick(run, kind="graph", kmeans=4, disconnected="widen")


def test_points_away_from_all_particles_are_told(finished, capsys):
    quick(finished, kind="line", anchors=[[0, 0, 0], [100, 0, 0]], points=3)
    assert "Points 1, 2 are farther from every particle" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "loop"}, r"kind=loop: expected pc, percentiles, line or graph"),
        ({"pc": 4}, r"pc=4: the latent has 3 dimensions, so give one of 1 to 3"),
        ({"low": 95, "high": 5}, r"low=95 and high=5: expected percentiles from 0 to 100"),
        ({"points": 1}, r"points=1: expected at least 2"),
        ({"frames": 1}, r"frames=1: expected at least 2"),
        ({"view": "above"}, r"view=above: expected along z"),
        ({"kind": "graph"}, r"exactly one of anchors, kmeans, labels, random; none is given"),
        ({"kind": "line", "anchors": [1, 2], "random": 3}, r"anchors and random are given"),
        ({"kind": "line", "anchors": [1]}, r"anchors names 1 anchor; a path needs at least two"),
        ({"kind": "line", "anchors": [1, 1]}, r"at least two different anchors"),
        (
            {"kind": "graph", "anchors": [1, 500]},
            r"anchors: number 1, 500, is no particle; give a row from 0 to",
        ),
        ({"kind": "graph", "anchors": [1, "nobody"]}, r"anchors: number 1, nobody, is no particle"),
        ({"kind": "line", "anchors": [1, 0.5]}, r"anchors: number 1, 0\.5, is no particle"),
        (
            {"kind": "line", "anchors": [1, [0, 1]]},
            r"anchors: number 1, \[0, 1\], has 2 numbers, but the latent of this run has 3",
        ),
        ({"kind": "line", "random": 1}, r"random=1: expected from 2 to 120"),
        (
            {"kind": "line", "anchors": [1, 2], "pathway": [0, 1]},
            r"pathway is the order of clusters or labels",
        ),
    ],
)
def test_mistakes_are_one_sentence(finished, options, sentence):
    with pytest.raises(InputError, match=sentence):
        quick(finished, **options)


def test_a_run_without_a_latent(make_run):
    with pytest.raises(InputError, match=r"has no latent \(latent=none\)"):
        quick(make_run(0))


def test_the_command_line(finished, tmp_path):
    words = [sys.executable, "-m", "drgn.traverse", f"run={finished}", f"output={tmp_path}", "volumes=false"]
    key = Run.open(finished).latents().key[7]
    done = subprocess.run(
        [*words, "kind=line", f'anchors=[3,"{key}",[0,0,1.5]]'], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"Path: {tmp_path}"
    assert len(pd.read_csv(tmp_path / "z.csv")) == 9
    wrong = subprocess.run([*words, "pc=9"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


@pytest.fixture
def foreign(tmp_path):
    """A run of cryoDRGN on 40 images."""
    folder = tmp_path / "vae"
    folder.mkdir()
    with StackWriter(tmp_path / "images.mrcs", 40, 16, 2.0) as stack:
        stack.write(np.ones((40, 16, 16), np.float32))
    rows = "".join(f"{row:06d}@images.mrcs 0 0 {row}\n" for row in range(1, 41))
    names = "".join(f"_rln{name}\n" for name in ("ImageName", "AngleRot", "AngleTilt", "AnglePsi"))
    (tmp_path / "images.star").write_text(f"data_\n\nloop_\n{names}{rows}")
    config = {"dataset_args": {"particles": str(tmp_path / "images.star")}, "lattice_args": {"D": 17}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    z = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    (folder / "z.4.pkl").write_bytes(pickle.dumps(z))
    (folder / "weights.4.pkl").write_bytes(b"weights")
    return folder


def test_a_run_of_cryodrgn_gets_the_latents_and_the_command(foreign, capsys):
    folder = make(foreign, kind="graph", anchors=[3, 30], disconnected="widen")
    assert folder == foreign / "drgn" / "traverse" / "graph"
    with np.load(folder / "path.npz") as arrays:
        np.testing.assert_allclose(np.loadtxt(folder / "z.txt"), arrays["z"], rtol=1e-6)
    printed = capsys.readouterr().out
    words = next(line for line in printed.splitlines() if line.startswith("  cryodrgn")).split()
    assert words[:3] == ["cryodrgn", "eval_vol", str(foreign / "weights.4.pkl")]
    assert words[words.index("--zfile") + 1] == str(folder / "z.txt")
    assert not list(folder.glob("*.mrc"))
    assert not (foreign / "drgn" / "analysis").exists()
