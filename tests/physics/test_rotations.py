"""Rotations against numbers of other programs, and round trips including every singular point."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.transform import Rotation

from drgn.physics import rotations as rot

quaternions = (
    st.tuples(*[st.floats(-1, 1) for _ in range(4)])
    .filter(lambda q: sum(x * x for x in q) > 1e-3)
    .map(lambda q: torch.tensor(q, dtype=torch.float64))
)
angles = st.tuples(st.floats(-180, 180), st.floats(0, 180), st.floats(-180, 180)).map(
    lambda e: torch.tensor(e, dtype=torch.float64)
)
IDENTITY = torch.eye(3, dtype=torch.float64)


def _same(a, b, degrees=1e-10):
    """Whether two rotations differ by less than an angle."""
    return rot.angle_deg(a, b).max().item() < degrees


def test_relions_matrix():
    # RELION's Euler_angles2matrix of (10, 20, 30) degrees
    expected = [
        [0.714610, 0.633718, -0.296198],
        [-0.613092, 0.771281, 0.171010],
        [0.336824, 0.059391, 0.939693],
    ]
    ours = rot.from_euler(torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64))
    np.testing.assert_allclose(ours, expected, atol=5e-7)


def test_cryosparcs_pose():
    # expmap of (0.1, 0.2, 0.3), transposed
    ours = rot.from_rotvec(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    np.testing.assert_allclose(ours[0], [0.935755, 0.302933, -0.180540], atol=5e-7)


@given(angles)
def test_scipy_agrees_on_euler_angles(euler):
    expected = Rotation.from_euler("ZYZ", euler.numpy(), degrees=True).as_matrix().T
    np.testing.assert_allclose(rot.from_euler(euler), expected, atol=1e-12)


@given(quaternions)
def test_scipy_agrees_on_rotation_vectors_and_quaternions(q):
    w, x, y, z = q.tolist()
    theirs = Rotation.from_quat([x, y, z, w])
    ours = rot.from_quaternion(q)
    np.testing.assert_allclose(ours, theirs.as_matrix(), atol=1e-12)
    vector = torch.from_numpy(theirs.as_rotvec())
    np.testing.assert_allclose(rot.from_rotvec(vector), theirs.as_matrix().T, atol=1e-12)


@given(quaternions)
def test_every_representation_returns_the_same_rotation(q):
    matrix = rot.from_quaternion(q)
    torch.testing.assert_close(matrix @ matrix.T, IDENTITY)
    assert torch.linalg.det(matrix).item() == pytest.approx(1.0)
    assert _same(rot.from_euler(rot.to_euler(matrix)), matrix)
    assert _same(rot.from_rotvec(rot.to_rotvec(matrix)), matrix)
    assert _same(rot.from_quaternion(rot.to_quaternion(matrix)), matrix)
    assert _same(rot.from_6d(rot.to_6d(matrix)), matrix)


@given(angles)
def test_euler_angles_return_away_from_the_poles(euler):
    back = rot.to_euler(rot.from_euler(euler))
    assert 0 <= back[1] <= 180
    assert back[1].item() == pytest.approx(euler[1].item(), abs=1e-10)
    if 0.01 < euler[1] < 179.99:  # elsewhere rot and psi share the rounding error
        turns = (back - euler) / 360
        torch.testing.assert_close(turns, turns.round(), atol=1e-8, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tilt", [0.0, 1e-7, 1e-5, 1e-3, 90.0, 179.999, 180.0 - 1e-5, 180.0])
def test_euler_round_trip_at_the_poles(tilt, dtype):
    matrix = rot.from_euler(torch.tensor([40.0, tilt, -75.0], dtype=dtype))
    euler = rot.to_euler(matrix)
    assert torch.isfinite(euler).all()
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    assert _same(rot.from_euler(euler), matrix, tolerance)


def test_rot_is_zero_where_it_is_free():
    for tilt, psi in ((0.0, 65.0), (180.0, 25.0)):
        # at tilt 0 only psi + rot is defined, at 180 only psi - rot
        matrix = rot.from_euler(torch.tensor([20.0, tilt, 45.0], dtype=torch.float64))
        torch.testing.assert_close(
            rot.to_euler(matrix), torch.tensor([0.0, tilt, psi], dtype=torch.float64), atol=1e-9, rtol=0
        )


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, 0, -0.8), (-0.48, 0.6, 0.64)])
@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-9, 1e-6, 1.0, math.pi - 1e-6, math.pi])
def test_rotation_vector_round_trip_at_every_angle(axis, angle):
    vector = torch.tensor(axis, dtype=torch.float64) * angle
    matrix = rot.from_rotvec(vector)
    assert torch.isfinite(matrix).all()
    back = rot.to_rotvec(matrix)
    assert back.norm().item() == pytest.approx(angle, abs=1e-9)
    assert min((back - vector).norm(), (back + vector).norm() if angle == math.pi else 9.0) < 1e-8


@pytest.mark.parametrize("turn", [(0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0.6, 0, -0.8), (1, 0, 0, 0)])
def test_quaternion_round_trip_of_half_turns_and_of_the_identity(turn):
    q = torch.tensor(turn, dtype=torch.float64)
    back = rot.to_quaternion(rot.from_quaternion(q))
    assert back[0] >= 0
    assert min((back - q).norm(), (back + q).norm()) < 1e-12


@given(quaternions, st.floats(0.1, 10), st.floats(-5, 5))
def test_6d_needs_no_orthonormal_columns(q, scale, shear):
    matrix = rot.from_quaternion(q)
    a, b = matrix[:, 0], matrix[:, 1]
    assert _same(rot.from_6d(torch.cat([scale * a, b / scale + shear * a])), matrix)


@given(quaternions, quaternions)
def test_quaternions_multiply_as_rotations_do(p, q):
    w1, v1, w2, v2 = p[0], p[1:], q[0], q[1:]
    product = torch.cat([(w1 * w2 - v1 @ v2)[None], w1 * v2 + w2 * v1 + torch.linalg.cross(v1, v2)])
    assert _same(rot.from_quaternion(product), rot.from_quaternion(p) @ rot.from_quaternion(q))


def test_random_rotations_are_uniform():
    n = 20000
    matrices = rot.random_rotations(n, torch.Generator().manual_seed(3))
    # every entry of a uniform rotation has mean 0 and mean square 1/3
    assert matrices.mean(0).abs().max() < 4 / math.sqrt(3 * n)
    torch.testing.assert_close(
        matrices.square().mean(0), torch.full((3, 3), 1 / 3).double(), atol=0.01, rtol=0
    )
    # the angle between two of them has density (1 - cos a) / pi
    angle = torch.deg2rad(rot.angle_deg(matrices[::2], matrices[1::2])).numpy()
    assert stats.kstest(angle, lambda a: (a - np.sin(a)) / np.pi).pvalue > 0.01
    # and the viewing direction is uniform on the sphere: its z is uniform
    assert stats.kstest(matrices[:, 2, 2].numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_random_rotations_repeat_with_the_seed():
    a, b, c = (rot.random_rotations(4, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


@pytest.mark.parametrize("degrees", [0.0, 1e-9, 1e-6, 0.01, 1.0, 90.0, 179.0, 179.99, 180.0 - 1e-6, 180.0])
def test_angle_is_exact_near_0_and_near_180(degrees):
    axis = torch.tensor([0.48, -0.6, 0.64], dtype=torch.float64)
    start = rot.from_euler(torch.tensor([12.0, 34.0, 56.0], dtype=torch.float64))
    turned = rot.from_rotvec(axis * math.radians(degrees)) @ start
    assert rot.angle_deg(start, turned).item() == pytest.approx(degrees, abs=1e-10, rel=1e-6)


@given(quaternions, quaternions, quaternions)
def test_angle_is_a_metric_that_rotations_leave_alone(a, b, c):
    a, b, c = map(rot.from_quaternion, (a, b, c))
    between = rot.angle_deg(a, b).item()
    assert rot.angle_deg(b, a).item() == pytest.approx(between, abs=1e-8)
    assert rot.angle_deg(c @ a, c @ b).item() == pytest.approx(between, abs=1e-5)
    assert rot.angle_deg(a @ c, b @ c).item() == pytest.approx(between, abs=1e-5)
    assert between <= rot.angle_deg(a, c).item() + rot.angle_deg(c, b).item() + 1e-8


def test_batches_keep_their_shape():
    matrices = rot.random_rotations(6, torch.Generator().manual_seed(0)).reshape(2, 3, 3, 3)
    assert rot.to_euler(matrices).shape == (2, 3, 3)
    assert rot.to_rotvec(matrices).shape == (2, 3, 3)
    assert rot.to_quaternion(matrices).shape == (2, 3, 4)
    assert rot.to_6d(matrices).shape == (2, 3, 6)
    assert rot.angle_deg(matrices, matrices[0, 0]).shape == (2, 3)
    for there, back in (
        (rot.to_euler, rot.from_euler),
        (rot.to_rotvec, rot.from_rotvec),
        (rot.to_quaternion, rot.from_quaternion),
        (rot.to_6d, rot.from_6d),
    ):
        torch.testing.assert_close(back(there(matrices)), matrices)
