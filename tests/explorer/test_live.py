"""A training that goes on is watched in the browser: losses, latents and a volume follow it."""

import subprocess
import sys
import time

import numpy as np
import pytest


@pytest.fixture
def training(tiny, environment, tmp_path):
    """Start a training that takes longer than the test; return its folder, once it has a checkpoint."""
    folder = tmp_path / "run"
    words = [
        *tiny,
        "warmstart=none",
        "latent.zdim=2",
        "epochs=5000",
        "optimizer.lr=0.0002",
        f"output={folder}",
    ]
    command = [sys.executable, "-m", "drgn.train", *words]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until = time.monotonic() + 120
    while not any(folder.glob("checkpoints/best.ckpt")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.2)
    yield folder
    assert process.poll() is None  # it was not disturbed
    process.kill()
    process.communicate()


def test_it_is_followed(training, serve, open_page):
    assert not (training / "latents.npz").exists()
    page = open_page(serve(training), ready="globalThis.explorer?.volumes?.plugin")
    assert "no latents yet" in page.inner_text("#empty")
    page.click("#encode")
    page.wait_for_function("explorer.scatter.x && explorer.state.busy == 0")
    assert page.locator("#empty").is_hidden()
    page.select_option("#axis-x", "z1")
    page.wait_for_function("explorer.scatter.x.name == 'z1'")
    page.fill("#row", "7")
    page.click("#go")
    page.wait_for_function("explorer.volumes.layers.some(l => l.label == 'particle 7')")
    volume = "Array.from(new Float32Array(explorer.volumes.layers[0].data, 1024))"
    before, z = page.evaluate(volume), page.evaluate("Array.from(explorer.scatter.x.values)")
    page.click("[data-tab=training]")
    epochs = int(page.inner_text("#training-words").split()[0])

    page.check("#follow-latents")
    page.wait_for_function("explorer.volumes.layers.some(l => l.label == 'particle 7, new weights')")
    assert not np.allclose(page.evaluate(volume), before, rtol=1e-3)
    page.wait_for_function("z => explorer.scatter.x.values.some((v, i) => v != z[i])", arg=z)
    assert page.evaluate("explorer.scatter.x.name") == "z1"
    assert int(page.inner_text("#training-words").split()[0]) > epochs
    drawn = page.evaluate(
        "document.getElementById('losses').getContext('2d').getImageData(0, 0, 430, 150).data.some(v => v)"
    )
    assert drawn

    # a path is not taken away by new weights
    assert ", not ended, " in page.inner_text("#run-facts")
    page.click("[data-tab=path]")
    page.click("#path-follow")
    page.wait_for_function("explorer.volumes.layers.some(l => l.label == 'path, 1')")
    weights = page.evaluate("explorer.panels.weights")
    page.wait_for_function("weights => explorer.panels.weights != weights", arg=weights)
    page.wait_for_timeout(1000)
    assert page.evaluate("explorer.volumes.layers.map(l => l.label)") == ["path, 1"]
