"""The optics groups of a RELION star file: which block describes them, and which group a particle is in."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats.star_values import numbers_of


def optics_block(blocks: dict[str, pd.DataFrame], particle_block: str) -> str | None:
    """Return the name of the block that describes the optics groups, None where there is none."""
    others = [name for name in blocks if name != particle_block]
    if "optics" in others:
        return "optics"
    described = {"rlnOpticsGroupName", "rlnImagePixelSize", "rlnVoltage"}
    for name in others:
        columns = set(blocks[name])
        if "rlnOpticsGroup" in columns and columns & described and "rlnMicrographName" not in columns:
            return name
    return None


def optics_rows(path: str, particles: pd.DataFrame, optics: pd.DataFrame, block: str) -> NDArray[np.intp]:
    """Return for each particle its row in the optics block.

    Raises
    ------
    InputError
        When the optics groups are not numbered uniquely, or a particle's group is not among them.
    """
    if "rlnOpticsGroup" not in optics or not group_labels(optics["rlnOpticsGroup"]).is_unique:
        raise InputError(f"{path}: the block data_{block} needs a column rlnOpticsGroup with unique numbers.")
    if "rlnOpticsGroup" not in particles:
        if not len(optics):
            raise InputError(f"{path}: the block data_{block} has no rows, where one a group is expected.")
        if len(optics) > 1:
            raise InputError(
                f"{path} has {len(optics)} optics groups, but its particles have no column rlnOpticsGroup; "
                "add it."
            )
        return np.zeros(len(particles), dtype=np.intp)
    groups = group_labels(particles["rlnOpticsGroup"])
    rows = pd.Index(group_labels(optics["rlnOpticsGroup"])).get_indexer(pd.Index(groups))
    bad = np.flatnonzero(rows < 0)
    if len(bad):
        raise InputError(
            f"{path}, particle row {bad[0] + 1}: optics group {groups.iloc[bad[0]]} is not in the block "
            f"data_{block}; add it there."
        )
    return rows


def group_labels(column: "pd.Series[Any]") -> "pd.Series[str]":
    """Return the numbers of optics groups as text: 1, "01" and 1.0 are the same group."""
    codes, written = pd.factorize(column, use_na_sentinel=False)
    numbers = numbers_of(pd.Series(written))
    labels = [
        str(int(number)) if np.isfinite(number) and number == np.trunc(number) else str(label)
        for number, label in zip(numbers, written, strict=True)
    ]
    return pd.Series(labels, dtype="str").take(codes).reset_index(drop=True)


def magnified_pixel_size_A(
    detector_um: NDArray[np.float64], magnification: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the pixel size of RELION 3.0; exactly `detector_um` at a magnification of 10000."""
    return detector_um * (1e4 / magnification)
