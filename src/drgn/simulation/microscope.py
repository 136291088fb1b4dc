"""The microscope: CTF parameters of every image; the defocus from a distribution or a real table."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drgn.errors import InputError
from drgn.formats.cryodrgn import read_ctf
from drgn.formats.particles import Particles
from drgn.physics.ctf import PARAMETERS


@dataclass(frozen=True, kw_only=True)
class Microscope:
    """What the CTF of the images is made of.

    Attributes
    ----------
    voltage_kV, spherical_aberration_mm, amplitude_contrast, b_factor_A2
        Of all images.
    defocus_A
        Quantiles of the mean defocus at even steps from 0 to 1: two numbers are an even spread between them.
    astigmatism_A
        Difference of the two defoci, at an angle drawn evenly; null: as in `table`.
    table
        Draw the defocus from the rows of this file instead: .star, .cs, or cryoDRGN's CTF as .pkl or .npz.
    """

    voltage_kV: float
    spherical_aberration_mm: float
    amplitude_contrast: float
    b_factor_A2: float
    defocus_A: list[float]
    astigmatism_A: float | None
    table: Path | None

    def __post_init__(self) -> None:
        if self.voltage_kV <= 0 or not 0 <= self.amplitude_contrast <= 1 or self.b_factor_A2 < 0:
            raise InputError(
                f"microscope.voltage_kV={self.voltage_kV} amplitude_contrast={self.amplitude_contrast}"
                f" b_factor_A2={self.b_factor_A2}: expected a voltage above 0, a contrast from 0 to 1 and a"
                " B-factor of 0 or more"
            )
        if len(self.defocus_A) < 2 or sorted(self.defocus_A) != list(self.defocus_A):
            raise InputError(
                f"microscope.defocus_A={self.defocus_A}: expected two or more rising numbers, the quantiles"
            )
        if self.astigmatism_A is None and self.table is None:
            raise InputError("microscope.astigmatism_A=null: expected a number, or microscope.table=FILE")

    def draw(self, uniform: Tensor) -> Tensor:
        """Turn uniform numbers (n, 2) into CTF parameters (n, 9), see `drgn.physics.ctf.PARAMETERS`."""
        angle_deg = 180 * uniform[:, 1]
        if self.table is None:
            position = uniform[:, 0] * (len(self.defocus_A) - 1)
            before = position.long().clamp(max=len(self.defocus_A) - 2)
            quantile = torch.tensor(self.defocus_A, dtype=torch.float64)
            step = quantile[before + 1] - quantile[before]
            mean_A = quantile[before] + step * (position - before)
            half_A = torch.zeros_like(mean_A)
        else:
            rows = read_defocus(self.table)
            row = rows[(uniform[:, 0] * len(rows)).long().clamp(max=len(rows) - 1)]
            mean_A, half_A = (row[:, 0] + row[:, 1]) / 2, (row[:, 0] - row[:, 1]) / 2
            if self.astigmatism_A is None:
                angle_deg = row[:, 2]
        if self.astigmatism_A is not None:
            half_A = torch.full_like(mean_A, self.astigmatism_A / 2)
        values = {
            "defocus_u_A": mean_A + half_A,
            "defocus_v_A": mean_A - half_A,
            "defocus_angle_deg": angle_deg,
            "phase_shift_deg": 0.0,
            "voltage_kV": self.voltage_kV,
            "spherical_aberration_mm": self.spherical_aberration_mm,
            "amplitude_contrast": self.amplitude_contrast,
            "b_factor_A2": self.b_factor_A2,
            "ctf_scale": 1.0,
        }
        return torch.stack(
            [torch.as_tensor(values[p], dtype=torch.float64).expand(len(uniform)) for p in PARAMETERS], dim=1
        )


def read_defocus(path: Path) -> Tensor:
    """Read a table that defoci are drawn from: (n, 3), u and v in Angstrom and the angle in degrees.

    Raises
    ------
    InputError
        The file is not there or says no defocus.
    """
    columns = ["defocus_u_A", "defocus_v_A", "defocus_angle_deg"]
    if not path.is_file():
        raise InputError(f"microscope.table={path} is not there; give a .star, .cs, .pkl or .npz, or null")
    if path.suffix in (".pkl", ".npz"):
        table = read_ctf(path, None, "", np.zeros(1, np.int64))
        values = np.stack([table[column] for column in columns], axis=1)
    else:
        particles = Particles.from_file(path)
        if not particles.has_ctf:
            raise InputError(f"microscope.table={path} says no defocus of its particles")
        values = particles.table[columns].to_numpy(np.float64)
    if not len(values):
        raise InputError(f"microscope.table={path} has no rows")
    return torch.tensor(values)
