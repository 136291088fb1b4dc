"""The blocks of a particle star file for a selection, in the dialects of RELION 3.1 and 3.0.

    3.1: `data_optics` and `data_particles`; shifts in Angstrom, the pixel size in the optics.
    3.0: one block without a name; everything per particle, shifts in pixels, the pixel size as
    rlnDetectorPixelSize (um) and rlnMagnification. Optics groups may differ in pixel size here too.
From a star of which nothing was replaced, a conversion moves and scales what the dialects have in different
places and leaves all other columns, poses among them, as they are. A shift times or divided by the pixel
size may change in its last digit, nothing else does.
"""

from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats.euler import ANGLES, matrix_to_euler
from drgn.formats.optics import group_labels, magnified_pixel_size_A, optics_block, optics_rows
from drgn.formats.star_values import numbers_of
from drgn.formats.table import Source

_OPTICS = {
    "voltage_kV": "rlnVoltage",
    "spherical_aberration_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
    "pixel_size_A": "rlnImagePixelSize",
    "box_size_px": "rlnImageSize",
    "ctf_premultiplied": "rlnCtfDataAreCtfPremultiplied",
    "phase_flipped": "rlnCtfDataArePhaseFlipped",
}
# what RELION 3.1 keeps in the optics beside these
_MORE_OPTICS = (
    *("rlnOpticsGroupName", "rlnMtfFileName", "rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize"),
    *("rlnImageDimensionality", "rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike", "rlnEvenZernike"),
    *("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11"),
)
_MAGNIFIED = ("rlnDetectorPixelSize", "rlnMagnification")
_PIXEL_SIZE = (*_MAGNIFIED, "rlnPixelSize", "rlnImagePixelSize")
_SHIFTS = {"rlnOriginX": "rlnOriginXAngst", "rlnOriginY": "rlnOriginYAngst", "rlnOriginZ": "rlnOriginZAngst"}
# what is written anew where values were replaced, with the names of both dialects
_WRITTEN_ANEW = {
    *ANGLES,
    *_SHIFTS,
    *_SHIFTS.values(),
    *("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift", "rlnCtfBfactor", "rlnCtfScalefactor"),
    *_PIXEL_SIZE,
    *_OPTICS.values(),
    "rlnOpticsGroup",
}


def to_blocks(
    source: Source,
    table: pd.DataFrame,
    rotation: NDArray[np.float64] | None,
    *,
    version: Literal["3.1", "3.0"] | None = None,
    extra: pd.DataFrame | None = None,
) -> dict[str, pd.DataFrame]:
    """Return the blocks of a star file for a selection of particles.

    From a star they are its own, all columns and blocks kept. Where values were replaced, or the particles
    came from another kind of file, poses, CTF and optics are written anew, beside the columns of the star
    that they do not replace. The sign of the data has no column in RELION and is lost. Optics groups of
    which no particle is selected are kept in a star's own blocks, and left out where optics are written anew.

    Parameters
    ----------
    version : dialect; default as the star, or 3.1 where it is written anew
    extra : (N,) rows, in the order of `table`, of columns to append to the particles; they replace columns
        of the same names

    Raises
    ------
    InputError
        When shifts must be converted but the pixel size of an image is unknown.
    """
    if source.kind == "star" and not source.replaced:
        blocks, name = {**source.blocks, source.particle_block: source.rows}, source.particle_block
    else:
        blocks, name = _anew(source, table, rotation), "particles"
    if version == "3.0":
        blocks, name = _to_3_0(source.path, blocks, name, table)
    elif version == "3.1":
        blocks, name = _to_3_1(source.path, blocks, name, table)
    if extra is not None:
        if len(extra) != len(table):
            raise ValueError(f"{len(extra)} rows of extra columns for {len(table)} particles")
        kept = blocks[name].drop(columns=[column for column in extra if column in blocks[name]])
        blocks[name] = pd.concat([kept, extra.set_axis(kept.index)], axis=1)
    return blocks


def _to_3_0(
    path: str, blocks: dict[str, pd.DataFrame], name: str, table: pd.DataFrame
) -> tuple[dict[str, pd.DataFrame], str]:
    """Return the blocks in the dialect of RELION 3.0, and the name of that of the particles."""
    particles = blocks[name].copy(deep=False)
    optics = optics_block(blocks, name)
    if optics is not None:
        rows = optics_rows(path, particles, blocks[optics], optics)
        for column in blocks[optics]:
            if column != "rlnOpticsGroup":
                particles[column] = blocks[optics][column].take(rows).set_axis(particles.index)
    pixel_A = table["pixel_size_A"].to_numpy()
    for px, angstrom in _SHIFTS.items():
        if angstrom in particles:
            particles[px] = _converted(path, particles.pop(angstrom), pixel_A, to_angstrom=False)
    if np.isfinite(pixel_A).all():
        particles = particles.drop(
            columns=[c for c in ("rlnPixelSize", "rlnImagePixelSize") if c in particles]
        )
        written = None
        if all(column in particles for column in _MAGNIFIED):
            written = magnified_pixel_size_A(*(numbers_of(particles[c]) for c in _MAGNIFIED))
        if written is None or not np.array_equal(written, pixel_A):
            particles["rlnMagnification"], particles["rlnDetectorPixelSize"] = 1e4, pixel_A
    if optics is None:  # it has its name and place
        return {**blocks, name: particles}, name
    others = {block: frame for block, frame in blocks.items() if block not in (optics, name, "")}
    return {"": particles, **others}, ""


def _to_3_1(
    path: str, blocks: dict[str, pd.DataFrame], name: str, table: pd.DataFrame
) -> tuple[dict[str, pd.DataFrame], str]:
    """Return the blocks in the dialect of RELION 3.1, and the name of that of the particles."""
    particles = blocks[name].copy(deep=False)
    for px, angstrom in _SHIFTS.items():
        if px in particles and angstrom not in particles:
            shift = particles.pop(px)
            particles[angstrom] = _converted(path, shift, table["pixel_size_A"].to_numpy(), to_angstrom=True)
    if optics_block(blocks, name) is not None:
        return {**blocks, name: particles}, name
    more = [column for column in _MORE_OPTICS if column in particles]
    labels = group_labels(particles["rlnOpticsGroup"]) if "rlnOpticsGroup" in particles else None
    optics, number = _described(table.assign(optics_group="" if labels is None else labels), particles[more])
    moved = [c for c in (*_PIXEL_SIZE, *_OPTICS.values(), *more) if c in particles]
    particles = particles.drop(columns=moved)
    particles["rlnOpticsGroup"] = number
    others = {block: frame for block, frame in blocks.items() if block not in (name, "optics", "particles")}
    return {"optics": optics, "particles": particles, **others}, "particles"


def _converted(
    path: str, shift: "pd.Series[Any]", pixel_A: NDArray[np.float64], *, to_angstrom: bool
) -> NDArray[np.float64]:
    values = numbers_of(shift)
    converted = values * pixel_A if to_angstrom else values / pixel_A
    converted[values == 0] = 0.0  # also where the pixel size is unknown
    if not np.isfinite(converted).all():
        row = int(np.flatnonzero(~np.isfinite(converted))[0])
        raise InputError(
            f"{path}, particle row {row + 1}: the shift {shift.iloc[row]} cannot be converted between pixels "
            "and Angstrom, because the pixel size is unknown; set pixel_size_A=VALUE."
        )
    return converted


def _described(table: pd.DataFrame, more: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Return an optics block for groups of equal optics, and the number of the group of each particle.

    The groups have the numbers of `optics_group` where these are integers that tell the groups apart.
    """
    keys = pd.concat([table[[*_OPTICS, "optics_group"]], more], axis=1)
    group = keys.groupby(list(keys), sort=False, dropna=False, observed=True).ngroup().to_numpy()
    first = keys[~pd.Series(group).duplicated().to_numpy()].reset_index(drop=True)
    numbers: NDArray[Any] = np.arange(1, len(first) + 1)
    label = first["optics_group"].astype("str")
    if label.is_unique and label.str.fullmatch("[1-9][0-9]{0,8}").all():
        numbers = label.astype("int64").to_numpy()
    optics = pd.DataFrame({"rlnOpticsGroup": numbers})
    optics["rlnOpticsGroupName"] = [f"opticsGroup{number}" for number in numbers]
    for ours, theirs in _OPTICS.items():
        if ours == "box_size_px" and (first[ours] == 0).any():
            continue  # unknown: RELION looks at the images
        if first[ours].notna().any():
            optics[theirs] = first[ours].astype("int64") if first[ours].dtype == bool else first[ours]
    optics["rlnImageDimensionality"] = 2
    for column in more:
        optics[column] = first[column]
    return optics.sort_values("rlnOpticsGroup").reset_index(drop=True), numbers[group]


def _anew(
    source: Source, table: pd.DataFrame, rotation: NDArray[np.float64] | None
) -> dict[str, pd.DataFrame]:
    """Return blocks of RELION 3.1 with the poses, CTF and optics of the table."""
    optics, number = _described(table, pd.DataFrame(index=table.index))
    particles = _particles(table, rotation)
    particles["rlnOpticsGroup"] = number
    if source.kind != "star":
        return {"optics": optics, "particles": particles}
    kept = source.rows.drop(columns=[name for name in _WRITTEN_ANEW if name in source.rows])
    anew = particles[[name for name in particles if name in _WRITTEN_ANEW]]
    old = optics_block(source.blocks, source.particle_block)
    if old is not None:
        # each new group lies within one old group, whose other columns (MTF, beam tilt, ...) it inherits
        rows = optics_rows(source.path, source.rows, source.blocks[old], old)
        row_of_group = dict(zip(number, rows, strict=True))
        inherited = source.blocks[old].iloc[[row_of_group[n] for n in optics["rlnOpticsGroup"]]]
        if "rlnOpticsGroupName" in inherited:
            optics["rlnOpticsGroupName"] = _names(inherited, optics["rlnOpticsGroup"])
        for name in inherited:
            if name not in optics:
                optics[name] = inherited[name].to_numpy()
    others = {b: frame for b, frame in source.blocks.items() if b not in (source.particle_block, old)}
    return {**others, "optics": optics, "particles": pd.concat([kept, anew], axis=1)}


def _names(inherited: pd.DataFrame, number: "pd.Series[Any]") -> list[str]:
    """Return names of new optics groups: each that of its old group, with its number where that was split."""
    split = inherited.index.duplicated(keep=False)
    names = inherited["rlnOpticsGroupName"].astype("str")
    return [f"{name}_{n}" if parts else name for name, n, parts in zip(names, number, split, strict=True)]


def _particles(table: pd.DataFrame, rotation: NDArray[np.float64] | None) -> pd.DataFrame:
    """Return the particle block of RELION 3.1, without optics groups, for a table of any origin."""
    number = (table["image_index"] + 1).astype("str").str.zfill(6)
    particles = pd.DataFrame({"rlnImageName": number + "@" + table["image_path"].astype("str")})
    if (table["original_image"] != "").all():
        particles["rlnImageOriginalName"] = table["original_image"]
    if (table["micrograph"] != "").all():
        particles["rlnMicrographName"] = table["micrograph"].astype("str")
    for ours, theirs in {
        "coordinate_x_px": "rlnCoordinateX",
        "coordinate_y_px": "rlnCoordinateY",
        "defocus_u_A": "rlnDefocusU",
        "defocus_v_A": "rlnDefocusV",
        "defocus_angle_deg": "rlnDefocusAngle",
        "phase_shift_deg": "rlnPhaseShift",
        "b_factor_A2": "rlnCtfBfactor",
        "ctf_scale": "rlnCtfScalefactor",
    }.items():
        if table[ours].notna().all():
            particles[theirs] = table[ours]
    if rotation is not None:
        particles[list(ANGLES)] = matrix_to_euler(rotation)
        particles["rlnOriginXAngst"], particles["rlnOriginYAngst"] = table["shift_x_A"], table["shift_y_A"]
    if (table["half_set"] > 0).all():
        particles["rlnRandomSubset"] = table["half_set"]
    if (table["group"] != table["key"]).any():
        particles["rlnGroupName"] = table["group"]
    return particles
