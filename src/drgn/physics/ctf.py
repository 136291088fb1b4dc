"""The contrast transfer function of the electron microscope."""

import math

import torch
from torch import Tensor

# CODATA 2018
_PLANCK_J_S = 6.62607015e-34
_ELECTRON_MASS_KG = 9.1093837015e-31
_ELEMENTARY_CHARGE_C = 1.602176634e-19
_LIGHT_SPEED_M_S = 299792458.0

PARAMETERS = (
    "defocus_u_A",
    "defocus_v_A",
    "defocus_angle_deg",
    "phase_shift_deg",
    "voltage_kV",
    "spherical_aberration_mm",
    "amplitude_contrast",
    "b_factor_A2",
    "ctf_scale",
)
"""Columns of a CTF parameter tensor (..., 9): the names of the particle table, in this order."""


def electron_wavelength_A(voltage_kV: Tensor) -> Tensor:
    """Relativistic wavelength in Angstrom: h / sqrt(2 m e V (1 + e V / 2 m c^2)). 300 kV: 0.0196875 A."""
    volts = voltage_kV.to(torch.float64) * 1e3
    energy = _ELEMENTARY_CHARGE_C * volts
    momentum2 = 2 * _ELECTRON_MASS_KG * energy * (1 + energy / (2 * _ELECTRON_MASS_KG * _LIGHT_SPEED_M_S**2))
    return _PLANCK_J_S / momentum2.sqrt() * 1e10


def delocalisation_A(frequencies_1_A: Tensor, parameters: Tensor) -> Tensor:
    """How far the CTF spreads what an image has at the given frequencies.

    The gradient of its phase over 2 pi, and where that is 0, at the origin, a third of the width sqrt(lambda
    df) of its fringes. Parameters as of `ctf`; (..., P), in Angstrom. The square of the CTF spreads it twice
    as far.
    """
    u, v, angle, _, voltage, cs, _, _, _ = (p.unsqueeze(-1) for p in parameters.unbind(-1))
    wavelength = electron_wavelength_A(voltage).to(parameters.dtype)
    x, y = frequencies_1_A.unbind(-1)
    s2 = x**2 + y**2
    turn = 2 * (torch.atan2(y, x) - torch.deg2rad(angle))
    outwards = 0.5 * (u + v + (u - v) * torch.cos(turn)) - (cs * 1e7) * wavelength**2 * s2
    around = 0.5 * (u - v) * torch.sin(turn)
    gradient2 = wavelength**2 * s2 * (outwards**2 + around**2)
    return (gradient2 + wavelength * (u + v).abs() / 18).sqrt()


def ctf(frequencies_1_A: Tensor, parameters: Tensor) -> Tensor:
    """CTF of each image at the given frequencies; sign and formula in `drgn.physics`.

    Parameters
    ----------
    frequencies_1_A
        (P, 2) or (..., P, 2), spatial frequencies (x, y) in 1/A.
    parameters
        (..., 9) in the order of `PARAMETERS`.

    Returns
    -------
    Tensor
        (..., P), dtype of `parameters`.
    """
    u, v, angle, phase, voltage, cs, w, b, scale = (p.unsqueeze(-1) for p in parameters.unbind(-1))
    wavelength = electron_wavelength_A(voltage).to(parameters.dtype)
    x, y = frequencies_1_A.unbind(-1)
    s2 = x**2 + y**2
    theta = torch.atan2(y, x)
    defocus = 0.5 * (u + v + (u - v) * torch.cos(2 * (theta - torch.deg2rad(angle))))
    gamma = (
        math.pi * wavelength * defocus * s2
        - 0.5 * math.pi * (cs * 1e7) * wavelength**3 * s2**2
        + torch.deg2rad(phase)
    )
    return scale * torch.exp(-b * s2 / 4) * ((1 - w**2).sqrt() * torch.sin(gamma) + w * torch.cos(gamma))
