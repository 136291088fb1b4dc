"""The particle table: every image with its stack, pose, CTF and identity, read from any supported file.

Examples
--------
>>> particles = Particles.from_file("run_data.star", datadir="/data/10076")
>>> particles.table["defocus_u_A"], particles.rotation  # (N,), (N, 3, 3)
>>> particles.select(keep).save("kept.star")  # all original columns kept
"""

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats import cryosparc, cryosparc_group, relion, star
from drgn.formats.atomic import replacing
from drgn.formats.cryodrgn import write_cryodrgn
from drgn.formats.identity import match
from drgn.formats.inside import require_apart
from drgn.formats.locate import folder_for, missing_stack
from drgn.formats.mrc import StackWriter
from drgn.formats.reading import Rows, StrPath, keys_of, parse, read_indices, read_particles
from drgn.formats.stacks import ImageReader
from drgn.formats.table import COLUMNS, CTF_COLUMNS, HASHED, Correction, Source, hash_of_values

__all__ = ["COLUMNS", "Particles", "Source", "read_images"]

_COPIED = 512  # images held in memory while they are copied


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
        passthrough: StrPath | None = None,
        poses: StrPath | None = None,
        ctf: StrPath | None = None,
        datadir: StrPath | None = None,
        indices: StrPath | Rows | None = None,
        pixel_size_A: float | None = None,
        data_sign: float | None = None,
        ctf_premultiplied: bool | None = None,
        phase_flipped: bool | None = None,
        transpose_rotations: bool = False,
        mirror_images: bool = False,
        mirror_map: bool = False,
        shift_factor: float = 1.0,
    ) -> Self:
        """Read a particle table.

        Parameters
        ----------
        path : .star (RELION 1 to 5), .cs or .csg (cryoSPARC), .mrcs or .mrc (a stack), .txt (a list of
            stacks)
        passthrough : the passthrough .cs of a .cs, joined by uid; it is found where it lies beside `path`
        poses, ctf : they replace what `path` says: a .star or .cs that holds the same particles in any order,
            or cryoDRGN's .pkl or .npz, which name no particles and must have one row per row of `path`
        datadir : folder that the names of the stacks start from
        indices : which to keep: rows of `path` (an array, or a .pkl, .npy or .txt file), or a .star or .cs
            with the particles to keep, found by what they are
        pixel_size_A : of the images, in place of what the files say; shifts given in pixels are multiplied
            by it, shifts given in Angstrom are kept
        data_sign : +1 when protein is bright, -1 when it is dark; default as the .cs says, else +1
        ctf_premultiplied : whether the images were multiplied by their CTF; default as the star says, else no
        phase_flipped : whether they were multiplied by its sign; default as the star says, else no
        transpose_rotations, mirror_images, mirror_map, shift_factor : corrections of poses that do not follow
            the convention of their file, see `table.Correction`; `drgn prepare` finds which are needed

        Raises
        ------
        InputError
            One sentence that names the file, the row or field, and what to do. Stacks that are not found are
            no error here, but in `require_images`.
        """
        table, rotation, source = read_particles(
            path,
            passthrough=passthrough,
            poses=poses,
            ctf=ctf,
            datadir=datadir,
            pixel_size_A=pixel_size_A,
            data_sign=data_sign,
            ctf_premultiplied=ctf_premultiplied,
            phase_flipped=phase_flipped,
            correction=Correction(transpose_rotations, mirror_images, mirror_map, shift_factor),
        )
        particles = cls(table, rotation, source)
        return particles if indices is None else particles.select(particles.rows_of(indices))

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
                f"{self.source.path} gives a defocus but not {', '.join(unknown)}; add what is "
                "missing to the file, or give ctf=FILE.pkl."
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

    @property
    def fingerprint(self) -> str:
        """Hash of which particles these are, whatever their order."""
        keys, total = self.table["key"], 0
        for start in range(0, len(keys), HASHED):
            part = keys.iloc[start : start + HASHED]  # Python's strings while they are hashed
            total += int(pd.util.hash_pandas_object(part, index=False).to_numpy().sum())
        return f"{total % (1 << 64):016x}"

    @property
    def poses_and_ctf(self) -> str:
        """Hash of the poses and the CTF, whatever their order."""
        return hash_of_values(self.table, self.rotation)

    def rows_of(self, selection: StrPath | Rows) -> NDArray[np.int64]:
        """Return which rows of this table a selection means.

        Parameters
        ----------
        selection : a .star or .cs: its particles, found by what they are (`formats.identity`). A .pkl, .npy,
            .txt or array: rows of the file that this table was read from, integers or a mask.

        Raises
        ------
        InputError
            When a particle or a row is not in this table.
        """
        if isinstance(selection, str | os.PathLike) and Path(selection).suffix in (".star", ".cs", ".csg"):
            chosen = Particles.from_file(selection)
            return match(chosen.table, self.table, chosen.source.path, self.source.path)
        rows = read_indices(selection, self.source.n_rows, self.source.path)
        at = np.asarray(pd.Index(self.table["source_row"]).get_indexer(pd.Index(rows)), dtype=np.int64)
        if (at < 0).any():
            raise InputError(
                f"the selection names row {rows[at < 0][0]} of {self.source.path}, which is not among the"
                f" {len(self)} particles in use; make the selection from these."
            )
        return at

    def select(self, rows: Rows) -> Self:
        """Return the particles at `rows` (integers in any order, or a mask of length N), source in step."""
        mask_or_rows = np.asarray(rows)
        if mask_or_rows.dtype == bool and mask_or_rows.shape != (len(self),):
            raise ValueError(f"a mask of shape {mask_or_rows.shape} cannot select from {len(self)} particles")
        rows = np.arange(len(self))[mask_or_rows]
        if len(np.unique(rows)) != len(rows):
            raise ValueError("a row is selected twice")
        return replace(
            self,
            table=self.table.iloc[rows].reset_index(drop=True),
            rotation=None if self.rotation is None else self.rotation[rows],
            source=replace(self.source, rows=_rows_at(self.source.rows, rows)),
        )

    def leaving_rows(self) -> Self:
        """Return these particles without the original rows, which are read again when they are saved."""
        return replace(
            self,
            source=replace(self.source, rows=None, left=self.source.left or self.source.rows is not None),
        )

    def with_rows(self) -> Self:
        """Return these particles with their original rows, found in their file by key where they were left.

        Raises
        ------
        InputError
            When the file does not hold a particle any more.
        """
        source = self.source
        if not source.left:
            return self
        parsed = parse(source.path, source.passthrough, source.datadir)
        at = pd.Index(keys_of(parsed, source.path)).get_indexer(pd.Index(self.table["key"]))
        if (at < 0).any():
            raise InputError(
                f"{source.path} has changed since it was read: {self.table['key'][at < 0].iloc[0]} is not in"
                " it any more; give the file as it was."
            )
        return replace(self, source=replace(source, rows=_rows_at(parsed.source.rows, at), left=False))

    def save(
        self,
        path: StrPath,
        *,
        star_version: Literal["3.1", "3.0"] | None = None,
        extra: pd.DataFrame | None = None,
    ) -> list[Path]:
        """Write the particles; the suffix says in which form.

        .star
            Keeps all columns of the star it came from, and its dialect where `star_version` is None; where
            names do not lead from there to the images, a comment says from which folder they do. From any
            other origin, and where poses, CTF or pixel size were given in place of its own, it is written
            anew. RELION has no column for the sign of the data: give it again when the star is read.
        .cs
            Needs a .cs or .csg as its origin; keeps all fields. Poses that were given in place of its own are
            written as alignments3D/pose and shift. A .csg is written beside it, which cryoSPARC's "Import
            Result Group" takes.
        .pkl, .npy, .txt
            Rows of the original file, from 0.
        none
            A folder for cryoDRGN: particles.star, poses.pkl and ctf.pkl.

        Parameters
        ----------
        path : file or folder
        star_version : dialect of RELION
        extra : N rows of columns to add to a .star or .cs

        Returns
        -------
        list of Path
            The files that were written; for a folder, the folder.

        Raises
        ------
        InputError
            When the suffix is another, the origin cannot be written in this form, or it is the file itself.
        """
        suffix = Path(path).suffix
        self.require_apart(path)
        if suffix == ".star":
            source = self.with_rows().source
            blocks = relion.to_blocks(source, self.table, self.rotation, version=star_version, extra=extra)
            star.write_blocks(path, blocks, self._named_from(path, source))
        elif suffix == "":
            self.save(Path(path) / "particles.star", star_version=star_version, extra=extra)
            write_cryodrgn(path, self.table, self.rotation)
        elif suffix == ".cs":
            if self.source.kind != "cs" or self.source.replaced == "values":
                raise InputError(
                    f"{os.fspath(path)}: a .cs can be written only from a .cs of which nothing but poses was "
                    f"replaced, and these particles come from {self.source.path}; save a .star."
                )
            added = {} if extra is None else {str(name): extra[name].to_numpy() for name in extra}
            source = self.with_rows().source
            rows, group = source.rows, source.group
            if source.replaced and self.rotation is not None:
                rows, group = cryosparc.with_poses(rows, group, self.rotation, self.table)
            return cryosparc_group.write_group(path, rows, group, added)
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
            raise InputError(
                f"{os.fspath(path)}: particles are saved as .star, .cs, .pkl, .npy or .txt, or in a folder (a"
                " name without a suffix) for cryoDRGN."
            )
        return [Path(path)]

    def _named_from(self, path: StrPath, source: Source) -> str | None:
        """Folder that a star file of these particles must say its images are named from, if any."""
        if source.kind != "star":
            return None  # they are named by their whole paths
        first = np.flatnonzero(~self.table["image_path"].duplicated().to_numpy())
        first = first[[os.path.isabs(found) for found in self.table["image_path"].iloc[first]]]
        names = [str(name).rpartition("@")[2] for name in source.rows["rlnImageName"].iloc[first]]
        return folder_for(names, self.table["image_path"].iloc[first].tolist(), os.fspath(path))

    def require_apart(self, path: StrPath) -> None:
        """Raise InputError where a file is one that these particles or their images are read from."""
        require_apart(path, self.table["image_path"].unique(), "stack")
        require_apart(path, [self.source.path], "table")

    def copy_images(self, path: StrPath, progress: Callable[[int, int], None] | None = None) -> Self:
        """Write the images of these particles, unchanged, into one stack; return the particles that name it.

        What they were made from is kept as the name of the original image (rlnImageOriginalName).

        Parameters
        ----------
        path : a .mrcs; named in the particle file as given here
        progress : called with (images done, images in all)
        """
        self.require_apart(path)
        reader, n = self.image_reader(), len(self)
        with StackWriter(path, n, self.box_size, self.pixel_size_A) as stack:
            for start in range(0, n, _COPIED):
                stack.write(reader(np.arange(start, min(start + _COPIED, n))))
                if progress is not None:
                    progress(min(start + _COPIED, n), n)
        number = pd.Series(np.arange(1, n + 1)).astype("str").str.zfill(6)
        table = self.table.copy()
        paths = table["image_path"].astype("str")
        before = (table["image_index"] + 1).astype("str").str.zfill(6) + "@" + paths
        table["original_image"] = table["original_image"].where(table["original_image"] != "", before)
        table["image_path"], table["image_index"] = os.path.abspath(path), np.arange(n)
        table["image_path"] = table["image_path"].astype("category")
        source = self.with_rows().source
        rows = source.rows
        if source.kind == "star":
            rows = rows.copy()
            rows["rlnImageName"] = (number + "@" + os.fspath(path)).to_numpy()
            rows["rlnImageOriginalName"] = table["original_image"].to_numpy()
        elif source.kind == "cs":
            rows = cryosparc_group.with_images(rows, os.path.abspath(path))
        else:
            table["key"] = number + "@" + os.fspath(path)
        return replace(self, table=table, source=replace(source, rows=rows))

    def posed_as(self, other: "Particles", rows: NDArray[np.int64]) -> Self:
        """Return these particles with the poses that row rows[i] of `other` has for particle i."""
        if other.rotation is None:
            return self
        table = self.table.copy()
        for column in ("shift_x_A", "shift_y_A"):
            table[column] = other.table[column].to_numpy()[rows]
        source = replace(self.source, replaced=self.source.replaced or "poses")
        return replace(self, table=table, rotation=other.rotation[rows], source=source)

    def require_images(self) -> None:
        """Raise an InputError naming the first stack that is not found, and where it was looked for."""
        stacks = self.table["image_path"].drop_duplicates()
        missing = [not (os.path.isabs(path) and os.path.isfile(path)) for path in stacks]
        if any(missing):
            first = self.table.loc[stacks[missing].index[0]]
            row, n_found, source = int(first["source_row"]), len(stacks) - sum(missing), self.source
            raise missing_stack(first["image_path"], source.path, row, source.datadir, n_found, len(stacks))

    def image_reader(self) -> ImageReader:
        """Return a reader of images by row, which may be handed to other processes."""
        self.require_images()
        return ImageReader(self.table["image_path"], self.table["image_index"].to_numpy())


def _rows_at(original: Any, rows: Rows) -> Any:
    """Original rows (a frame, records or None) at some places."""
    if isinstance(original, pd.DataFrame):
        return original.iloc[rows].reset_index(drop=True)
    return None if original is None else original[rows]


def read_images(particles: Particles, rows: Rows) -> NDArray[np.float32]:
    """Return the images at `rows` (any order) as (len(rows), D, D) float32; the sign is not applied."""
    return particles.image_reader()(rows)
