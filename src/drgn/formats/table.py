"""The columns of the particle table, and what a reader of one file format hands over to build it."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from drgn.errors import InputError

# name: (dtype, value where a file does not say)
COLUMNS: dict[str, tuple[str, Any]] = {
    "key": ("str", ""),  # unique: the cryoSPARC uid, or "000001@stack name as written"
    "original_image": ("str", ""),  # "000001@stack" of the image that this one was made from, where known
    "source_row": ("int64", -1),  # 0-based row in the file that was read
    "image_path": ("category", ""),  # absolute; as written in the file while the stack has not been found
    "image_index": ("int64", 0),  # 0-based within the stack
    "box_size_px": ("int64", 0),  # 0 while unknown
    "pixel_size_A": ("float64", np.nan),
    "voltage_kV": ("float64", np.nan),
    "spherical_aberration_mm": ("float64", np.nan),
    "amplitude_contrast": ("float64", np.nan),
    "defocus_u_A": ("float64", np.nan),
    "defocus_v_A": ("float64", np.nan),
    "defocus_angle_deg": ("float64", np.nan),
    "phase_shift_deg": ("float64", 0.0),
    "b_factor_A2": ("float64", 0.0),  # >= 0 damps: amplitudes times exp(-B s^2 / 4)
    "ctf_scale": ("float64", 1.0),
    "shift_x_A": ("float64", 0.0),  # moving the image by +shift centres it
    "shift_y_A": ("float64", 0.0),
    "data_sign": ("float64", 1.0),  # +1 protein bright, -1 protein dark
    "ctf_premultiplied": ("bool", False),
    "phase_flipped": ("bool", False),  # multiplied by the sign of the CTF
    "micrograph": ("category", ""),
    "coordinate_x_px": ("float64", np.nan),
    "coordinate_y_px": ("float64", np.nan),
    "optics_group": ("category", ""),
    "half_set": ("int64", 0),  # 1 or 2; 0 unknown
    "group": ("str", ""),  # the physical particle; equal to the key where each image is a particle of its own
}
CTF_COLUMNS = (
    "voltage_kV",
    "spherical_aberration_mm",
    "amplitude_contrast",
    "defocus_u_A",
    "defocus_v_A",
    "defocus_angle_deg",
)
_DESCRIBED = (
    *CTF_COLUMNS,
    *("phase_shift_deg", "b_factor_A2", "pixel_size_A", "shift_x_A", "shift_y_A", "data_sign"),
)
HASHED = 1 << 16  # rows that are hashed at a time


@dataclass(frozen=True, eq=False)
class Source:
    """Where a table came from, with what is needed to write a selection back in the same form.

    Attributes
    ----------
    path : the file that was read
    kind : "star", "cs", "mrcs" or "txt"
    n_rows : how many particles the file has, of which the table may hold a selection
    datadir, passthrough : folder given for the stacks, and passthrough file of a .cs, or None
    rows : the original rows (a frame of a star file, a record array of a .cs), in step with the table; None
        where the file has none, or where they were left in it
    left : whether they were left in the file, see `Particles.leaving_rows`
    group : cs only: the results group that the rows come from, see `cryosparc_group.Group`
    blocks : star only: every block of the file by name, in order; the particle block is empty here
    particle_block : star only: name of the block that `rows` belongs to
    named_from : star only: the folder of its images that a selection of ours names, or None
    replaced : what was given in place of the file's own: "" nothing, "poses" poses and nothing else, "values"
        CTF or pixel size too
    mapping : in which folders stacks were found that are not where the file says; empty where all are
    """

    path: str
    kind: str
    n_rows: int = 0
    datadir: str | None = None
    passthrough: str | None = None
    rows: Any = None
    left: bool = False
    group: Any = None
    blocks: dict[str, pd.DataFrame] = field(default_factory=dict)
    particle_block: str = ""
    named_from: str | None = None
    replaced: Literal["", "poses", "values"] = ""
    mapping: str = ""


class Correction(NamedTuple):
    """What to undo in poses that do not follow the convention of their file.

    Attributes
    ----------
    transpose_rotations : the matrices are the transposes of what they should be
    mirror_images : y of the images runs the other way than the poses believe
    mirror_map : the poses are those of a map of the other hand
    shift_factor : what the shifts must be multiplied by
    """

    transpose_rotations: bool = False
    mirror_images: bool = False
    mirror_map: bool = False
    shift_factor: float = 1.0

    def of(
        self, rotation: NDArray[np.float64], shift_A: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the corrected rotations (N, 3, 3) and shifts (N, 2)."""
        if self.transpose_rotations:
            rotation = rotation.transpose(0, 2, 1)
        if self.mirror_images:
            rotation = np.diag([1.0, -1.0, -1.0]) @ rotation
            shift_A = shift_A * [1.0, -1.0]
        if self.mirror_map:
            mirror = np.diag([1.0, 1.0, -1.0])
            rotation = mirror @ rotation @ mirror
        return np.ascontiguousarray(rotation), shift_A * self.shift_factor


@dataclass(eq=False)
class Parsed:
    """What one file says about its images, before the stacks are looked up.

    Attributes
    ----------
    source : see `Source`
    image_name : (N,) str, the stack's name as written
    image_index : (N,) int64, 0-based
    columns : values for some of `COLUMNS`
    rotation : (N, 3, 3) or None
    shift_px : (N, 2) in pixels of the image, or None when the file has them in Angstrom or not at all
    """

    source: Source
    image_name: "pd.Series[str]"
    image_index: NDArray[np.int64]
    columns: dict[str, Any] = field(default_factory=dict)
    rotation: NDArray[np.float64] | None = None
    shift_px: NDArray[np.float64] | None = None


def build_table(n: int, columns: dict[str, Any]) -> pd.DataFrame:
    """Return a frame of n rows with exactly `COLUMNS`, taken out of `columns`; else their defaults."""
    data = {
        name: pd.Series(columns.pop(name, default), index=pd.RangeIndex(n)).astype(dtype)  # type: ignore[call-overload]
        for name, (dtype, default) in COLUMNS.items()
    }
    return pd.DataFrame(data, copy=False)


def hash_of_values(table: pd.DataFrame, rotation: NDArray[np.float64] | None) -> str:
    """Hash poses and CTF, to four decimals (another processor may differ in the last), whatever their order.

    Parameters
    ----------
    table : N rows, see `COLUMNS`
    rotation : (N, 3, 3) or None
    """
    total = 0
    for start in range(0, len(table), HASHED):
        part = slice(start, start + HASHED)
        values = table[[*_DESCRIBED]].iloc[part].to_numpy(np.float64)
        if rotation is not None:
            values = np.concatenate([values, rotation[part].reshape(-1, 9)], axis=1)
        whole = np.rint(1e4 * np.where(np.isnan(values), 0, values)).astype(np.int64)
        total += int(pd.util.hash_pandas_object(pd.DataFrame(whole), index=False).to_numpy().sum())
    return f"{total % (1 << 64):016x}"


def codes_of(names: "pd.Series[str]") -> tuple[NDArray[np.int64], int]:
    """Number the different names in their order; return each row's number (N,), and how many there are.

    They are sorted, not hashed: that makes no Python object of each.
    """
    words = pa.array(names, type=pa.large_string())
    if isinstance(words, pa.ChunkedArray):
        words = words.combine_chunks()
    order = pc.array_sort_indices(words)
    words = words.take(order)
    codes = np.zeros(len(words), dtype=np.int64)
    np.cumsum(pc.not_equal(words[1:], words[:-1]), out=codes[1:])
    of_row = np.empty_like(codes)
    of_row[order.to_numpy()] = codes
    return of_row, int(codes[-1]) + 1 if len(codes) else 0


def check_finite(values: NDArray[np.float64], path: str, column: str) -> None:
    """Raise an InputError that names the first row (counted from 1) where `values` is NaN or infinite."""
    rows = values.reshape(len(values), -1)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        worst = rows[bad[0]]
        raise InputError(
            f"{path}, particle row {bad[0] + 1}: {column} is {worst[~np.isfinite(worst)][0]}, where a finite "
            f"number is expected ({len(bad)} such rows); correct or remove them."
        )
