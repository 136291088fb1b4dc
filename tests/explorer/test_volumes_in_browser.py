"""Volumes, in Chromium: local resolution, paths that nobody has decoded, scenes for ChimeraX."""

import io
import json
import zipfile

import mrcfile
import numpy as np
import pytest
import torch

from drgn.analysis import half_maps
from drgn.explorer.decoding import Decoder
from drgn.formats import star
from drgn.physics.local_resolution import local_resolution
from drgn.run import Run


@pytest.fixture(scope="module")
def run_folder(train_tiny):
    """Return a run of two halves, whose analysis has a UMAP with no relation to z."""
    folder = train_tiny("half_sets=random")
    (folder / "analysis").mkdir(exist_ok=True)
    flat = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    np.savez(folder / "analysis" / "embedding.npz", key=Run.open(folder).latents().key, umap=flat)
    return folder


@pytest.fixture(scope="module")
def address(run_folder, serve):
    return serve(run_folder)


def hues(page):
    """Hue (M,) of the pixels of the volumes that are far from grey."""
    from matplotlib.colors import rgb_to_hsv
    from matplotlib.image import imread

    page.wait_for_timeout(1500)
    rgb = imread(io.BytesIO(page.locator("#viewer").screenshot()))[..., :3]
    return rgb_to_hsv(rgb[rgb.max(-1) - rgb.min(-1) > 0.2])[:, 0]


def spread(values):
    return float(np.ptp(np.percentile(values, [10, 90])))


# The surface in colours of a map whose values go from 0 to 15 along x.
RAMP = """async () => {
  const { volumes } = explorer, [layer] = volumes.layers, data = layer.data.slice(0);
  new Float32Array(data, 1024).forEach((_, i, values) => { values[i] = i % 16; });
  const { scale } = layer;
  await volumes.colourBy(layer, data, { low: 0, high: 15, window: 1 });
  layer.scale = scale;
}"""


# The order of events; the level is moved between the coarse surface and the whole one.
WATCH = """() => {
  globalThis.seen = [];
  const { volumes } = explorer, refine = volumes.refine.bind(volumes);
  volumes.addEventListener("shown", () => { seen.push("shown"); });
  volumes.refine = async (layer, ...rest) => {
    await volumes.setLevel(layer, 1.5 * layer.start);
    await refine(layer, ...rest);
    seen.push("refined");
  };
}"""


def pick(page, row):
    page.click("[data-tab=point]")
    page.fill("#row", str(row))
    page.click("#go")
    page.wait_for_function(f"explorer.volumes.layers.some(l => l.what?.row == {row})")


def test_local_resolution_is_that_of_the_half_maps(run_folder):
    run = Run.open(run_folder)
    z = run.latents().z[7]
    maps = next(half_maps.compared(run, z[None]))
    expected = local_resolution(maps.one * maps.mask, maps.two * maps.mask, run.pixel_size_A, 60.0)
    found = Decoder(run).confidence(z, 60.0)
    np.testing.assert_allclose(found.resolution_A, expected, rtol=1e-4)
    assert expected.min() <= found.low_A < found.high_A <= expected.max() + 0.01
    assert torch.equal(maps.found.loose, maps.found.masked)  # one mask is both


def test_a_surface_is_coloured_by_local_resolution(open_page, address):
    page = open_page(address)
    pick(page, 7)
    before = hues(page)
    page.click("#local")
    page.wait_for_selector(".scale")
    after = hues(page)
    assert min(len(before), len(after)) > 500
    assert spread(before) < 0.03  # shades of one blue
    assert np.median(before) == pytest.approx(0.56, abs=0.03)
    low, high, window = page.evaluate(
        "(({low, high, window}) => [low, high, window])(explorer.volumes.layers[0].scale)"
    )
    assert 24 <= low < high <= 16 * 12  # from Nyquist to the box
    assert 0 < window <= 16 * 12
    assert f"{low:.1f} Å" in page.inner_text(".scale")
    assert f"{high:.1f} Å" in page.inner_text(".scale")
    assert np.mean(np.abs(after - np.median(before)) > 0.05) > 0.2  # of the pixels are of another colour now
    page.evaluate(RAMP)
    assert spread(hues(page)) > 0.08  # the colour is of the place, not of the surface

    # for ChimeraX, with these colours
    with page.expect_download() as download:
        page.click("#scene-save")
    assert download.value.suggested_filename == "scene.zip"
    with zipfile.ZipFile(download.value.path()) as packed:
        names = set(packed.namelist())
        script = packed.read("scene/scene.cxc").decode()
    assert names == {f"scene/{name}" for name in ("scene.cxc", "map_0.mrc", "local_resolution_0.mrc")}
    assert f"color sample #1 map #2 palette {low:.4g},#440154:" in script


def test_a_coarse_surface_gives_way_to_the_whole_one(open_page, address):
    page = open_page(address)
    sent = []
    page.on("request", lambda r: sent.append(r.post_data_json) if r.url.endswith("/api/volume") else None)
    page.evaluate("explorer.state.run.coarse_first = true")
    page.evaluate(WATCH)
    pick(page, 7)
    page.wait_for_function("seen.includes('refined')")
    assert [one.get("coarse", False) for one in sent] == [True, False]
    assert page.evaluate("seen") == ["shown", "refined"]
    assert page.evaluate("explorer.volumes.layers.length") == 1
    assert page.evaluate("explorer.volumes.layers[0].level / explorer.volumes.layers[0].start") == 1.5
    assert len(hues(page)) > 500  # it is seen
    assert page.evaluate("explorer.volumes.layers[0].roots.length") == 1

    # of two clicks, the second as soon as the first is answered, the whole map of the second alone
    sent.clear()
    page.evaluate(
        """() => {
          explorer.volumes.addEventListener("shown", () => explorer.panels.decode(9, {}), { once: true });
          return explorer.panels.decode(8, {});
        }"""
    )
    page.wait_for_function("seen.filter(one => one == 'refined').length == 2")
    assert [(one["row"], one.get("coarse", False)) for one in sent] == [(8, True), (9, True), (9, False)]


def test_shown_volumes_are_those_of_the_scene(open_page, address, run_folder, tmp_path):
    page = open_page(address)
    pick(page, 7)
    page.check(".layer input[type=checkbox]")
    pick(page, 40)
    page.focus(".layer input[type=checkbox]")
    page.keyboard.press("d")  # a box that was ticked does not keep the keys
    page.wait_for_function("explorer.volumes.layers.at(-1).difference")
    levels = page.evaluate("explorer.volumes.layers.map(l => l.level)")
    with page.expect_download() as download:
        page.click("#scene-save")
    with zipfile.ZipFile(download.value.path()) as packed:
        packed.extractall(tmp_path)
    script = (tmp_path / "scene" / "scene.cxc").read_text().splitlines()
    assert 'open "map_0.mrc"' in script
    assert f"volume #1 style surface step 1 level {levels[0]:.6g} color #56b4e9" in script
    last = len(levels)
    assert any(
        line.startswith(f"volume #{last} ") and f"level {-levels[-1]:.6g} color #d55e00" in line
        for line in script
    )
    run = Run.open(run_folder)
    with mrcfile.open(tmp_path / "scene" / "map_0.mrc") as file:
        np.testing.assert_allclose(file.data, next(run.volumes(run.latents().z[[7]])), atol=1e-4)
    assert (run.place("explorer") / "chimerax" / "scene" / "scene.cxc").is_file()


def test_a_path_is_followed_before_it_is_written(open_page, address, run_folder):
    page = open_page(address)
    for axis in ("x", "y"):
        page.select_option(f"#axis-{axis}", f"PC{1 + (axis == 'y')}")
    page.wait_for_function("explorer.scatter.y.name == 'PC2'")
    ends = page.evaluate("explorer.scatter.x.at")
    for row in ends:
        pick(page, row)
        page.click("#add-anchor")
    page.click("[data-tab=path]")
    page.select_option("#path-how", "line")
    page.evaluate("explorer.state.run.coarse_first = true")
    page.evaluate(WATCH)
    page.click("#path-follow")
    page.wait_for_function("explorer.volumes.layers.some(l => l.label == 'path, 1')")
    page.wait_for_function("seen.length == 2")
    assert page.evaluate("seen") == ["shown", "refined"]
    page.evaluate("explorer.state.run.coarse_first = false")
    assert page.evaluate("explorer.panels.path.z.length") == 5
    assert page.evaluate("explorer.panels.path.volumes.length") == 0  # none is written

    # the handle is dragged along it: from the first point to about three quarters, beside the line
    box = page.locator("#points").bounding_box()
    way = np.array(page.evaluate("explorer.scatter.pathPixels()")) + np.array([box["x"], box["y"]])
    view = page.evaluate("explorer.scatter.position(0)")
    page.mouse.move(*way[0])
    page.mouse.down()
    across = (way[-1] - way[0])[::-1] * [1, -1] / np.hypot(*(way[-1] - way[0]))
    for share in (0.2, 0.5, 0.75):
        page.mouse.move(*(way[0] + share * (way[-1] - way[0]) + 5 * across), steps=4)
    page.mouse.up()
    page.wait_for_function("explorer.panels.path.going == null && explorer.scatter.marks.at > 2.5")
    at = page.evaluate("explorer.scatter.marks.at")
    assert at == pytest.approx(3, abs=0.2)
    assert page.evaluate("explorer.scatter.position(0)") == view  # and the view stays
    label = f"path, {round(at + 1, 2):g}"
    page.wait_for_function(f"explorer.volumes.layers.some(l => l.label == '{label}')")
    shown = page.evaluate(
        "Array.from(new Float32Array(explorer.volumes.layers.find(l => l.what?.path).data.slice(1024)))"
    )
    run = Run.open(run_folder)
    z = run.latents().z
    expected = next(run.volumes(z[[ends[0]]] + at / 4 * (z[ends[1]] - z[ends[0]])))
    np.testing.assert_allclose(np.reshape(shown, (16, 16, 16)), expected, atol=1e-3 * np.abs(expected).max())

    # by the slider as well; on the axes of a UMAP its points are at the nearest particles
    page.evaluate("document.getElementById('path-slider').value = 0.5")
    page.dispatch_event("#path-slider", "input")
    page.wait_for_function("explorer.volumes.layers.some(l => l.label == 'path, 1.5')")
    for axis in ("x", "y"):
        page.select_option(f"#axis-{axis}", f"UMAP{1 + (axis == 'y')}")
    page.wait_for_function("explorer.scatter.y.name == 'UMAP2' && explorer.scatter.pathPixels().length == 5")
    page.wait_for_function("explorer.state.busy == 0")
    spots = page.evaluate("explorer.scatter.pathPixels()")
    near = page.evaluate("explorer.scatter.marks.path.nearest")
    assert near[0] == ends[0]
    places = page.evaluate("explorer.scatter.marks.path.nearest.map(row => explorer.scatter.position(row))")
    np.testing.assert_allclose(spots, places, atol=0.5)
    asked = page.evaluate("JSON.stringify(explorer.panels.path.asked())")
    assert json.loads(asked)["anchors"] == ends


def test_tilt_images_of_a_particle_lie_side_by_side(toy, train_tiny, serve, open_page, tmp_path):
    """Five tilt images of each particle, in a star as Warp writes it, not in the order of their dose."""
    blocks = star.read_blocks(toy)
    (name, table) = next((name, table) for name, table in blocks.items() if "rlnImageName" in table)
    tilt = np.tile([3, 0, 4, 1, 2], 60)
    added = {
        "rlnGroupName": [f"particle_{i // 5}" for i in range(300)],
        "rlnCtfBfactor": -12.0 * (tilt + 1),
        "rlnCtfScalefactor": np.cos(np.deg2rad(3 * tilt)),
    }
    star.write_blocks(tmp_path / "tilts.star", {**blocks, name: table.assign(**added)})
    folder = train_tiny(f"dataset.particles={tmp_path / 'tilts.star'}", f"dataset.datadir={toy.parent}")
    page = open_page(serve(folder))
    pick(page, 12)
    page.click("[data-tab=particles]")
    page.click("#show-tilts")
    page.wait_for_selector("#images figure")
    said = page.locator("#images figure").all_inner_texts()
    assert [text.strip() for text in said] == [f"B {12 * (i + 1)} Å²" for i in range(5)]
    titles = page.eval_on_selector_all("#images figure", "all => all.map(one => one.title)")
    assert titles == [f"image {10 + i}" for i in (1, 3, 4, 0, 2)]
    picture = "document.querySelector('#images canvas').toDataURL()"
    before = page.evaluate(picture)
    page.select_option("#tilt-panel", "raw")
    assert page.evaluate(picture) != before
    page.click("#show-images")
    page.wait_for_selector("#images button")
    assert page.locator("#images figure").count() == 0

    page.click("[data-tab=point]")
    for wrong in ("300", "-1", "1.5", ""):
        page.fill("#row", wrong)
        page.click("#go")
        page.wait_for_selector("#message:not([hidden])")
        said = page.inner_text("#message")
        assert f"Particle {wrong or '?'}: expected a whole number from 0 to 299." in said
