"""RELION's particle columns (3.0 and 3.1 star files) into the particle table, and back.

Dialects
    3.1: a block `data_optics` and a particle block joined to it by rlnOpticsGroup; shifts in Angstrom.
    3.0: one block of any name with everything per particle; shifts in pixels; the pixel size is
    rlnDetectorPixelSize (um) * 1e4 / rlnMagnification, or rlnDetectorPixelSize alone (in A, cryoDRGN-ET).
B-factor
    RELION damps with a positive rlnCtfBfactor; Warp and M write -4 * dose (in A^2) for the same thing.
    The table holds the absolute value, which damps in both.
Groups
    rlnGroupName means the tilted particle in the star files of Warp and M, but a group of micrographs in
    RELION's. It is taken as the particle only where rlnCtfScalefactor (the cosine of the tilt there) varies
    within a group and rlnCtfBfactor is not zero.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from drgn.errors import InputError
from drgn.formats import star
from drgn.formats.table import Parsed, Source

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
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
# what `to_blocks` writes anew, with the names of both dialects
_WRITTEN_ANEW = {
    *ANGLES,
    *("rlnOriginX", "rlnOriginY", "rlnOriginZ", "rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst"),
    *("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift", "rlnCtfBfactor", "rlnCtfScalefactor"),
    *("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnCtfDataAreCtfPremultiplied"),
    "rlnCtfDataArePhaseFlipped",
    *("rlnMagnification", "rlnDetectorPixelSize", "rlnPixelSize", "rlnImagePixelSize", "rlnImageSize"),
    "rlnOpticsGroup",
}


def euler_to_matrix(angles_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return RELION's Euler_angles2matrix of (N, 3) angles (rot, tilt, psi) as (N, 3, 3)."""
    matrix: NDArray[np.float64] = Rotation.from_euler("ZYZ", angles_deg, degrees=True).as_matrix()
    return np.ascontiguousarray(matrix.transpose(0, 2, 1))


def matrix_to_euler(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return angles (rot, tilt, psi) in degrees, (N, 3), of matrices (N, 3, 3)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # at tilt 0 only rot + psi is defined: any split will do
        angles: NDArray[np.float64] = Rotation.from_matrix(rotation.transpose(0, 2, 1)).as_euler("ZYZ", True)
    return angles


def read(path: str) -> Parsed:
    """Read a particle star file of either dialect.

    Raises
    ------
    InputError
        When there is no particle block, a row is incomplete, an optics group is not described, or a number
        that is used is not finite.
    """
    blocks = star.read_blocks(path)
    name = next((block for block, frame in blocks.items() if "rlnImageName" in frame), None)
    if name is None:
        listed = ", ".join(f"data_{block}" for block in blocks) or "no block at all"
        raise InputError(
            f"{path} holds {listed}, but no block with the column rlnImageName; give a particle star file."
        )
    particles = blocks[name]
    if not len(particles):
        raise InputError(f"{path} has no particles in its block data_{name}.")
    columns = _Columns(path, particles, blocks.get("optics"))

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
        values["original_image"] = particles["rlnImageOriginalName"]
    if "rlnMicrographName" in particles:
        values["micrograph"] = particles["rlnMicrographName"]
    if "rlnOpticsGroup" in particles:
        values["optics_group"] = particles["rlnOpticsGroup"].astype("str")
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
            blocks={block: frame if block != name else frame.iloc[:0] for block, frame in blocks.items()},
            particle_block=name,
        ),
        image_name=stack,
        image_index=index,
        columns={column: value for column, value in values.items() if value is not None},
        rotation=rotation,
        shift_px=shift_px if shift_A is None else None,
    )


def to_blocks(
    source: Source, table: pd.DataFrame, rotation: NDArray[np.float64] | None
) -> dict[str, pd.DataFrame]:
    """Return the blocks of a star file for a selection of particles.

    From a star they are its own, all columns kept. Where values were replaced, or the particles came from
    another kind of file, poses, CTF and optics are written anew in the dialect of RELION 3.1, beside the
    columns of the star that they do not replace. The sign of the data has no column in RELION and is lost.
    """
    if source.kind == "star" and not source.replaced:
        return {**source.blocks, source.particle_block: source.rows}
    optics, particles = _new_blocks(table, rotation)
    if source.kind != "star":
        return {"optics": optics, "particles": particles}
    kept = source.rows.drop(columns=[name for name in _WRITTEN_ANEW if name in source.rows])
    anew = particles[[name for name in particles if name in _WRITTEN_ANEW]]
    old = source.blocks.get("optics")
    if old is not None and "rlnOpticsGroup" in source.rows:
        # each new group lies within one old group, whose other columns (MTF, beam tilt, ...) it inherits
        first = ~particles["rlnOpticsGroup"].duplicated()
        inherited = old.set_index("rlnOpticsGroup").loc[source.rows.loc[first, "rlnOpticsGroup"]]
        for name in inherited:
            if name not in optics:
                optics[name] = inherited[name].to_numpy()
    others = {block: frame for block, frame in source.blocks.items() if block != source.particle_block}
    return {**others, "optics": optics, "particles": pd.concat([kept, anew], axis=1)}


def _new_blocks(
    table: pd.DataFrame, rotation: NDArray[np.float64] | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the optics and the particle block of RELION 3.1 for a table of any origin."""
    optics_columns = {
        "voltage_kV": "rlnVoltage",
        "spherical_aberration_mm": "rlnSphericalAberration",
        "amplitude_contrast": "rlnAmplitudeContrast",
        "pixel_size_A": "rlnImagePixelSize",
        "box_size_px": "rlnImageSize",
        "ctf_premultiplied": "rlnCtfDataAreCtfPremultiplied",
        "phase_flipped": "rlnCtfDataArePhaseFlipped",
    }
    keys = [*optics_columns, "optics_group"]
    group = table.groupby(keys, sort=False, dropna=False).ngroup()
    first = table.loc[~group.duplicated(), keys].reset_index(drop=True)
    optics = pd.DataFrame({"rlnOpticsGroup": first.index + 1})
    optics["rlnOpticsGroupName"] = [f"opticsGroup{number}" for number in optics["rlnOpticsGroup"]]
    for ours, theirs in optics_columns.items():
        if first[ours].notna().any():
            optics[theirs] = first[ours].astype("int64") if first[ours].dtype == bool else first[ours]
    optics["rlnImageDimensionality"] = 2

    number = (table["image_index"] + 1).astype("str").str.zfill(6)
    particles = pd.DataFrame({"rlnImageName": number + "@" + table["image_path"]})
    if (table["original_image"] != "").all():
        particles["rlnImageOriginalName"] = table["original_image"]
    if (table["micrograph"] != "").all():
        particles["rlnMicrographName"] = table["micrograph"]
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
    particles["rlnOpticsGroup"] = group + 1
    return optics, particles


@dataclass
class _Columns:
    """Numbers of the particle block, and of the optics block where it has the column."""

    path: str
    particles: pd.DataFrame
    optics: pd.DataFrame | None

    def __post_init__(self) -> None:
        self._row_of_group: NDArray[np.int64] | None = None
        if self.optics is None:
            return
        if "rlnOpticsGroup" not in self.optics or not self.optics["rlnOpticsGroup"].is_unique:
            raise InputError(
                f"{self.path}: the optics block needs a column rlnOpticsGroup with unique numbers."
            )
        if "rlnOpticsGroup" not in self.particles:
            if len(self.optics) > 1:
                raise InputError(
                    f"{self.path} has {len(self.optics)} optics groups, but its particles have no column "
                    "rlnOpticsGroup; add it."
                )
            self._row_of_group = np.zeros(len(self.particles), dtype=np.int64)
            return
        groups = self.particles["rlnOpticsGroup"]
        row = pd.Index(self.optics["rlnOpticsGroup"]).get_indexer(pd.Index(groups))
        if (row < 0).any():
            bad = int(np.flatnonzero(row < 0)[0])
            raise InputError(
                f"{self.path}, particle row {bad + 1}: optics group {groups.iloc[bad]} is not in the block "
                "data_optics; add it there."
            )
        self._row_of_group = row

    def number(self, name: str) -> NDArray[np.float64] | None:
        """Return column `name` per particle, None when neither block has it."""
        if self.optics is not None and name in self.optics and self._row_of_group is not None:
            return self._finite(self.optics[name], name, "optics row")[self._row_of_group]
        if name in self.particles:
            return self._finite(self.particles[name], name, "particle row")
        return None

    def pair(self, x: str, y: str) -> NDArray[np.float64] | None:
        """Return two columns as (N, 2), None unless both are there."""
        first, second = self.number(x), self.number(y)
        return None if first is None or second is None else np.stack([first, second], axis=1)

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
        return detector * 1e4 / magnification

    def _finite(self, column: "pd.Series[Any]", name: str, row_word: str) -> NDArray[np.float64]:
        values = np.asarray(pd.to_numeric(column, errors="coerce"), dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise InputError(
                f"{self.path}, {row_word} {bad[0] + 1}: {name} is {column.iloc[bad[0]]}, where a finite "
                f"number is expected ({len(bad)} such rows); correct or remove them."
            )
        return values


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
    parts = names.str.partition("@")
    alone = (parts[1] == "").to_numpy(dtype=bool)
    number = np.asarray(pd.to_numeric(parts[0].where(~alone, "1"), errors="coerce"), dtype=np.float64)
    bad = np.flatnonzero(~(number >= 1))
    if len(bad):
        raise InputError(
            f"{path}, particle row {bad[0] + 1}: rlnImageName is {names.iloc[bad[0]]}, where a number from 1 "
            "on, @ and the name of a stack are expected."
        )
    return parts[2].where(~alone, names), number.astype(np.int64) - 1
