"""Every picture is a PNG with something in it, and shows other data as another picture."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

import drgn
from drgn.analysis import colours, pictures, plots
from drgn.analysis.clusters import kmeans

RNG = np.random.default_rng(0)
CLOUD = RNG.normal(size=(200, 2))
EPOCHS = np.arange(1, 6)


def loss(scale):
    return {"loss": {"training": (EPOCHS, scale / EPOCHS), "held out": (EPOCHS, scale / EPOCHS + 0.1)}}


def blobs(shift):
    z, y, x = np.mgrid[:16, :16, :16] - 8
    return [np.exp(-((x - dx) ** 2 + y**2 + z**2) / 8).astype(np.float32) for dx in (0, shift)]


CASES = {
    "latent_map": lambda path, i: plots.latent_map(CLOUD * [1, 1 + i], ("a", "b"), path),
    "latent_map with clusters": lambda path, i: plots.latent_map(
        CLOUD, ("a", "b"), path, kmeans(CLOUD, 4 + 5 * i, seed=0)
    ),
    "latent_columns": lambda path, i: plots.latent_columns(
        CLOUD, ("a", "b"), {"x": CLOUD[:, i], "class": (CLOUD[:, i] > 0).astype(int)}, path
    ),
    "histogram": lambda path, i: plots.histogram(CLOUD[:, i], np.array([-1.0, 0, 1]), path),
    "explained_variance": lambda path, i: plots.explained_variance(np.array([0.6 + 0.2 * i, 0.2]), path),
    "learning_curve": lambda path, i: plots.learning_curve(loss(1 + i), path),
    "montage": lambda path, i: pictures.montage(blobs(4 * i + 1), ["a", "b"], path),
    "orthogonal": lambda path, i: pictures.orthogonal(blobs(4)[i], 2.0, path),
    "slices": lambda path, i: pictures.slices(blobs(3 * i + 1), ["a", "b"], 2.0, path),
}


@pytest.mark.parametrize("draw", CASES.values(), ids=CASES.keys())
def test_pictures_show_their_data(tmp_path, draw):
    from matplotlib.image import imread

    seen = [imread(draw(tmp_path / f"{i}.png", i)) for i in (0, 1)]
    for picture in seen:
        assert picture[..., :3].std() > 0.01  # not one flat colour
        assert min(picture.shape[:2]) > 200
    assert seen[0].shape != seen[1].shape or np.abs(seen[0] - seen[1]).mean() > 1e-4
    assert not list(tmp_path.glob(".*"))  # no temporary file left


def test_colours_of_classes_are_distinct():
    all_of_them = plots.label_colours(21)
    distance = np.linalg.norm(all_of_them[:, None] - all_of_them[None], axis=-1) + np.eye(21)
    assert distance.min() > 0.1
    assert plots.label_colours(30).shape == (30, 3)


def test_a_class_has_the_same_colour_in_the_explorer():
    script = Path(drgn.__file__).parent / "explorer" / "static" / "colours.js"
    (listed,) = re.findall(r"CLASSES = \[(.*?)\]", script.read_text(), re.DOTALL)
    assert re.findall("#[0-9a-f]{6}", listed) == [to_hex(colour) for colour in plots.label_colours(21)]
    np.testing.assert_array_equal(plots.label_colours(42)[21:], plots.label_colours(21))


def test_columns_are_called_by_words(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    values = {"defocus_u_A": CLOUD[:, 0], "rlnOther": CLOUD[:, 1]}
    for z in (CLOUD, CLOUD[:, :1]):
        (picture,) = colours.section(z, CLOUD, ("a", "b"), values, tmp_path).pictures
        assert picture.caption == "Coloured by defocus U (Å), rlnOther."
    titles, labels = [
        [get(panel) for panel in figure.axes]
        for figure, get in zip(drawn, (Axes.get_title, Axes.get_ylabel), strict=True)
    ]
    assert "defocus U (Å)" in titles
    assert labels == ["defocus U (Å)", "rlnOther"]


def test_spread_leaves_room_and_moves_no_more_than_needed():
    points = np.array([[0.0, 0], [0, 0], [1, 0], [100, 100]])
    place = plots._spread(points, apart=10)
    distance = np.linalg.norm(place[:, None] - place[None], axis=-1) + np.diag(np.full(4, np.inf))
    assert distance.min() > 9.5
    np.testing.assert_allclose(place[3], [100, 100], atol=0.01)


@pytest.mark.parametrize("size", [15, 16])
def test_slices_are_those_of_the_views(size):
    from drgn.analysis.render import VIEWS

    volume = RNG.normal(size=(size,) * 3)
    c = size // 2
    offset = 3
    for view in VIEWS.values():
        towards, up, right = view[2], view[1], view[0]
        turned = pictures._turned(volume, view)
        x, y, z = c + offset * right + 2 * up + towards
        assert turned[c + 1, c + 2, c + offset] == volume[z, y, x]


def test_the_telling_view_looks_across_the_motion():
    z, y, x = np.mgrid[:16, :16, :16] - 8
    for axis, moved in enumerate(((x, y, z), (y, x, z))):  # a blob moving along x, then along y
        maps = [np.exp(-((moved[0] - d) ** 2 + moved[1] ** 2 + moved[2] ** 2) / 4) for d in (-3, 0, 3)]
        assert pictures.telling_view(maps) != ("along x", "along y")[axis]


def test_a_picture_that_is_not_finished_leaves_nothing(tmp_path):
    class Stopped:
        def savefig(self, path, **_):
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plots.save(Stopped(), tmp_path / "latent.png")
    assert list(tmp_path.iterdir()) == []
