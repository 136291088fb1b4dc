import json
import re
import shlex
import shutil
from html import unescape
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from drgn.analysis.nuisance import Dependence
from drgn.analysis.selection import umap_of_analysis
from drgn.analyze import analyze
from drgn.command import bind, compose
from drgn.errors import InputError
from drgn.run import Run
from drgn.score import score
from drgn.training.encode import Encoded


def make(run, **options):
    return analyze(**{**compose("analyze"), "run": run, "kmeans": 4, "evidence": False, **options})


@pytest.fixture(scope="module")
def report(finished):
    return make(finished)


def test_everything_is_written(finished, report):
    folder = finished / "analysis"
    assert report == folder / "report.html"
    for name in ("pca.png", "umap.png", "truth.png", "map.png", "kmeans4/maps.png", "pc1/slices.png"):
        assert (folder / name).stat().st_size > 5_000
    for movie in ("pc1/movie.gif", "pc2/movie.gif"):
        assert 10_000 < (folder / movie).stat().st_size < 1_500_000
    for name, count in (("kmeans4", 4), ("pc1", 5), ("pc2", 5), ("average", 1)):
        assert len(list((folder / name).glob("vol_*.mrc"))) == count
    assert not list(folder.rglob(".*"))


def test_arrays_are_keyed_by_particle(finished, report):
    key = Run.open(finished).latents().key
    with np.load(finished / "analysis" / "embedding.npz") as arrays:
        np.testing.assert_array_equal(arrays["key"], key)
        assert arrays["pca"].shape == (len(key), 3)
        assert arrays["umap"].shape == (len(key), 2)
    with np.load(finished / "analysis" / "kmeans4" / "labels.npz") as arrays:
        np.testing.assert_array_equal(arrays["key"], key)
        assert set(arrays["label"]) == {0, 1, 2, 3}


def test_the_report_stands_alone(report):
    text = report.read_text()
    assert "://" not in text
    assert "<script" not in text
    assert text.count("data:image/png") >= 8
    assert text.count("data:image/gif") == 2  # a movie along each principal component
    for title in ("Data and training", "principal components", "UMAP", "Maps of the clusters", "truth"):
        assert title in text


def test_the_latent_is_coloured_by_columns(finished, report, make_run):
    assert "Latent space: what else is known" in report.read_text()
    assert (finished / "analysis" / "colours_1.png").stat().st_size > 5_000
    names = ["rlnDefocusU", "micrograph", "z_norm", "psi_deg"]
    folder = finished / "coloured"
    make(finished, umap=False, volumes=False, colour=names, output=folder)
    assert {path.name for path in folder.glob("colours_*")} == {"colours_1.png", "colours_2.png"}
    make(make_run(1), volumes=False, colour=["defocus_u_A"], output=folder / "one")
    assert (folder / "one" / "colours_1.png").is_file()
    with pytest.raises(InputError, match="has no column rlnNothing"):
        make(finished, umap=False, volumes=False, colour=["rlnNothing"], output=folder)


def test_what_to_do_next_can_be_pasted(report, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line) for line in re.findall("<pre>drgn (.*?)</pre>", unescape(report.read_text()))]
    assert [words[0] for words in lines] == ["validate", "filter", "traverse", "discover", "generate"]
    quick = {"traverse": ["volumes=false"], "discover": ["resamples=0"]}
    for verb, *words in lines:
        function = getattr(import_module(f"drgn.{verb}"), verb)
        function(**bind(function, compose(verb, words + quick.get(verb, []))))


def test_the_findings_are_printed(finished, report, capsys):
    make(finished, umap=False, volumes=False, output=finished / "quick")
    printed = capsys.readouterr().out
    assert "120 particles, zdim 3" in printed
    assert "ari_attached 1.000" in printed
    assert printed.splitlines()[-1] == f"Report: {finished / 'quick' / 'report.html'}"
    assert not list((finished / "quick").rglob("*.mrc"))


def test_the_nuisance_audit(train_tiny, tmp_path, capsys, monkeypatch):
    run = train_tiny("latent.zdim=3")
    options = {"umap": False, "volumes": False}
    text = make(run, **options, output=tmp_path / "as_trained").read_text()
    assert "What the latent should not follow" in text
    table = pd.read_csv(tmp_path / "as_trained" / "nuisance.csv").set_index("variable")
    assert set(table.index) >= {"view", "angle", "defocus", "shift", "contrast"}

    opened = Run.open(run)
    latents, particles = opened.latents(), opened.particles().table
    defocus = particles["defocus_u_A"].to_numpy()
    z = np.random.default_rng(0).normal(size=latents.z.shape)
    z[:, 1] += 3 * (defocus - defocus.mean()) / defocus.std()
    opened.save_latents(
        Encoded(z.astype(np.float32), latents.logvar, latents.reconstruction_loss), latents.heldout
    )
    capsys.readouterr()
    text = make(run, **options, output=tmp_path / "planted").read_text()
    table = pd.read_csv(tmp_path / "planted" / "nuisance.csv").set_index("variable")
    assert table.index[table["alarm"]].tolist() == ["defocus"]
    assert table.loc["defocus", "share"] > 0.5
    assert "The latent knows the defocus" in text
    assert "The latent knows the defocus" in capsys.readouterr().out
    assert (tmp_path / "planted" / "nuisance.png").stat().st_size > 5_000
    small = Dependence("contrast", 0.04, 0, 0.02, 0.01, 300)
    monkeypatch.setattr("drgn.analysis.nuisance_report.audit", lambda *_: [small])
    text = make(run, **options, output=tmp_path / "small").read_text()
    assert (
        "The latent follows the contrast of the image more than noise does, too little for an alarm" in text
    )
    assert "follows no orientation" not in text
    make(run, **options, audit=False, output=tmp_path / "without")
    assert not (tmp_path / "without" / "nuisance.csv").exists()


def test_a_one_dimensional_latent(make_run):
    run = make_run(1)
    text = make(run).read_text()
    assert len(list((run / "analysis" / "percentiles").glob("vol_*.mrc"))) == 6
    assert (run / "analysis" / "histogram.png").is_file()
    assert (run / "analysis" / "percentiles" / "movie.gif").is_file()
    assert "UMAP" not in text


def test_a_two_dimensional_latent_is_shown_as_it_is(make_run):
    run = make_run(2)
    assert "no UMAP was made" in make(run, volumes=False).read_text()
    path, key = run / "analysis" / "embedding.npz", Run.open(run).latents().key
    with np.load(path) as arrays:
        assert set(arrays) == {"key", "pca", "pca_mean", "pca_components", "explained_variance_ratio"}
        np.savez(path, **arrays, umap=Run.open(run).latents().z)  # as once was written
    assert umap_of_analysis(path.parent, key) is None


def test_a_run_without_a_latent(make_run, capsys):
    run = make_run(0)
    text = make(run).read_text()
    assert "all particles were reconstructed as one structure" in text
    assert len(list((run / "analysis").rglob("*.mrc"))) == 1
    assert "One map" in capsys.readouterr().out


def test_what_the_images_of_each_cluster_support(train_tiny, tmp_path, capsys):
    run = train_tiny("model=linear", "latent.zdim=2")
    capsys.readouterr()
    text = make(run, kmeans=3, umap=False, evidence=True).read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles[titles.index("Maps of the clusters") + 1] == "What the images of the clusters support"
    table = pd.read_csv(run / "analysis" / "kmeans3" / "evidence.csv")
    labels = np.load(run / "analysis" / "kmeans3" / "labels.npz")["label"]
    np.testing.assert_array_equal(table["n_particles"], np.bincount(labels))
    for number, reached_A in enumerate(table["supported_A"]):
        assert f"kmeans3/backprojected_{number:03d}.mrc" in text
        assert f"{reached_A:.3g} Å" in text
    said = (
        f"Of 3 clusters' maps 3 are supported by their own particles, to {table['supported_A'].min():.3g} to"
    )
    assert said in capsys.readouterr().out
    # without its images the run is analysed all the same
    config = (run / "config.yaml").read_text()
    stars = re.search(r"particles: (.*\.star)", config)[1]
    shutil.copy(Path(stars), tmp_path / "particles.star")
    (run / "config.yaml").write_text(
        config.replace(stars, str(tmp_path / "particles.star")).replace("cache: ", f"cache: {tmp_path}/")
    )
    assert "What the images" not in make(run, kmeans=3, umap=False, evidence=True).read_text()
    assert "No maps of the images alone are made: " in capsys.readouterr().out


def test_score(finished, capsys):
    scores = score(**{**compose("score"), "run": finished})
    assert scores["ari_attached"] == 1
    assert scores["spearman_motion"] > 0.95
    assert json.loads((finished / "analysis" / "score" / "score.json").read_text()) == scores
    assert re.search(r"ari_attached +1\.0", capsys.readouterr().out)


def test_score_without_a_truth(make_run, star, tmp_path):
    from drgn.formats.particles import Particles

    Particles.from_file(star).save(tmp_path / "unknown.star")
    run = make_run(2)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(star), str(tmp_path / "unknown.star")))
    with pytest.raises(InputError, match=r"truth .* not known.*drgn simulate"):
        score(**{**compose("score"), "run": run})


def test_without_matplotlib(finished, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'drgn\[analyze\]'"):
        make(finished)
