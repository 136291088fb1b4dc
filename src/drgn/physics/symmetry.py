"""Point groups in RELION's orientation."""

import re

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from drgn.errors import InputError

# RELION's T has a three-fold axis along z, scipy's along (1, 1, 1)
_TETRAHEDRAL = Rotation.from_matrix(np.array([[-1, 1, 0], [-1, -1, 2], [1, 1, 1]]) / np.sqrt([[2], [6], [3]]))


def point_group(name: str) -> NDArray[np.float64]:
    """Rotations (G, 3, 3) that leave a map of this symmetry as it is, the identity among them.

    Cn: n-fold axis along z. Dn: the same, and two-fold axes, one of them along x. T: a three-fold axis along
    z. O: the four-fold axes along x, y, z. I1 and I2 (I is I2): two-fold axes along x, y, z, the five-fold
    ones nearest to z in the plane of x and z, or of y and z.

    Raises
    ------
    InputError
        There is no such group.
    """
    found = re.fullmatch(r"([CD][1-9]\d*|[TO]|I[12]?)", name.upper())
    if found is None:
        raise InputError(f"symmetry={name}: expected C1, C2, ..., D1, D2, ..., T, O, I1 or I2.")
    known = found[1]
    if known[0] == "I":
        group = Rotation.create_group("I")
        if known != "I1":
            group = _turned(group, Rotation.from_euler("z", 90, degrees=True))
    elif known == "T":
        group = _turned(Rotation.create_group("T"), _TETRAHEDRAL)
    else:
        group = Rotation.create_group(known)
    return group.as_matrix()


def _turned(group: Rotation, turn: Rotation) -> Rotation:
    return turn * group * turn.inv()
