"""cryoSPARC particle files (.cs: one numpy record a particle) into the particle table, and back.

The shift is in pixels of `alignments3D/psize_A`, which is not always the pixel size of the images
(`blob/psize_A`): a refinement may have been run on the particles at another binning.
"""

import os
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from drgn.errors import InputError
from drgn.formats.atomic import replacing
from drgn.formats.table import Parsed, Source, check_finite

_NUMBERS = {
    "pixel_size_A": "blob/psize_A",
    "data_sign": "blob/sign",
    "voltage_kV": "ctf/accel_kv",
    "spherical_aberration_mm": "ctf/cs_mm",
    "amplitude_contrast": "ctf/amp_contrast",
    "defocus_u_A": "ctf/df1_A",
    "defocus_v_A": "ctf/df2_A",
    "defocus_angle_deg": "ctf/df_angle_rad",
    "phase_shift_deg": "ctf/phase_shift_rad",
    "b_factor_A2": "ctf/bfactor",
}


def rotvec_to_matrix(pose: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return R, (N, 3, 3), of Rodrigues vectors (N, 3) in radians: the transpose of their exponential map."""
    matrix: NDArray[np.float64] = Rotation.from_rotvec(np.asarray(pose, dtype=np.float64)).as_matrix()
    return np.ascontiguousarray(matrix.transpose(0, 2, 1))


def read(path: str) -> Parsed:
    """Read a particle .cs.

    Raises
    ------
    InputError
        When the file is not a .cs with images (blob/path, blob/idx), or a number that is used is not finite.
    """
    try:
        records = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as a cryoSPARC .cs file ({error}).") from error
    fields = records.dtype.names if isinstance(records, np.ndarray) else None
    if fields is None or "blob/path" not in fields or "blob/idx" not in fields:
        raise InputError(
            f"{path} has no fields blob/path and blob/idx; give the particles .cs of a job, "
            "not its passthrough."
        )
    if not len(records):
        raise InputError(f"{path} has no particles.")

    columns: dict[str, Any] = {ours: _number(records, theirs, path) for ours, theirs in _NUMBERS.items()}
    for angle in ("defocus_angle_deg", "phase_shift_deg"):
        if columns[angle] is not None:
            columns[angle] = np.degrees(columns[angle])
    if columns["b_factor_A2"] is not None:
        columns["b_factor_A2"] = np.abs(columns["b_factor_A2"])
    if "blob/shape" in fields:
        columns["box_size_px"] = records["blob/shape"][:, 0].astype(np.int64)
    if "uid" in fields:
        columns["key"] = pd.Series(records["uid"]).astype("str")
    if "ctf/exp_group_id" in fields:
        columns["optics_group"] = pd.Series(records["ctf/exp_group_id"]).astype("str")
    if "alignments3D/split" in fields and np.unique(records["alignments3D/split"]).tolist() == [0, 1]:
        columns["half_set"] = records["alignments3D/split"].astype(np.int64) + 1
    _read_location(records, columns, path)

    rotation, shift_px = None, None
    pose = _number(records, "alignments3D/pose", path)
    if pose is not None:
        rotation = rotvec_to_matrix(pose)
    shift = _number(records, "alignments3D/shift", path)
    size_A = _number(records, "alignments3D/psize_A", path)
    if shift is not None and size_A is not None:
        columns["shift_x_A"], columns["shift_y_A"] = (shift * size_A[:, None]).T
    elif shift is not None:
        shift_px = shift
    return Parsed(
        source=Source(path=path, kind="cs", rows=records),
        image_name=_text(records["blob/path"]).str.removeprefix(">"),
        image_index=records["blob/idx"].astype(np.int64),
        columns={name: value for name, value in columns.items() if value is not None},
        rotation=rotation,
        shift_px=shift_px,
    )


def write(path: str | os.PathLike[str], records: NDArray[Any]) -> None:
    """Write records as cryoSPARC does, fields and types unchanged."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, records, allow_pickle=False)


def _number(records: NDArray[Any], field: str, path: str) -> NDArray[np.float64] | None:
    if field not in (records.dtype.names or ()):
        return None
    values = records[field].astype(np.float64)
    check_finite(values, path, field)
    return values


def _read_location(records: NDArray[Any], columns: dict[str, Any], path: str) -> None:
    """Add the micrograph, and the position on it in pixels (cryoSPARC stores fractions of its size)."""
    fields = records.dtype.names or ()
    if "location/micrograph_path" in fields:
        columns["micrograph"] = _text(records["location/micrograph_path"]).str.removeprefix(">")
    if "location/micrograph_shape" in fields:
        height, width = records["location/micrograph_shape"].astype(np.float64).T  # stored as (y, x)
        x = _number(records, "location/center_x_frac", path)
        y = _number(records, "location/center_y_frac", path)
        if x is not None and y is not None:
            columns["coordinate_x_px"], columns["coordinate_y_px"] = x * width, y * height


def _text(values: NDArray[Any]) -> "pd.Series[str]":
    """Decode a field of bytes (or, from newer versions, of text), each distinct value once."""
    codes, distinct = pd.factorize(values)
    decoded = [value.decode() if isinstance(value, bytes) else str(value) for value in distinct]
    return pd.Series(decoded, dtype="str").take(codes).reset_index(drop=True)
