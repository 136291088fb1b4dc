from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from drgn.analysis import movies
from drgn.analysis.pictures import SURFACE_COLOUR
from drgn.analysis.volumes import VolumeFiles
from drgn.formats.mrc import write_volume

D = 16


def blob(x):
    z, y, across = np.mgrid[:D, :D, :D] - D // 2
    return np.exp(-(z**2 + y**2 + (across - x) ** 2) / 6).astype(np.float32)


class Moving:
    """A run whose map at z is a blob at x = z."""

    def volumes(self, z, device="cpu"):
        return (blob(x) for (x,) in z)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    z = np.array([[-3.0], [0], [3]])
    paths = [tmp_path_factory.mktemp("maps") / f"vol_{i}.mrc" for i in range(3)]
    for path, (x,) in zip(paths, z, strict=True):
        write_volume(path, blob(x), 1.0)
    return movies.draw(Moving(), z, VolumeFiles(paths), "along z", 0.5, frames=7, size_px=80)


def centre(picture):
    """Horizontal centre of what is not white, above the bar."""
    ink = (picture[:60] < 240).any(axis=-1).sum(axis=0)
    return (ink * np.arange(80)).sum() / ink.sum()


def test_the_blob_moves_evenly(pictures):
    at = [centre(picture) for picture in pictures]
    assert len(at) == 7
    np.testing.assert_allclose(np.diff(at), np.diff(at).mean(), rtol=0.2)
    assert at[3] == pytest.approx(39.5, abs=0.7)


def test_the_dot_follows(pictures):
    dots = [
        np.argwhere(np.abs(p - np.array([213.0, 94, 0])).sum(axis=-1) < 30)[:, 1].mean() for p in pictures
    ]
    np.testing.assert_allclose(dots, np.linspace(0.06 * 80, 0.94 * 80, 7), atol=1)


def test_there_and_back_repeats_without_a_jump():
    order = movies.there_and_back(list("abcd"), hold=2)
    assert "".join(order) == "aaabcddd" + "cb"
    assert movies.there_and_back(["a"], hold=1) == ["a", "a", "a"]


def test_a_gif_keeps_its_colours(pictures, tmp_path):
    path = movies.write_gif(pictures, tmp_path / "a.gif", 10)
    with Image.open(path) as movie:
        for i, picture in enumerate(pictures):
            movie.seek(i)
            shown = np.asarray(movie.convert("RGB"), np.float64)
            assert np.abs(shown - picture).mean() < 3
    assert SURFACE_COLOUR[2] > SURFACE_COLOUR[0]
    assert shown[..., 2].sum() > shown[..., 0].sum()  # blue stays blue


def test_a_gif_is_made_smaller_until_it_fits(tmp_path):
    noise = list(np.random.default_rng(0).integers(0, 255, (8, 160, 160, 3), dtype=np.uint8))
    whole = movies.write_gif(noise, tmp_path / "whole.gif", 10).stat().st_size
    path = movies.write_gif(noise, tmp_path / "small.gif", 10, most_bytes=whole // 3)
    assert path.stat().st_size <= whole // 3
    with Image.open(BytesIO(path.read_bytes())) as movie:
        assert movie.n_frames == 8
        assert 60 < movie.width < 130


def test_without_the_encoder_there_is_no_mp4(pictures, tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert movies.write_mp4(pictures, tmp_path / "a.mp4", 15) is None
    assert not list(tmp_path.iterdir())
