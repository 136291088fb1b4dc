"""What the correlation of two maps says: a table, a picture and one line."""

from pathlib import Path

import numpy as np
import pandas as pd

from drgn.formats.atomic import replacing
from drgn.physics.fsc import Correlations, resolution_A
from drgn.scoring.plots import fsc_curves

_SHOWN = {
    "unmasked": "unmasked",
    "loose": "loose mask",
    "masked": "mask",
    "randomised": "mask, phases randomised",
    "corrected": "mask, corrected",
}


def table(found: Correlations, box_size: int, pixel_size_A: float) -> pd.DataFrame:
    """One row for each shell: its frequency and the five curves."""
    shell = np.arange(len(found.unmasked))
    frequency = shell / (box_size * pixel_size_A)
    with np.errstate(divide="ignore"):
        columns = {"shell": shell, "frequency_1_A": frequency, "resolution_A": 1 / frequency}
    return pd.DataFrame({**columns, **{name: getattr(found, name).numpy() for name in _SHOWN}})


def write(
    found: Correlations, box_size: int, pixel_size_A: float, folder: Path, title: str, stem: str = "fsc"
) -> None:
    """Write fsc.csv and fsc.png into a folder, or files of another stem."""
    with replacing(folder / f"{stem}.csv") as temporary:
        table(found, box_size, pixel_size_A).to_csv(temporary, index=False, float_format="%.6g")
    shown = np.stack([getattr(found, name).numpy() for name in _SHOWN])
    names = [*_SHOWN.values()]
    if len(found.misled):
        names[-1] += " (not usable)"
    fsc_curves(
        {title: shown},
        pixel_size_A,
        folder / f"{stem}.png",
        names,
        box_size=box_size,
        label="Fourier shell correlation",
    )


def corrected_A(found: Correlations, box_size: int, pixel_size_A: float, threshold: float) -> float:
    """Resolution of the corrected curve, or of the unmasked one where the mask misleads."""
    return resolution_A(found.read, pixel_size_A, threshold, box_size=box_size)


def sentence(found: Correlations, box_size: int, pixel_size_A: float) -> str:
    """Resolutions at 0.5 and 0.143 of all curves but the randomised one; the one to believe comes first."""
    said = []
    misled = found.misled.numpy()
    names = ("unmasked", "loose", "masked") if len(misled) else ("corrected", "masked", "loose", "unmasked")
    for name in names:
        values = [
            resolution_A(getattr(found, name), pixel_size_A, threshold, box_size=box_size)
            for threshold in (0.5, 0.143)
        ]
        said.append(f"{name} {values[0]:.4g} A at 0.5 and {values[1]:.4g} A at 0.143")
    if len(misled):
        first_A, last_A = box_size * pixel_size_A / misled[[0, -1]]
        said.append(
            f"no corrected value: between {first_A:.3g} A and {last_A:.3g} A the maps agree in this mask no"
            " better than with random phases: the mask alone does that; give a wider or softer one"
        )
    return "; ".join(said)
