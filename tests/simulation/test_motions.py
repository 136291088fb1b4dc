"""Motions move what they should, rigidly, and where the ribosome's head is known to go."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from drgn.errors import InputError
from drgn.formats.atoms import read_atoms
from drgn.simulation.models import hinged_complex
from drgn.simulation.motions import Path, Screw, superposed


@pytest.fixture(scope="module")
def model():
    return hinged_complex()


def test_a_screw_is_rigid_and_leaves_the_rest(model):
    axis = np.array([1.0, 2.0, -0.5])
    screw = Screw(moving=["arm"], axis=tuple(axis), point_A=(12, 3, 0), angle_deg=50, shift_A=7)
    arm = model.select(["arm"])
    before, after = model.frames_A[0], screw(model, 1.0)
    np.testing.assert_array_equal(after[~arm], before[~arm])
    np.testing.assert_allclose(pdist(after[arm][::9]), pdist(before[arm][::9]), atol=1e-9)
    assert np.linalg.norm(after[arm] - before[arm], axis=1).min() >= 7 - 1e-9
    way = (after - before)[arm] @ (axis / np.linalg.norm(axis))
    np.testing.assert_allclose(way, 7)
    np.testing.assert_array_equal(screw(model, 0.0), before)
    half = screw(model, 0.5)[arm]
    assert np.linalg.norm((half - before[arm]) @ (axis / np.linalg.norm(axis)) - 3.5) < 1e-9 * len(half)


def test_a_turn_is_right_handed_and_starts_where_asked(model):
    quarter = Screw(moving=["arm"], axis=(0, 0, 1), point_A=(0, 0, 0), angle_deg=90, start=-0.5)
    x, y, z = model.frames_A[0][model.select(["arm"])].T
    turned = quarter(model, 1.0)[model.select(["arm"])].T
    c = np.sqrt(0.5)
    np.testing.assert_allclose(turned, [c * (x - y), c * (x + y), z], atol=1e-9)  # by +45 degrees
    np.testing.assert_allclose(quarter(model, 0.5), model.frames_A[0], atol=1e-12)


def test_the_head_of_the_ribosome_goes_as_far_as_was_measured(shared):
    from drgn.command import compose

    options = compose("simulate", ["molecule=ribosome_head"])["molecule"]["motion"]
    screw = Screw(**{k: v for k, v in options.items() if k != "_target_"})
    model = read_atoms(shared / "ribosome-4v5a" / "4V5A_copy1.npz")
    head = model.select(options["moving"])
    moved = np.linalg.norm(screw(model, 1.0) - model.frames_A[0], axis=1)
    assert not moved[~head].any()
    assert np.sqrt((moved[head] ** 2).mean()) == pytest.approx(15.2, abs=1.0)


def test_a_path_goes_through_every_conformation(shared):
    model = read_atoms(shared / "adk-dims" / "adk.psf", [shared / "adk-dims" / "adk_dims.dcd"])
    straight = Path(superpose=False)
    np.testing.assert_array_equal(straight(model, 0.0), model.frames_A[0])
    np.testing.assert_array_equal(straight(model, 1.0), model.frames_A[97])
    np.testing.assert_allclose(straight(model, 40 / 97), model.frames_A[40], atol=1e-9)
    middle = (model.frames_A[40] + model.frames_A[41]) / 2
    np.testing.assert_allclose(straight(model, 40.5 / 97), middle, atol=1e-9)
    fitted = Path(superpose=True)(model, 1.0)
    np.testing.assert_allclose(pdist(fitted[::40]), pdist(model.frames_A[97][::40]), atol=1e-9)
    first = model.frames_A[0]
    assert ((fitted - first) ** 2).sum() < ((model.frames_A[97] - first) ** 2).sum()


def test_superposing_undoes_a_turn_and_a_shift(model):
    moved = Screw(moving=["*"], axis=(1, 1, 0), point_A=(5, 0, 9), angle_deg=130, shift_A=20)(model, 1.0)
    np.testing.assert_allclose(superposed(moved, model.frames_A[0]), model.frames_A[0], atol=1e-9)


def test_mistakes(model):
    with pytest.raises(InputError, match=r"motion\.axis=\[0, 0, 0\]"):
        Screw(moving=["arm"], axis=(0, 0, 0), point_A=(0, 0, 0), angle_deg=1)
    with pytest.raises(InputError, match="one conformation; a path needs two"):
        Path(superpose=True)(model, 0.5)
