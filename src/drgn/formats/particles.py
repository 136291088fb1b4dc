"""The particle table: every image with its stack, pose, CTF and identity, read from any supported file.

Examples
--------
>>> particles = Particles.from_file("run_data.star", datadir="/data/10076")
>>> particles.table["defocus_u_A"], particles.rotation  # (N,), (N, 3, 3)
>>> particles.select(keep).save("kept.star")  # all original columns kept
"""

import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats import cryosparc_group, relion, star
from drgn.formats.atomic import replacing
from drgn.formats.reading import Rows, StrPath, read_indices, read_particles
from drgn.formats.stacks import ImageReader, missing_stack
from drgn.formats.table import COLUMNS, CTF_COLUMNS, Source

__all__ = ["COLUMNS", "Particles", "Source", "read_images"]


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
    ) -> Self:
        """Read a particle table.

        Parameters
        ----------
        path : .star (RELION 3.0, 3.1), .cs or .csg (cryoSPARC), .mrcs or .mrc (a stack), .txt (a list of
            stacks)
        passthrough : the passthrough .cs of a .cs, joined by uid; it is found where it lies beside `path`
        poses, ctf : cryoDRGN .pkl or .npz, one row per row of `path`; they replace what `path` says
        datadir : folder that the names of the stacks start from
        indices : rows of `path` to keep: an array, or a .pkl, .npy or .txt file
        pixel_size_A : of the images, in place of what the files say; shifts given in pixels are multiplied
            by it, shifts given in Angstrom are kept
        data_sign : +1 when protein is bright, -1 when it is dark; default as the .cs says, else +1
        ctf_premultiplied : whether the images were multiplied by their CTF; default as the star says, else no
        phase_flipped : whether they were multiplied by its sign; default as the star says, else no

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
        )
        particles = cls(table, rotation, source)
        if indices is None:
            return particles
        return particles.select(read_indices(indices, len(table), source.path))

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

    def select(self, rows: Rows) -> Self:
        """Return the particles at `rows` (integers in any order, or a mask of length N), source in step."""
        mask_or_rows = np.asarray(rows)
        if mask_or_rows.dtype == bool and mask_or_rows.shape != (len(self),):
            raise ValueError(f"a mask of shape {mask_or_rows.shape} cannot select from {len(self)} particles")
        rows = np.arange(len(self))[mask_or_rows]
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

        A .star keeps all columns and the dialect of the star it came from; from any other origin, and where
        poses, CTF or pixel size were given in place of its own, it is RELION 3.1. RELION has no column for
        the sign of the data: give it again when the star is read. A .cs needs a .cs or .csg as its origin; a
        .csg is written beside it, which cryoSPARC's "Import Result Group" takes.

        Raises
        ------
        InputError
            When the suffix is another, or the origin cannot be written in this form.
        """
        suffix = Path(path).suffix
        if suffix == ".star":
            star.write_blocks(path, relion.to_blocks(self.source, self.table, self.rotation))
        elif suffix == ".cs":
            if self.source.kind != "cs" or self.source.replaced:
                raise InputError(
                    f"{os.fspath(path)}: a .cs can be written only from a .cs of which nothing was "
                    f"replaced, and these particles come from {self.source.path}; save a .star."
                )
            cryosparc_group.write_group(path, self.source.rows, self.source.group)
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
                source_row = int(table["source_row"].iloc[row])
                raise missing_stack(path, self.source.path, source_row, self.source.datadir)

    def image_reader(self) -> ImageReader:
        """Return a reader of images by row, which may be handed to other processes."""
        self.require_images()
        return ImageReader(self.table["image_path"], self.table["image_index"].to_numpy())


def read_images(particles: Particles, rows: Rows) -> NDArray[np.float32]:
    """Return the images at `rows` (any order) as (len(rows), D, D) float32; the sign is not applied."""
    return particles.image_reader()(rows)
