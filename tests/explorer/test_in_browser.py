"""A person's way through the explorer, in Chromium: what is seen, clicked, and found in the files."""

import re

import numpy as np
import pytest

from drgn.command import compose
from drgn.formats.particles import Particles
from drgn.run import Run
from drgn.simulate import simulate

SECONDS = 60_000  # ms, as in conftest


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, train_tiny):
    """Return a run on 20,000 small images."""
    options = compose("simulate", ["n_particles=20000", "box_size=16", "pixel_size_A=12", "snr=1"])
    star = simulate(**{**options, "output": tmp_path_factory.mktemp("many")})
    return train_tiny(f"dataset.particles={star}", "dataset.batch_size=256")


@pytest.fixture(scope="module")
def address(run_folder, serve):
    return serve(run_folder)


def test_from_a_lasso_to_a_star(open_page, address, run_folder, tmp_path, coloured, lasso, on_page):
    page = open_page(address)
    assert "20,000 particles" in page.inner_text("#run-facts")
    assert "token" not in page.url  # out of the address bar

    # colour
    page.select_option("#colour", "defocus_u_A")
    page.wait_for_function("explorer.scatter.colour.name == 'defocus_u_A'")
    assert coloured(page.locator("#plot").screenshot(), "points.png", tmp_path) > 0.01

    # lasso about 1,000 particles: a square that holds so many, above the crowd
    places = on_page(page, range(0, 20000))
    middle = np.quantile(places, [0.5, 0.12], axis=0).diagonal()
    rows, reach, half = lasso(page, places, middle, 1000)
    assert 900 < len(rows) < 1100
    assert half > 20
    assert f"{len(rows):,} of 20,000" in page.inner_text("#count")

    page.mouse.move(5, 5)
    page.wait_for_timeout(500)
    assert coloured(page.locator("#plot").screenshot(), "selected.png", tmp_path, red=True) > 0.001

    # complement, undo, threshold, union
    page.click("#complement")
    assert page.evaluate("explorer.selection.rows.length") == 20000 - len(rows)
    page.keyboard.press("u")
    assert page.evaluate("explorer.selection.rows.length") == len(rows)
    z = Run.open(run_folder).latents().z
    page.select_option("#combine", "intersect")
    page.select_option("#threshold-column", "z1")
    page.fill("#threshold-low", "0.1")
    page.click("#threshold-apply")
    page.wait_for_function(f"explorer.selection.rows.length < {len(rows)}")
    inside = np.array(page.evaluate("Array.from(explorer.selection.rows)"))
    np.testing.assert_array_equal(inside, rows[z[rows, 0] >= np.float32(0.1)])
    page.click("#undo")
    page.fill("#selection-name", "middle")
    page.click("#selection-save")
    page.wait_for_selector("#saved li")
    assert f"middle ({len(rows):,})" in page.inner_text("#saved")

    # a particle is clicked, and its volume is seen
    page.click("[data-mode=panZoom]")
    alone = int(reach.argmax())  # nothing near it
    page.mouse.click(*on_page(page, [alone])[0])
    page.wait_for_function("explorer.volumes.layers.length == 1")
    assert page.evaluate("explorer.state.picked") == alone
    assert page.evaluate("explorer.selection.rows.length") == len(rows)  # a click is no selection
    page.wait_for_timeout(1500)
    seen = coloured(page.locator("#viewer").screenshot(), "surface.png", tmp_path)
    assert seen > 0.01
    page.evaluate(
        "explorer.volumes.setLevel(explorer.volumes.layers[0], 2.5 * explorer.volumes.layers[0].level)"
    )
    page.wait_for_timeout(1500)
    assert coloured(page.locator("#viewer").screenshot(), "higher.png", tmp_path) < 0.9 * seen

    # another beside it, and their difference
    page.check(".layer input[type=checkbox]")
    page.fill("#row", "17")
    page.click("#go")
    page.wait_for_function("explorer.volumes.layers.length == 2")
    page.click("#difference")
    page.wait_for_function("explorer.volumes.layers.at(-1).difference")

    # images
    page.click("[data-tab=particles]")
    page.click("#show-images")
    page.wait_for_selector("#images canvas")
    assert page.locator("#images canvas").count() == 8 * 4

    # a path between two particles, and evidence for the selection
    page.click("[data-tab=point]")
    for row in (alone, 17):
        page.fill("#row", str(row))
        page.click("#go")
        page.wait_for_function(f"explorer.volumes.layers.some(l => l.what?.row == {row})")
        page.click("#add-anchor")
    page.click("[data-tab=path]")
    page.select_option("#path-how", "line")
    page.fill("#path-points", "3")
    page.fill("#path-name", "walk")
    page.click("#path-make")
    page.click("[data-tab=evidence]")
    page.click("#evidence")
    page.wait_for_function("explorer.panels.path?.volumes.length == 3", timeout=3 * SECONDS)
    page.wait_for_selector("#evidence-result p", state="attached", timeout=3 * SECONDS)
    assert re.search(
        r"half maps agree", page.inner_text("#evidence-result p") or page.text_content("#evidence-result p")
    )
    kept = Run.open(run_folder).place("explorer")
    assert (kept / "paths" / "walk" / "chimerax.cxc").is_file()
    assert (kept / "evidence" / "middle" / "selection" / "map.mrc").is_file()
    page.click("[data-tab=path]")
    page.evaluate("document.getElementById('path-slider').value = 2")
    page.dispatch_event("#path-slider", "input")
    page.wait_for_function("explorer.volumes.layers.some(l => l.label == 'path, 3')")

    # out, and read back
    with page.expect_download() as download:
        page.click("#export")
    star = tmp_path / "middle.star"
    download.value.save_as(star)
    assert download.value.suggested_filename == "middle.star"
    particles = Run.open(run_folder).particles()
    np.testing.assert_array_equal(np.sort(particles.rows_of(star)), rows)
    assert len(Particles.from_file(kept / "exports" / "middle.star")) == len(rows)
    with page.expect_download() as download:
        page.click("#figure-png")
    name = download.value.suggested_filename
    assert re.fullmatch(rf"\w+_PC1_PC2_by-defocus_u_A_{len(rows)}-selected_particle-\d+\.png", name)

    # another tab sees what was saved, and takes it
    other = open_page(address)
    other.click("#saved li button")
    other.wait_for_function(f"explorer.selection.rows.length == {len(rows)}")
    np.testing.assert_array_equal(other.evaluate("Array.from(explorer.selection.rows)"), rows)


# Events of a click that two frames lie within, after the mouse has gone a long way since the frame before.
SLOW_CLICK = """async ([x, y]) => {
  const frame = () => new Promise(requestAnimationFrame);
  const send = (type, x, y, buttons) => document.getElementById("points").dispatchEvent(
    new MouseEvent(type, { clientX: x, clientY: y, buttons, bubbles: true }));
  send("mousemove", x + 150, y - 200, 0);
  await frame(); await frame();
  send("mousemove", x, y, 0); send("mousedown", x, y, 1);
  await frame(); await frame();
  send("mouseup", x, y, 0); send("click", x, y, 0);
}"""


def test_a_click_is_one_where_frames_are_slow(open_page, address, on_page):
    page = open_page(address)
    lowest = page.evaluate("explorer.scatter.y.at[0]")
    place = on_page(page, [lowest])
    page.evaluate(SLOW_CLICK, place[0].tolist())
    page.wait_for_function("explorer.state.picked != null", timeout=10_000)
    assert page.evaluate("explorer.state.picked") == lowest
    np.testing.assert_allclose(on_page(page, [lowest]), place, atol=0.1)  # the view stays

    # one that is the whole selection
    highest = page.evaluate("explorer.scatter.y.at[1]")
    page.evaluate("row => explorer.selection.set(Uint32Array.of(row))", highest)
    page.mouse.move(*on_page(page, [highest])[0], steps=4)
    page.wait_for_function(f"explorer.scatter.hovered == {highest}")
    page.mouse.click(*on_page(page, [highest])[0])
    page.wait_for_function(f"explorer.state.picked == {highest}", timeout=10_000)


def test_mistakes_are_told_in_words(open_page, address):
    page = open_page(address)
    page.click("#export")
    page.wait_for_selector("#message:not([hidden])")
    assert "select some particles" in page.inner_text("#message")
    page.click("[data-tab=evidence]")
    page.click("#evidence")
    page.wait_for_function(
        "document.querySelector('#message span').textContent.startsWith('Select particles')"
    )
    page.evaluate("sessionStorage.clear()")
    page.click("[data-tab=point]")
    page.fill("#row", "3")
    page.click("#go")
    page.wait_for_function("document.querySelector('#message span').textContent.includes('token')")


def test_a_saved_selection_outlives_the_server(open_page, serve, servers, run_folder):
    page = open_page(serve(run_folder))
    page.evaluate("explorer.selection.set(Uint32Array.of(3, 5, 8))")
    page.fill("#selection-name", "outlives")
    page.click("#selection-save")
    page.wait_for_function("document.querySelector('#saved').innerText.includes('outlives (3)')")
    servers[-1].kill()
    servers[-1].wait()
    page.click("#selection-save")
    page.wait_for_function("document.querySelector('#message span').textContent.includes('does not answer')")
    page.close()
    other = open_page(serve(run_folder))
    other.click("#saved li button >> text=outlives")
    other.wait_for_function("explorer.selection.rows.length == 3")
    assert other.evaluate("Array.from(explorer.selection.rows)") == [3, 5, 8]
