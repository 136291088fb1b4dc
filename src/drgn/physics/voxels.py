"""Compiled loops over images and voxels: statistics of linear modes, and their normal equations.

A half grid holds the transform of real volumes on the voxels z >= 0 of a Fourier grid of radius R, the other
half being conjugate: (R + 3, 2 R + 4, 2 R + 4, C), origin at [0, R + 1, R + 1], a spare voxel at each end so
that no corner of the interpolation falls outside. The C = 2 A channels are real and imaginary part of A
volumes in turn. Coordinates are in voxels of the grid.
"""

import numba
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
C64 = NDArray[np.complex64]


def half_grid(radius: int, channels: int) -> F32:
    """Zeros (R + 3, 2 R + 4, 2 R + 4, channels)."""
    return np.zeros((radius + 3, 2 * radius + 4, 2 * radius + 4, channels), dtype=np.float32)


def statistics(
    grid: F32, rotation: F32, coordinates: F32, centred: C64, weight: F32
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sufficient statistics of the coefficients of A volumes in each image.

    With the slices s_a of the volumes, the CTF c and the centred image y: G_ab = sum c^2 Re(s_a* s_b) and
    h_a = sum Re(s_a* c y), over the frequencies of the image. Its log-likelihood under coefficients w is
    2 h.w - w.G w and a constant, in units of the noise.

    Parameters
    ----------
    grid
        Half grid of 2 A channels.
    rotation
        (B, 3, 3).
    coordinates
        (P, 2), of the image's frequencies, in voxels.
    centred
        (B, P), c y, from `imaging.matched_filter`.
    weight
        (B, P), c^2.

    Returns
    -------
    tuple of arrays
        G (B, A, A), symmetric, and h (B, A).
    """
    volumes = grid.shape[3] // 2
    gram = np.zeros((len(weight), volumes, volumes), dtype=np.float32)
    overlap = np.zeros((len(weight), volumes), dtype=np.float32)
    _statistics(grid, rotation, coordinates, centred, weight, gram, overlap)
    lower = np.tril(gram, -1)
    return gram + lower.transpose(0, 2, 1), overlap


def fit_whole(
    grid: F32, rotation: F32, coordinates: F32, centred: C64, weight: F32
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Statistics of A volumes that each explain an image alone: those of `statistics` with a = b.

    Returns
    -------
    tuple of arrays
        sum c^2 |s_a|^2 and sum Re(s_a* c y), (B, A). The log-likelihood of volume a is twice the second less
        the first, and a constant, in units of the noise.
    """
    volumes = grid.shape[3] // 2
    power, overlap = (np.zeros((len(weight), volumes)) for _ in range(2))
    _fit_whole(grid, rotation, coordinates, centred, weight, power, overlap)
    return power, overlap


def add_normal_equations(
    right: F32, left: F32, rotation: F32, coordinates: F32, centred: C64, weight: F32, first: F32, second: F32
) -> None:
    """Add images to the normal equations of A volumes, voxel by voxel; the adjoint of `statistics`.

    Parameters
    ----------
    right
        Half grid of 2 A channels: gains E[w_a] c y.
    left
        Half grid of A (A + 1) / 2 channels, the lower triangle row by row: gains E[w_a w_b] c^2.
    rotation, coordinates, centred, weight
        As of `statistics`.
    first, second
        (B, A) and (B, A (A + 1) / 2): moments of each image's coefficients.
    """
    _add(right, left, rotation, coordinates, centred, weight, first, second)


def add_images(right: F32, left: F32, rotation: F32, coordinates: F32, centred: C64, weight: F32) -> None:
    """Add images to one volume: `add_normal_equations` with A = 1 and moments of 1, in less time."""
    _add_one(right, left, rotation, coordinates, centred, weight)


def pose_equations(
    grid: F32, rotation: F32, coordinates: F32, centred: C64, weight: F32, amounts: F32, angular: F32
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Newton equations of a small turn w and move d of each image.

    The image shows s(exp(w) R) exp(i k.d) with the slice s of sum_a amounts_a V_a. A pose is left by the step
    matrix^-1 right, of w (radians, see `rotations.from_rotvec`) and d (pixels) in turn.

    Parameters
    ----------
    grid, rotation, coordinates, centred, weight
        As of `statistics`.
    amounts
        (B, A), what each image has of each volume.
    angular
        (P, 2), k in radians per pixel of the image.

    Returns
    -------
    tuple of arrays
        matrix (B, 5, 5), sum c^2 Re(J_i* J_j) with the derivatives J of the slice, and right (B, 5),
        sum Re(J_i* (c y - c^2 s)).
    """
    matrix, right = np.zeros((len(weight), 5, 5)), np.zeros((len(weight), 5))
    _pose_equations(grid, rotation, coordinates, centred, weight, amounts, angular, matrix, right)
    lower = np.tril(matrix, -1)
    return matrix + lower.transpose(0, 2, 1), right


def complete_plane(grid: F32, conjugate: bool) -> None:
    """Give each voxel of the plane z = 0 what fell on its mate, in place; `conjugate` where it is complex."""
    plane = grid[0, :-1, :-1]
    mate = plane[::-1, ::-1].copy()
    if conjugate:
        mate[..., 1::2] *= -1
    plane += mate


@numba.njit(fastmath=True, nogil=True, cache=True, inline="always")
def _corner(u: float, v: float, r: F32, origin: int):  # type: ignore[no-untyped-def]  # noqa: ANN202
    x, y, z = u * r[0, 0] + v * r[1, 0], u * r[0, 1] + v * r[1, 1], u * r[0, 2] + v * r[1, 2]
    sign = np.float32(1.0)
    if z < 0:
        x, y, z, sign = -x, -y, -z, np.float32(-1.0)
    x += origin
    y += origin
    i, j, k = int(x), int(y), int(z)
    return i, j, k, np.float32(x - i), np.float32(y - j), np.float32(z - k), sign


@numba.njit(fastmath=True, nogil=True, cache=True)
def _statistics(grid, rotation, coordinates, centred, weight, gram, overlap):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    channels = grid.shape[3]
    volumes, origin = channels // 2, grid.shape[2] // 2 - 1
    value = np.zeros(channels, np.float32)
    for b in range(weight.shape[0]):
        r = rotation[b]
        for p in range(weight.shape[1]):
            i, j, k, dx, dy, dz, sign = _corner(coordinates[p, 0], coordinates[p, 1], r, origin)
            value[:] = 0
            for corner in range(8):
                ox, oy, oz = corner & 1, (corner >> 1) & 1, corner >> 2
                share = (dx if ox else 1 - dx) * (dy if oy else 1 - dy) * (dz if oz else 1 - dz)
                voxel = grid[k + oz, j + oy, i + ox]
                for c in range(channels):
                    value[c] += share * voxel[c]
            real, imaginary, w = centred[b, p].real, centred[b, p].imag * sign, weight[b, p]
            for a in range(volumes):
                overlap[b, a] += value[2 * a] * real + value[2 * a + 1] * imaginary
                for e in range(a + 1):
                    gram[b, a, e] += w * (value[2 * a] * value[2 * e] + value[2 * a + 1] * value[2 * e + 1])


@numba.njit(fastmath=True, nogil=True, cache=True)
def _fit_whole(grid, rotation, coordinates, centred, weight, power, overlap):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    channels, origin = grid.shape[3], grid.shape[2] // 2 - 1
    value = np.zeros(channels, np.float32)
    for b in range(weight.shape[0]):
        r = rotation[b]
        for p in range(weight.shape[1]):
            i, j, k, dx, dy, dz, sign = _corner(coordinates[p, 0], coordinates[p, 1], r, origin)
            ex, ey, ez = np.float32(1) - dx, np.float32(1) - dy, np.float32(1) - dz
            w0, w1, w2, w3 = ex * ey * ez, dx * ey * ez, ex * dy * ez, dx * dy * ez
            w4, w5, w6, w7 = ex * ey * dz, dx * ey * dz, ex * dy * dz, dx * dy * dz
            v0, v1, v2, v3 = grid[k, j, i], grid[k, j, i + 1], grid[k, j + 1, i], grid[k, j + 1, i + 1]
            v4, v5 = grid[k + 1, j, i], grid[k + 1, j, i + 1]
            v6, v7 = grid[k + 1, j + 1, i], grid[k + 1, j + 1, i + 1]
            for c in range(channels):  # all corners at once: twice as fast as corner by corner
                value[c] = w0 * v0[c] + w1 * v1[c] + w2 * v2[c] + w3 * v3[c]
                value[c] += w4 * v4[c] + w5 * v5[c] + w6 * v6[c] + w7 * v7[c]
            real, imaginary, w = centred[b, p].real, centred[b, p].imag * sign, weight[b, p]
            for a in range(channels // 2):
                overlap[b, a] += value[2 * a] * real + value[2 * a + 1] * imaginary
                power[b, a] += w * (value[2 * a] * value[2 * a] + value[2 * a + 1] * value[2 * a + 1])


@numba.njit(fastmath=True, nogil=True, cache=True)
def _add(right, left, rotation, coordinates, centred, weight, first, second):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    channels, products = right.shape[3], left.shape[3]
    volumes, origin = channels // 2, right.shape[2] // 2 - 1
    to_right, to_left = np.zeros(channels, np.float32), np.zeros(products, np.float32)
    for b in range(weight.shape[0]):
        r = rotation[b]
        for p in range(weight.shape[1]):
            i, j, k, dx, dy, dz, sign = _corner(coordinates[p, 0], coordinates[p, 1], r, origin)
            real, imaginary = centred[b, p].real, centred[b, p].imag * sign
            for a in range(volumes):
                to_right[2 * a] = first[b, a] * real
                to_right[2 * a + 1] = first[b, a] * imaginary
            for c in range(products):
                to_left[c] = weight[b, p] * second[b, c]
            for corner in range(8):
                ox, oy, oz = corner & 1, (corner >> 1) & 1, corner >> 2
                share = (dx if ox else 1 - dx) * (dy if oy else 1 - dy) * (dz if oz else 1 - dz)
                voxel = right[k + oz, j + oy, i + ox]
                for c in range(channels):
                    voxel[c] += share * to_right[c]
                voxel = left[k + oz, j + oy, i + ox]
                for c in range(products):
                    voxel[c] += share * to_left[c]


@numba.njit(fastmath=True, nogil=True, cache=True)
def _add_one(right, left, rotation, coordinates, centred, weight):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    origin = right.shape[2] // 2 - 1
    for b in range(weight.shape[0]):
        r = rotation[b]
        for p in range(weight.shape[1]):
            i, j, k, dx, dy, dz, sign = _corner(coordinates[p, 0], coordinates[p, 1], r, origin)
            real, imaginary, w = centred[b, p].real, centred[b, p].imag * sign, weight[b, p]
            for oz in range(2):
                wz = dz if oz else np.float32(1) - dz
                for oy in range(2):
                    wy = wz * (dy if oy else np.float32(1) - dy)
                    for ox in range(2):
                        share = wy * (dx if ox else np.float32(1) - dx)
                        right[k + oz, j + oy, i + ox, 0] += share * real
                        right[k + oz, j + oy, i + ox, 1] += share * imaginary
                        left[k + oz, j + oy, i + ox, 0] += share * w


@numba.njit(fastmath=True, nogil=True, cache=True)
def _pose_equations(grid, rotation, coordinates, centred, weight, amounts, angular, matrix, right):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    channels, origin = grid.shape[3], grid.shape[2] // 2 - 1
    corners = np.zeros((8, 2), np.float32)
    jacobian = np.zeros((5, 2), np.float32)
    slope = np.zeros((3, 2), np.float32)
    for b in range(weight.shape[0]):
        r = rotation[b]
        for p in range(weight.shape[1]):
            u, v = coordinates[p, 0], coordinates[p, 1]
            i, j, k, dx, dy, dz, sign = _corner(u, v, r, origin)
            ex, ey, ez = np.float32(1) - dx, np.float32(1) - dy, np.float32(1) - dz
            for corner in range(8):
                voxel = grid[k + (corner >> 2), j + ((corner >> 1) & 1), i + (corner & 1)]
                real, imaginary = np.float32(0), np.float32(0)
                for a in range(channels // 2):
                    real += amounts[b, a] * voxel[2 * a]
                    imaginary += amounts[b, a] * voxel[2 * a + 1]
                corners[corner, 0], corners[corner, 1] = real, imaginary
            w = weight[b, p]
            for c in range(2):
                # S(-k) = S(k)*: the gradient of a folded frequency has the other sign as well
                own = sign if c else np.float32(1)
                q0, q1, q2, q3 = corners[0, c], corners[1, c], corners[2, c], corners[3, c]
                q4, q5, q6, q7 = corners[4, c], corners[5, c], corners[6, c], corners[7, c]
                near = ey * (ex * q0 + dx * q1) + dy * (ex * q2 + dx * q3)
                far = ey * (ex * q4 + dx * q5) + dy * (ex * q6 + dx * q7)
                value = own * (ez * near + dz * far)
                gx = ez * (ey * (q1 - q0) + dy * (q3 - q2)) + dz * (ey * (q5 - q4) + dy * (q7 - q6))
                gy = ez * (ex * (q2 - q0) + dx * (q3 - q1)) + dz * (ex * (q6 - q4) + dx * (q7 - q5))
                gz = far - near
                for row in range(3):
                    slope[row, c] = own * sign * (r[row, 0] * gx + r[row, 1] * gy + r[row, 2] * gz)
                jacobian[0, c] = v * slope[2, c]  # the frequency (u, v, 0) x slope
                jacobian[1, c] = -u * slope[2, c]
                jacobian[2, c] = u * slope[1, c] - v * slope[0, c]
                # i k s
                jacobian[3, 1 - c] = value * angular[p, 0] * (-1 if c else 1)
                jacobian[4, 1 - c] = value * angular[p, 1] * (-1 if c else 1)
                corners[0, c] = (centred[b, p].imag if c else centred[b, p].real) - w * value
            for row in range(5):
                right[b, row] += jacobian[row, 0] * corners[0, 0] + jacobian[row, 1] * corners[0, 1]
                for column in range(row + 1):
                    product = jacobian[row, 0] * jacobian[column, 0] + jacobian[row, 1] * jacobian[column, 1]
                    matrix[b, row, column] += w * product
