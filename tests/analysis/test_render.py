import numpy as np
import pytest

from drgn.analysis import render

D = 32


def blob(x, y, z, sigma=2.5):
    axis = np.arange(D) - D // 2
    rz, ry, rx = np.meshgrid(axis - z, axis - y, axis - x, indexing="ij")
    return np.exp(-(rx**2 + ry**2 + rz**2) / (2 * sigma**2)).astype(np.float32)


def centre_of(picture):
    """Centre of the opaque part, (right, up) from the middle, as a share of half the picture."""
    alpha = picture[..., 3]
    n = len(alpha)
    rows, columns = np.indices(alpha.shape)
    total = alpha.sum()
    return np.array([(alpha * (columns - n / 2 + 0.5)).sum(), (alpha * (n / 2 - 0.5 - rows)).sum()]) / (
        total * n / 2
    )


@pytest.mark.parametrize(
    ("name", "expected"), [("along z", (8, 4)), ("along x", (6, 4)), ("along y", (8, 6))]
)
def test_a_blob_appears_where_it_is(name, expected):
    picture = render.isosurface(blob(8, 4, -6), 0.5, (1, 1, 1), render.VIEWS[name], size_px=80)
    np.testing.assert_allclose(centre_of(picture) * D / 2, expected, atol=0.15)


@pytest.mark.parametrize("view", render.VIEWS.values())
def test_views_are_rotations(view):
    assert np.linalg.det(view) == pytest.approx(1)
    np.testing.assert_array_equal(view @ view.T, np.eye(3))


def test_the_radius_of_a_sphere_is_right():
    # a Gaussian of standard deviation 4 crosses exp(-1/2) at radius 4
    picture = render.isosurface(blob(0, 0, 0, 4), np.exp(-0.5), (1, 1, 1), size_px=160)
    area_px2 = picture[..., 3].sum() * (D / 160) ** 2
    assert area_px2 == pytest.approx(np.pi * 16, rel=0.02)


def test_the_nearer_blob_hides_the_farther():
    near, far = blob(0, 0, 8, 3), blob(0, 0, -8, 3)
    front = render.isosurface(near + far, 0.5, (1, 1, 1), size_px=60)
    alone = render.isosurface(near, 0.5, (1, 1, 1), size_px=60)
    hidden = render.isosurface(far, 0.5, (1, 1, 1), size_px=60)
    np.testing.assert_allclose(front, alone, atol=0.02)
    assert np.abs(front - hidden).max() > 0.05  # the farther one alone is drawn darker


def test_light_comes_from_the_upper_left():
    picture = render.isosurface(blob(0, 0, 0, 5), 0.5, (1, 1, 1), size_px=80)
    brightness = np.where(picture[..., 3] > 0.99, picture[..., 0], 0)
    half = brightness.shape[0] // 2
    assert brightness[:half, :half].sum() > 1.2 * brightness[half:, half:].sum()


def test_nothing_above_the_level_is_transparent():
    assert render.isosurface(blob(0, 0, 0), 2.0, (1, 1, 1), size_px=20).max() == 0


def test_a_frame_zooms_in():
    wide = render.isosurface(blob(0, 0, 0), 0.5, (1, 1, 1), size_px=60)
    frame = render.Frame((D // 2,) * 3, D / 4)
    close = render.isosurface(blob(0, 0, 0), 0.5, (1, 1, 1), size_px=60, frame=frame)
    assert close[..., 3].sum() == pytest.approx(4 * wide[..., 3].sum(), rel=0.05)


def test_a_frame_holds_all_surfaces():
    maps = np.zeros((2, 16, 16, 16))
    maps[0, 8, 3, 9] = maps[1, 10, 7, 8] = 1
    frame = render.Frame.of(maps, 0.5, margin=1)
    assert frame.centre_px == (9, 5, 8.5)
    assert frame.radius_px == 3  # half of 3 to 7, and one voxel around
    assert render.Frame.of(maps, 2).radius_px == 8


def test_a_frame_moves_the_picture():
    picture = render.isosurface(
        blob(5, -4, 3), 0.5, (1, 1, 1), size_px=60, frame=render.Frame((19, 12, 21), 6)
    )
    np.testing.assert_allclose(centre_of(picture), 0, atol=0.02)


def test_the_level_parts_molecule_from_solvent():
    volume = np.zeros((24,) * 3)
    volume[4:12, 4:12, 4:12], volume[14:20, 14:20, 14:20] = 1.0, 2.0  # parts of different density
    assert 0 < render.isosurface_level([volume]) < 1
    assert render.isosurface_level([5 * volume]) == pytest.approx(5 * render.isosurface_level([volume]))


def test_the_level_stays_above_noise():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(24,) * 3)
    volume = noise.copy()
    volume[10:14, 10:14, 10:14] += 8
    level = render.isosurface_level([volume])
    assert (noise > level).mean() < 1e-3
    assert (volume > level)[10:14, 10:14, 10:14].mean() > 0.9


def test_the_level_of_a_full_box_shows_something():
    volume = np.random.default_rng(0).uniform(size=(16,) * 3)
    assert (volume > render.isosurface_level([volume])).mean() > 0.3


def test_one_level_for_a_set():
    own = [render.isosurface_level([scale * blob(0, 0, 0)]) for scale in (1, 2, 30)]
    assert render.isosurface_level([scale * blob(0, 0, 0) for scale in (30, 1, 2)]) == own[1]
