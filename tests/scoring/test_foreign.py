import numpy as np
import pandas as pd
import pytest

from drgn.errors import InputError
from drgn.formats.mrc import read_volume, write_volume
from drgn.scoring import foreign, maps
from drgn.scoring.subject import of_truth
from drgn.scoring.truth import Truth


@pytest.fixture
def truth(noisy):
    return Truth(noisy)


def maps_in(folder, truth, change=lambda volume: volume, pixel_size_A=24.0):
    """The five true maps, changed, as a program would write them, and the files that they belong to."""
    folder.mkdir(exist_ok=True)
    files = truth.maps["file"].to_list()
    for i, file in enumerate(files):
        volume = read_volume(truth.folder / "maps" / file)[0]
        write_volume(folder / f"vol_{i}.mrc", change(volume), pixel_size_A)
    found = foreign.find_volumes(str(folder), len(files))
    return found, files, maps.Reference(truth, foreign.box_of(found, truth))


def test_the_true_maps_fit(tmp_path, truth):
    fit = foreign.fit(*maps_in(tmp_path, truth))
    assert fit.sign == 1
    assert fit.correlation == pytest.approx(1)
    assert fit.offset_px == (0, 0, 0)
    assert fit.warnings() == []


def test_dark_maps_are_told_and_compared_with_their_sign(tmp_path, truth):
    volumes, files, reference = maps_in(tmp_path, truth, lambda volume: 3 - 2 * volume)
    fit = foreign.fit(volumes, files, reference)
    assert fit.sign == -1
    assert fit.correlation == pytest.approx(1)
    assert "dark" in fit.warnings()[0]
    np.testing.assert_allclose(maps.area(fit.sign * maps.curves(volumes, files, reference)), 1, atol=1e-5)


@pytest.mark.parametrize("mirror", [lambda v: v[::-1], lambda v: np.roll(v[::-1], 1, 0)])
def test_the_other_hand_is_told(tmp_path, truth, mirror):
    # the complex is nearly a mirror image of itself: what is added has a hand
    lump = np.zeros((16, 16, 16), np.float32)
    lump[11:13, 9:12, 6:8] = 20 * float(truth.read_map("map1.mrc").max())
    volumes, files, _ = maps_in(tmp_path, truth, lambda volume: mirror(volume + lump))
    known = {file: (truth.read_map(file) + lump, None) for file in files}

    class WithLump:
        box_size = 16

        def __call__(self, file):
            return known[file]

    fit = foreign.fit(volumes, files, WithLump())
    assert fit.mirrored_correlation == pytest.approx(1, abs=1e-4)
    assert fit.correlation < 0.5
    assert any("other hand" in said for said in fit.warnings())


def test_a_displaced_origin_is_told(tmp_path, truth):
    fit = foreign.fit(*maps_in(tmp_path, truth, lambda v: np.roll(v, (1, -2), (0, 2))))
    assert fit.offset_px == (-2, 0, 1)
    assert any("(-2, 0, 1) voxels" in said for said in fit.warnings())


def test_pixel_size_and_box_must_fit(tmp_path, truth):
    with pytest.raises(InputError, match=r"vol_0.mrc says a pixel of 1 A.*has 24 A.*--Apix"):
        maps_in(tmp_path / "pixel", truth, pixel_size_A=1.0)
    with pytest.raises(InputError, match=r"18 x 18 x 18 voxels; expected"):
        maps_in(tmp_path / "box", truth, lambda v: np.pad(v, 1))
    volumes, _, reference = maps_in(tmp_path / "small", truth, lambda v: v[4:12, 4:12, 4:12], 48.0)
    assert len(volumes) == 5
    assert reference.box_size == 8


def test_maps_are_counted_and_ordered_by_number(tmp_path, truth):
    for i in (1, 2, 10):
        write_volume(tmp_path / f"vol{i}.mrc", np.zeros((4, 4, 4)), 1.0)
    found = foreign.find_volumes(str(tmp_path), 3)
    assert [path.name for path in found.paths] == ["vol1.mrc", "vol2.mrc", "vol10.mrc"]
    assert len(foreign.find_volumes(str(tmp_path / "vol1*.mrc"), 2)) == 2
    with pytest.raises(InputError, match=r"3 \.mrc are there, but maps of 7 images"):
        foreign.find_volumes(str(tmp_path), 7)


def test_a_list_of_images_comes_back(tmp_path, noisy):
    subject = of_truth(noisy)
    chosen = maps.choose(subject, 7, 2)
    z = np.random.default_rng(0).normal(size=(200, 3))
    listed, points = foreign.write_choice(tmp_path, chosen, z)
    pd.testing.assert_frame_equal(
        foreign.read_choice(listed, subject), chosen, check_dtype=False, check_column_type=False
    )
    np.testing.assert_allclose(np.loadtxt(points), z[chosen["row"]], rtol=1e-6)
    (tmp_path / "keys.csv").write_text("key\n000003@particles.mrcs\n000001@particles.mrcs\n")
    read = foreign.read_choice(tmp_path / "keys.csv", subject)
    assert read["row"].to_list() == [2, 0]
    assert set(read["use"]) == {"image"}
    (tmp_path / "keys.csv").write_text("key\n000003@other.mrcs\n")
    with pytest.raises(InputError, match=r"000003@other\.mrcs is not among"):
        foreign.read_choice(tmp_path / "keys.csv", subject)
    with pytest.raises(InputError, match="column key"):
        foreign.read_choice(tmp_path / "none.csv", subject)
