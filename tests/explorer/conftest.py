"""A served run and a page on it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SECONDS = 60_000  # ms


@pytest.fixture(scope="module")
def servers():
    """Processes of drgn explore, the newest last, which are ended with the module."""
    running = []
    yield running
    for server in running:
        server.terminate()
        server.communicate(timeout=30)


@pytest.fixture(scope="module")
def serve(environment, servers):
    """Return a function that starts drgn explore on a folder as a person does, and returns its address."""
    return lambda folder: started(folder, environment, servers)


def started(folder: Path, environment: dict[str, str], servers: list[subprocess.Popen[str]]) -> str:
    command = [sys.executable, "-m", "drgn.explore", f"run={folder}", "port=0", "browser=false"]
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    servers.append(server)
    lines = []
    for line in server.stdout:
        lines.append(line)
        if line.startswith("http://127.0.0.1:"):
            return line.strip()
    pytest.fail("".join(lines))


@pytest.fixture
def open_page(browser):
    """Return a function that opens an address; a page's errors and requests to other hosts fail the test."""
    wrong, contexts = [], []

    def open_(address: str, ready: str = "globalThis.explorer?.scatter?.x && explorer.volumes.plugin"):
        context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
        context.set_default_timeout(SECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda r: (
                None if re.match(r"(http://127\.0\.0\.1:\d+/|blob:|data:)", r.url) else wrong.append(r.url)
            ),
        )
        page.goto(address)
        page.wait_for_function(ready)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert wrong == []


def share_coloured(picture: bytes, name: str, tmp_path: Path, red: bool = False) -> float:
    """Share of the pixels of a PNG that are far from white and grey, or red."""
    from matplotlib.image import imread

    (tmp_path / name).write_bytes(picture)
    rgb = imread(tmp_path / name)[..., :3]
    if red:
        return float(((rgb[..., 0] > 0.6) & (rgb[..., 1:].max(-1) < 0.45)).mean())
    return float((rgb.max(-1) - rgb.min(-1) > 0.25).mean())


def drag_along(page, corners):
    """Press at the first of some pixels, go along the others and back to it, and let go."""
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in [*corners[1:], corners[0]]:
        page.mouse.move(*corner, steps=6)
    page.mouse.up()


def pixels_of(page, rows):
    """Pixels (M, 2) of particles on the page."""
    box = page.locator("#points").bounding_box()
    at = page.evaluate("rows => rows.map(r => explorer.scatter.position(r))", list(map(int, rows)))
    return np.array(at) + np.array([box["x"], box["y"]])


@pytest.fixture
def coloured():
    """Return the function that tells how much of a picture is coloured."""
    return share_coloured


@pytest.fixture
def drag():
    """Return the function that drags the mouse."""
    return drag_along


@pytest.fixture
def on_page():
    """Return the function that tells where particles are on the page."""
    return pixels_of
