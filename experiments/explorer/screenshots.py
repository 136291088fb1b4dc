"""Screenshots of each page of the explorer, 1280 x 800, of a run that is served by drgn explore.

drgn explore run=RUN port=8123 browser=false        # prints ADDRESS
python experiments/explorer/screenshots.py ADDRESS --folder screenshots
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def opened(browser: Any, address: str) -> Any:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(180_000)
    page.goto(address)
    page.wait_for_function("globalThis.explorer?.scatter?.x && explorer.volumes.plugin")
    return page


def pick(page: Any, row: int) -> None:
    page.click("[data-tab=point]")
    page.fill("#row", str(row))
    page.click("#go")
    page.wait_for_function(f"explorer.volumes.layers.some(l => l.what?.row == {row})")


def lasso(page: Any, x: float, y: float, half: float) -> None:
    page.click("[data-mode=lasso]")
    box = page.locator("#points").bounding_box()
    x, y = box["x"] + x * box["width"], box["y"] + y * box["height"]
    corners = [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in [*corners[1:], corners[0]]:
        page.mouse.move(*corner, steps=8)
    page.mouse.up()
    page.click("[data-mode=panZoom]")


def take(page: Any, shoot: Callable[[str], None]) -> None:
    shoot("1_open")
    lasso(page, 0.35, 0.6, 60)
    pick(page, 55)
    shoot("2_selected_and_volume")
    page.check(".layer input[type=checkbox]")
    pick(page, 17)
    shoot("3_two_states")
    page.click("[data-tab=point]")
    page.click("#difference")
    page.wait_for_function("explorer.volumes.layers.at(-1).difference")
    shoot("4_difference")
    if page.locator("#local").is_visible():
        page.uncheck(".layer input[type=checkbox] >> nth=0")
        page.click("#local")
        page.wait_for_selector(".scale")
        shoot("4_local_resolution")
    page.click("[data-tab=particles]")
    page.fill("#lowpass", "40")
    page.click("#show-images")
    page.wait_for_selector("#images canvas")
    shoot("5_particles")
    if page.locator("#show-tilts").is_visible():
        page.click("#show-tilts")
        page.wait_for_selector("#images figure")
        shoot("5_tilts")
    for row in (55, 17):
        pick(page, row)
        page.click("#add-anchor")
    page.click("[data-tab=path]")
    page.select_option("#path-how", "graph")
    page.click("#path-follow")
    page.wait_for_function("explorer.volumes.layers.some(l => l.label.startsWith('path'))")
    page.evaluate("explorer.panels.path.go(0.4 * (explorer.panels.path.z.length - 1))")
    shoot("6_path_followed")
    page.click("#path-make")
    page.wait_for_function("explorer.panels.path.volumes.length")
    page.wait_for_timeout(3000)
    shoot("6_path_written")
    page.click("[data-tab=evidence]")
    page.click("#evidence")
    page.wait_for_timeout(2500)
    shoot("7_evidence_running")
    page.wait_for_selector("#evidence-result p", state="attached")
    page.click("[data-tab=evidence]")
    page.click("#evidence-result button")
    page.wait_for_timeout(3000)
    shoot("8_evidence")
    page.click("[data-tab=training]")
    shoot("9_training")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    shoot("10_keys")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.click("#export")
    page.wait_for_selector("#message:not([hidden])")
    shoot("11_error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--folder", type=Path, default=Path("screenshots"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        page = opened(browser, options.address)
        page.on("console", lambda message: print(message.type, message.text[:300]))

        def shoot(name: str) -> None:
            page.wait_for_timeout(1500)
            page.screenshot(path=options.folder / f"{name}.png")

        take(page, shoot)
        browser.close()


if __name__ == "__main__":
    main()
