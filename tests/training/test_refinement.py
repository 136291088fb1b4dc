"""Poses come back to the true ones, stay there, and go into the run and its star file."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from drgn.command import compose
from drgn.data.dataset import ParticleDataset
from drgn.data.prepared import prepare
from drgn.errors import InputError
from drgn.formats.particles import Particles
from drgn.formats.star import read_blocks
from drgn.models.poses import RefinedPose
from drgn.physics import rotations, voxels
from drgn.run import Run
from drgn.score import score
from drgn.scoring.poses import pose_errors
from drgn.simulate import simulate
from drgn.training.refinement import Refinement, spread, write_refined


def test_equations_are_those_of_the_finite_differences_of_the_slice():
    generator = torch.Generator().manual_seed(0)
    radius, n = 8, 60
    grid = voxels.half_grid(radius, 4)
    grid[:] = torch.randn(grid.shape, generator=generator).numpy()
    grid[0] = 0  # no jump where a frequency is folded
    rotation = rotations.random_rotations(3, generator)
    index = 5 * (2 * torch.rand(n, 2, generator=generator) - 1)
    amounts = torch.randn(3, 2, generator=generator)
    weight = torch.rand(3, n, generator=generator)
    data = torch.randn(3, n, dtype=torch.complex64, generator=generator)
    angular = 0.1 * index

    def slices(step):
        """(3, n) complex by `statistics` of one frequency at a time."""
        turned = (rotations.from_rotvec(step[:3].expand(3, 3)) @ rotation).float().numpy()
        one = np.ones((3, 1), np.float32)
        parts = []
        for k in index.numpy():
            values = [
                voxels.statistics(grid, turned, k[None], unit * one.astype(np.complex64), one)[1]
                for unit in (1, 1j)
            ]
            parts.append((amounts.numpy() * (values[0] + 1j * values[1])).sum(1))
        return torch.from_numpy(np.stack(parts, axis=1)) * torch.exp(1j * (angular.double() @ step[3:]))

    h = 1e-3
    jacobian = torch.stack(
        [(slices(h * e) - slices(-h * e)) / (2 * h) for e in torch.eye(5, dtype=torch.float64)], dim=1
    )
    matrix, right = voxels.pose_equations(
        grid,
        rotation.float().numpy(),
        index.numpy(),
        data.numpy(),
        weight.numpy(),
        amounts.numpy(),
        angular.numpy(),
    )
    residual = data - weight * slices(torch.zeros(5, dtype=torch.float64))
    expected = (jacobian.conj() * residual[:, None]).real.sum(2)
    assert np.abs(right - expected.numpy()).max() < 0.02 * np.abs(expected.numpy()).max()
    expected = torch.einsum("bip,bjp,bp->bij", jacobian.conj(), jacobian, weight.to(jacobian.dtype)).real
    assert np.abs(matrix - expected.numpy()).max() < 0.02 * np.abs(expected.numpy()).max()


def one_map(folder, snr):
    """600 images of one map."""
    options = ["set=uniform_small", "n_particles=600", "box_size=32", "pixel_size_A=12", f"snr={snr}"]
    options += ["molecule.motion=null", "molecule.n_maps=1", "molecule.resolution_A=24"]
    star = simulate(**{**compose("simulate", options), "output": folder})
    particles = Particles.from_file(star)
    stack = prepare(particles, box_size=32, window=True, cache=folder / "prepared")
    return ParticleDataset(particles, stack)


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """Nearly without noise."""
    return one_map(tmp_path_factory.mktemp("still"), 100)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """As noisy as those of a microscope."""
    return one_map(tmp_path_factory.mktemp("noisy"), 0.2)


def disturbed(dataset, deg, px):
    noise = torch.randn(len(dataset), 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    turn = rotations.from_rotvec(torch.deg2rad(noise[:, :3] * deg / 3**0.5))
    return dataset.posed(turn @ dataset.rotation, dataset.shift_px + (noise[:, 3:] * px / 2**0.5).float())


def refine(dataset, deg, px):
    wrong = disturbed(dataset, deg, px)
    pose = RefinedPose(n_particles=len(dataset))
    refinement = Refinement(pose, wrong)
    rows = np.arange(len(dataset))
    with torch.no_grad():
        refinement.run(rows[:500], rows, 16, lambda what, done, n: None, turn=True)
        refinement.keep()
        turned, moved = pose(torch.from_numpy(rows), wrong.rotation, wrong.shift_px)
    torch.testing.assert_close(turned, refinement.dataset.rotation, atol=1e-6, rtol=0)
    truth = dataset.rotation.numpy(), dataset.shift_px.numpy()
    return pose_errors(turned.numpy(), moved.numpy(), *truth)


def test_poses_come_back(still):
    errors = refine(still, 5, 1)
    assert np.median(errors.rotation_deg) < 0.8
    assert np.median(errors.shift_A) < 0.03  # pixels here
    assert np.median(errors.rotation_deg[500:]) < 0.9  # images that no map was made from


def test_true_poses_stay_near(still):
    assert np.median(refine(still, 0, 0).rotation_deg) < 0.6


def test_true_poses_of_noisy_images_stay_while_wrong_ones_move(noisy):
    assert np.median(refine(noisy, 0, 0).rotation_deg) < 0.3  # the noise alone asks for several degrees
    assert np.median(refine(noisy, 5, 1).rotation_deg) < 4  # from 4.4


def test_spread_is_that_of_the_errors():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(2000, 5, 5, generator=generator, dtype=torch.float64)
    matrix = root @ root.mT + torch.eye(5, dtype=torch.float64)
    widest = torch.ones(2000, 5, dtype=torch.float64)
    wrong = torch.randn(2000, 5, generator=generator, dtype=torch.float64)
    wrong *= wrong.new_tensor([0.5, 0.5, 0.5, 0, 0])
    noise = torch.linalg.cholesky(matrix) @ torch.randn(2000, 5, 1, generator=generator, dtype=torch.float64)
    turn, move = spread(matrix, (matrix @ wrong[:, :, None] + noise)[:, :, 0], widest)
    assert turn == pytest.approx(0.5, rel=0.05)
    assert move < 0.1


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    """A star file of 300 images with wrong poses."""
    options = ["n_particles=300", "box_size=16", "pixel_size_A=12", "snr=1"]
    options += ["poses.error_deg=4", "poses.error_A=10"]
    return simulate(**{**compose("simulate", options), "output": tmp_path_factory.mktemp("wrong")})


def test_a_run_writes_its_poses_resumes_and_is_scored(star, train_tiny, tmp_path):
    options = (f"dataset.particles={star}", "pose=refine", "warmstart=subspace", "warmstart.modes=2")
    straight = train_tiny(*options, "epochs=2")
    parted = train_tiny(*options)
    pose = torch.load(parted / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert pose["reconstructor.pose.turn"].abs().max() > 0
    train_tiny(*options, "epochs=2", output=parted)
    for name in ("turn", "move_px"):
        found = [getattr(Run.open(run).model().pose, name) for run in (straight, parted)]
        assert torch.equal(*found)
    assert (straight / "poses.star").read_text() == (parted / "poses.star").read_text()
    before, after = (read_blocks(path)["particles"] for path in (star, straight / "poses.star"))
    assert list(before["rlnImageName"]) == list(after["rlnImageName"])
    assert set(before.columns) <= set(after.columns)
    read = Particles.from_file(straight / "poses.star")
    old = Particles.from_file(star)
    turned = rotations.angle_deg(torch.from_numpy(read.rotation), torch.from_numpy(old.rotation))
    assert torch.allclose(
        turned.float(), torch.rad2deg(pose["reconstructor.pose.turn"].norm(dim=1)), atol=1e-2
    )
    score(**{**compose("score", ["n_images=2", "n_maps=1"]), "run": straight, "output": tmp_path / "score"})
    errors = pd.read_csv(tmp_path / "score" / "poses.csv")
    assert len(errors) == 300
    scores = json.loads((tmp_path / "score" / "score.json").read_text())
    assert math.isclose(
        scores["rotation_error_median_deg"], errors["rotation_error_deg"].median(), rel_tol=1e-3
    )


def test_refinement_needs_volumes_and_a_prior(star, train_tiny):
    with pytest.raises(InputError, match="pose=refine needs volumes"):
        train_tiny(f"dataset.particles={star}", "pose=refine")
    with pytest.raises(InputError, match=r"pose.prior_deg=0"):
        train_tiny(f"dataset.particles={star}", "pose=refine", "pose.prior_deg=0", "warmstart=subspace")


def test_poses_are_trained_with_the_network_where_that_is_asked_for(star, train_tiny):
    options = (f"dataset.particles={star}", "pose=refine", "warmstart=subspace", "warmstart.modes=2")
    options += ("pose.lr=0.1", "pose.begin_epoch=1")
    run = train_tiny(*options, "epochs=2")
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    steps, change = (state[f"reconstructor.pose.{name}"] for name in ("steps", "change"))
    heldout = torch.from_numpy(Run.open(run).latents().heldout)
    assert (steps[~heldout] == 1).all()  # of the second epoch
    assert (change[~heldout] != 0).any(1).all()
    assert not change[heldout].any()
    train_tiny(*options, "epochs=3", output=run)
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert (state["reconstructor.pose.steps"][~heldout] == 2).all()


def test_refined_particles_of_cryosparc_are_written_as_such_too(shared, tmp_path, capsys):
    records = np.load(shared / "cryodrgn-tests" / "cryosparc_P12_J24_001_particles.cs")[:20]
    for start, file in ((b"", "plain.cs"), (b">", "own.cs")):
        records["blob/path"] = start + b"J1/a.mrc"
        with open(tmp_path / file, "wb") as opened:
            np.save(opened, records)
        particles = Particles.from_file(tmp_path / file)
        turned = replace(particles, rotation=particles.rotation[::-1].copy())
        folder = tmp_path / file.removesuffix(".cs")
        folder.mkdir()
        write_refined(particles.posed_as(turned, np.arange(20)), folder)
        found = Particles.from_file(folder / "poses.star")
        np.testing.assert_allclose(found.rotation, turned.rotation, atol=1e-5)
    found = Particles.from_file(tmp_path / "plain" / "poses.cs")
    np.testing.assert_allclose(found.rotation, turned.rotation, atol=1e-6)
    assert not (tmp_path / "own" / "poses.cs").exists()
    assert "no poses.cs was written: " in capsys.readouterr().err


@pytest.mark.full
def test_two_processes_train_the_poses_of_all_images(star, tiny, tmp_path, environment):
    command = [sys.executable, "-m", "drgn.train", *tiny, f"dataset.particles={star}", f"output={tmp_path}"]
    command += ["latent.zdim=2", "pose=refine", "warmstart=subspace", "warmstart.modes=2", "pose.lr=0.1"]
    command += ["pose.begin_epoch=0", "trainer.devices=2", "trainer.strategy=ddp", "dataset.batch_size=16"]
    environment = {**environment, "PL_TORCH_DISTRIBUTED_BACKEND": "gloo"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    heldout = torch.from_numpy(Run.open(tmp_path).latents().heldout)
    assert (state["reconstructor.pose.steps"][~heldout] == 1).all()
    assert (state["reconstructor.pose.change"][~heldout] != 0).any(1).all()
