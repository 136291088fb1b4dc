"""What was found about states, written: maps, curves, numbers, pictures, and one table of all states."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from drgn.analysis.volumes import VolumeFiles
from drgn.evidence.pictures import curves, views
from drgn.evidence.validation import Evidence, differences
from drgn.formats.atomic import for_spreadsheets, replacing
from drgn.formats.mrc import write_volume
from drgn.physics.fsc import Correlations, resolution_A
from drgn.scoring import resolution

_CURVES = ("unmasked", "loose", "masked", "corrected")


def write(found: Evidence, key: np.ndarray, folder: Path) -> None:
    """Write half_map_1.mrc, half_map_2.mrc, map.mrc, weights.npz, fsc.csv, pictures and validate.json.

    Parameters
    ----------
    found
        About one state.
    key
        (N,) of the images of the table.
    folder
        Created when it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    maps = {
        "half_map_1": found.half_maps[0],
        "half_map_2": found.half_maps[1],
        "map": found.density,
    }
    for name, volume in maps.items():
        write_volume(folder / f"{name}.mrc", volume.numpy(), found.pixel_size_A)
    with replacing(folder / "weights.npz") as temporary:
        np.savez(temporary, key=np.asarray(key, np.str_), weight=found.state.weight)
    with replacing(folder / "fsc.csv") as temporary:
        curve_table(found).to_csv(temporary, index=False, float_format="%.6g")
    curves(found, folder / "fsc.png")
    views(found, folder / "views.png")
    with replacing(folder / "validate.json") as temporary:
        temporary.write_text(json.dumps(numbers(found), indent=2) + "\n")


def curve_table(found: Evidence) -> pd.DataFrame:
    """One row for each shell; the curves between the half maps, then those with the neural map."""
    size = found.density.shape[-1]
    halves, neural = (
        resolution.table(pair, size, found.pixel_size_A) for pair in (found.halves, found.agreement)
    )
    frame = halves.iloc[:, :3]
    return frame.join([halves.iloc[:, 3:].add_prefix("halves_"), neural.iloc[:, 3:].add_prefix("neural_")])


def numbers(found: Evidence) -> dict[str, object]:
    """All numbers of one state; null for a resolution that is not reached anywhere."""
    return {
        "state": found.state.title,
        "z": [float(value) for value in found.state.z],
        "kernel_width": found.state.kernel_width,
        "n_images": found.n_images,
        "n_particles": found.n_particles,
        "n_effective": found.n_effective,
        "halves_A": _finite(found.halves_A),
        "neural_A": _finite(found.neural_A),
        "supported_A": _finite(found.supported_A),
        "fsc_halves_A": _resolutions(found.halves, found),
        "fsc_neural_A": _resolutions(found.agreement, found),
        "sentence": found.sentence(),
    }


def row(found: Evidence | str) -> dict[str, object]:
    """One state in the table of all; only the sentence where it could not be examined."""
    if isinstance(found, str):
        return {"state": found.split(":")[0], "sentence": found}
    names = ("state", "n_particles", "n_effective", "halves_A", "neural_A", "supported_A", "sentence")
    return {name: numbers(found)[name] for name in names}


def tell_apart(
    rows: Sequence[dict[str, object]], neural: Sequence[Path], density: Sequence[Path], pixel_size_A: float
) -> None:
    """Add `validation.differences` to the rows of states that were examined, from their maps on disk."""
    at = [i for i, one in enumerate(rows) if "n_particles" in one]
    maps = (VolumeFiles([paths[i] for i in at]) for paths in (neural, density))
    for i, value in zip(at, differences(*maps, pixel_size_A), strict=True):
        if np.isfinite(value):
            rows[i]["difference"] = value
            rows[i]["sentence"] = (
                f"{rows[i]['sentence']} Its difference from the mean of these states correlates {value:.2f}"
                " with that of its images."
            )


def write_table(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Write states.csv, one row for each state."""
    columns = ["state", "n_particles", "n_effective", "halves_A", "neural_A", "supported_A", "difference"]
    columns.append("sentence")
    with replacing(path) as temporary:
        table = pd.DataFrame(rows, columns=columns)
        for_spreadsheets(table.astype({"n_particles": "Int64"})).to_csv(
            temporary, index=False, float_format="%.5g"
        )


def _resolutions(pair: Correlations, found: Evidence) -> dict[str, dict[str, float | None]]:
    size = found.density.shape[-1]
    return {
        name: {
            str(threshold): _finite(
                resolution_A(getattr(pair, name), found.pixel_size_A, threshold, box_size=size)
            )
            for threshold in (0.5, 0.143)
        }
        for name in _CURVES
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
