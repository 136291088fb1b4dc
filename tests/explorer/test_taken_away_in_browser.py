"""What is chosen by other ways than a lasso, and what is taken away from the page, in Chromium."""

import os
import shutil
import signal
import xml.etree.ElementTree as ET
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from drgn.analysis.clusters import kmeans
from drgn.analysis.selection import LABELS, write_labels
from drgn.run import Run

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def run_folder(train_tiny):
    """Return a run with clusters."""
    folder = train_tiny()
    latents = Run.open(folder).latents()
    (folder / "analysis" / "kmeans4").mkdir(parents=True)
    write_labels(folder / "analysis" / "kmeans4" / LABELS, latents.key, kmeans(latents.z, 4, seed=0))
    return folder


@pytest.fixture(scope="module")
def address(run_folder, serve):
    return serve(run_folder)


def saved(page, button, folder):
    with page.expect_download() as download:
        page.click(button)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def chosen(page):
    return np.array(page.evaluate("Array.from(explorer.selection.rows)"))


def test_a_figure_is_lines_and_words_over_a_picture_of_the_points(open_page, address, browser, tmp_path):
    from matplotlib.image import imread

    page = open_page(address)
    page.fill("#row", "7")
    page.click("#go")
    page.wait_for_function("explorer.scatter.marks.picked == 7")
    page.click("#add-anchor")
    png, svg = (saved(page, f"#figure-{form}", tmp_path) for form in ("png", "svg"))
    assert svg.stem == png.stem

    figure = ET.parse(svg).getroot()
    words = [text.text for text in figure.iter(f"{SVG}text")]
    assert any(word.startswith("PC1 (") and word.endswith("% of the variance)") for word in words)
    assert {"kmeans4", "0", "3", "1"} <= set(words)  # legend, its classes, the number of the anchor
    assert len(list(figure.iter(f"{SVG}image"))) == 1
    assert len(list(figure.iter(f"{SVG}path"))) > 10

    # it looks as the page does
    expected = imread(png)[..., :3]
    height, width = expected.shape[:2]
    viewer = browser.new_page(viewport={"width": width, "height": height})
    viewer.goto(svg.as_uri())
    viewer.screenshot(path=tmp_path / "drawn.png")
    viewer.close()
    drawn = imread(tmp_path / "drawn.png")[..., :3]
    apart = np.abs(drawn - expected).mean()
    assert apart < 0.3 * np.abs(drawn - np.roll(expected, 4, axis=1)).mean()
    assert apart < 0.3 * np.abs(1 - expected).mean()


def test_a_choice_by_box_cluster_and_file(open_page, address, run_folder, on_page, tmp_path):
    page = open_page(address)
    run = Run.open(run_folder)
    labels = np.load(run_folder / "analysis" / "kmeans4" / LABELS)["label"]

    page.fill("#cluster-list", "1, 3")
    page.click("#cluster-apply")
    page.wait_for_function("explorer.selection.rows.length > 0")
    np.testing.assert_array_equal(chosen(page), np.flatnonzero(np.isin(labels, [1, 3])))

    star = saved(page, "#export", tmp_path)
    assert star.name == "selection.star"
    page.click("#clear")
    page.wait_for_function("explorer.selection.rows.length == 0")
    page.set_input_files("#selection-file", star)
    page.wait_for_function("explorer.selection.rows.length > 0")
    np.testing.assert_array_equal(chosen(page), np.flatnonzero(np.isin(labels, [1, 3])))

    # a rectangle, taken away from it
    places = on_page(page, range(len(labels)))
    low, high = np.quantile(places, [0.3, 0.7], axis=0)
    page.select_option("#combine", "remove")
    page.click("[data-mode=box]")
    page.mouse.move(*low)
    page.mouse.down()
    page.mouse.move(*high, steps=8)
    page.mouse.up()
    page.wait_for_function(f"explorer.selection.rows.length < {np.isin(labels, [1, 3]).sum()}")
    left = chosen(page)
    deep = ((places > low + 3) & (places < high - 3)).all(1)
    outside = ((places < low - 3) | (places > high + 3)).any(1)
    assert not deep[left].any()
    assert np.isin(np.flatnonzero(outside & np.isin(labels, [1, 3])), left).all()

    (tmp_path / "wrong.txt").write_text("no numbers\n")
    page.set_input_files("#selection-file", tmp_path / "wrong.txt")
    page.wait_for_selector("#message:not([hidden])")
    assert len(run.latents().z) == len(labels)
    np.testing.assert_array_equal(chosen(page), left)  # what was chosen stays


def test_the_volume_that_is_seen_is_saved(open_page, address, run_folder, coloured, tmp_path):
    page = open_page(address)
    for button in ("#volume-save", "#picture-save"):
        page.click(button)
        page.wait_for_selector("#message:not([hidden])")
        assert "Click a particle first" in page.inner_text("#message")
    page.fill("#row", "40")
    page.click("#go")
    page.wait_for_function("explorer.volumes.layers.length == 1")
    run = Run.open(run_folder)
    with mrcfile.open(saved(page, "#volume-save", tmp_path)) as file:
        expected = next(run.volumes(run.latents().z[[40]]))
        np.testing.assert_allclose(file.data, expected, atol=1e-4 * np.abs(expected).max())
        assert float(file.voxel_size.x) == pytest.approx(run.pixel_size_A)
    page.wait_for_timeout(1000)
    picture = saved(page, "#picture-save", tmp_path)
    assert "particle-40" in picture.name
    assert coloured(picture.read_bytes(), "picture.png", tmp_path) > 0.01


def test_a_path_is_played_to_its_end(open_page, address):
    page = open_page(address)
    page.click("[data-tab=path]")
    page.fill("#path-points", "4")
    page.click("#path-follow")
    page.wait_for_function("explorer.volumes.layers.some(l => l.label == 'path, 1')")
    page.evaluate(
        """() => {
          const { volumes } = explorer;
          globalThis.seen = [];
          volumes.addEventListener("shown", () => seen.push(volumes.layers.at(-1).label));
        }"""
    )
    page.click("#path-play")
    page.wait_for_function("seen.at(-1) == 'path, 4'")
    assert page.evaluate("seen") == [f"path, {i}" for i in range(1, 5)]
    assert page.evaluate("explorer.volumes.layers.length") == 1


def test_a_saved_selection_outlives_the_browser(open_page, address, browser, tmp_path):
    mark = f"--crash-dumps-dir={tmp_path}"  # by which its processes are known
    program = shutil.which("chromium")
    other = browser.browser_type.launch(executable_path=program, args=["--no-sandbox", mark])
    page = other.new_page()
    page.goto(address)
    page.wait_for_function("globalThis.explorer?.selection.n > 0")
    page.evaluate("explorer.selection.set(Uint32Array.of(2, 4))")
    page.fill("#selection-name", "kept")
    page.click("#selection-save")
    page.wait_for_function("document.querySelector('#saved').innerText.includes('kept (2)')")
    found = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if mark in told(p)]
    assert found
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    page = open_page(address)
    page.click("#saved li button >> text=kept")
    page.wait_for_function("explorer.selection.rows.length == 2")
    assert chosen(page).tolist() == [2, 4]


def told(path):
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""
