"""Colours of classes in the explorer, as its own module makes them."""

import json
import shutil
import subprocess

import pytest
from matplotlib.colors import to_hex

from drgn.analysis.plots import label_colours
from drgn.explorer.server import STATIC


@pytest.fixture
def told():
    """Return a function: the value of an expression of colours.js."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not on PATH")

    def value(expression):
        script = f"{(STATIC / 'colours.js').read_text()}\nconsole.log(JSON.stringify({expression}));"
        command = [program, "--input-type=module", "-"]
        done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return value


def test_outliers_are_grey_and_each_class_has_the_colour_of_the_pictures(told):
    found = told("encode(new Float32Array([2, -1, 0, NaN, 2]), 'class')")
    grey, colours = told("UNKNOWN"), [to_hex(colour) for colour in label_colours(3)]
    assert found["legend"]["numbers"] == [-1, 0, 2]
    assert found["map"] == [grey, grey, colours[0], colours[2]]
    assert list(found["z"].values()) == [3, 1, 2, 0, 3], "places in the map; what is not known is grey"
    assert told("classColour(-1)") == grey


def test_every_class_has_a_colour(told):
    assert None not in told("Array.from({ length: 100 }, (_, i) => classColour(i - 1) ?? null)")


LEGEND = """() => {
  const colours = [];
  const draw = new Proxy({}, {
    get: (kept, name) => kept[name] ??
      (name === "fill" ? () => colours.push(kept.fillStyle) : () => ({ width: 0 })),
    set: (kept, name, value) => { kept[name] = value; return true; },
  });
  const { legend } = Object.getPrototypeOf(explorer.scatter);
  const shown = { encoded: { legend: { numbers: [-1, 0, 2] } }, colour: { name: "gmm3" }, corner: 0 };
  legend.call(shown, draw, 400, 400);
  return colours;
}"""


def test_the_legend_has_the_colours_of_the_points(told, train_tiny, serve, open_page):
    page = open_page(serve(train_tiny()))
    assert page.evaluate(LEGEND) == told("[-1, 0, 2].map(classColour)")
