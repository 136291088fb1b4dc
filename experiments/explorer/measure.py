"""Frame time while 1,000,000 points are moved, and the time from a click to the isosurface at box 64 and 128.

    python experiments/explorer/measure.py --folder work

Makes runs on 200 simulated images, and a table of 1,000,000 particles with drawn latents in the
form of a run of cryoDRGN, serves each, and writes results.json beside this file.
"""

import argparse
import json
import pickle
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from playwright.sync_api import sync_playwright

ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
FRAMES = """async () => {
  const plot = explorer.scatter.plot, times = [];
  for (let i = 0; i < 60; i++) {
    const begun = performance.now();
    await plot.zoomToLocation([0.004 * i, 0.002 * i], 0.8, {transition: false});
    await new Promise(requestAnimationFrame);
    await new Promise(done => setTimeout(done, 0));
    times.push(performance.now() - begun);
  }
  return times;
}"""
LISTEN = """() => {
  globalThis.seen = [];
  explorer.scatter.plot.subscribe('view', () => seen.push(performance.now()));
}"""
ALONG = """async () => {
  const times = [];
  for (let i = 1; i <= 20; i++) {
    const begun = performance.now();
    await explorer.panels.path.go(0.17 * i);
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - begun);
  }
  return times;
}"""
ALL = """async () => {
  const begun = performance.now();
  const { thinning } = explorer.scatter;
  while (thinning.drawn < thinning.n) await new Promise(done => setTimeout(done, 5));
  await new Promise(requestAnimationFrame);
  await new Promise(done => setTimeout(done, 0));
  return performance.now() - begun;
}"""


def drgn(verb: str, *options: str) -> None:
    subprocess.run([sys.executable, "-m", f"drgn.{verb}", *options], check=True)


def million(folder: Path, n: int) -> Path:
    """A run folder of cryoDRGN with drawn latents in five clouds."""
    run = folder / "million"
    run.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with (folder / "million.star").open("w") as star:
        star.write("data_\n\nloop_\n_rlnImageName\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n")
        star.writelines(f"{i:07d}@images.mrcs 0 0 0\n" for i in range(1, n + 1))
    data = {"particles": str(folder / "million.star"), "invert_data": True}
    config = {"dataset_args": data, "lattice_args": {"D": 65}, "version": "4.3.1", "time": "2026-01-31"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    z = rng.normal(size=(n, 8)).astype(np.float32)
    z[:, :2] += 4 * rng.normal(size=(5, 2)).astype(np.float32)[rng.integers(0, 5, n)]
    (run / "z.0.pkl").write_bytes(pickle.dumps(z) + pickle.dumps(z))
    return run


def panned(page: Any, seconds: float = 4.0) -> dict[str, float]:
    """Drag the points in circles with the mouse; times between the views that are drawn, in ms."""
    box = page.locator("#points").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.wait_for_timeout(4000)
    page.evaluate(LISTEN)
    page.mouse.down()
    begun = time.perf_counter()
    while (at := time.perf_counter() - begun) < seconds:
        page.mouse.move(x + 60 * np.sin(3 * at), y + 60 * (1 - np.cos(3 * at)))
    drawn = page.evaluate("explorer.scatter.thinning.drawn")
    page.mouse.up()
    still = page.evaluate(ALL)
    times = np.diff(page.evaluate("seen"))
    return {
        "frames_per_s": round(len(times) / float(times.sum()) * 1000, 1),
        "frame_ms.median": round(float(np.median(times)), 1),
        "frame_ms.percentile_95": round(float(np.percentile(times, 95)), 1),
        "frame_ms.most": round(float(np.max(times)), 1),
        "points_drawn_at_the_end": drawn,
        "until_all_are_drawn_ms": round(still, 1),
    }


@contextmanager
def page_of(run: Path) -> Any:
    command = [sys.executable, "-m", "drgn.explore", f"run={run}", "port=0", "browser=false"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        sync_playwright() as playwright,
    ):
        address = server.stdout.readline().strip()
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(240_000)
        begun = time.perf_counter()
        page.goto(address)
        page.wait_for_function("globalThis.explorer?.scatter?.x && explorer.volumes.plugin")
        try:
            yield page, time.perf_counter() - begun
        finally:
            browser.close()
            server.terminate()


def clicks(folder: Path, box: int) -> dict[str, float]:
    """From a click on Show to the surface, and from a place on a path to the next."""
    run = folder / f"box{box}"
    if not (run / "latents.npz").is_file():
        images = [f"box_size={box}", f"pixel_size_A={256 / box}", f"output={folder / f'set{box}'}"]
        drgn("simulate", "n_particles=200", *images)
        drgn(
            "train",
            "dataset=custom",
            f"dataset.particles={folder / f'set{box}' / 'particles.star'}",
            f"dataset.cache={folder / 'prepared'}",
            "trainer=cpu",
            "epochs=1",
            "analyze=false",
            f"output={run}",
        )
    took, whole = [], []
    with page_of(run) as (page, _):
        for row in range(6):
            page.fill("#row", str(row))
            begun = time.perf_counter()
            page.click("#go")
            page.wait_for_function(f"explorer.volumes.layers.some(l => l.what?.row == {row})")
            page.evaluate("() => new Promise(requestAnimationFrame)")
            took.append(time.perf_counter() - begun)
            page.wait_for_function(
                "([row, box]) => explorer.volumes.layers.some("
                "l => l.what?.row == row && new DataView(l.data).getInt32(0, true) == box)",
                arg=[row, box],
            )
            page.evaluate("() => new Promise(requestAnimationFrame)")
            whole.append(time.perf_counter() - begun)
        page.click("[data-tab=path]")
        page.select_option("#path-how", "pc")
        page.fill("#path-pc", "1")
        page.click("#path-follow")
        page.wait_for_function("explorer.volumes.layers.some(l => l.label == 'path, 1')")
        along = page.evaluate(ALONG)
    return {
        f"box{box}.along_a_path_s.median_of_20": round(float(np.median(along)) / 1000, 3),
        f"box{box}.along_a_path_s.most": round(float(np.max(along)) / 1000, 3),
        f"box{box}.click_to_whole_surface_s.median_of_next_5": round(float(np.median(whole[1:])), 3),
        f"box{box}.click_to_surface_s.first": round(took[0], 3),
        f"box{box}.click_to_surface_s.median_of_next_5": round(float(np.median(took[1:])), 3),
    }


def points(folder: Path, n: int) -> dict[str, float]:
    """Frames while so many points are moved."""
    with page_of(million(folder, n)) as (page, ready):
        page.wait_for_timeout(2000)
        page.screenshot(path=folder / "million.png")
        frames = page.evaluate(FRAMES)
        found = {
            "open_s": round(ready, 2),
            "by_program.frame_ms.median": round(float(np.median(frames)), 1),
            "by_program.frame_ms.most": round(float(np.max(frames)), 1),
        }
        found |= {f"by_mouse.{name}": value for name, value in panned(page).items()}
    return {f"points{n}.{name}": value for name, value in found.items()}


PARTS = {
    "clicks": lambda folder: clicks(folder, 64),
    "clicks128": lambda folder: clicks(folder, 128),
    "points": lambda folder: points(folder, 1_000_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    path = Path(__file__).with_name("results.json")
    results = json.loads(path.read_text()) if path.is_file() else {}
    for part in options.parts:
        found = PARTS[part](options.folder)
        results = {
            name: value
            for name, value in results.items()
            if name.split(".")[0] not in {new.split(".")[0] for new in found}
        } | found
    text = json.dumps(results, indent=2) + "\n"
    path.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
