"""Voxel reconstruction against the truth, against RELION, and with inputs that are no good."""

import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from drgn.backproject import backproject
from drgn.command import bind, compose
from drgn.data import backprojection
from drgn.errors import InputError
from drgn.formats import star
from drgn.formats.mrc import read_volume, write_volume
from drgn.formats.particles import Particles
from drgn.physics.fsc import fsc, resolution_A
from drgn.physics.phantoms import GaussianPhantom
from drgn.physics.symmetry import point_group
from drgn.signature import build
from drgn.simulate import simulate

SIZE, PIXEL_A, N = 32, 6.0, 1500


def density(symmetry="C1"):
    """A map of blobs of 0.8 pixels, of which 4 % of the height is left at Nyquist."""
    generator = torch.Generator().manual_seed(5)
    centre_A = 45 * (2 * torch.rand(12, 3, generator=generator, dtype=torch.float64) - 1)
    copies = torch.cat([centre_A @ torch.from_numpy(turn).T for turn in point_group(symmetry)])
    weight = torch.linspace(0.5, 1.5, 12, dtype=torch.float64).repeat(len(copies) // 12)
    return GaussianPhantom(copies, torch.full_like(weight, 0.8 * PIXEL_A), weight).density(SIZE, PIXEL_A)


def simulated(folder, truth, *overrides):
    write_volume(folder / "truth.mrc", truth.numpy(), PIXEL_A)
    options = compose(
        "simulate",
        [
            "molecule=maps",
            f"molecule.files=[{folder / 'truth.mrc'}]",
            f"n_particles={N}",
            f"box_size={SIZE}",
            f"pixel_size_A={PIXEL_A}",
            "snr=0.5",
            "microscope.b_factor_A2=0",
            *overrides,
        ],
    )
    return simulate(**{**options, "output": folder / "set"})


def dataset_of(particles, folder):
    return [
        "dataset=custom",
        f"dataset.particles={particles}",
        f"dataset.cache={folder / 'prepared'}",
        "dataset.preflight=false",
    ]


def run(particles, output, *overrides):
    options = [*dataset_of(particles, output.parent), f"output={output}", *overrides]
    backproject(**bind(backproject, compose("backproject", options)))
    return {path.stem: torch.from_numpy(read_volume(path)[0]) for path in output.glob("*.mrc")}


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    return simulated(tmp_path_factory.mktemp("backproject"), density())


@pytest.fixture(scope="module")
def maps(particles):
    return run(particles, particles.parent / "found")


def test_the_map_is_the_true_one(maps):
    truth = density()
    curve = fsc(maps["map"], truth)
    assert resolution_A(curve, PIXEL_A, 0.5) < 2 * PIXEL_A / 0.8  # beyond 80 % of Nyquist
    assert curve[1 : SIZE // 4].min() > 0.95
    assert fsc(maps["map"].flip(0).roll(1, 0), truth)[3 : SIZE // 2].max() < 0.6  # the other hand
    assert set(maps) == {"map", "half_map_1", "half_map_2", "mask", "sharpened"}


def test_the_halves_tell_how_well_the_map_agrees_with_the_truth(maps, particles):
    # of two halves with independent noise: FSC(sum, truth)^2 = 2 FSC / (1 + FSC)
    table = pd.read_csv(particles.parent / "found" / "fsc.csv")
    half = table["unmasked"].to_numpy()[2 : SIZE // 2].clip(0)
    both = fsc(maps["half_map_1"] + maps["half_map_2"], density()).numpy()[2 : SIZE // 2]
    np.testing.assert_allclose(both, np.sqrt(2 * half / (1 + half)), atol=0.1)
    assert list(table.columns[3:]) == ["unmasked", "loose", "masked", "randomised", "corrected"]
    np.testing.assert_allclose(table["frequency_1_A"], np.arange(SIZE // 2 + 1) / (SIZE * PIXEL_A), rtol=1e-4)


def test_relion_reconstructs_the_same_map(relion, maps, particles):
    relion(particles.parent, "relion_reconstruct", "--i", "particles.star", "--o", "theirs.mrc", "--ctf")
    theirs = torch.from_numpy(read_volume(particles.parent / "theirs.mrc")[0])
    curve = fsc(theirs, maps["half_map_1"] + maps["half_map_2"])
    assert curve[1 : int(0.8 * SIZE / 2)].min() > 0.9
    ours = (maps["half_map_1"] + maps["half_map_2"]) / 2
    gain = (ours * theirs).sum() / theirs.square().sum()
    assert gain.item() == pytest.approx(1.0, abs=0.1)  # the grey values of the images


def test_symmetry_serves_as_more_particles(tmp_path):
    truth = density("D2")
    particles = simulated(tmp_path, truth, "snr=0.03")
    with_, without = (run(particles, tmp_path / s, f"symmetry={s}")["map"] for s in ("D2", "C1"))
    shells = slice(2, SIZE // 2)
    assert fsc(with_, truth)[shells].mean() > fsc(without, truth)[shells].mean() + 0.1
    wrong = run(particles, tmp_path / "C5", "symmetry=C5")["map"]
    assert fsc(wrong, truth)[shells].mean() < fsc(with_, truth)[shells].mean() - 0.3


def test_noise_agrees_in_nothing(tmp_path):
    particles = simulated(tmp_path, density(), "snr=0.000001")
    run(particles, tmp_path / "noise")
    table = pd.read_csv(tmp_path / "noise" / "fsc.csv")
    assert table["unmasked"][3 : SIZE // 2].abs().max() < 0.2
    assert table["corrected"][3 : SIZE // 2].mean() < 0.15


def test_the_half_sets_of_the_file_are_used(particles, tmp_path):
    def with_subset(name, subset):
        blocks = star.read_blocks(particles)
        blocks["particles"]["rlnRandomSubset"] = subset
        star.write_blocks(particles.with_name(name), blocks)
        return particles.with_name(name)

    subset = 1 + (np.arange(N) % 3 == 0)
    given = with_subset("given.star", subset)
    first = run(given, particles.parent / "given")["half_map_1"]
    swapped = run(with_subset("swapped.star", 3 - subset), particles.parent / "swapped")["half_map_2"]
    torch.testing.assert_close(first, swapped)
    drawn = run(given, particles.parent / "drawn", "half_sets=random")["half_map_1"]
    assert not torch.allclose(first, drawn)
    with pytest.raises(InputError, match=r"row 1 has the half set 0 where 1 or 2 is expected"):
        run(with_subset("partly.star", np.where(np.arange(N) == 1, 0, subset)), particles.parent / "x")
    one = with_subset("one.star", 1 + (np.arange(N) == 7))
    with pytest.raises(InputError, match="half set 2 has 1 particle, where at least 2 are expected"):
        run(one, particles.parent / "x")


def test_images_of_one_particle_in_both_half_sets_are_one_sentence(particles):
    table = Particles.from_file(particles).select(np.arange(12))
    table.table["half_set"] = 1 + np.arange(12) % 2
    table.table["group"] = [f"tilts {i // 3}" for i in range(12)]
    dataset = SimpleNamespace(rejected=np.zeros(12, bool), group=torch.arange(12) // 3)
    with pytest.raises(InputError, match=r"images of the particle tilts 0 are in both half sets"):
        backprojection.half_sets(table, dataset, "given", 0)
    first, second = backprojection.half_sets(table, dataset, "random", 0)
    assert not set(first // 3) & set(second // 3)
    apart = np.where(np.arange(12) % 2, 0, 1).astype(np.float32)  # what has no weight is in no half
    table.table["half_set"] = 1 + np.arange(12) // 3 % 2 + np.arange(12) % 2
    assert len(backprojection.half_sets(table, dataset, "given", 0, apart)[0]) > 0


def test_weights_of_0_and_1_are_a_selection_and_2_is_twice(particles, tmp_path):
    data = build({**compose("backproject", dataset_of(particles, tmp_path))["dataset"]}, key="dataset")
    data.prepare_data()
    dataset, rng = data.dataset, np.random.default_rng(0)
    chosen = rng.random(N) < 0.3
    rows, one = np.arange(N), point_group("C1")
    selected = backprojection.insert(dataset, np.flatnonzero(chosen), one, 1)
    weighted = backprojection.insert(dataset, rows, one, 1, chosen.astype(np.float32))
    for a, b in zip(selected, weighted, strict=True):
        np.testing.assert_array_equal(a, b)
    twice = backprojection.insert(dataset, np.repeat(rows, 1 + chosen), one, 1)
    double = backprojection.insert(dataset, rows, one, 1, (1 + chosen).astype(np.float32))
    for a, b in zip(twice, double, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())
    assert np.abs(double.left - selected.left).max() > 0.5 * selected.left.max()


def test_what_a_gpu_runs_adds_the_same(particles, tmp_path, monkeypatch):
    """The loop in torch, here on the CPU, with symmetry and weights."""
    data = build({**compose("backproject", dataset_of(particles, tmp_path))["dataset"]}, key="dataset")
    data.prepare_data()
    rows, weights = np.arange(0, N, 2), np.linspace(0, 2, N, dtype=np.float32)
    given = (data.dataset, rows, point_group("D2"), 2, weights)
    compiled = backprojection.insert(*given)
    monkeypatch.setattr(
        backprojection, "_add_compiled", partial(backprojection._add_with_torch, device="cpu")
    )
    for a, b in zip(compiled, backprojection.insert(*given), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())


def test_weights_from_a_file(particles, tmp_path):
    key = Particles.from_file(particles).table["key"].to_numpy(str)
    kept = np.arange(N) % 2 == 0
    np.savez(tmp_path / "w.npz", key=key[::-1], weight=kept[::-1].astype(float))
    weighted = run(particles, tmp_path / "weighted", f"weights={tmp_path / 'w.npz'}")["map"]
    np.save(tmp_path / "kept.npy", np.flatnonzero(kept))
    selected = run(particles, tmp_path / "selected", f"dataset.indices={tmp_path / 'kept.npy'}")["map"]
    np.testing.assert_array_equal(weighted, selected)
    for weight, sentence in (
        (kept - 1.0, "the weight of particle .* is -1; expected at least 0"),
        (0.0 * kept, "no usable image is selected"),
    ):
        np.savez(tmp_path / "w.npz", key=key, weight=weight)
        with pytest.raises(InputError, match=sentence):
            run(particles, tmp_path / "x", f"weights={tmp_path / 'w.npz'}")
    np.savez(tmp_path / "w.npz", key=key[1:], weight=kept[1:])
    with pytest.raises(InputError, match=r"does not know 1 of 1500 particles .*: make it for these"):
        run(particles, tmp_path / "x", f"weights={tmp_path / 'w.npz'}")
    (tmp_path / "w.npz").write_text("no")
    with pytest.raises(InputError, match="is not a file of weights"):
        run(particles, tmp_path / "x", f"weights={tmp_path / 'w.npz'}")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("symmetry=X3", "symmetry=X3: expected C1"),
        ("padding=0", "padding=0: expected a whole number of at least 1"),
        ("mask=nowhere.mrc", "mask=nowhere.mrc is not there"),
        ("local_window_A=0", "local_window_A=0: expected a length above 0 A"),
    ],
)
def test_a_bad_option_is_one_sentence(particles, override, sentence):
    with pytest.raises(InputError, match=sentence):
        run(particles, particles.parent / "x", override)


def test_an_empty_selection_is_one_sentence(particles, tmp_path):
    np.save(tmp_path / "none.npy", np.empty(0, np.int64))
    with pytest.raises(InputError, match="selects none of the particles"):
        run(particles, particles.parent / "x", f"dataset.indices={tmp_path / 'none.npy'}")


def test_a_mask_of_another_box_or_pixel_is_one_sentence(particles):
    folder = particles.parent
    write_volume(folder / "small.mrc", np.ones((16, 16, 16), np.float32), PIXEL_A)
    with pytest.raises(InputError, match="has a box of 16 voxels and the training box one of 32"):
        run(particles, folder / "x", f"mask={folder / 'small.mrc'}")
    write_volume(folder / "fine.mrc", np.ones((SIZE,) * 3, np.float32), 1.0)
    with pytest.raises(InputError, match=r"has voxels of 1 A and the training box of 6 A"):
        run(particles, folder / "x", f"mask={folder / 'fine.mrc'}")


def test_the_map_is_sharpened_and_its_local_resolution_made(maps, particles, capsys):
    options = ("guinier_from_A=60", "local_window_A=60", "low_pass_A=15")
    made = run(particles, particles.parent / "sharp", *options)
    # blobs of sigma 4.8 A fall as exp(-2 pi^2 sigma^2 s^2), a B-factor of 8 pi^2 sigma^2
    said = re.search(r"B-factor (-\d+) A\^2 \(Guinier, 60 to", capsys.readouterr().out)
    assert float(said[1]) == pytest.approx(-8 * np.pi**2 * (0.8 * PIXEL_A) ** 2, rel=0.2)
    inside = made["mask"] == 1
    assert made["local_resolution"][inside].median() < 2 * PIXEL_A / 0.8
    near, far = (made["sharpened"].abs()[inside == flag].mean() for flag in (True, False))
    assert near > 3 * far
