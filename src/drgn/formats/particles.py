"""The particle table: every image with its stack, pose, CTF and identity, read from any supported file.

particles = Particles.from_file("run_data.star", datadir="/data/10076")
particles.table["defocus_u_A"], particles.rotation      # (N,), (N, 3, 3)
particles.select(keep).save("kept.star")                # all original columns kept
"""

import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats import cryodrgn, cryosparc, relion, star
from drgn.formats.atomic import replacing
from drgn.formats.mrc import StackReader
from drgn.formats.stacks import ImageReader, check_length, find_stacks, missing_stack
from drgn.formats.table import COLUMNS, CTF_COLUMNS, Parsed, Source, build_table

__all__ = ["COLUMNS", "Particles", "Source", "read_images"]

StrPath = str | os.PathLike[str]
Rows = NDArray[np.integer[Any]] | NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Particles:
    """One row per image.

    Attributes
    ----------
    table : frame of N rows with exactly `COLUMNS`
    rotation : (N, 3, 3) float64, see drgn.physics for its use; None when no poses are known
    source : the file it came from, so that a selection can be written back with all original columns
    """

    table: pd.DataFrame
    rotation: NDArray[np.float64] | None
    source: Source

    @classmethod
    def from_file(
        cls,
        path: StrPath,
        *,
        poses: StrPath | None = None,
        ctf: StrPath | None = None,
        datadir: StrPath | None = None,
        indices: StrPath | Rows | None = None,
        pixel_size_A: float | None = None,
        data_sign: float | None = None,
        ctf_premultiplied: bool | None = None,
    ) -> Self:
        """Read a particle table.

        Parameters
        ----------
        path : .star (RELION 3.0, 3.1), .cs (cryoSPARC), .mrcs or .mrc (a stack), .txt (a list of stacks)
        poses, ctf : cryoDRGN .pkl or .npz, one row per row of `path`; they replace what `path` says
        datadir : folder that the names of the stacks start from
        indices : rows of `path` to keep: an array, or a .pkl, .npy or .txt file
        pixel_size_A : of the images, in place of what the files say; shifts given in pixels are multiplied
            by it, shifts given in Angstrom are kept
        data_sign : +1 when protein is bright, -1 when it is dark; default as the .cs says, else +1
        ctf_premultiplied : whether the images were multiplied by their CTF; default as the star says, else no

        Raises
        ------
        InputError
            One sentence that names the file, the row or field, and what to do. Stacks that are not found are
            no error here, but in `require_images`.
        """
        name = os.fspath(path)
        parsed = _parse(name)
        source = replace(parsed.source, datadir=None if datadir is None else os.fspath(datadir))
        n = len(parsed.image_index)
        columns: dict[str, Any] = {
            **parsed.columns,
            "source_row": np.arange(n),
            "image_index": parsed.image_index,
        }
        columns["image_path"], box, header_pixel_A = _locate(
            parsed, source, pixel_size_A is None and ctf is None
        )
        columns["box_size_px"] = box

        if ctf is not None:
            columns.update(cryodrgn.read_ctf(ctf, n, name, box))
        if pixel_size_A is not None:
            columns["pixel_size_A"] = float(pixel_size_A)
        columns.setdefault("pixel_size_A", header_pixel_A)
        rotation, shift_px = parsed.rotation, parsed.shift_px
        if poses is not None:
            rotation, fraction = cryodrgn.read_poses(poses, n, name)
            columns.pop("shift_x_A", None), columns.pop("shift_y_A", None)
            shift_px = None if fraction is None else fraction * np.asarray(box, dtype=np.float64)[:, None]
        if shift_px is not None:
            shift_A = shift_px * np.broadcast_to(columns["pixel_size_A"], n)[:, None]
            shift_A[shift_px == 0] = 0.0  # also where the pixel size is unknown
            if not np.isfinite(shift_A).all():
                raise InputError(
                    f"{name} does not give the pixel size of its images; set pixel_size_A=VALUE."
                )
            columns["shift_x_A"], columns["shift_y_A"] = shift_A.T
        if data_sign is not None:
            columns["data_sign"] = float(data_sign)
        if ctf_premultiplied is not None:
            columns["ctf_premultiplied"] = ctf_premultiplied

        replaced = tuple(what for what, given in (("poses", poses), ("ctf", ctf)) if given is not None)
        columns["key"] = _keys(parsed, name)
        columns.setdefault("group", columns["key"])
        table = build_table(n, columns)
        _check_values(table, name)
        particles = cls(table, rotation, replace(source, replaced=replaced))
        return particles if indices is None else particles.select(_read_indices(indices, n, name))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def has_poses(self) -> bool:
        """Whether orientations are known."""
        return self.rotation is not None

    @property
    def has_ctf(self) -> bool:
        """Whether the CTF of every image is known; an InputError when it is known only in part."""
        known = self.table[list(CTF_COLUMNS)].notna()
        if not known["defocus_u_A"].any():
            return False
        unknown = [column for column in CTF_COLUMNS if not known[column].all()]
        if unknown:
            raise InputError(
                f"{self.source.path} gives a defocus but not {', '.join(unknown)}; add what is missing, or give ctf=FILE.pkl."
            )
        return True

    @property
    def box_size(self) -> int:
        """Side of the images in pixels; an InputError when they differ or the stacks were not found."""
        sizes = self.table["box_size_px"].unique()
        if 0 in sizes:
            self.require_images()
        if len(sizes) != 1 or 0 in sizes:
            raise InputError(
                f"{self.source.path} has images of {', '.join(map(str, sorted(sizes)))} pixels; "
                "bring them to one box and pixel size first, or select those of one size."
            )
        return int(sizes[0])

    @property
    def pixel_size_A(self) -> float:
        """Pixel size of the images; an InputError when they differ or it is unknown."""
        sizes = self.table["pixel_size_A"].to_numpy()
        if not np.isfinite(sizes).all():
            raise InputError(
                f"{self.source.path} does not give the pixel size of its images; set pixel_size_A=VALUE."
            )
        if np.ptp(sizes) > 1e-4 * sizes[0]:
            raise InputError(
                f"{self.source.path} has images of {sizes.min():.5g} to {sizes.max():.5g} A per pixel; "
                "bring them to one pixel size first, or select those of one size."
            )
        return float(sizes[0])

    def select(self, rows: Rows) -> Self:
        """Return the particles at `rows` (integers in any order, or a mask of length N), source in step."""
        rows = np.asarray(rows)
        if rows.dtype == np.bool_:
            if rows.shape != (len(self),):
                raise ValueError(f"a mask of shape {rows.shape} cannot select from {len(self)} particles")
            rows = np.flatnonzero(rows)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise ValueError(f"rows {rows.min()} to {rows.max()} are not all among {len(self)} particles")
        if len(np.unique(rows)) != len(rows):
            raise ValueError("a row is selected twice")
        original = self.source.rows
        if isinstance(original, pd.DataFrame):
            original = original.iloc[rows].reset_index(drop=True)
        elif original is not None:
            original = original[rows]
        return replace(
            self,
            table=self.table.iloc[rows].reset_index(drop=True),
            rotation=None if self.rotation is None else self.rotation[rows],
            source=replace(self.source, rows=original),
        )

    def save(self, path: StrPath) -> None:
        """Write the particles to a .star, a .cs, or their rows in the original file to a .pkl, .npy or .txt.

        A .star keeps all columns and the dialect of the star it came from; from any other origin it is RELION
        3.1 (which has no column for the sign of the data). A .cs needs a .cs as its origin.

        Raises
        ------
        InputError
            When the suffix is another, or the origin cannot be written in this form.
        """
        suffix = Path(path).suffix
        if suffix == ".star":
            self._save_star(path)
        elif suffix == ".cs":
            if self.source.kind != "cs" or self.source.replaced:
                raise InputError(
                    f"{os.fspath(path)}: a .cs can be written only from a .cs whose poses and CTF were not replaced, "
                    f"and these particles come from {self.source.path}; save a .star."
                )
            cryosparc.write(path, self.source.rows)
        elif suffix in (".pkl", ".npy", ".txt"):
            rows = self.table["source_row"].to_numpy()
            with replacing(path) as temporary:
                if suffix == ".pkl":
                    temporary.write_bytes(pickle.dumps(rows))
                elif suffix == ".npy":
                    np.save(temporary, rows)
                else:
                    np.savetxt(temporary, rows, fmt="%d")
        else:
            raise InputError(f"{os.fspath(path)}: particles are saved as .star, .cs, .pkl, .npy or .txt.")

    def require_images(self) -> None:
        """Raise an InputError naming the first stack that is not found, and where it was looked for."""
        table = self.table
        for row in np.flatnonzero(~table["image_path"].duplicated().to_numpy()):
            path = str(table["image_path"].iloc[row])
            if not (os.path.isabs(path) and os.path.isfile(path)):
                name = path if self.source.kind == "star" or not os.path.isabs(path) else path
                raise missing_stack(
                    name, self.source.path, int(table["source_row"].iloc[row]), self.source.datadir
                )

    def image_reader(self) -> ImageReader:
        """Return a reader of images by row, which may be handed to other processes."""
        self.require_images()
        return ImageReader(self.table["image_path"], self.table["image_index"].to_numpy())

    def _save_star(self, path: StrPath) -> None:
        source = self.source
        if source.kind == "star" and not source.replaced:
            blocks = {**source.blocks, source.particle_block: source.rows}
        else:
            blocks = relion.table_to_blocks(self.table, self.rotation)
        star.write_blocks(path, blocks)


def read_images(particles: Particles, rows: Rows) -> NDArray[np.float32]:
    """Return the images at `rows` (any order) as (len(rows), D, D) float32; the sign is not applied."""
    return particles.image_reader()(rows)


def _parse(path: str) -> Parsed:
    suffix = Path(path).suffix
    if suffix == ".star":
        return relion.read(path)
    if suffix == ".cs":
        return cryosparc.read(path)
    if suffix in (".mrcs", ".mrc"):
        names, lengths = [Path(path).name], [StackReader(path).n]
        kind = "mrcs"
    elif suffix == ".txt":
        kind = "txt"
        names, lengths = _read_list(path)
    else:
        raise InputError(f"{path} is not a particle file: .star, .cs, .mrcs, .mrc or .txt is expected.")
    return Parsed(
        source=Source(path=path, kind=kind),
        image_name=pd.Series(np.repeat(names, lengths), dtype="str"),
        image_index=np.concatenate([np.arange(length) for length in lengths]),
    )


def _read_list(path: str) -> tuple[list[str], list[int]]:
    """Return the stacks listed in a text file, one a line, and their lengths."""
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a list of stacks ({error}).") from error
    if not names:
        raise InputError(f"{path} lists no stacks; one .mrcs a line is expected.")
    found = find_stacks(names, path, None)
    lengths = []
    for row, (name, stack) in enumerate(zip(names, found, strict=True)):
        if stack is None:
            raise missing_stack(name, path, row, None)
        lengths.append(StackReader(stack).n)
    return names, lengths


def _locate(
    parsed: Parsed, source: Source, trust_pixel_size: bool
) -> tuple["pd.Series[str]", NDArray[np.int64], NDArray[np.float64]]:
    """Find the stacks; return for each row its path, its box (0 unknown) and the pixel size of the header."""
    codes, written = pd.factorize(parsed.image_name)
    names = [str(name) for name in written]
    found = find_stacks(names, source.path, source.datadir)
    box = np.asarray(parsed.columns.get("box_size_px", np.zeros(len(codes)))).astype(np.int64)
    header_pixel_A = np.full(len(names), np.nan)
    header_box = np.zeros(len(names), dtype=np.int64)
    length = np.full(len(names), np.iinfo(np.int64).max)
    for number, stack in enumerate(found):
        if stack is not None:
            reader = StackReader(stack)
            header_pixel_A[number] = reader.header.pixel_size_A[0]
            header_box[number] = reader.box_size_px
            length[number] = reader.n
    beyond = np.flatnonzero(parsed.image_index >= length[codes])
    if len(beyond):
        row = int(beyond[0])
        stack = str(found[codes[row]])
        check_length(stack, int(length[codes[row]]), int(parsed.image_index[row]), source.path, row)
    known = header_box[codes] > 0
    differs = np.flatnonzero(known & (box > 0) & (box != header_box[codes]))
    if len(differs) and trust_pixel_size:
        row = int(differs[0])
        raise InputError(
            f"{source.path}, particle row {row + 1}: images of {box[row]} pixels are described, but the stack "
            f"{found[codes[row]]} has {header_box[codes[row]]}; give the stack it describes, or set pixel_size_A "
            "to the pixel size of this one."
        )
    paths = pd.Series([stack or name for stack, name in zip(found, names, strict=True)], dtype="str")
    return (
        paths.take(codes).reset_index(drop=True),
        np.where(known, header_box[codes], box),
        header_pixel_A[codes],
    )


def _keys(parsed: Parsed, path: str) -> "pd.Series[str]":
    """Return the unique key of each row, or raise an InputError that names both rows of a pair."""
    keys = parsed.columns.get("key")
    if keys is None:
        keys = pd.Series(parsed.image_index + 1).astype("str").str.zfill(6) + "@" + parsed.image_name
    second = np.flatnonzero(keys.duplicated().to_numpy())
    if len(second):
        first = np.flatnonzero((keys == keys.iloc[second[0]]).to_numpy())[0]
        raise InputError(
            f"{path}: particle rows {first + 1} and {second[0] + 1} are the same image, {keys.iloc[second[0]]} "
            f"({len(second)} repeated rows in all); remove one of each."
        )
    return keys


def _check_values(table: pd.DataFrame, path: str) -> None:
    """Refuse values that no image can have."""
    for column, low in (("pixel_size_A", 0.0), ("voltage_kV", 0.0)):
        bad = np.flatnonzero((table[column] <= low).to_numpy())
        if len(bad):
            raise InputError(
                f"{path}, particle row {bad[0] + 1}: {column} is {table[column].iloc[bad[0]]}, but it must be positive."
            )
    if not table["data_sign"].isin([-1.0, 1.0]).all():
        raise InputError(
            f"{path}: data_sign is {table['data_sign'].unique().tolist()}, but +1 or -1 is expected."
        )


def _read_indices(indices: StrPath | Rows, n: int, path: str) -> NDArray[np.int64]:
    if isinstance(indices, str | os.PathLike):
        name, rows = os.fspath(indices), cryodrgn.read_indices(indices)
    else:
        name, rows = "indices", np.asarray(indices)
    if rows.dtype == bool:
        if len(rows) != n:
            raise InputError(f"{name} is a mask of {len(rows)} values, but {path} has {n} particles.")
        rows = np.flatnonzero(rows)
    if len(rows) and (rows.min() < 0 or rows.max() >= n):
        raise InputError(
            f"{name} selects row {rows.min() if rows.min() < 0 else rows.max()}, but the {n} rows of {path} are "
            f"numbered 0 to {n - 1}."
        )
    if len(np.unique(rows)) != len(rows):
        raise InputError(f"{name} selects {len(rows) - len(np.unique(rows))} rows of {path} more than once.")
    return rows.astype(np.int64)
