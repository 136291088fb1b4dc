"""Build the particle table: parse a file, find its stacks, apply what the caller gives in its place."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats import cryodrgn, cryosparc, relion
from drgn.formats.identity import match
from drgn.formats.locate import Located, find_stacks, missing_stack
from drgn.formats.mrc import read_stack_header
from drgn.formats.stacks import read_stack_headers
from drgn.formats.table import CTF_COLUMNS, Correction, Parsed, Source, build_table, codes_of

StrPath = str | os.PathLike[str]
Rows = NDArray[np.integer[Any]] | NDArray[np.bool_]


_GIVEN = (
    "passthrough",
    "poses",
    "ctf",
    "datadir",
    "pixel_size_A",
    "data_sign",
    "ctf_premultiplied",
    "phase_flipped",
)


def read_particles(
    path: StrPath,
    *,
    passthrough: StrPath | None = None,
    poses: StrPath | None,
    ctf: StrPath | None,
    datadir: StrPath | None,
    pixel_size_A: float | None,
    data_sign: float | None,
    ctf_premultiplied: bool | None,
    phase_flipped: bool | None,
    correction: Correction,
) -> tuple[pd.DataFrame, NDArray[np.float64] | None, Source]:
    """Return table, rotation and source; see `Particles.from_file`."""
    name = os.fspath(path)
    parsed = parse(name, passthrough, datadir)
    n = len(parsed.image_index)
    replaced: Literal["", "poses", "values"] = ""
    if any(value is not None for value in (ctf, pixel_size_A, ctf_premultiplied, phase_flipped)):
        replaced = "values"
    elif poses is not None or correction != Correction():
        replaced = "poses"
    source = replace(
        parsed.source,
        n_rows=n,
        datadir=None if datadir is None else os.fspath(datadir),
        passthrough=None if passthrough is None else os.fspath(passthrough),
        replaced=replaced,
    )
    columns = parsed.columns  # not a second one: `build_table` takes out what it has copied
    columns |= {"source_row": np.arange(n), "image_index": parsed.image_index}
    boxes_must_agree = pixel_size_A is None and ctf is None
    columns["image_path"], box, header_pixel_A, mapping = _locate(parsed, source, boxes_must_agree)
    source = replace(source, mapping=mapping)
    columns["box_size_px"] = box
    if ctf is not None and not _is_table(ctf):
        columns.update(cryodrgn.read_ctf(ctf, n, name, box))
    if pixel_size_A is not None:
        columns["pixel_size_A"] = float(pixel_size_A)
    columns.setdefault("pixel_size_A", header_pixel_A)

    rotation, shift_px = parsed.rotation, parsed.shift_px
    if poses is not None and not _is_table(poses):
        rotation, fraction = cryodrgn.read_poses(poses, n, name)
        columns["shift_x_A"] = columns["shift_y_A"] = 0.0
        shift_px = None if fraction is None else fraction * _boxes_px(columns, source)[:, None]
    if shift_px is not None:
        shift_A = shift_px * np.broadcast_to(columns["pixel_size_A"], n)[:, None]
        shift_A[shift_px == 0] = 0.0  # also where the pixel size is unknown
        if not np.isfinite(shift_A).all():
            raise InputError(
                f"{name} has shifts in pixels but no pixel size of its images; set pixel_size_A=VALUE."
            )
        columns["shift_x_A"], columns["shift_y_A"] = shift_A.T
    if data_sign is not None:
        columns["data_sign"] = float(data_sign)
    if ctf_premultiplied is not None:
        columns["ctf_premultiplied"] = ctf_premultiplied
    if phase_flipped is not None:
        columns["phase_flipped"] = phase_flipped
    columns["key"] = keys_of(parsed, name)
    columns.setdefault("group", columns["key"])
    table = build_table(n, columns)
    if ctf is not None and _is_table(ctf):
        other, _, rows = _joined(table, name, ctf)
        for column in (*CTF_COLUMNS, "phase_shift_deg", "b_factor_A2", "ctf_scale"):
            table[column] = other[column].to_numpy()[rows]
    if poses is not None and _is_table(poses):
        other, their_rotation, rows = _joined(table, name, poses)
        if their_rotation is None:
            raise InputError(f"{os.fspath(poses)} has no poses; give the file of the refinement.")
        rotation = their_rotation[rows]
        for column in ("shift_x_A", "shift_y_A"):
            table[column] = other[column].to_numpy()[rows]
    if rotation is not None and correction != Correction():
        shifts = ["shift_x_A", "shift_y_A"]
        rotation, table[shifts] = correction.of(rotation, table[shifts].to_numpy())
    _check_values(table, name)
    return table, rotation, source


def read_indices(indices: StrPath | Rows, n: int, path: str) -> NDArray[np.int64]:
    """Return the rows (integers) of the n particles of `path` that an array or an index file selects."""
    if isinstance(indices, str | os.PathLike):
        name, rows = os.fspath(indices), cryodrgn.read_indices(indices)
    else:
        name, rows = "indices", np.asarray(indices)
    if not len(rows):
        raise InputError(f"{name} selects none of the particles of {path}.")
    if rows.dtype == bool:
        if len(rows) != n:
            raise InputError(f"{name} is a mask of {len(rows)} values, but {path} has {n} particles.")
        rows = np.flatnonzero(rows)
    if len(rows) and (rows.min() < 0 or rows.max() >= n):
        raise InputError(
            f"{name} selects row {rows.min() if rows.min() < 0 else rows.max()}, but the {n} rows of {path} "
            f"are numbered 0 to {n - 1}."
        )
    if len(np.unique(rows)) != len(rows):
        raise InputError(f"{name} selects {len(rows) - len(np.unique(rows))} rows of {path} more than once.")
    return rows.astype(np.int64)


def _is_table(path: StrPath) -> bool:
    """Whether poses or CTF come in a particle file, whose rows have names, and not in bare arrays."""
    return Path(path).suffix in (".star", ".cs", ".csg")


def _joined(
    table: pd.DataFrame, name: str, path: StrPath
) -> tuple[pd.DataFrame, NDArray[np.float64] | None, NDArray[np.int64]]:
    """Read another particle file; return its table, its rotations and its row for each row of `table`."""
    nothing: dict[str, Any] = dict.fromkeys(_GIVEN)
    other, rotation, source = read_particles(path, **nothing, correction=Correction())
    return other, rotation, match(table, other, name, source.path)


def parse(path: str, passthrough: StrPath | None, datadir: StrPath | None) -> Parsed:
    """Return what a particle file of any kind says; see `Particles.from_file`."""
    suffix = Path(path).suffix
    if suffix in (".cs", ".csg"):
        return cryosparc.read(path, passthrough)
    if passthrough is not None:
        raise InputError(f"{path} has no passthrough; passthrough={os.fspath(passthrough)} belongs to a .cs.")
    if suffix == ".star":
        return relion.read(path)
    if suffix in (".mrcs", ".mrc"):
        names, lengths = [Path(path).name], [read_stack_header(path).shape[0]]
        kind = "mrcs"
    elif suffix == ".txt":
        kind = "txt"
        names, lengths = _read_list(path, None if datadir is None else os.fspath(datadir))
    else:
        raise InputError(f"{path} is not a particle file: .star, .cs, .csg, .mrcs, .mrc or .txt is expected.")
    return Parsed(
        source=Source(path=path, kind=kind),
        image_name=pd.Series(np.repeat(names, lengths), dtype="str"),
        image_index=np.concatenate([np.arange(length) for length in lengths]),
    )


def _read_list(path: str, datadir: str | None) -> tuple[list[str], list[int]]:
    """Return the stacks listed in a text file, one a line, and their lengths; # begins a comment."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a list of stacks ({error}).") from error
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise InputError(f"{path} lists no stacks; one .mrcs a line is expected.")
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise InputError(f"{path} lists {twice} more than once; remove the repeated lines.")
    found = find_stacks(names, path, datadir).paths
    for row, (name, stack) in enumerate(zip(names, found, strict=True)):
        if stack is None:
            raise missing_stack(name, path, row, datadir, sum(map(bool, found)), len(found))
    return names, [header.shape[0] for header in read_stack_headers(found) if header is not None]


def _locate(
    parsed: Parsed, source: Source, boxes_must_agree: bool
) -> tuple["pd.Series[str]", NDArray[np.int64], NDArray[np.float64], str]:
    """Find the stacks; return each row's path, box (0 unknown) and header's pixel size; and the mapping."""
    codes, written = pd.factorize(parsed.image_name)
    names = [str(name) for name in written]
    if source.kind == "mrcs":
        located = Located([os.path.abspath(source.path)])
    else:
        located = find_stacks(names, source.path, source.datadir, source.named_from)
    found = located.paths
    box = np.asarray(parsed.columns.get("box_size_px", np.zeros(len(codes)))).astype(np.int64)
    header_pixel_A = np.full(len(names), np.nan)
    header_box = np.zeros(len(names), dtype=np.int64)
    length = np.full(len(names), np.iinfo(np.int64).max)
    for number, header in enumerate(read_stack_headers(found)):
        if header is not None:
            header_pixel_A[number] = header.pixel_size_A[0]
            length[number], header_box[number], _ = header.shape
    beyond = np.flatnonzero(parsed.image_index >= length[codes])
    if len(beyond):
        row = int(beyond[0])
        raise InputError(
            f"{source.path}, particle row {row + 1}: image {parsed.image_index[row] + 1} is asked for, but "
            f"the stack {found[codes[row]]} has {length[codes[row]]} images; is it the stack of this table?"
        )
    known = header_box[codes] > 0
    differs = np.flatnonzero(known & (box > 0) & (box != header_box[codes]))
    if len(differs) and boxes_must_agree:
        row = int(differs[0])
        raise InputError(
            f"{source.path}, particle row {row + 1}: images of {box[row]} pixels are described, but "
            f"the stack {found[codes[row]]} has {header_box[codes[row]]}; give the stack that is described, "
            "or set pixel_size_A to the pixel size of this one."
        )
    of_name, paths = pd.factorize(
        pd.Series([stack or name for stack, name in zip(found, names, strict=True)], dtype="str"), sort=True
    )
    return (
        pd.Series(pd.Categorical.from_codes(of_name[codes], categories=paths)),
        np.where(known, header_box[codes], box),
        header_pixel_A[codes],
        located.note,
    )


def keys_of(parsed: Parsed, path: str) -> "pd.Series[str]":
    """Return the unique key of each row, or raise an InputError that names both rows of a pair."""
    keys = parsed.columns.get("key")
    if keys is None:
        keys = pd.Series(parsed.image_index + 1).astype("str").str.zfill(6) + "@" + parsed.image_name
    if codes_of(keys)[1] < len(keys):
        second = np.flatnonzero(keys.duplicated().to_numpy())
        first = np.flatnonzero((keys == keys.iloc[second[0]]).to_numpy())[0]
        raise InputError(
            f"{path}: particle rows {first + 1} and {second[0] + 1} are the same image, "
            f"{keys.iloc[second[0]]} ({len(second)} repeated rows in all); remove one of each."
        )
    return keys


def _check_values(table: pd.DataFrame, path: str) -> None:
    """Refuse values that no image can have."""
    for column in ("pixel_size_A", "voltage_kV"):
        values = table[column].to_numpy()
        bad = np.flatnonzero((values <= 0) | np.isinf(values))
        if len(bad):
            raise InputError(
                f"{path}, particle row {bad[0] + 1}: {column} is {values[bad[0]]}, but it must be positive; "
                "correct it, or give pixel_size_A or ctf."
            )
    if not table["data_sign"].isin([-1.0, 1.0]).all():
        raise InputError(
            f"{path}: data_sign is {table['data_sign'].unique().tolist()}, but +1 or -1 is expected."
        )
    both = np.flatnonzero(table["ctf_premultiplied"] & table["phase_flipped"])
    if len(both):
        raise InputError(
            f"{path}, particle row {both[0] + 1}: the image is both CTF-premultiplied and phase-flipped; "
            "set ctf_premultiplied=false or phase_flipped=false."
        )


def _boxes_px(columns: dict[str, Any], source: Source) -> NDArray[np.float64]:
    """Return the boxes that shifts in fractions of them need, or raise the error of the stack not found."""
    box = columns["box_size_px"]
    unknown = np.flatnonzero(box <= 0)
    if len(unknown):
        row = int(unknown[0])
        raise missing_stack(str(columns["image_path"].iloc[row]), source.path, row, source.datadir)
    return np.asarray(box, dtype=np.float64)
