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


@pytest.fixture
def coloured():
    """Return a function: the share of the pixels of a PNG that are far from white and grey, or red."""

    def share(picture: bytes, name: str, tmp_path: Path, red: bool = False) -> float:
        from matplotlib.image import imread

        (tmp_path / name).write_bytes(picture)
        rgb = imread(tmp_path / name)[..., :3]
        if red:
            return float(((rgb[..., 0] > 0.6) & (rgb[..., 1:].max(-1) < 0.45)).mean())
        return float((rgb.max(-1) - rgb.min(-1) > 0.25).mean())

    return share


@pytest.fixture
def on_page():
    """Return a function: the pixels (M, 2) of particles on the page."""

    def pixels(page, rows):
        box = page.locator("#points").bounding_box()
        at = page.evaluate("rows => rows.map(r => explorer.scatter.position(r))", list(map(int, rows)))
        return np.array(at) + np.array([box["x"], box["y"]])

    return pixels


@pytest.fixture
def lasso():
    """Return a function that draws a lasso about the n particles nearest to a pixel, a square.

    Of particles at `places` (M, 2) on the page those inside are selected, and no others. It returns their
    rows, how far each particle is from the pixel, and half the side of the square.
    """

    def draw(page, places, middle, n):
        reach = np.abs(places - middle).max(1)
        half = float(np.sort(reach)[n])
        page.click("[data-mode=lasso]")
        corners = [middle + half * np.array(c) for c in ([-1, -1], [1, -1], [1, 1], [-1, 1])]
        page.mouse.move(*corners[0])
        page.mouse.down()
        for corner in [*corners[1:], corners[0]]:
            page.mouse.move(*corner, steps=6)
        page.mouse.up()
        page.wait_for_function("explorer.selection.rows.length > 0")
        rows = np.array(page.evaluate("Array.from(explorer.selection.rows)"))
        assert np.isin(rows, np.flatnonzero(reach < half + 4)).all()
        assert np.isin(np.flatnonzero(reach < half - 4), rows).all()
        return rows, reach, half

    return draw
