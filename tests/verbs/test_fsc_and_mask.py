"""The verbs fsc and mask: closed forms, and sentences for maps that do not fit."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from drgn.backproject import backproject
from drgn.command import bind, compose
from drgn.compare import compare
from drgn.errors import InputError
from drgn.formats.mrc import read_volume, write_volume
from drgn.fsc import fsc
from drgn.mask import mask
from drgn.physics import masks
from drgn.physics.alignment import MIRROR, resampled
from drgn.physics.fsc import Correlations
from drgn.physics.rotations import from_rotvec
from drgn.score import score
from drgn.scoring import plots, resolution

SIZE, PIXEL_A = 32, 5.0


def radius_A():
    axis = (np.arange(SIZE) - SIZE // 2) * PIXEL_A
    return np.sqrt(sum(x**2 for x in np.meshgrid(axis, axis, axis, indexing="ij")))


def ball():
    return (radius_A() <= 20).astype(np.float32)


def run(function, **options):
    words = [f"{name}={value}" for name, value in options.items()]
    return function(**bind(function, compose(function.__name__, words)))


@pytest.fixture
def noisy(tmp_path):
    """Return two maps of the same white signal with noise of half its variance: an FSC of 2/3."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(SIZE,) * 3)
    paths = []
    for name in ("one", "two"):
        volume = signal + np.sqrt(0.5) * rng.normal(size=signal.shape)
        write_volume(tmp_path / f"{name}.mrc", volume, PIXEL_A)
        paths.append(tmp_path / f"{name}.mrc")
    return paths


def test_what_is_read_is_not_replaced(noisy, tmp_path):
    folder = tmp_path / "out"
    write_volume(folder / "aligned.mrc", np.ones((SIZE,) * 3), PIXEL_A)
    before = noisy[0].read_bytes(), (folder / "aligned.mrc").read_bytes()
    with pytest.raises(InputError, match=r"output=\S*one\.mrc is the map that is read; give another name"):
        run(mask, map=noisy[0], output=tmp_path / "out" / ".." / "one.mrc")
    with pytest.raises(InputError, match=r"output=\S*aligned\.mrc is the map or mask that is read"):
        run(fsc, map_1=noisy[0], map_2=folder / "aligned.mrc", align=True, output=folder)
    with pytest.raises(InputError, match=r"output=\S*map\.mrc is the mask that is read"):
        run(backproject, mask=folder / "map.mrc", output=folder)
    with pytest.raises(InputError, match=r"output=\S*labels\.npz is the partition that is read"):
        run(compare, of=f"[{folder / 'labels.npz'},b.npz]", output=folder)
    with pytest.raises(InputError, match=r"output=\S*latents\.csv is the file of latents that is read"):
        run(score, run="null", latents=folder / "latents.csv", truth=tmp_path, output=folder)
    assert (noisy[0].read_bytes(), (folder / "aligned.mrc").read_bytes()) == before


def test_the_curve_is_that_of_signal_and_noise(noisy, tmp_path, capsys):
    write_volume(tmp_path / "ones.mrc", np.ones((SIZE,) * 3), PIXEL_A)
    run(fsc, map_1=noisy[0], map_2=noisy[1], mask=tmp_path / "ones.mrc", output=tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "fsc.csv")
    far = table[5:]
    np.testing.assert_allclose(far["unmasked"], 2 / 3, atol=0.1)
    np.testing.assert_allclose(far["masked"], far["unmasked"], atol=1e-5)
    np.testing.assert_allclose(far["randomised"], 0, atol=0.15)
    expected = (far["masked"] - far["randomised"]) / (1 - far["randomised"])
    np.testing.assert_allclose(far["corrected"], expected, atol=1e-4)
    assert (tmp_path / "out" / "fsc.png").stat().st_size > 10_000
    assert "unmasked 10 A at 0.5 and 10 A at 0.143" in capsys.readouterr().out


def test_a_mask_does_not_make_noise_agree(tmp_path):
    rng = np.random.default_rng(1)
    smooth = np.exp(-((radius_A() / 30) ** 2))  # what both have in common is coarse
    paths = [tmp_path / f"{i}.mrc" for i in (1, 2)]
    for path in paths:
        write_volume(path, 20 * smooth + rng.normal(size=smooth.shape), PIXEL_A)
    # a tight mask multiplies both noises and lends both the same edge
    write_volume(tmp_path / "tight.mrc", ball(), PIXEL_A)
    run(fsc, map_1=paths[0], map_2=paths[1], mask=tmp_path / "tight.mrc", output=tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "fsc.csv")
    far = table[8 : SIZE // 2]
    assert far["masked"].mean() > 0.3  # the mask's own agreement
    assert abs(far["corrected"].mean()) < 0.2


def test_a_correction_that_cannot_be_used_is_said_and_does_not_lead(tmp_path):
    """Curves of a network's map: the tight mask agrees better with random phases than the maps do in it."""
    unmasked = torch.linspace(1, 0.1, 17, dtype=torch.float64)
    masked, random = unmasked**0.2, unmasked**0.1
    misled = Correlations(unmasked, masked, masked, random, (masked - random) / (1 - random).clamp(1e-6), 4)
    said = resolution.sentence(misled, SIZE, PIXEL_A)
    assert said.startswith("unmasked 18 A at 0.5")
    assert "no corrected value: between 26.7 A and 10.7 A the maps agree in this mask no better" in said
    assert resolution.corrected_A(misled, SIZE, PIXEL_A, 0.5) == pytest.approx(18)
    usable = misled._replace(randomised=0 * unmasked, corrected=masked)
    assert resolution.sentence(usable, SIZE, PIXEL_A).startswith("corrected ")
    assert "no corrected value" not in resolution.sentence(usable, SIZE, PIXEL_A)
    for name, found in (("misled", misled), ("usable", usable)):
        resolution.write(found, SIZE, PIXEL_A, tmp_path, "maps", stem=name)


def test_a_picture_of_curves_does_not_follow_one_far_down(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    curves = np.stack([np.linspace(1, 0, 17), np.linspace(1, -3, 17)])
    plots.fsc_curves({"maps": curves}, PIXEL_A, tmp_path / "x.png", ["no mask", "corrected"])
    panel = drawn[0].axes[0]
    assert panel.get_ylim() == (-0.1, 1.02)
    assert [label.get_text() for label in panel.get_xticklabels()] == ["50", "25", "16.7", "12.5", "10"]
    assert panel.get_xlabel() == "resolution (Å)"
    assert panel.get_legend() is None  # beside the panel, where no line crosses it
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["no mask", "corrected"]


def test_maps_that_do_not_fit_are_one_sentence(noisy, tmp_path):
    out = tmp_path / "out"
    write_volume(tmp_path / "small.mrc", np.ones((16,) * 3), PIXEL_A)
    with pytest.raises(InputError, match=r"small.mrc has a box of 16 voxels and .*one.mrc one of 32"):
        run(fsc, map_1=noisy[0], map_2=tmp_path / "small.mrc", output=out)
    with pytest.raises(InputError, match=r"small.mrc has a box of 16 voxels"):
        run(fsc, map_1=noisy[0], map_2=noisy[1], mask=tmp_path / "small.mrc", output=out)
    write_volume(tmp_path / "fine.mrc", np.ones((SIZE,) * 3), 4.0)
    with pytest.raises(InputError, match=r"fine.mrc has voxels of 4 A and .*one.mrc of 5 A"):
        run(fsc, map_1=noisy[0], map_2=tmp_path / "fine.mrc", output=out)
    with pytest.raises(InputError, match=r"map_2=nowhere.mrc is not there"):
        run(fsc, map_1=noisy[0], map_2="nowhere.mrc", output=out)
    write_volume(tmp_path / "nan.mrc", np.full((SIZE,) * 3, np.nan), PIXEL_A)
    with pytest.raises(InputError, match=r"nan.mrc has voxels that are not finite"):
        run(fsc, map_1=noisy[0], map_2=tmp_path / "nan.mrc", output=out)
    write_volume(tmp_path / "dark.mrc", np.full((SIZE,) * 3, -1.0), PIXEL_A)
    with pytest.raises(InputError, match="the mask is empty"):
        run(fsc, map_1=tmp_path / "dark.mrc", map_2=tmp_path / "dark.mrc", output=out)
    assert not out.exists()


def test_the_mask_is_the_papers(tmp_path):
    write_volume(tmp_path / "ball.mrc", ball(), PIXEL_A)
    made, pixel_A = read_volume(run(mask, map=tmp_path / "ball.mrc", output=tmp_path / "mask.mrc"))
    assert pixel_A == pytest.approx(PIXEL_A)
    r = radius_A()
    # a ball of 20 A grows by 25 A and ends 15 A further out, to the size of a voxel
    assert (made[r < 45 - PIXEL_A] == 1).all()
    assert (made[r > 60 + PIXEL_A] == 0).all()
    edge = made[(r > 45 + PIXEL_A) & (r < 60 - PIXEL_A)]
    assert 0 < edge.min() <= edge.max() < 1
    tight, _ = read_volume(
        run(mask, map=tmp_path / "ball.mrc", output=tmp_path / "tight.mrc", dilate_A=0, edge_A=0)
    )
    torch.testing.assert_close(torch.from_numpy(tight), torch.from_numpy(ball()))


def test_a_mask_of_nothing_is_one_sentence(tmp_path):
    write_volume(tmp_path / "ball.mrc", ball(), PIXEL_A)
    with pytest.raises(InputError, match=r"no voxel is above threshold=2; the densities go from 0 to 1"):
        run(mask, map=tmp_path / "ball.mrc", output=tmp_path / "m.mrc", threshold=2)
    with pytest.raises(InputError, match=r"edge_A=-1: expected a width of at least 0 A"):
        run(mask, map=tmp_path / "ball.mrc", output=tmp_path / "m.mrc", edge_A=-1)


@pytest.mark.full
def test_a_foreign_map_is_laid_on_the_other(tmp_path, capsys):
    rng = np.random.default_rng(3)
    reference = masks.low_pass(torch.from_numpy(rng.normal(size=(SIZE,) * 3)), PIXEL_A, 25.0)
    reference = reference * (radius_A() < 50)
    turn = from_rotvec(torch.tensor([0.3, -2.0, 0.5], dtype=torch.float64))
    foreign = resampled(reference, turn @ MIRROR, torch.tensor([2.0, 0.0, -1.0]))
    foreign = 40 * foreign + 0.1 * torch.from_numpy(rng.normal(size=foreign.shape))
    for name, volume in (("reference", reference), ("foreign", foreign)):
        write_volume(tmp_path / f"{name}.mrc", volume.numpy(), PIXEL_A)
    options = {"map_1": tmp_path / "reference.mrc", "map_2": tmp_path / "foreign.mrc"}
    run(fsc, **options, output=tmp_path / "before")
    run(fsc, **options, align="true", output=tmp_path / "out")
    before, after = (pd.read_csv(tmp_path / o / "fsc.csv")["unmasked"][2:6] for o in ("before", "out"))
    assert before.mean() < 0.5 < 0.97 < after.min()
    said = re.search(
        r"mirrored, turned by (\S+) degrees and shifted by (\S+) A onto", capsys.readouterr().out
    )
    angle = np.degrees(np.linalg.norm([0.3, -2.0, 0.5]))
    assert [float(x) for x in said.groups()] == pytest.approx([angle, np.sqrt(5) * PIXEL_A], abs=0.5)
    laid, _ = read_volume(tmp_path / "out" / "aligned.mrc")
    assert np.corrcoef(laid.ravel(), reference.numpy().ravel())[0, 1] > 0.98
