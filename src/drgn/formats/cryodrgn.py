"""cryoDRGN's poses, CTF tables and index files (.pkl), and the same arrays as .npz; read and written."""

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats.atomic import replacing
from drgn.formats.npz import read_npy, read_npz
from drgn.formats.pickles import load_pickle, load_pickles
from drgn.formats.table import CTF_COLUMNS, check_finite

__all__ = [
    "load_pickle",
    "load_pickles",
    "read_ctf",
    "read_indices",
    "read_poses",
    "write_cryodrgn",
    "write_ctf_pkl",
    "write_poses_pkl",
]

StrPath = str | os.PathLike[str]

CTF_TABLE = (  # the nine columns of ctf.pkl
    "box_size_px",
    "pixel_size_A",
    "defocus_u_A",
    "defocus_v_A",
    "defocus_angle_deg",
    "voltage_kV",
    "spherical_aberration_mm",
    "amplitude_contrast",
    "phase_shift_deg",
)


def read_poses(
    path: StrPath, n: int | None, particles: str
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Read poses for the n particles of the file `particles`, or (n None) all that there are.

    A pickle holds (rotation, shift), (rotation,) or the rotation alone; an .npz holds `rot` and `trans`.

    Returns
    -------
    rotation : (n, 3, 3)
    shift : (n, 2) in fractions of the box, or None

    Raises
    ------
    InputError
        When the shapes, the count, the rotations (not orthonormal within 1e-3) or the shifts (beyond one box:
        an old format in pixels) are not as expected.
    """
    name = os.fspath(path)
    if Path(name).suffix == ".npz":
        arrays = read_npz(name)
        if "rot" not in arrays:
            raise InputError(f"{name} has no array rot; poses in an .npz are rot (N, 3, 3) and trans (N, 2).")
        parts = [arrays[key] for key in ("rot", "trans") if key in arrays]
    else:
        loaded = load_pickle(name)
        parts = list(loaded) if isinstance(loaded, tuple | list) else [loaded]
    if len(parts) not in (1, 2) or not all(isinstance(part, np.ndarray) for part in parts):
        raise InputError(
            f"{name} does not hold poses: rotations (N, 3, 3), or a pair of them and shifts (N, 2), "
            "are expected."
        )
    rotation = _floats(parts[0], name)
    if rotation.ndim != 3 or rotation.shape[1:] != (3, 3):
        raise InputError(
            f"{name} holds an array of shape {rotation.shape} where rotations (N, 3, 3) are expected; "
            "angles are not read, because a pickle does not say in which convention they are."
        )
    n = len(rotation) if n is None else n
    _check_count(name, len(rotation), "poses", particles, n)
    check_finite(rotation.reshape(n, 9), name, "rotation")
    product = rotation @ rotation.transpose(0, 2, 1)
    bad = (np.abs(product - np.eye(3)).max(axis=(1, 2)) > 1e-3) | (np.linalg.det(rotation) < 0)
    if bad.any():
        raise InputError(
            f"{name}, particle row {np.flatnonzero(bad)[0] + 1}: the 3 x 3 matrix is not a rotation "
            f"(orthonormal, determinant +1); {int(bad.sum())} of {n} are not."
        )
    if len(parts) == 1:
        return rotation, None
    shift = _floats(parts[1], name)
    if shift.shape != (n, 2):
        raise InputError(f"{name} holds shifts of shape {shift.shape} where ({n}, 2) is expected.")
    check_finite(shift, name, "shift")
    if np.abs(shift).max() > 1:
        raise InputError(
            f"{name} holds shifts up to {np.abs(shift).max():.4g}, where fractions of the box (at most 1) "
            "are expected; divide shifts in pixels by the box size."
        )
    return rotation, shift


def read_ctf(path: StrPath, n: int | None, particles: str, box_size_px: NDArray[np.int64]) -> dict[str, Any]:
    """Read a CTF table for the n particles of the file `particles`, as columns of the particle table.

    n None: as many as there are.

    The table may have been made for the images at another binning: its pixel size is multiplied by its box
    over `box_size_px`. Where that is unknown (0), box and pixel size are those of the table. An .npz holds it
    as `ctf` and may add `dose` (A^2; the amplitude weight exp(-4 dose s^2) is the B-factor 16 dose), `scale`
    and `particle` (the physical particle that the image shows).

    Raises
    ------
    InputError
        When the shape or the count is not as expected, or a value is not finite.
    """
    name = os.fspath(path)
    arrays: dict[str, NDArray[Any]] = {}
    if Path(name).suffix == ".npz":
        arrays = read_npz(name)
        loaded = arrays.get("ctf")
    else:
        loaded = load_pickle(name)
    if not isinstance(loaded, np.ndarray) or loaded.ndim != 2 or loaded.shape[1] != len(CTF_TABLE):
        raise InputError(
            f"{name} does not hold a CTF table: an array (N, 9) of {', '.join(CTF_TABLE)} is expected."
        )
    values = _floats(loaded, name)
    n = len(values) if n is None else n
    _check_count(name, len(values), "CTF rows", particles, n)
    columns: dict[str, Any] = {}
    for number, column in enumerate(CTF_TABLE):
        check_finite(values[:, number], name, column)
        columns[column] = values[:, number]
    box = columns.pop("box_size_px")
    columns["box_size_px"] = np.where(box_size_px > 0, box_size_px, box).astype(np.int64)
    columns["pixel_size_A"] = columns["pixel_size_A"] * np.where(
        box_size_px > 0, box / np.maximum(box_size_px, 1), 1.0
    )
    for key, column, factor in (("dose", "b_factor_A2", 16.0), ("scale", "ctf_scale", 1.0)):
        if key in arrays:
            _check_count(name, len(arrays[key]), key, particles, n)
            columns[column] = factor * _floats(arrays[key], name)
            check_finite(columns[column], name, key)
    if "particle" in arrays:
        _check_count(name, len(arrays["particle"]), "particle", particles, n)
        columns["group"] = pd.Series(arrays["particle"]).astype("str")
    return columns


def read_indices(path: StrPath) -> NDArray[np.int64]:
    """Read row indices from a .pkl (array or list), .npy or .txt file."""
    name = os.fspath(path)
    suffix = Path(name).suffix
    try:
        if suffix == ".npy":
            loaded = read_npy(name)
        elif suffix == ".txt":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of an empty file, which is reported below
                loaded = np.loadtxt(name, ndmin=1)
        elif suffix == ".pkl":
            loaded = flat_array(load_pickle(name), name)
        else:
            raise InputError(f"{name} is not an index file: .pkl, .npy or .txt is expected.")
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise InputError(f"{name} cannot be read as row indices ({error}).") from error
    if loaded.ndim == 1 and loaded.dtype.kind == "f" and (loaded == np.round(loaded)).all():
        loaded = loaded.astype(np.int64)
    if loaded.ndim != 1 or loaded.dtype.kind not in "iub":
        raise InputError(
            f"{name} holds {loaded.dtype} of shape {loaded.shape}, where a list of row indices is expected."
        )
    return loaded if loaded.dtype == bool else loaded.astype(np.int64)


def flat_array(value: Any, path: str) -> NDArray[Any]:
    """Return an array from a pickle as it is, and a list of numbers as an array."""
    if isinstance(value, list | tuple) and all(isinstance(item, int | float | np.number) for item in value):
        return np.asarray(value)
    if not isinstance(value, np.ndarray):
        raise InputError(f"{path} holds a {type(value).__name__}, where an array of numbers is expected.")
    return value


def write_poses_pkl(
    path: StrPath,
    rotation: NDArray[np.float64],
    shift_A: NDArray[np.float64],
    box_size_px: int,
    pixel_size_A: float,
) -> None:
    """Write (rotation (N, 3, 3), shift (N, 2) in fractions of the box) as float32, as cryoDRGN reads it."""
    shift = np.asarray(shift_A, dtype=np.float64) / (box_size_px * pixel_size_A)
    with replacing(path) as temporary:
        temporary.write_bytes(pickle.dumps((rotation.astype(np.float32), shift.astype(np.float32))))


def write_ctf_pkl(path: StrPath, table: pd.DataFrame) -> None:
    """Write the CTF columns of a particle table as cryoDRGN's float32 (N, 9)."""
    with replacing(path) as temporary:
        temporary.write_bytes(pickle.dumps(table[list(CTF_TABLE)].to_numpy(dtype=np.float32)))


def write_cryodrgn(
    folder: StrPath,
    table: pd.DataFrame,
    rotation: NDArray[np.float64] | None,
    rows: NDArray[np.int64] | None = None,
) -> list[str]:
    """Write poses.pkl, ctf.pkl and, for a selection, ind.pkl, which cryoDRGN takes with the particle file.

    cryoDRGN applies ind.pkl to the images, the poses and the CTF alike: they all have a row for each particle
    of the file. Poses or CTF that are not known are not written. cryoDRGN knows no B-factors.

    Parameters
    ----------
    folder : made where it is missing
    table : the particle table of the whole file, or a selection that is a file of its own (then without rows)
    rotation : (N, 3, 3), or None
    rows : rows of the table to select, or None for all

    Returns
    -------
    list of str
        The options of `cryodrgn train_vae` that go with the files, `--uninvert-data` where protein is dark.

    Raises
    ------
    InputError
        When cryoDRGN cannot be given these particles: images of several sizes, pixel sizes or signs, or
        multiplied by their CTF or its sign; or when the CTF is known only in part.
    """
    place = Path(folder)
    if rows is not None and not np.array_equal(table["source_row"], np.arange(len(table))):
        raise ValueError("rows select from the table of a whole file")
    for column, what in (
        ("box_size_px", "box size"),
        ("pixel_size_A", "pixel size"),
        ("data_sign", "sign of the data"),
    ):
        if table[column].nunique(dropna=False) != 1:
            raise InputError(
                f"{place}: these particles differ in their {what}, and cryoDRGN takes only one; select those "
                "of one first."
            )
    for column, what in (("ctf_premultiplied", "CTF"), ("phase_flipped", "sign of their CTF")):
        if table[column].any():
            raise InputError(
                f"{place}: these images are multiplied by the {what}, which cryoDRGN cannot be told; give it "
                "the images as they were extracted."
            )
    options: list[str] = []
    box, pixel_A = int(table["box_size_px"].iloc[0]), float(table["pixel_size_A"].iloc[0])
    if (rotation is not None or table["defocus_u_A"].notna().any()) and not (box > 0 and pixel_A > 0):
        raise InputError(
            f"{place}: poses and CTF need the box and the pixel size of the images; find the stacks, or set "
            "pixel_size_A=VALUE."
        )
    if rotation is not None:
        shift_A = table[["shift_x_A", "shift_y_A"]].to_numpy()
        write_poses_pkl(place / "poses.pkl", rotation, shift_A, box, pixel_A)
        options += ["--poses", str(place / "poses.pkl")]
    if table["defocus_u_A"].notna().any():
        for column in CTF_COLUMNS:
            check_finite(table[column].to_numpy(np.float64), str(place), column)
        write_ctf_pkl(place / "ctf.pkl", table)
        options += ["--ctf", str(place / "ctf.pkl")]
    if rows is not None:
        with replacing(place / "ind.pkl") as temporary:
            temporary.write_bytes(pickle.dumps(np.asarray(rows, dtype=np.int64)))
        options += ["--ind", str(place / "ind.pkl")]
    else:
        (place / "ind.pkl").unlink(missing_ok=True)  # of an earlier selection
    return [*options, "--uninvert-data"] if table["data_sign"].iloc[0] < 0 else options


def _floats(array: Any, path: str) -> NDArray[np.float64]:
    try:
        return np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} holds values that are not numbers ({error}).") from error


def _check_count(path: str, count: int, what: str, particles: str, n: int) -> None:
    if count != n:
        raise InputError(
            f"{path} has {count} {what}, but {particles} has {n} particles; both must have one row an image."
        )
