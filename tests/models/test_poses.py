"""Poses that take steps of their own in the training of the network."""

import threading

import pytest
import torch

from drgn.errors import InputError
from drgn.models.poses import RefinedPose
from drgn.physics import rotations

N = 6
SD = torch.tensor([0.02, 0.02, 0.02, 0.5, 0.5])


@pytest.fixture
def truth():
    """Rotations and shifts, and the table's, which are wrong by a standard deviation or so."""
    generator = torch.Generator().manual_seed(0)
    rotation = rotations.random_rotations(N, generator)
    wrong = torch.randn(N, 5, generator=generator) * SD
    shift = torch.zeros(N, 2)
    table = rotations.from_rotvec(-wrong[:, :3].double()) @ rotation, shift - wrong[:, 3:]
    return rotation, shift, *table


def make():
    pose = RefinedPose(n_particles=N, lr=0.1, begin_epoch=0).train()
    pose.sd.copy_(SD)
    pose.steps_now = True
    return pose


def visit(pose, rows, truth, share=1.0):
    """One batch, whose loss is the distance from the truth."""
    rotation, shift, table, moved = (part[rows] for part in truth)
    found, where = pose(rows, table, moved)
    assert pose.penalty().shape == rows.shape
    loss = (found - rotation).square().sum() / SD[0] ** 2 + (where - shift).square().sum() / SD[3] ** 2
    loss.backward()
    pose.descend(share)


def error_deg(pose, truth):
    rotation, _, table, moved = truth
    with torch.no_grad():
        return rotations.angle_deg(pose(torch.arange(N), table, moved)[0], rotation)


def test_images_that_are_looked_at_come_to_the_truth_and_others_stay(truth):
    pose = make()
    before = error_deg(pose, truth)
    for share in torch.linspace(1, 0, 60).tolist():
        visit(pose, torch.tensor([4, 0, 1]), truth, share)
    after = error_deg(pose, truth)
    assert (after[[0, 1, 4]] < 0.05 * before[[0, 1, 4]]).all()
    assert torch.equal(after[[2, 3, 5]], before[[2, 3, 5]])
    assert pose.steps[:, 0].tolist() == [60, 60, 0, 0, 60, 0]


def test_no_step_in_evaluation_or_before_it_is_time(truth):
    pose = make()
    rows = torch.arange(N)
    for late, training in ((False, True), (True, False)):
        pose.steps_now = late
        pose.train(training)
        pose(rows, *truth[2:])
        assert pose.penalty() is None
        pose.descend(1.0)
    assert not pose.change.any()


def test_a_state_goes_on_with_the_same_steps(truth):
    straight, parted = make(), make()
    batches = [torch.tensor(rows) for rows in ([0, 1, 2], [3, 4], [5, 0, 3], [2, 1, 4])]
    for rows in batches:
        visit(straight, rows, truth)
    for rows in batches[:2]:
        visit(parted, rows, truth)
    resumed = make()
    resumed.load_state_dict(parted.state_dict())
    for rows in batches[2:]:
        visit(resumed, rows, truth)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_processes_agree_on_each_row_that_one_of_them_has_moved(truth, monkeypatch):
    poses, together = [make(), make()], threading.Barrier(2)
    alone = make()
    visit(poses[0], torch.tensor([0, 1, 2]), truth)
    visit(poses[1], torch.tensor([2, 4]), truth)
    visit(alone, torch.tensor([0, 1, 2, 4]), truth)
    given = {}

    def all_reduce(tensor):
        given[threading.get_ident()] = tensor.clone()
        together.wait()
        total = sum(given.values())
        together.wait()
        tensor.copy_(total)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    threads = [threading.Thread(target=pose.agree) for pose in poses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in alone.trained:
        own, other = (getattr(pose, name) for pose in poses)
        assert torch.equal(own, other)
        torch.testing.assert_close(own, getattr(alone, name))
    assert not poses[0].seen.any()


def test_negative_steps_are_refused():
    with pytest.raises(InputError, match=r"pose.lr=-1"):
        RefinedPose(n_particles=N, lr=-1)
