"""drgn landscape on run folders made without training."""

import json

import numpy as np
import pytest

from drgn.command import compose
from drgn.errors import InputError
from drgn.formats.mrc import read_volume, write_volume
from drgn.landscape import landscape
from drgn.run import Run


def find(run, **options):
    return landscape(**{**compose("landscape"), "maps": 24, "pcs": 3, "run": run, **options})


@pytest.fixture(scope="module")
def report(finished):
    return find(finished, clusters=3)


def test_everything_is_written(report):
    folder = report.parent
    assert {path.name for path in folder.iterdir()} == {
        *("report.html", "landscape.json", "landscape.npz", "density.npz", "labels.npz", "mask.mrc"),
        *("landscape.png", "explained_variance.png", "clusters.png", "std.png", "regression.png"),
        *(f"along_pc{i}{end}.png" for i in (1, 2) for end in ("", "_slices")),
        *("components", "cluster_00", "cluster_01", "cluster_02"),
    }
    assert {path.name for path in (folder / "cluster_01").iterdir()} == {"mean.mrc", "std.mrc"}
    assert {path.name for path in (folder / "components").iterdir()} == {
        *("mean.mrc", "pc1.mrc", "pc2.mrc", "pc3.mrc")
    }


def test_the_maps_of_a_cluster_are_those_of_its_particles(finished, report):
    run = Run.open(finished)
    z = run.latents().z
    with np.load(report.parent / "landscape.npz") as found:
        arrays = dict(found)
    members = arrays["sketch_cluster"] == 0
    maps = np.stack(list(run.volumes(z[arrays["sketch_row"][members]])))
    weights = arrays["sketch_particles"][members]
    mean, size = read_volume(report.parent / "cluster_00" / "mean.mrc")
    np.testing.assert_allclose(mean, np.average(maps, 0, weights), rtol=1e-3, atol=1e-4 * np.abs(mean).max())
    assert size == pytest.approx(12)
    with np.load(report.parent / "labels.npz") as labels:
        np.testing.assert_array_equal(labels["key"], run.latents().key)
        np.testing.assert_array_equal(labels["label"], arrays["sketch_cluster"][arrays["nearest"]])
        assert (labels["label"] == 0).sum() == weights.sum()
    assert arrays["coordinates"].shape == (len(z), 3)
    np.testing.assert_array_equal(arrays["coordinates"][arrays["sketch_row"]], arrays["sketch_coordinates"])


def test_the_caveat_and_the_quality_of_the_regression_are_told(report):
    facts = json.loads((report.parent / "landscape.json").read_text())
    assert "not a physical free energy" in facts["caveat"]
    assert facts["held_out_r2"][facts["regression"]] == max(facts["held_out_r2"].values())
    assert facts["clusters"] == 3
    page = report.read_text()
    assert "not a physical free energy" in page
    assert "held out, R²" in page


def test_maps_of_an_earlier_landscape_go_and_what_a_person_put_there_is_kept(finished, tmp_path):
    others = [
        tmp_path / "cluster_02" / "sharpened.mrc",
        tmp_path / "cluster_01_refined" / "mean.mrc",
        tmp_path / "cluster_9.star",
        tmp_path / "components" / "notes.txt",
    ]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text("hours of work")
    find(finished, clusters=4, output=tmp_path)
    find(finished, clusters=2, pcs=2, output=tmp_path)
    assert all(other.read_text() == "hours of work" for other in others)
    assert [path.name for path in (tmp_path / "cluster_02").iterdir()] == ["sharpened.mrc"]
    assert not (tmp_path / "cluster_03").exists()
    assert not (tmp_path / "components" / "pc3.mrc").exists()


def test_a_mask_limits_what_is_compared(finished, tmp_path):
    mask = np.zeros((16, 16, 16), np.float32)
    mask[6:10, 6:10, 6:10] = 1
    write_volume(tmp_path / "mask.mrc", mask, 12.0)
    folder = find(finished, mask=tmp_path / "mask.mrc", output=tmp_path / "out").parent
    np.testing.assert_array_equal(read_volume(folder / "mask.mrc")[0], mask)
    assert (read_volume(folder / "components" / "pc1.mrc")[0][mask == 0] == 0).all()


def test_a_smaller_box_shows_the_same_at_low_resolution(finished):
    run = Run.open(finished)
    z = run.latents().z[:3]
    small, large = (np.stack(list(run.volumes(z, box_size=size))) for size in (8, None))
    assert small.shape == (3, 8, 8, 8)
    k = np.fft.fftfreq(8) * 8
    inside = np.sqrt((np.stack(np.meshgrid(k, k, k)) ** 2).sum(0)) < 4
    inside[0, 0, 0] = False  # the mean of a map is set by its own corners
    at = np.r_[0:4, -4:0]
    for a, b in zip(small, large, strict=True):
        a, b = np.fft.fftn(np.fft.ifftshift(a)), np.fft.fftn(np.fft.ifftshift(b))[np.ix_(at, at, at)] / 8
        np.testing.assert_allclose(a[inside], b[inside], atol=2e-3 * np.abs(b[inside]).max())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"maps": 3}, "maps=3: expected at least 10"),
        ({"box_size": 2}, "box_size=2: expected at least 8"),
        ({"pcs": 0}, "pcs=0: expected at least 1"),
        ({"dilate_A": -1.0}, "dilate_A=-1: expected 0 or more"),
        ({"clusters": 100}, "clusters=100: expected from 1 to 23"),
    ],
)
def test_a_mistake_is_one_sentence(finished, options, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        find(finished, output=tmp_path, **options)


def test_a_run_without_a_latent_has_no_landscape(make_run):
    with pytest.raises(InputError, match="has no latent"):
        find(make_run(0))


def test_a_mask_is_not_replaced(finished, tmp_path):
    with pytest.raises(InputError, match=r"output=\S*mask\.mrc is the mask that is read"):
        find(finished, output=tmp_path, mask=tmp_path / "mask.mrc")
