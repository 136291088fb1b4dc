"""Defocus and poses from real tables; noise; pose errors."""

import numpy as np
import pytest
import torch

from drgn.command import bind, compose
from drgn.errors import InputError
from drgn.formats.particles import Particles
from drgn.physics import rotations
from drgn.physics.ctf import PARAMETERS
from drgn.simulation.microscope import Microscope
from drgn.simulation.noise import draw_noise, noise_filter
from drgn.simulation.poses import PoseOptions, Poses


def microscope(*overrides):
    return Microscope(**bind(Microscope, compose("simulate", overrides)["microscope"]))


def drawn(scope, n=2_000):
    uniform = torch.rand(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return dict(zip(PARAMETERS, scope.draw(uniform).numpy().T, strict=True))


def test_the_quantiles_are_those_of_the_real_table(shared):
    table = np.load(shared / "empiar-10028" / "ctf.npz")["ctf"]
    real = (table[:, 2] + table[:, 3]) / 2
    made = drawn(microscope("microscope=empiar10028"), 20_000)
    assert (made["defocus_u_A"] == made["defocus_v_A"]).all()  # P33: no astigmatism
    steps = np.linspace(0.02, 0.98, 25)
    np.testing.assert_allclose(
        np.quantile(made["defocus_u_A"], steps), np.quantile(real, steps), atol=1300, rtol=0
    )
    assert made["defocus_u_A"].mean() == pytest.approx(real.mean(), rel=0.01)


def test_the_defocus_is_drawn_from_the_table(shared):
    path = shared / "empiar-10028" / "ctf.npz"
    table = np.load(path)["ctf"].astype(np.float64)
    as_is = drawn(microscope(f"microscope.table={path}", "microscope.astigmatism_A=null"))
    known = {tuple(row) for row in table[:, 2:5]}
    columns = [as_is[f"defocus_{c}"] for c in ("u_A", "v_A", "angle_deg")]
    # half sum and half difference give u and v back to rounding
    assert all(tuple(np.float32(row).astype(np.float64)) in known for row in np.stack(columns, axis=1))
    assert len(np.unique(as_is["defocus_u_A"])) > 500
    round_ = drawn(microscope(f"microscope.table={path}", "microscope.astigmatism_A=0"))
    np.testing.assert_allclose(round_["defocus_u_A"], (as_is["defocus_u_A"] + as_is["defocus_v_A"]) / 2)
    assert set(round_["voltage_kV"]) == {300.0}


def test_tables_of_other_kinds(shared):
    path = shared / "cryodrgn-tests" / "cryosparc_P12_J24_001_particles.cs"
    particles = Particles.from_file(path)
    made = drawn(microscope(f"microscope.table={path}", "microscope.astigmatism_A=null"), 50)
    assert np.isin(np.round(made["defocus_u_A"], 2), np.round(particles.table["defocus_u_A"], 2)).all()
    options = PoseOptions(table=path, error_deg=0.0, error_A=0.0)
    rotation = options.draw(50, torch.Generator().manual_seed(0)).numpy()
    nearest = np.abs(rotation[:, None] - particles.rotation[None]).max((2, 3)).min(1)
    assert nearest.max() < 1e-12
    pkl = PoseOptions(table=shared / "cryodrgn-tests" / "pose.cs.pkl", error_deg=0.0, error_A=0.0)
    assert pkl.draw(5, torch.Generator()).shape == (5, 3, 3)


def test_pose_errors_have_the_size_asked_for():
    n = 20_000
    right = Poses(rotations.random_rotations(n, torch.Generator().manual_seed(0)), torch.zeros(n, 2).double())
    options = PoseOptions(table=None, error_deg=4.0, error_A=3.0)
    told = options.told(right, torch.Generator().manual_seed(1))
    angle = rotations.angle_deg(told.rotation, right.rotation)
    assert angle.square().mean().sqrt().item() == pytest.approx(4, rel=0.02)
    assert told.shift_A.square().sum(1).mean().sqrt().item() == pytest.approx(3, rel=0.02)


def test_the_noise_has_the_stated_spectrum_and_variance():
    size, spectrum = 48, [8.0, 2.0, 1.0, 0.5]
    generator = torch.Generator().manual_seed(0)
    noise = draw_noise(400, size, noise_filter(spectrum, size), generator)
    assert noise.var().item() == pytest.approx(1, rel=0.02)
    power = torch.fft.fft2(noise).abs().square().mean(0)
    axis = torch.fft.fftfreq(size)
    radius = torch.hypot(axis[:, None], axis[None, :])
    expected = torch.from_numpy(np.interp(radius, np.linspace(0, 0.5, 4), spectrum))
    ratio = power / expected
    ratio /= ratio.mean()
    for low in np.arange(0, 0.7, 0.1):
        ring = (radius >= low) & (radius < low + 0.1)
        assert ratio[ring].mean().item() == pytest.approx(1, abs=0.05)
    white = draw_noise(100, size, noise_filter(None, size), generator)
    assert white.var().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: noise_filter([1.0], 16), r"noise_spectrum=\[1\.0\]"),
        (lambda: noise_filter([1.0, -1.0], 16), "0 or more"),
        (lambda: microscope("microscope.defocus_A=[9000]"), "two or more rising numbers"),
        (lambda: microscope("microscope.defocus_A=[9000,8000]"), "rising"),
        (lambda: microscope("microscope.voltage_kV=0"), "a voltage above 0"),
        (lambda: microscope("microscope.astigmatism_A=null"), "astigmatism_A=null"),
        (lambda: drawn(microscope("microscope.table=x.npz")), r"microscope\.table=x\.npz is not there"),
        (lambda: PoseOptions(table=None, error_deg=-1.0, error_A=0.0), r"poses\.error_deg=-1"),
    ],
)
def test_mistakes(make, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        make()
    assert "\n" not in str(error.value)
