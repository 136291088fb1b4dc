"""RELION's particle columns (star files of 1.x to 5) into the particle table; `to_blocks` is the way back.

Dialects
    3.1 and later: a block `data_optics` and a particle block joined to it by rlnOpticsGroup; shifts in
    Angstrom. The optics block may have another name; it is known by its columns.
    3.0 and earlier: one block of any name with everything per particle; shifts in pixels; the pixel size is
    rlnDetectorPixelSize (um) * 1e4 / rlnMagnification, or rlnDetectorPixelSize alone (in A, cryoDRGN-ET).
    Tomography of RELION 5, where a particle is a stack of tilt images or a volume, is refused.
Misspelt columns
    A column that is not there while another has nearly its name is refused: a defocus called rlnDefocusUU
    would else be no CTF at all.
Unknown values
    Without rlnPhaseShift there is no phase plate. "<NA>" and "None" (RELION's word) are texts left empty.
B-factor
    RELION damps with a positive rlnCtfBfactor; Warp and M write -4 * dose (in A^2) for the same thing.
    The table holds the absolute value, which damps in both.
Groups
    rlnGroupName means the tilted particle in the star files of Warp and M, but a group of micrographs in
    RELION's. It is taken as the particle only where rlnCtfScalefactor (the cosine of the tilt there) varies
    within a group and rlnCtfBfactor is not zero.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats import star
from drgn.formats.euler import ANGLES, euler_to_matrix, matrix_to_euler
from drgn.formats.optics import group_labels, magnified_pixel_size_A, optics_block, optics_rows
from drgn.formats.relion_export import to_blocks
from drgn.formats.star_values import MISSING, numbers_of
from drgn.formats.table import Parsed, Source

__all__ = ["euler_to_matrix", "matrix_to_euler", "read", "to_blocks"]

# in the optics block where there is one, else in the particle block
_NUMBERS = {
    "voltage_kV": "rlnVoltage",
    "spherical_aberration_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
    "defocus_u_A": "rlnDefocusU",
    "phase_shift_deg": "rlnPhaseShift",
    "ctf_scale": "rlnCtfScalefactor",
    "coordinate_x_px": "rlnCoordinateX",
    "coordinate_y_px": "rlnCoordinateY",
}
_MISSPELT = 0.9  # share of letters that two names have in common, from which one is the other, misspelt


def read(path: str) -> Parsed:
    """Read a particle star file of either dialect.

    Raises
    ------
    InputError
        When there is no particle block, a row is incomplete, an optics group is not described, or a number
        that is used is not finite.
    """
    blocks = star.read_blocks(path)
    name = _particle_block(path, blocks)
    particles = blocks[name]
    if not len(particles):
        raise InputError(f"{path} has no particles in its block data_{name}.")
    columns = _Columns(path, particles, blocks, optics_block(blocks, name))
    _refuse_tomography(path, particles, blocks, columns)

    values: dict[str, Any] = {ours: columns.number(theirs) for ours, theirs in _NUMBERS.items()}
    values["pixel_size_A"] = columns.pixel_size_A()
    values["box_size_px"] = columns.number("rlnImageSize")
    if values["defocus_u_A"] is not None:  # RELION: V = U and no angle where there is no astigmatism
        v, angle = columns.number("rlnDefocusV"), columns.number("rlnDefocusAngle")
        values["defocus_v_A"] = values["defocus_u_A"] if v is None else v
        values["defocus_angle_deg"] = np.zeros(len(particles)) if angle is None else angle
    b_factor = columns.number("rlnCtfBfactor")
    if b_factor is not None:
        values["b_factor_A2"] = np.abs(b_factor)
    values["ctf_premultiplied"] = columns.number("rlnCtfDataAreCtfPremultiplied")
    values["phase_flipped"] = columns.number("rlnCtfDataArePhaseFlipped")
    values["half_set"] = columns.number("rlnRandomSubset")
    if "rlnImageOriginalName" in particles:
        values["original_image"] = _texts(particles["rlnImageOriginalName"])
    if "rlnMicrographName" in particles:
        values["micrograph"] = _texts(particles["rlnMicrographName"])
    if "rlnOpticsGroup" in particles:
        values["optics_group"] = group_labels(particles["rlnOpticsGroup"])
    if _is_tilt_series(particles, b_factor, values["ctf_scale"]):
        values["group"] = particles["rlnGroupName"]

    shift_px = columns.pair("rlnOriginX", "rlnOriginY")
    shift_A = columns.pair("rlnOriginXAngst", "rlnOriginYAngst")
    if shift_A is not None:
        values["shift_x_A"], values["shift_y_A"] = shift_A.T
    angles = [columns.number(angle) for angle in ANGLES]
    rotation = None
    if all(angle is not None for angle in angles):
        rotation = euler_to_matrix(np.stack([angle for angle in angles if angle is not None], axis=1))

    stack, index = _split_image_name(particles["rlnImageName"], path)
    return Parsed(
        source=Source(
            path=path,
            kind="star",
            rows=particles,
            blocks={block: frame if block != name else frame.iloc[[]] for block, frame in blocks.items()},
            particle_block=name,
            named_from=star.named_from(path),
        ),
        image_name=stack,
        image_index=index,
        columns={column: value for column, value in values.items() if value is not None},
        rotation=rotation,
        shift_px=shift_px if shift_A is None else None,
    )


def _particle_block(path: str, blocks: dict[str, pd.DataFrame]) -> str:
    names = [block for block, frame in blocks.items() if "rlnImageName" in frame]
    if len(names) == 1:
        return names[0]
    if names:
        raise InputError(
            f"{path} has {len(names)} blocks with the column rlnImageName, "
            f"{', '.join(f'data_{block}' for block in names)}; give a file with one of them."
        )
    listed = ", ".join(f"data_{block}" for block in blocks) or "no block at all"
    columns = [str(column) for frame in blocks.values() for column in frame]
    if any(column.startswith("cisTEM") for column in columns):
        raise InputError(
            f"{path} is a star file of cisTEM: rlnImageName, rlnDefocusU and the other columns of RELION are "
            "missing; export the particles to RELION in cisTEM (Refine package, Export) and give that file."
        )
    other = next((column for column in columns if column.lower() == "rlnimagename"), None)
    hint = "give a particle star file" if other is None else f"rename its column {other}"
    raise InputError(f"{path} holds {listed}, but no block with the column rlnImageName; {hint}.")


def _refuse_tomography(
    path: str, particles: pd.DataFrame, blocks: dict[str, pd.DataFrame], columns: "_Columns"
) -> None:
    stacks = any("rlnTomoSubTomosAre2DStacks" in frame for frame in blocks.values())
    dimensions = columns.number("rlnImageDimensionality")
    if stacks or "rlnTomoVisibleFrames" in particles or (dimensions is not None and (dimensions != 2).any()):
        raise InputError(
            f"{path} describes subtomograms (a stack of tilt images or a volume each), where a row for "
            "each 2-D image is expected; export the tilt images as single particles with their poses and CTF."
        )


def _texts(column: "pd.Series[str]") -> "pd.Series[str]":
    unknown = column.isin([MISSING, "None"])
    return column.mask(unknown, "") if unknown.any() else column


@dataclass
class _Columns:
    """Numbers of the particle block, and of the optics block where it has the column."""

    path: str
    particles: pd.DataFrame
    blocks: dict[str, pd.DataFrame]
    optics_block: str | None

    def __post_init__(self) -> None:
        self.optics = None if self.optics_block is None else self.blocks[self.optics_block]
        self._row_of_group: NDArray[np.intp] | None = None
        if self.optics_block is not None and self.optics is not None:
            self._row_of_group = optics_rows(self.path, self.particles, self.optics, self.optics_block)

    def number(self, name: str) -> NDArray[np.float64] | None:
        """Return column `name` per particle, None when neither block has it."""
        if self.optics is not None and name in self.optics and self._row_of_group is not None:
            return self._finite(self.optics[name], name, "optics row")[self._row_of_group]
        if name in self.particles:
            return self._finite(self.particles[name], name, "particle row")
        self._refuse_misspelt(name)
        return None

    def _refuse_misspelt(self, name: str) -> None:
        written = {*self.particles, *(() if self.optics is None else self.optics)}
        for near in get_close_matches(name, written, cutoff=_MISSPELT):
            if not _of_other_axis(name, near):
                raise InputError(
                    f"{self.path} has the column {near} but not {name}; rename it, or remove it where it is"
                    " something else."
                )

    def pair(self, x: str, y: str) -> NDArray[np.float64] | None:
        """Return two columns as (N, 2), None where neither is there."""
        first, second = self.number(x), self.number(y)
        if first is None and second is None:
            return None
        if first is None or second is None:
            there, missing = (y, x) if first is None else (x, y)
            raise InputError(f"{self.path} has the column {there} but not {missing}; add it.")
        return np.stack([first, second], axis=1)

    def pixel_size_A(self) -> NDArray[np.float64] | None:
        for name in ("rlnImagePixelSize", "rlnPixelSize"):
            values = self.number(name)
            if values is not None:
                return values
        detector, magnification = self.number("rlnDetectorPixelSize"), self.number("rlnMagnification")
        if detector is None or magnification is None:
            return detector
        bad = np.flatnonzero(magnification <= 0)
        if len(bad):
            raise InputError(
                f"{self.path}, particle row {bad[0] + 1}: rlnMagnification is {magnification[bad[0]]}, but "
                "it must be positive; correct it."
            )
        return magnified_pixel_size_A(detector, magnification)

    def _finite(self, column: "pd.Series[Any]", name: str, row_word: str) -> NDArray[np.float64]:
        values = numbers_of(column)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            written = str(column.iloc[bad[0]]) or "empty"
            raise InputError(
                f"{self.path}, {row_word} {bad[0] + 1}: {name} is {written}, where a finite number is "
                f"expected ({len(bad)} such rows); correct or remove them."
            )
        return values


def _of_other_axis(name: str, other: str) -> bool:
    """Whether two names differ by the letter of an axis alone: rlnOriginXAngst, rlnOriginYAngst."""
    pairs = [(a, b) for a, b in zip(name, other, strict=False) if a != b]
    return len(name) == len(other) and len(pairs) == 1 and set(pairs[0]) <= set("UVXYZ")


def _is_tilt_series(
    particles: pd.DataFrame, b_factor: NDArray[np.float64] | None, ctf_scale: NDArray[np.float64] | None
) -> bool:
    if "rlnGroupName" not in particles or ctf_scale is None or b_factor is None or not b_factor.any():
        return False
    group, _ = pd.factorize(particles["rlnGroupName"])
    _, first = np.unique(group, return_index=True)
    return bool((ctf_scale != ctf_scale[first][group]).any())


def _split_image_name(names: "pd.Series[str]", path: str) -> tuple["pd.Series[str]", NDArray[np.int64]]:
    """Split 000001@stack into stack name and 0-based index; a name without @ is a file of one image."""
    parts = pa.array(names, type=pa.large_string())
    parts = pc.split_pattern(
        parts.combine_chunks() if isinstance(parts, pa.ChunkedArray) else parts, "@", max_splits=1
    )
    words, ends = parts.flatten(), parts.offsets.to_numpy()[1:] - parts.offsets[0].as_py()
    stack = words.take(pa.array(ends - 1))
    digits = pc.if_else(pc.equal(pc.list_value_length(parts), 1), "1", words.take(parts.offsets[:-1]))
    is_number = pc.match_substring_regex(digits, "^[0-9]{1,15}$")
    number = pc.if_else(is_number, digits, "0").cast(pa.int64()).to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(number < 1)
    if len(bad):
        raise InputError(
            f"{path}, particle row {bad[0] + 1}: rlnImageName is {names.iloc[bad[0]]}, where a number from 1 "
            "on, @ and the name of a stack are expected."
        )
    return pd.Series(stack, dtype="str"), number - 1
