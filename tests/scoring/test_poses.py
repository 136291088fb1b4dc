import numpy as np
import pytest
import torch

from drgn.physics import rotations
from drgn.physics.fsc import fsc
from drgn.physics.phantoms import GaussianPhantom
from drgn.scoring.poses import aligned, pose_errors, summary
from drgn.simulation.poses import PoseOptions, Poses

N = 2000


@pytest.fixture(scope="module")
def right():
    generator = torch.Generator().manual_seed(0)
    rotation = rotations.random_rotations(N, generator)
    return Poses(rotation, 5 * torch.randn(N, 2, generator=generator, dtype=torch.float64))


def errors(told, right):
    return pose_errors(*(part.numpy() for pair in (told, right) for part in pair))


def test_planted_errors_are_found(right):
    told = PoseOptions(table=None, error_deg=5.0, error_A=3.0).told(right, torch.Generator().manual_seed(1))
    found = summary(errors(told, right), pixel_size_A=1.5)
    assert found["rotation_error_rms_deg"] == pytest.approx(5, rel=0.05)
    # two of the three components turn the direction of view
    view = errors(told, right).view_deg
    assert np.sqrt((view**2).mean()) == pytest.approx(5 * np.sqrt(2 / 3), rel=0.05)
    assert found["shift_error_rms_A"] == pytest.approx(3, rel=0.05)
    assert found["shift_error_rms_px"] == pytest.approx(2, rel=0.05)
    assert found["poses_mirrored"] == 0
    assert found["poses_global_rotation_deg"] < 0.5
    assert found["rotation_error_other_hand_median_deg"] > 30


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turned_displaced_or_mirrored_map_is_no_error(right, mirrored):
    turn = rotations.from_euler(torch.tensor([40.0, 75.0, 10.0], dtype=torch.float64))
    moved = torch.tensor([3.0, -4.0, 12.0], dtype=torch.float64)
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    rotation = (mirror @ right.rotation @ mirror if mirrored else right.rotation) @ turn
    shift = right.shift_A + (rotation @ moved)[:, :2]
    found = errors(Poses(rotation, shift), right)
    assert found.rotation_deg.max() < 1e-4
    assert found.view_deg.max() < 1e-4
    assert found.shift_A.max() < 1e-4
    assert found.mirrored is mirrored
    assert found.global_shift_A == pytest.approx(13)
    expected = rotations.angle_deg(turn, torch.eye(3, dtype=torch.float64))
    assert found.global_rotation_deg == pytest.approx(float(expected), abs=1e-4)


def test_mirrored_poses_give_the_mirrored_map(right):
    """The mirror is that of the image: a mirrored molecule under M R M is seen as the molecule under R."""
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    points = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    seen = (points @ right.rotation[0].mT)[:, :2]
    other = ((points @ mirror) @ (mirror @ right.rotation[0] @ mirror).mT)[:, :2]
    torch.testing.assert_close(seen, other)


def test_a_third_of_wrong_poses_does_not_turn_the_others(right):
    told = right.rotation.clone()
    told[: N // 3] = rotations.random_rotations(N // 3, torch.Generator().manual_seed(3))
    found = errors(Poses(told, right.shift_A), right)
    assert np.median(found.rotation_deg) < 0.01
    assert found.rotation_deg[: N // 3].mean() > 90


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_map_is_moved_as_its_poses_are(right, mirrored):
    """Gaussian points, exact in the frame of the truth and in that of the poses."""
    turn = rotations.from_euler(torch.tensor([40.0, 75.0, 10.0], dtype=torch.float64))
    moved_A = torch.tensor([3.0, -4.0, 5.0], dtype=torch.float64)
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    hand = mirror if mirrored else torch.eye(3, dtype=torch.float64)
    rotation = hand @ right.rotation @ hand @ turn
    found = errors(Poses(rotation, right.shift_A + (rotation @ moved_A)[:, :2]), right)
    assert found.moves(2.0)
    points_A = 7 * torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    weight = torch.rand(30, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    theirs_A = points_A @ (turn.mT @ hand).mT + moved_A
    sigma_A = torch.full((30,), 2.5, dtype=torch.float64)
    true, other = (
        GaussianPhantom(points, sigma_A, weight).density(32, 2.0).float() for points in (points_A, theirs_A)
    )
    back = aligned(other, found, 2.0)
    assert float(fsc(back, true)[1:13].min()) > 0.995
    assert float(fsc(other, true)[1:13].min()) < 0.5
