"""The contrast transfer function: its sign, its units, and agreement with other implementations."""

import math

import pytest
import torch
from torch_ctf import calculate_ctf_2d

from drgn.physics import ctf as ctf_module
from drgn.physics.ctf import PARAMETERS, ctf, delocalisation_A, electron_wavelength_A

DEFAULT = {
    "defocus_u_A": 15000.0,
    "defocus_v_A": 15000.0,
    "defocus_angle_deg": 0.0,
    "phase_shift_deg": 0.0,
    "voltage_kV": 300.0,
    "spherical_aberration_mm": 2.7,
    "amplitude_contrast": 0.1,
    "b_factor_A2": 0.0,
    "ctf_scale": 1.0,
}


def _parameters(**changes):
    assert set(changes) <= set(DEFAULT)
    values = {**DEFAULT, **changes}
    return torch.tensor([values[name] for name in PARAMETERS], dtype=torch.float64)


def _at(*frequencies):
    return torch.tensor(frequencies, dtype=torch.float64)


@pytest.mark.parametrize(
    ("voltage_kV", "published_A"),
    [(80.0, 0.0417572), (100.0, 0.0370144), (200.0, 0.0250793), (300.0, 0.0196875)],
)
def test_wavelength_against_the_published_table(voltage_kV, published_A):
    assert electron_wavelength_A(torch.tensor(voltage_kV)).item() == pytest.approx(published_A, abs=6e-8)


@pytest.mark.parametrize("w", [0.0, 0.07, 0.1, 1.0])
def test_ctf_at_the_origin_is_plus_the_amplitude_contrast(w):
    assert ctf(_at((0.0, 0.0)), _parameters(amplitude_contrast=w)).item() == pytest.approx(w, abs=1e-15)


# cryoDRGN 4.3.1's CTF for U 15000, V 14000, 25 degrees, 300 kV, 2.7 mm, w 0.1, at (x, y) in 1/A
GOLDEN = [((0.05, 0.0), -0.682916), ((0.0, 0.1), -0.554468), ((0.1, 0.05), 0.796061)]
ASTIGMATIC = {"defocus_u_A": 15000.0, "defocus_v_A": 14000.0, "defocus_angle_deg": 25.0}


@pytest.mark.parametrize(("frequency", "cryodrgn"), GOLDEN)
def test_minus_cryodrgn_with_its_wavelength(frequency, cryodrgn, monkeypatch):
    def wavelength(voltage_kV):
        volts = voltage_kV * 1e3
        return 12.2639 / (volts + 0.97845e-6 * volts**2).sqrt()

    monkeypatch.setattr(ctf_module, "electron_wavelength_A", wavelength)
    value = ctf(_at(frequency), _parameters(**ASTIGMATIC)).item()
    assert value == pytest.approx(-cryodrgn, abs=1e-5)


@pytest.mark.parametrize(("frequency", "cryodrgn"), GOLDEN)
def test_the_wavelength_of_codata_changes_cryodrgns_numbers_by_less_than_one_percent(frequency, cryodrgn):
    value = ctf(_at(frequency), _parameters(**ASTIGMATIC)).item()
    difference = abs(value + cryodrgn)
    assert 1e-6 < difference < 0.01


@pytest.mark.parametrize("size", [48, 49])
@pytest.mark.parametrize("phase_shift", [0.0, 90.0])
def test_torch_ctf_agrees_with_sign_and_wavelength(size, phase_shift):
    pixel_size_A = 1.3
    theirs = calculate_ctf_2d(
        defocus=1.5,
        astigmatism=0.3,
        astigmatism_angle=25.0,
        voltage=200.0,
        spherical_aberration=2.0,
        amplitude_contrast=0.08,
        phase_shift=phase_shift,
        pixel_size=pixel_size_A,
        image_shape=(size, size),
        rfft=False,
        fftshift=True,
    )
    axis = (torch.arange(size, dtype=torch.float64) - size // 2) / (size * pixel_size_A)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    parameters = _parameters(
        defocus_u_A=18000.0,
        defocus_v_A=12000.0,
        defocus_angle_deg=25.0,
        voltage_kV=200.0,
        spherical_aberration_mm=2.0,
        amplitude_contrast=0.08,
        phase_shift_deg=phase_shift,
    )
    ours = ctf(torch.stack([x, y], dim=-1).reshape(-1, 2), parameters).reshape(size, size)
    torch.testing.assert_close(ours, theirs.double(), atol=2e-4, rtol=0)  # theirs is float32


@pytest.mark.parametrize("axis_deg", [0.0, 30.0, 90.0, -70.0])
def test_defocus_u_lies_along_the_defocus_angle(axis_deg):
    astigmatic = _parameters(defocus_u_A=18000.0, defocus_v_A=12000.0, defocus_angle_deg=axis_deg)
    radius = torch.linspace(0, 0.2, 50, dtype=torch.float64)
    angle = math.radians(axis_deg)
    along = torch.stack([radius * math.cos(angle), radius * math.sin(angle)], dim=-1)
    across = torch.stack([-radius * math.sin(angle), radius * math.cos(angle)], dim=-1)
    for points, defocus in ((along, 18000.0), (across, 12000.0)):
        round_one = _parameters(defocus_u_A=defocus, defocus_v_A=defocus)
        torch.testing.assert_close(ctf(points, astigmatic), ctf(points, round_one))


def test_ctf_is_even():
    points = torch.randn(100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
    parameters = _parameters(**ASTIGMATIC)
    torch.testing.assert_close(ctf(points, parameters), ctf(-points, parameters))


def test_first_zero_of_pure_phase_contrast():
    # without Cs and amplitude contrast: sin(pi lambda df k^2) vanishes at k^2 = 1 / (lambda df)
    parameters = _parameters(spherical_aberration_mm=0.0, amplitude_contrast=0.0)
    zero = 1 / math.sqrt(electron_wavelength_A(torch.tensor(300.0)).item() * 15000.0)
    values = ctf(_at((0.9 * zero, 0), (zero, 0), (1.1 * zero, 0)), parameters)
    assert values[0] > 0.3  # underfocus is positive
    assert values[1].abs() < 1e-12
    assert values[2] < -0.3


def test_spherical_aberration_acts_against_underfocus():
    # the two terms cancel where df = Cs lambda^2 k^2 / 2
    wavelength = electron_wavelength_A(torch.tensor(300.0)).item()
    k = math.sqrt(2 * 15000.0 / (2.7e7 * wavelength**2))
    value = ctf(_at((k, 0.0)), _parameters(amplitude_contrast=0.0))
    assert value.abs().item() < 1e-9


@pytest.mark.parametrize("w", [0.0, 0.1])
def test_phase_plate_of_90_degrees_turns_sine_into_cosine(w):
    points = _at((0.0, 0.0), (0.03, 0.01), (0.08, -0.05))
    focus = _parameters(amplitude_contrast=0.0)
    quarter = _parameters(amplitude_contrast=1.0)
    plate = ctf(points, _parameters(phase_shift_deg=90.0, amplitude_contrast=w))
    expected = math.sqrt(1 - w**2) * ctf(points, quarter) - w * ctf(points, focus)
    torch.testing.assert_close(plate, expected)
    assert plate[0].item() == pytest.approx(math.sqrt(1 - w**2))


def test_envelope_and_scale():
    points = _at((0.0, 0.0), (0.03, 0.04), (0.1, 0.0))
    plain = ctf(points, _parameters())
    damped = ctf(points, _parameters(b_factor_A2=100.0, ctf_scale=0.7))
    expected = 0.7 * torch.exp(-100.0 * _at(0.0, 0.0025, 0.01) / 4)
    torch.testing.assert_close(damped / plain, expected)


def test_batches_of_parameters_and_of_frequencies():
    points = torch.randn(2, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
    parameters = torch.stack([_parameters(), _parameters(defocus_u_A=20000.0)])
    shared = ctf(points[0], parameters)
    own = ctf(points, parameters)
    assert shared.shape == own.shape == (2, 7)
    torch.testing.assert_close(shared[1], ctf(points[0], parameters[1]))
    torch.testing.assert_close(own[1], ctf(points[1], parameters[1]))


def test_single_precision_is_enough():
    # 4 um of defocus to 2 A: about 500 radians of phase
    points = torch.stack([torch.linspace(0, 0.5, 1000), torch.zeros(1000)], dim=-1)
    parameters = _parameters(defocus_u_A=40000.0, defocus_v_A=39000.0)
    single = ctf(points, parameters.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), ctf(points.double(), parameters), atol=5e-4, rtol=0)


def test_delocalisation_is_the_gradient_of_the_phase():
    # without amplitude contrast the CTF is sin g: sin' / cos is the gradient of g, along x and along y
    parameters = _parameters(amplitude_contrast=0.0, defocus_v_A=11000.0, defocus_angle_deg=25.0)
    points = _at((0.05, 0.02), (-0.11, 0.07), (0.02, -0.2)).requires_grad_()
    (slope,) = torch.autograd.grad(ctf(points, parameters).sum(), points)
    cosine = ctf(points, parameters + _parameters(phase_shift_deg=90.0) - _parameters())
    moved_A = (slope / cosine[:, None]).norm(dim=1) / (2 * math.pi)
    found = delocalisation_A(points.detach(), parameters)
    fringe2 = electron_wavelength_A(_at(300.0))[0] * 13000.0 / 9
    torch.testing.assert_close(found, (moved_A.square() + fringe2).sqrt().detach())
    origin = delocalisation_A(_at((0.0, 0.0)), parameters)
    torch.testing.assert_close(origin, fringe2.sqrt()[None])


def test_nothing_is_delocalised_without_defocus():
    none = _parameters(defocus_u_A=0.0, defocus_v_A=0.0, spherical_aberration_mm=0.0, phase_shift_deg=90.0)
    assert (delocalisation_A(_at((0.0, 0.0), (0.1, 0.1)), none) == 0).all()
