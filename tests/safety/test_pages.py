"""Names of a stranger are text on every page: in the report, the comparison, the explorer and TensorBoard."""

import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from drgn.analysis.selection import read_partition
from drgn.analyze import analyze
from drgn.command import compose
from drgn.compare import compare
from drgn.formats import star
from drgn.formats.particles import Particles
from drgn.run import Run
from drgn.training.encode import Encoded
from drgn.training.run_files import identity_of

EVIL = '<img src=x onerror="globalThis.hacked=1">'
SCRIPT = "<script>globalThis.hacked=1<%2fscript>".replace("%2f", "\\")
COLUMN = "rln<img/src=x/onerror=globalThis.hacked=1>"
FORMULA = "=cmd|'calc'!A1"
LOOKED_FOR = "document.querySelectorAll('img[src=x], script:not([src]):not([type])').length"


@pytest.fixture(scope="module")
def run_folder(sound, tmp_path_factory):
    """A run whose folder, set, stack, micrographs, optics group, columns, partitions have malicious names."""
    place = tmp_path_factory.mktemp("pages")
    folder = shutil.copytree(sound / "run", place / EVIL)
    shutil.copytree(sound / "set", place / SCRIPT)
    table = place / SCRIPT / f"{EVIL}.star"
    (place / SCRIPT / "particles.mrcs").rename(place / SCRIPT / f"{EVIL}.mrcs")
    (place / SCRIPT / "truth.csv").unlink()
    blocks = star.read_blocks(place / SCRIPT / "particles.star")
    particles = blocks["particles"]
    particles["rlnImageName"] = particles["rlnImageName"].str.replace("particles.mrcs", f"{EVIL}.mrcs")
    particles["rlnMicrographName"] = [EVIL, SCRIPT, FORMULA] * (len(particles) // 3)
    particles[COLUMN] = np.arange(len(particles)) % 4
    blocks["optics"]["rlnOpticsGroupName"] = EVIL
    star.write_blocks(table, blocks)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["dataset"] |= {"particles": str(table), "name": EVIL, "cache": str(place / "cache")}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    run = Run.open(folder)
    run.record(**identity_of(Particles.from_file(table)))
    z = run.latents().z
    n = len(z)
    run.save_latents(Encoded(z, np.zeros_like(z), np.ones(n, np.float32)), np.arange(n) < 0)
    key = run.particles().table["key"].to_numpy(str)
    for name in (EVIL, "kmeans2"):
        np.savez(run.folder("analysis", name) / "labels.npz", key=key, label=np.arange(n) % 2)
    np.savez(run.folder("analysis") / "embedding.npz", key=key, umap=z)
    return folder


@pytest.fixture
def opened(browser):
    """Open a page; fails where it complains, asks another host, or runs what a name holds."""
    contexts, wrong = [], []

    def open_(address):
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda r: wrong.append(r.url) if r.url.endswith("/x") else None)
        page.goto(address)
        return page

    yield open_
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("globalThis.hacked === undefined")
            assert page.evaluate(LOOKED_FOR) == 0
        context.close()
    assert wrong == []


def test_the_report_of_an_analysis(run_folder, opened, tmp_path):
    options = {**compose("analyze"), "run": run_folder, "kmeans": 2, "evidence": False, "output": tmp_path}
    report = analyze(**{**options, "colour": ["micrograph", "optics_group", COLUMN], "volumes": False})
    page = opened(report.as_uri())
    assert page.title() == f"drgn: {EVIL}"
    assert page.locator("h1").inner_text() == f"drgn: {EVIL}"
    assert EVIL in page.locator("main").inner_text().replace("\n", " ")


def test_the_report_of_a_comparison(run_folder, opened, tmp_path):
    table = Run.open(run_folder).particles().source.path
    of = [
        f"{table}:rlnMicrographName",
        str(run_folder / "analysis" / EVIL / "labels.npz"),
        f"{table}:{COLUMN}",
    ]
    report = compare(**{**compose("compare", ["of=[a,b]"]), "of": of, "output": tmp_path})
    assert EVIL in opened(report.as_uri()).locator("main").inner_text()
    # a spreadsheet would carry out a cell that begins with =
    for path in tmp_path.glob("*.csv"):
        cells = pd.read_csv(path, dtype=str, keep_default_na=False)
        texts = [*map(str, cells.columns), *cells.to_numpy(str).ravel()]
        assert not [text for text in texts if text[:1] in "=@\t\r" and text]
    assert any("'=cmd" in path.read_text() for path in tmp_path.glob("*.csv"))
    assert len(read_partition(tmp_path / "labels.npz")[0]) == len(Particles.from_file(table))


def test_the_explorer(run_folder, opened, environment):
    command = [sys.executable, "-m", "drgn.explore", f'run="{run_folder}"'.replace('"', "'"), "port=0"]
    command[-2] = "run=" + '"' + str(run_folder).replace("\\", "\\\\").replace('"', '\\"') + '"'
    server = subprocess.Popen(
        [*command, "browser=false"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = []
        for line in server.stdout:
            said.append(line)
            if line.startswith("http://127.0.0.1:"):
                break
        else:
            pytest.fail("".join(said))
        page = opened(said[-1].strip())
        page.wait_for_function("globalThis.explorer?.scatter?.x")
        assert EVIL in page.inner_text("#run-facts") or EVIL in page.inner_text("body")
        options = page.eval_on_selector_all("#colour option", "found => found.map(o => o.textContent)")
        assert EVIL in options
        for name in (EVIL, "micrograph"):
            page.select_option("#colour", name)
            page.wait_for_function("name => explorer.scatter.colour?.name == name", arg=name)
        assert page.evaluate("globalThis.hacked === undefined")
        assert page.evaluate(LOOKED_FOR) == 0
    finally:
        server.terminate()
        server.communicate(timeout=30)


@pytest.mark.full
def test_tensorboard(opened, environment, tmp_path):
    from pytorch_lightning.loggers import TensorBoardLogger

    logger = TensorBoardLogger(tmp_path, name="", version="")
    logger.log_hyperparams({"dataset.name": EVIL, COLUMN: SCRIPT}, {"heldout/loss": 1.0})
    logger.experiment.close()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path), "--port", "0"]
    board = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--load_fast", "false"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = next(line for line in board.stderr if "http://127.0.0.1:" in line)
        page = opened(f"{said[said.index('http') :].split()[0]}#hparams")
        page.get_by_text(COLUMN).first.wait_for()  # in a cell of the table, as text
        page.get_by_text(EVIL).first.wait_for()
        page.wait_for_timeout(2_000)
        assert page.evaluate("globalThis.hacked === undefined")
        page.goto("about:blank")  # whose own scripts are not looked for
    finally:
        board.terminate()
        board.communicate(timeout=30)
