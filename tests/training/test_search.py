"""Poses are found from images alone: grids, likelihoods, one map, two maps, a run of a star without poses."""

import math

import mrcfile
import numpy as np
import pytest
import starfile
import torch

from drgn.command import compose
from drgn.data.dataset import ParticleDataset
from drgn.data.prepared import prepare
from drgn.errors import InputError
from drgn.formats.mrc import read_volume, write_volume
from drgn.formats.particles import Particles
from drgn.models.poses import SearchedPose
from drgn.physics import fourier, imaging, rotations, search_grids
from drgn.physics.slices import extract, padded_transform
from drgn.run import Run
from drgn.score import score
from drgn.scoring.poses import pose_errors
from drgn.simulate import simulate
from drgn.train import train
from drgn.training import search
from drgn.training.search import Search, find


@pytest.mark.parametrize("step", [0.2, 0.4])
def test_an_orientation_of_the_grid_is_near_every_one(step):
    half = search_grids.half_orientations(step)
    grid = torch.cat([half, search_grids.HALF_TURN @ half])
    some = rotations.random_rotations(300, torch.Generator().manual_seed(0))
    nearest = torch.stack([rotations.angle_deg(grid, one).min() for one in some])
    assert float(nearest.max()) < math.degrees(step)
    assert len(grid) < 1.3 * 8 * math.pi**2 / step**3  # and no more of them than are needed


def test_half_a_turn_in_the_plane_shows_the_conjugate():
    volume = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(0))
    transform = padded_transform(volume)
    frequencies = torch.tensor([[0.1, 0.05], [-0.2, 0.15]])
    here = search_grids.half_orientations(0.8).float()
    there = (search_grids.HALF_TURN @ here.double()).float()
    one, other = (extract(transform, imaging.slice_coordinates(frequencies, r)) for r in (here, there))
    assert torch.allclose(one, other.conj(), atol=1e-3 * float(one.abs().max()))


def test_shifts_reach_the_extent_in_steps_that_are_no_larger():
    grid = search_grids.shifts(1.5, 4.0)
    assert len(grid) == 49
    assert float(grid.abs().max()) == 4.0
    assert float(grid[1, 0] - grid[0, 0]) == pytest.approx(4 / 3)
    assert search_grids.shifts(1.5, 0.0).tolist() == [[0.0, 0.0]]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Simulate 600 images of one map at box 32, with shifts."""
    folder = tmp_path_factory.mktemp("one_map")
    options = [
        "set=uniform_small",
        "n_particles=600",
        "box_size=32",
        "pixel_size_A=12",
        "snr=1",
        "shift_px=2",
    ]
    options += ["molecule.motion=null", "molecule.n_maps=1", "molecule.resolution_A=24"]
    star = simulate(**{**compose("simulate", options), "output": folder})
    particles = Particles.from_file(star)
    stack = prepare(particles, box_size=32, window=True, cache=folder / "prepared")
    return star, particles, stack


def test_likelihoods_are_those_of_the_forward_model(images):
    _, particles, stack = images
    dataset = ParticleDataset(particles, stack)
    rows = np.arange(4)
    looked = Search(dataset, np.arange(600), 2.0, 0)
    generator = torch.Generator().manual_seed(1)
    density = 0.1 * torch.randn(2, looked.side, looked.side, looked.side, generator=generator)
    bank, radius = looked.bank(density, 5.0), 5.0
    n, offsets = len(bank.power), looked._shifts(radius)
    told = looked._compare(bank, *looked._images(rows, n), offsets)
    assert told.shape == (4, 2, len(offsets), 2 * len(bank.rotation))
    batch = dataset[rows]
    frequencies = looked.frequencies[:n]
    for b, turned, t, m in [(0, 0, 0, 0), (1, 1, 3, 7), (3, 1, len(offsets) - 1, len(bank.rotation) + 5)]:
        one, orientation = divmod(m, len(bank.rotation))
        rotation = bank.rotation[orientation]
        if turned:
            rotation = search_grids.HALF_TURN @ rotation
        at = imaging.slice_coordinates(frequencies * 32 / looked.side, rotation[None].float())
        slices = extract(padded_transform(density[one]), at)
        contrast, phase = imaging.transfer(
            frequencies,
            batch["pixel_size_A"][b : b + 1],
            batch["ctf_parameters"][b : b + 1],
            offsets[t : t + 1],
        )
        image = batch["image"][b, :n]
        misfit = [
            (image - model).abs().square().sum() for model in (0, imaging.observe(slices, contrast, phase))
        ]
        assert float(told[b, turned, t, m]) == pytest.approx(
            float(misfit[0] - misfit[1]), abs=0.02 * float(misfit[0])
        )
    every = told.flatten(1).double()
    expected = float((every.logsumexp(1) - math.log(every.shape[1])).mean())
    assert looked.fit(density, rows, radius) == pytest.approx(expected, abs=1e-3 * abs(expected))


@torch.no_grad()
def test_what_images_tell_is_what_the_true_map_explains_beyond_the_outline(images):
    star, particles, stack = images
    dataset = ParticleDataset(particles, stack)
    looked, rows = Search(dataset, np.arange(600), 2.0, 0), np.arange(200)
    density = torch.from_numpy(read_volume(next((star.parent / "maps").glob("*.mrc")))[0])
    shell = looked._of_radius[looked._of_radius < 7].round().long()
    at = imaging.slice_coordinates(looked.frequencies[: len(shell)], dataset.rotation[rows].float())
    slices = extract(padded_transform(density), at)
    centred, weight = looked._images(rows, len(shell), dataset.shift_px[rows])
    cross, square = (centred * slices.conj()).real, weight * slices.abs().square()
    scale = cross.sum() / square.sum()  # grey values of the map in units of the noise
    explained = (2 * scale * cross - scale.square() * square)[:, shell > 1].sum(1).mean()
    assert looked.information(rows, 7) == pytest.approx(float(explained), rel=0.15)


def errors(known, particles):
    """Of the poses of a dataset, after alignment."""
    truth = [np.asarray(part) for part in (particles.rotation, particles.table[["shift_x_A", "shift_y_A"]])]
    shift_A = (known.shift_px * known.pixel_size_A[:, None]).numpy()
    return pose_errors(known.rotation.numpy(), shift_A, *truth)


@pytest.fixture
def fewer_steps(monkeypatch):
    """Few images need few steps."""
    monkeypatch.setattr(search, "_STEPS", 50)
    monkeypatch.setattr(search, "_BATCH", 60)


@torch.no_grad()
def test_poses_are_found_from_nothing(images, fewer_steps, capsys):
    _, particles, stack = images
    dataset = ParticleDataset(particles, stack, posed=False)
    assert torch.equal(dataset.rotation[5], torch.eye(3, dtype=torch.float64))
    assert not dataset.shift_px.any()
    pose = SearchedPose(n_particles=600, extent=0.07, restarts=1)
    known = find(pose, dataset, np.arange(540), np.arange(540, 600), 0, lambda what, done, n: None)
    found = errors(known, particles)
    assert np.median(found.rotation_deg) < 5
    assert np.percentile(found.rotation_deg, 70) < 10
    assert np.median(found.shift_A) < 12  # a pixel
    assert "mirror images" in capsys.readouterr().err


def test_a_star_without_poses_is_trained_on_and_gets_them(images, fewer_steps, tmp_path):
    star, _, _ = images
    blocks = starfile.read(star)
    table = blocks["particles"]
    named = [name for name in table if name.startswith(("rlnAngle", "rlnOrigin"))]
    assert len(named) == 5
    blocks["particles"] = table.drop(columns=named)
    bare = star.with_name("bare.star")
    starfile.write(blocks, bare, overwrite=True)
    options = ["dataset=custom", f"dataset.particles={bare}", "dataset.box_size=32", "dataset.batch_size=60"]
    options += [f"dataset.cache={tmp_path / 'prepared'}", "latent=none", "model=128x3", "epochs=1"]
    options += ["trainer=cpu", "logger=none", "analyze=false"]
    with pytest.raises(InputError, match="pose=search"):
        train(**{**compose("train", options), "output": tmp_path / "none"})
    some = tmp_path / "some.npy"
    np.save(some, np.arange(590))
    options += ["pose=search", "pose.extent=0.07", "pose.restarts=1", f"dataset.indices={some}"]
    train(**{**compose("train", options), "output": tmp_path / "run"})
    run = Run.open(tmp_path / "run")
    told = run.particles()  # as every other verb sees them
    assert told.rotation is not None
    pose = run.model().pose
    rows = torch.arange(590)
    held, shift_px = pose(rows, torch.zeros(590, 3, 3), torch.zeros(590, 2))
    assert float(rotations.angle_deg(torch.from_numpy(told.rotation), held.double()).max()) < 0.01
    assert np.allclose(told.table["shift_x_A"], 12 * shift_px[:, 0].numpy(), atol=0.01)
    scores = score(**{**compose("score", ["n_images=4"]), "run": run.path, "output": tmp_path / "score"})
    assert scores["rotation_error_median_deg"] < 5
    assert scores["map_fsc_auc_mean"] > 0.5


@pytest.mark.full
@torch.no_grad()
def test_poses_of_images_that_relion_projected_are_found(relion, shared, tmp_path):
    density, _ = read_volume(shared / "aspire" / "clean70SRibosome_vol_65p.mrc")
    write_volume(tmp_path / "map.mrc", density[1:, 1:, 1:], 6.0)
    project = ["relion_project", "--i", "map.mrc", "--angpix", "6", "--o"]
    relion(tmp_path, *project, "drawn", "--nr_uniform", "1500")
    blocks = starfile.read(tmp_path / "drawn.star")
    table, generator = blocks["particles"], np.random.default_rng(0)
    for name in ("rlnOriginX", "rlnOriginY"):  # of RELION 3.0, which 3.1 does not look at here
        table[f"{name}Angst"] = generator.normal(0, 12, 1500)
    blocks["particles"] = table.drop(columns=["rlnOriginX", "rlnOriginY"])
    starfile.write(blocks, tmp_path / "poses.star")
    relion(tmp_path, *project, "images", "--ang", "poses.star")
    with mrcfile.open(tmp_path / "images.mrcs", mode="r+") as file:
        noise = generator.normal(0, 10**0.5 * file.data.std(), file.data.shape)
        file.set_data(file.data + noise.astype(np.float32))
    particles = Particles.from_file(tmp_path / "images.star")
    stack = prepare(particles, box_size=64, window=True, cache=tmp_path / "prepared")
    dataset = ParticleDataset(particles, stack, posed=False)
    pose = SearchedPose(n_particles=1500, restarts=1)
    known = find(pose, dataset, np.arange(75, 1500), np.arange(75), 0, lambda what, done, n: None)
    found = errors(known, particles)
    assert np.median(found.rotation_deg) < 3
    assert np.percentile(found.rotation_deg, 90) < 6
    assert np.median(found.shift_A) < 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"extent": 0.5}, "pose.extent=0.5: expected a share of the box"),
        ({"maps": 0}, "pose.maps=0 restarts=2: expected at least 1"),
        ({"restarts": 0}, "restarts=0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        SearchedPose(n_particles=10, **options)


@torch.no_grad()
def test_each_map_is_improved_on_its_own_images(images, monkeypatch):
    _, particles, stack = images
    monkeypatch.setattr(search, "_STEPS", 8)
    monkeypatch.setattr(search, "_BATCH", 60)
    looked = Search(ParticleDataset(particles, stack, posed=False), np.arange(540), 2.0, 0)
    maps = torch.stack([looked._random(), looked._random()])
    number = (torch.arange(600) < 30).long()
    better = looked.apart(maps, number, lambda done, n: None)
    assert torch.equal(better[1], maps[1]), "too few images show it"
    heldout = np.arange(540, 600)
    fits = [looked.fit(one[None], heldout, 7) for one in (maps[0], better[0])]
    assert fits[1] > fits[0] + 10


@torch.no_grad()
def test_maps_of_other_frames_and_hands_come_into_one(images):
    """Poses of one half of the images in a turned, moved and mirrored frame: they come back."""
    _, particles, stack = images
    dataset = ParticleDataset(particles, stack)
    number = (torch.arange(600) % 5 >= 3).long()  # the first map is that of most images
    turn = rotations.random_rotations(1, torch.Generator().manual_seed(3))[0]
    moved = torch.tensor([1.0, -0.5, 0.7], dtype=torch.float64)
    known = dataset.posed(dataset.rotation.clone(), dataset.shift_px.clone())
    mirror = search.MIRROR
    other = number == 1
    known.rotation[other] = mirror @ known.rotation[other] @ mirror @ turn
    known.shift_px[other] += (known.rotation[other] @ moved)[:, :2].float()
    pose = SearchedPose(n_particles=600)
    pose.prior_deg, pose.prior_A = 2.0, 5.0
    before = errors(known, particles)
    assert np.percentile(before.rotation_deg, 90) > 30
    maps = search._refined(pose, known, np.arange(600), number, lambda what, done, n: None)
    assert len(maps) == 2
    found = errors(known, particles)
    assert np.percentile(found.rotation_deg, 90) < 8
    assert np.median(found.shift_A) < 12
    assert fourier.fft(maps, 3).abs().isfinite().all()
