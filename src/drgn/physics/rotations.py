"""Rotations of a particle in the representations that programs write, and back. See `drgn.physics`."""

import torch
from torch import Tensor


def _axis_rotation(angle: Tensor, axis: int) -> Tensor:
    """Passive rotation (..., 3, 3) about z (axis 2) or y (axis 1), angle in radians."""
    c, s, zero, one = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle), torch.ones_like(angle)
    rows = (
        (c, s, zero, -s, c, zero, zero, zero, one)
        if axis == 2
        else (c, zero, -s, zero, one, zero, s, zero, c)
    )
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def from_euler(euler_deg: Tensor) -> Tensor:
    """RELION's Euler_angles2matrix: (rot, tilt, psi) (..., 3) in degrees -> R (..., 3, 3)."""
    rot, tilt, psi = torch.deg2rad(euler_deg).unbind(-1)
    return _axis_rotation(psi, 2) @ _axis_rotation(tilt, 1) @ _axis_rotation(rot, 2)


def to_euler(rotation: Tensor) -> Tensor:
    """RELION's angles (rot, tilt, psi) (..., 3) in degrees; tilt in [0, 180], rot = 0 where it is free."""
    sin_tilt = torch.hypot(rotation[..., 2, 0], rotation[..., 2, 1])
    tilt = torch.atan2(sin_tilt, rotation[..., 2, 2])
    free = sin_tilt < 4 * torch.finfo(rotation.dtype).eps
    rot = torch.where(free, 0.0, torch.atan2(rotation[..., 2, 1], rotation[..., 2, 0]))
    # R Rz(rot)^T = Rz(psi) Ry(tilt), whose second column is (sin psi, cos psi, 0) at every tilt: no pole
    s, c = rot.sin(), rot.cos()
    psi = torch.atan2(
        c * rotation[..., 0, 1] - s * rotation[..., 0, 0], c * rotation[..., 1, 1] - s * rotation[..., 1, 0]
    )
    return torch.rad2deg(torch.stack([rot, tilt, psi], dim=-1))


def from_rotvec(rotvec_rad: Tensor) -> Tensor:
    """cryoSPARC's pose, a Rodrigues vector (..., 3) in radians -> R = expmap(pose)^T (..., 3, 3)."""
    x, y, z = rotvec_rad.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(-cross)


def to_rotvec(rotation: Tensor) -> Tensor:
    """Inverse of `from_rotvec`, angles in [0, pi]."""
    q = to_quaternion(rotation.mT)
    xyz = q[..., 1:]
    norm = xyz.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(norm, q[..., :1])
    # angle / sin(angle / 2) -> 2 at the identity
    return torch.where(norm > 1e-8, angle / norm.clamp_min(1e-30), torch.full_like(norm, 2.0)) * xyz


def from_quaternion(quaternion: Tensor) -> Tensor:
    """Quaternions (..., 4) (w, x, y, z), any length -> R (..., 3, 3), turning column vectors."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def to_quaternion(rotation: Tensor) -> Tensor:
    """Unit quaternions (..., 4) (w, x, y, z) with w >= 0, stable for every angle."""
    m = rotation
    trace = m.diagonal(dim1=-2, dim2=-1).sum(-1)
    # K's largest column is the quaternion times one of its own components: never a division by a small one.
    rows = (
        1 + trace, m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1],
        m[..., 2, 1] - m[..., 1, 2], 1 + 2 * m[..., 0, 0] - trace, m[..., 0, 1] + m[..., 1, 0],
        m[..., 0, 2] + m[..., 2, 0],
        m[..., 0, 2] - m[..., 2, 0], m[..., 0, 1] + m[..., 1, 0], 1 + 2 * m[..., 1, 1] - trace,
        m[..., 1, 2] + m[..., 2, 1],
        m[..., 1, 0] - m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1],
        1 + 2 * m[..., 2, 2] - trace,
    )  # fmt: skip
    k = torch.stack(rows, dim=-1).unflatten(-1, (4, 4))
    best = k.diagonal(dim1=-2, dim2=-1).argmax(-1)
    column = torch.take_along_dim(k, best[..., None, None], dim=-1).squeeze(-1)
    q = column / column.norm(dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def from_6d(columns: Tensor) -> Tensor:
    """First two columns (..., 6), not necessarily orthonormal -> R by Gram-Schmidt (smooth)."""
    a, b = columns[..., :3], columns[..., 3:]
    first = torch.nn.functional.normalize(a, dim=-1)
    second = torch.nn.functional.normalize(b - (first * b).sum(-1, keepdim=True) * first, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)


def to_6d(rotation: Tensor) -> Tensor:
    """First two columns of R, (..., 6)."""
    return torch.cat([rotation[..., 0], rotation[..., 1]], dim=-1)


def random_rotations(n: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw n rotations (n, 3, 3) uniformly from SO(3) (P33)."""
    return from_quaternion(torch.randn(n, 4, generator=generator, dtype=dtype))


def angle_deg(a: Tensor, b: Tensor) -> Tensor:
    """Geodesic angle (...) in degrees between rotations (..., 3, 3)."""
    relative = a @ b.mT
    # |R - R^T| and trace give sin and cos: accurate near 0 and near 180 alike
    cos = (relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    sin = (relative - relative.mT).flatten(-2).norm(dim=-1) / (2 * 2**0.5)
    return torch.rad2deg(torch.atan2(sin, cos))
