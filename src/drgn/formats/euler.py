"""RELION's Euler angles (rot, tilt, psi) and rotation matrices."""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_AT_A_TIME = 1 << 13  # angles: what is made on the way to a matrix is several times its size


def euler_to_matrix(angles_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return RELION's Euler_angles2matrix of (N, 3) angles (rot, tilt, psi) as (N, 3, 3)."""
    matrix = np.empty((len(angles_deg), 3, 3))
    for start in range(0, len(angles_deg), _AT_A_TIME):
        part = slice(start, start + _AT_A_TIME)
        matrix[part] = (
            Rotation.from_euler("ZYZ", angles_deg[part], degrees=True).as_matrix().transpose(0, 2, 1)
        )
    return matrix


def matrix_to_euler(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return angles (rot, tilt, psi) in degrees, (N, 3), of matrices (N, 3, 3)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # at tilt 0 only rot + psi is defined: any split will do
        angles: NDArray[np.float64] = Rotation.from_matrix(rotation.transpose(0, 2, 1)).as_euler("ZYZ", True)
    return angles
