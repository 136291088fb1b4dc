"""Point groups are groups, and RELION's."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from drgn.errors import InputError
from drgn.physics.symmetry import point_group

ORDER = {"C1": 1, "C3": 3, "D2": 4, "D5": 10, "T": 12, "O": 24, "I": 60, "I1": 60, "I2": 60}


def distance(one, others):
    """Largest distance of a matrix of one set to the nearest of the other."""
    return max(np.abs(others - matrix).max(axis=(1, 2)).min() for matrix in one)


@pytest.mark.parametrize("name", ORDER)
def test_a_group_is_closed(name):
    group = point_group(name)
    assert group.shape == (ORDER[name], 3, 3)
    np.testing.assert_allclose(np.linalg.det(group), 1)
    products = (group[:, None] @ group[None]).reshape(-1, 3, 3)
    assert distance(products, group) < 1e-12
    assert distance([np.eye(3)], group) < 1e-12


@pytest.mark.skipif(shutil.which("relion_refine") is None, reason="RELION is not on PATH")
@pytest.mark.parametrize("name", ["C3", "D2", "D5", "T", "O", "I", "I1", "I2"])
def test_a_group_is_relions(name):
    command = ["relion_refine", "--print_symmetry_ops", "--sym", name]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    matrices = re.findall(r"R\(\d+\)=((?:\s+[-\d.e+]+){9})", said)
    theirs = np.array([text.split() for text in matrices], float).reshape(-1, 3, 3)
    assert len(theirs) == ORDER[name]
    assert distance(theirs, point_group(name)) < 1e-4


def test_small_letters_do_too():
    np.testing.assert_array_equal(point_group("d2"), point_group("D2"))


@pytest.mark.parametrize("name", ["", "C0", "X", "I3", "C", "T2"])
def test_another_name_is_one_sentence(name):
    with pytest.raises(InputError, match=f"symmetry={name}: expected C1, C2"):
        point_group(name)
