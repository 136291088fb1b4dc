"""cryoSPARC particles (.cs, with passthrough files, or .csg) into the particle table.

Shifts are in pixels of the psize_A beside them (`alignments3D/psize_A`), which is not always the pixel size
of the images (`blob/psize_A`): a refinement may have been run on the particles at another binning.
"""

import os
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from drgn.errors import InputError
from drgn.formats.cryosparc_group import Group, load
from drgn.formats.cryosparc_records import describe
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


def matrix_to_rotvec(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Rodrigues vectors (N, 3) in radians of R (N, 3, 3): the inverse of `rotvec_to_matrix`."""
    vector: NDArray[np.float64] = Rotation.from_matrix(rotation.transpose(0, 2, 1)).as_rotvec()
    return vector


@dataclass(frozen=True)
class _Alignment:
    """Poses of one class a particle, as in the file: pose (N, 3), shift (N, 2), size_A (N,), split (N,)."""

    pose: NDArray[np.float64]
    shift: NDArray[np.float64] | None
    size_A: NDArray[np.float64] | None
    split: NDArray[np.float64] | None


def read(path: str, passthrough: str | os.PathLike[str] | None = None) -> Parsed:
    """Read a particle .cs with its passthrough, or a .csg; `cryosparc_group.load` says how they are found.

    Where a job has aligned each particle to several classes, the pose is that of the class with the highest
    posterior. Poses of the job itself are preferred to those of its passthrough.

    Raises
    ------
    InputError
        When there are no images (blob/path, blob/idx), a field has another form than cryoSPARC gives it, or
        a number that is used is not finite.
    """
    records, group = load(path, passthrough)
    fields = records.dtype.names or ()
    if "blob/path" not in fields or "blob/idx" not in fields:
        raise InputError(
            f"{path} has no fields blob/path and blob/idx; give the particles .cs of a job, "
            "not its passthrough, or the .csg that names both."
        )
    if not len(records):
        raise InputError(f"{path} has no particles.")

    columns: dict[str, Any] = {ours: _number(records, theirs, path) for ours, theirs in _NUMBERS.items()}
    for angle in ("defocus_angle_deg", "phase_shift_deg"):
        if columns[angle] is not None:
            columns[angle] = np.degrees(columns[angle])
    if columns["b_factor_A2"] is not None:
        columns["b_factor_A2"] = np.abs(columns["b_factor_A2"])
    columns["box_size_px"] = _boxes(records, path)
    for column, field in (("key", "uid"), ("optics_group", "ctf/exp_group_id")):
        if field in fields:
            columns[column] = pd.Series(_integers(records, field, path)).astype("str")
    _read_location(records, columns, path)

    own = [name for name in fields if name not in group.passthrough]
    aligned = _alignment(records, own, path) or _alignment(records, group.passthrough, path)
    rotation, shift_px = None, None
    if aligned is not None:
        rotation = rotvec_to_matrix(aligned.pose)
        columns["half_set"] = _half_sets(aligned.split)
        if aligned.shift is not None and aligned.size_A is not None:
            columns["shift_x_A"], columns["shift_y_A"] = (aligned.shift * aligned.size_A[:, None]).T
        else:
            shift_px = aligned.shift
    return Parsed(
        source=Source(path=path, kind="cs", rows=records, group=group),
        image_name=_text(records, "blob/path", path).str.removeprefix(">"),
        image_index=_integers(records, "blob/idx", path).astype(np.int64),
        columns={name: value for name, value in columns.items() if value is not None},
        rotation=rotation,
        shift_px=shift_px,
    )


def with_poses(
    records: NDArray[Any], group: Group, rotation: NDArray[np.float64], table: pd.DataFrame
) -> tuple[NDArray[Any], Group]:
    """Return records with these poses as alignments3D/pose and shift, where `read` looks first, and a group.

    All other fields and all types are kept. A shift is written in pixels of alignments3D/psize_A where there
    is such a field, else of the image. What belongs to alignments3D is of the file itself in the group, and
    not of its passthrough.

    Parameters
    ----------
    records
        (N,), in step with `rotation` (N, 3, 3) and the particle table.

    Raises
    ------
    InputError
        When the pixel size of an image is needed and unknown.
    """
    names = records.dtype.names or ()
    if "alignments3D/psize_A" in names:
        size_A = records["alignments3D/psize_A"].astype(np.float64)
    else:
        size_A = table["pixel_size_A"].to_numpy(np.float64)
        if not np.isfinite(size_A).all():
            raise InputError(
                "the pixel size is unknown, of which a .cs gives shifts: set pixel_size_A=VALUE."
            )
    shift_A = table[["shift_x_A", "shift_y_A"]].to_numpy(np.float64)
    new = {"alignments3D/pose": matrix_to_rotvec(rotation), "alignments3D/shift": shift_A / size_A[:, None]}
    if "alignments3D/split" not in names and (table["half_set"] > 0).all():
        new["alignments3D/split"] = table["half_set"].to_numpy() - 1
    added = [
        (name, "<u4" if name.endswith("split") else "<f4", values.shape[1:])
        for name, values in new.items()
        if name not in names
    ]
    result = np.empty(len(records), dtype=[*describe(records), *added])
    for name in names:
        result[name] = records[name]
    for name, values in new.items():
        result[name] = values
    passed = tuple(name for name in group.passthrough if not name.startswith("alignments3D/"))
    return result, replace(group, passthrough=passed)


def _alignment(records: NDArray[Any], fields: Any, path: str) -> _Alignment | None:
    """Return the poses among `fields`, or None where there are none."""
    if "alignments3D/pose" in fields:
        return _of_class("alignments3D", records, path)
    classes = sorted(
        (match[1], int(match[2]))
        for match in (re.fullmatch(r"(alignments_class(?:3D)?_)(\d+)/pose", name) for name in fields)
        if match
    )
    classes = [(stem, number) for stem, number in classes if stem == classes[0][0]]
    if len(classes) == 1:
        return _of_class(f"{classes[0][0]}{classes[0][1]}", records, path)
    if classes:
        return _of_best_class([f"{stem}{number}" for stem, number in classes], records, path)
    if "alignments3D_multi/pose" in fields:
        return _of_best_column(records, path)
    return None


def _of_class(prefix: str, records: NDArray[Any], path: str) -> _Alignment:
    pose = _number(records, f"{prefix}/pose", path, (3,))
    assert pose is not None
    return _Alignment(
        pose,
        _number(records, f"{prefix}/shift", path, (2,)),
        _sizes(_number(records, f"{prefix}/psize_A", path), f"{prefix}/psize_A", path),
        _number(records, f"{prefix}/split", path),
    )


def _of_best_class(prefixes: list[str], records: NDArray[Any], path: str) -> _Alignment:
    """Take each particle's pose from the class of the highest posterior (of equals, the first)."""
    posteriors = [_number(records, f"{prefix}/class_posterior", path) for prefix in prefixes]
    known = [posterior for posterior in posteriors if posterior is not None]
    if len(known) < len(prefixes):
        raise InputError(
            f"{path} has poses of {len(prefixes)} classes but {len(known)} fields class_posterior, which say "
            "to which class a particle belongs; give the .cs of one class."
        )
    best = np.argmax(known, axis=0)

    def pick(field: str, shape: tuple[int, ...] = ()) -> NDArray[np.float64] | None:
        present = [f"{prefix}/{field}" in (records.dtype.names or ()) for prefix in prefixes]
        if not all(present):
            return None
        values = np.empty((len(records), *shape))
        for number, prefix in enumerate(prefixes):
            rows = best == number
            values[rows] = _raw(records, f"{prefix}/{field}", path, shape)[rows]
        check_finite(values, path, f"{field} of the best class")
        return values

    pose = pick("pose", (3,))
    assert pose is not None
    sizes = _sizes(pick("psize_A"), "psize_A of the best class", path)
    return _Alignment(pose, pick("shift", (2,)), sizes, pick("split"))


def _of_best_column(records: NDArray[Any], path: str) -> _Alignment:
    """The same for alignments3D_multi, of newer versions, whose fields have a column a class."""
    prefix = "alignments3D_multi"
    classes = records.dtype[f"{prefix}/pose"].shape[:1]
    field = f"{prefix}/class_posterior"
    if field not in (records.dtype.names or ()) or not classes or not classes[0]:
        raise InputError(
            f"{path} has {prefix}/pose but no {field}, which says whose pose is each particle's."
        )
    posterior = _number(records, field, path, classes)
    best = np.argmax(posterior, axis=1)  # type: ignore[arg-type]

    def pick(name: str, shape: tuple[int, ...] = ()) -> NDArray[np.float64] | None:
        if name not in (records.dtype.names or ()):
            return None
        each = records.dtype[name].shape == (*classes, *shape)
        values = _raw(records, name, path, (*classes, *shape) if each else shape)
        values = values[np.arange(len(records)), best] if each else values
        check_finite(values, path, name)
        return values

    pose = pick(f"{prefix}/pose", (3,))
    assert pose is not None
    sizes = _sizes(pick(f"{prefix}/psize_A"), f"{prefix}/psize_A", path)
    return _Alignment(pose, pick(f"{prefix}/shift", (2,)), sizes, pick(f"{prefix}/split"))


def _sizes(size_A: NDArray[np.float64] | None, field: str, path: str) -> NDArray[np.float64] | None:
    if size_A is not None and (size_A <= 0).any():
        row = np.flatnonzero(size_A <= 0)[0]
        raise InputError(
            f"{path}, particle row {row + 1}: {field} is {size_A[row]:g}, but shifts are in pixels of it, so "
            "it must be positive; correct it."
        )
    return size_A


def _half_sets(split: NDArray[np.float64] | None) -> NDArray[np.int64] | None:
    """Return 1 or 2 for cryoSPARC's 0 or 1; None where all are 0, which is also what an unset field holds."""
    if split is None or not np.isin(split, [0, 1]).all() or not split.any():
        return None
    return split.astype(np.int64) + 1


def _boxes(records: NDArray[Any], path: str) -> NDArray[np.int64] | None:
    if "blob/shape" not in (records.dtype.names or ()):
        return None
    shape = _integers(records, "blob/shape", path, (2,)).astype(np.int64)
    bad = np.flatnonzero((shape[:, 0] != shape[:, 1]) | (shape[:, 0] < 1))
    if len(bad):
        raise InputError(
            f"{path}, particle row {bad[0] + 1}: blob/shape is {shape[bad[0]].tolist()}, where square images "
            "are expected; extract the particles again in a square box."
        )
    return shape[:, 0]


def _number(
    records: NDArray[Any], field: str, path: str, shape: tuple[int, ...] = ()
) -> NDArray[np.float64] | None:
    if field not in (records.dtype.names or ()):
        return None
    values = _raw(records, field, path, shape)
    check_finite(values, path, field)
    return values


def _raw(records: NDArray[Any], field: str, path: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    dtype = records.dtype[field]
    if dtype.base.kind not in "iuf" or dtype.shape != shape:
        raise InputError(
            f"{path} holds {field} as {dtype}, where "
            f"{'x'.join(map(str, shape)) or 'one'} number{'s' if shape else ''} a particle is expected."
        )
    return records[field].astype(np.float64)


def _integers(
    records: NDArray[Any], field: str, path: str, shape: tuple[int, ...] = ()
) -> NDArray[np.integer[Any]]:
    dtype = records.dtype[field]
    if dtype.base.kind not in "iu" or dtype.shape != shape:
        raise InputError(f"{path} holds {field} as {dtype}, where whole numbers are expected.")
    values: NDArray[np.integer[Any]] = records[field].astype(dtype.base.newbyteorder("="))
    if dtype.base.kind == "i" and (values < 0).any():
        row = np.flatnonzero((values < 0).reshape(len(values), -1).any(axis=1))[0]
        raise InputError(f"{path}, particle row {row + 1}: {field} is negative.")
    return values


def _read_location(records: NDArray[Any], columns: dict[str, Any], path: str) -> None:
    """Add the micrograph, and the position on it in pixels (cryoSPARC stores fractions of its size)."""
    fields = records.dtype.names or ()
    if "location/micrograph_path" in fields:
        columns["micrograph"] = _text(records, "location/micrograph_path", path).str.removeprefix(">")
    shape = _number(records, "location/micrograph_shape", path, (2,))
    x = _number(records, "location/center_x_frac", path)
    y = _number(records, "location/center_y_frac", path)
    if shape is not None and x is not None and y is not None:
        height, width = shape.T  # stored as (y, x)
        columns["coordinate_x_px"], columns["coordinate_y_px"] = x * width, y * height


def _text(records: NDArray[Any], field: str, path: str) -> "pd.Series[str]":
    """Decode a field of bytes (or, from newer versions, of text), each distinct value once."""
    if records.dtype[field].kind not in "SU":
        raise InputError(f"{path} holds {field} as {records.dtype[field]}, where text is expected.")
    try:
        codes, distinct = pd.factorize(records[field])
        decoded = [value.decode() if isinstance(value, bytes) else str(value) for value in distinct]
        return pd.Series(decoded, dtype="str").take(codes).reset_index(drop=True)
    except ValueError as error:  # includes text that is not UTF-8
        raise InputError(f"{path} holds {field} that cannot be read as text ({error}).") from error
