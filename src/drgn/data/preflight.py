"""Preflight: do images, poses and conventions belong together? Asked of the data, before anything is trained.

A few thousand images are back-projected in two halves, and each is predicted from the map of the other half
(`data.halves`). Every other way to read the same file (rotations transposed, shifts of the other sign or
unit, images mirrored, poses one row off) is scored on the same images. What halves cannot tell, the sign of
the density and the hand of the map, is taken from the skewness of the density and, where one is given, from
a consensus map.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.data.dataset import require_poses
from drgn.data.fields import box_and_pixel
from drgn.data.halves import HalfMap, Reading, Sample, cross_score
from drgn.data.sample import spread
from drgn.errors import InputError
from drgn.formats.particles import Particles
from drgn.physics import fourier, masks
from drgn.physics.fsc import fsc, resolution_A

_BOX = 48  # of the back-projection: its Nyquist is what a convention shows at
_Z = 6.0  # standard errors by which another reading must be better
_SHARE = 0.15  # and by what share of the score
_SKEW = 0.3  # of the density, beyond which its sign is plain
_ALIKE = 0.2  # mean FSC with a consensus map, below which it is another map
_WORSE = 2.0  # standard errors by which another reading must be worse to be told from the present one
_ENOUGH = 500  # images with which poses that predict nothing are a fault, not bad luck
_ROUNDS = 4  # faults found one after the other
_DEFAULTS = {
    "transpose_rotations": False,
    "mirror_images": False,
    "mirror_map": False,
    "shift_factor": 1.0,
}


@dataclass(frozen=True)
class Choice:
    """Another reading and how it scored against the present one.

    Attributes
    ----------
    name
        What it is, in words.
    gain
        Mean score of an image: log-likelihood gained by the prediction, in nats.
    z
        How many standard errors better (+) or worse (-) than the present reading, paired by image.
    """

    name: str
    gain: float
    z: float


@dataclass(frozen=True)
class Report:
    """What the preflight found.

    Attributes
    ----------
    n
        Images used.
    gain
        Mean score of an image as the file is read, as of `Choice`.
    resolution_A
        Where the half maps agree (FSC 0.143), as read.
    choices
        The other readings, in the order tried.
    faults
        Sentences, one for each fault found.
    settings
        Options of the data set that mend them, by name; empty where none can.
    warnings
        What could not be told, and why.
    conclusive
        Whether the poses predict the images at all, without which no reading can be told from another.
    """

    n: int
    gain: float
    resolution_A: float
    choices: list[Choice]
    faults: list[str]
    settings: dict[str, Any]
    warnings: list[str]
    conclusive: bool

    def lines(self) -> list[str]:
        """The report in words, for a person."""
        said = [f"preflight: {warning}" for warning in self.warnings]
        if self.faults or not self.choices or not self.conclusive:
            return said
        open_ = [choice.name for choice in self.choices if choice.z > -_WORSE]
        nearest = max(self.choices, key=lambda choice: choice.z)
        how = (
            f"{len(self.choices) - len(open_)} other readings fit worse, {len(open_)} about as well, which"
            f" these images cannot tell from the present one ({'; '.join(open_)})"
            if open_
            else f"{len(self.choices)} other readings fit worse (the nearest: {nearest.name}, by"
            f" {-nearest.z:.0f} standard errors)"
        )
        reach = f"to {self.resolution_A:.3g} A" if math.isfinite(self.resolution_A) else "nowhere"
        said.append(f"preflight: {self.n:,} images agree with their poses; half maps agree {reach}; {how}")
        return said


def preflight(
    particles: Particles,
    *,
    consensus: tuple[Tensor, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    limit: int = 2000,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Score the present reading of poses and conventions against every other one.

    Parameters
    ----------
    particles
        With poses and stacks.
    consensus
        A map (D, D, D) [z, y, x] and its pixel size in A, from the refinement that gave the poses.
    settings
        The options of `Particles.from_file` that the present reading was made with.
    limit
        Images used, evenly spread over the file.
    progress
        Called with what is being tried.

    Returns
    -------
    Report
        See there; nothing is raised for a fault.
    """
    rotation = require_poses(particles)
    found: dict[str, Any] = {}
    faults: list[str] = []
    warnings: list[str] = []
    usual = _of_one_field(particles, warnings)
    rows = spread(usual, limit)
    # with their neighbours in the file, whose poses may be theirs by mistake
    near = np.unique(np.clip(rows[:, None] + [-1, 0, 1], 0, len(particles) - 1))
    shift_A = particles.table[["shift_x_A", "shift_y_A"]].iloc[near].to_numpy(np.float64)
    chosen = particles.select(rows)
    pixel_A = chosen.pixel_size_A
    sample = Sample(chosen, np.arange(len(rows)), min(_BOX, chosen.box_size - chosen.box_size % 2))
    reading = Reading(
        torch.from_numpy(rotation[near].astype(np.float32)),
        torch.from_numpy(shift_A / pixel_A).float(),
        torch.from_numpy(np.searchsorted(near, rows)),
    )
    present = {**_DEFAULTS, **(settings or {})}
    say = progress or (lambda text: None)

    say("as the file is read")
    score, maps = cross_score(sample, reading)
    gain, resolution = (
        float(score.mean()),
        resolution_A(fsc(*(m.density for m in maps)), sample.pixel_A, 0.143),
    )
    first: list[Choice] = []
    for round_number in range(_ROUNDS):
        tried = []
        for name, change, other in _alternatives(reading, pixel_A):
            say(name)
            its_score, its_maps = cross_score(sample, other)
            z = _standard_errors((its_score - score)[other.row >= 0])
            choice = Choice(name, float(its_score[other.row >= 0].mean()), z)
            tried.append((choice, change, other, its_score, its_maps))
        if round_number == 0:
            first = [t[0] for t in tried]
        now = float(score.mean())
        better = [t for t in tried if t[0].z > _Z and t[0].gain > now + _SHARE * max(abs(now), t[0].gain)]
        if not better:
            break
        choice, change, reading, score, maps = max(better, key=lambda t: t[0].gain)
        faults.append(
            f"{choice.name}: that reading fits the images better (score {choice.gain:.3g} against {now:.3g},"
            f" by {choice.z:.0f} standard errors)"
        )
        if change is None:
            faults[-1] += (
                "; a row is missing or added at one end of the particle file or of one of the files given"
                " with it: compare their numbers of rows, and give files that belong together"
            )
        else:
            key, value = change
            before = found.get(key, present[key])
            found[key] = before * value if key == "shift_factor" else not before
            given_A = present.get("pixel_size_A")
            if key == "shift_factor" and given_A is not None:
                faults[-1] += (
                    "; a pixel size that is not that of the images would look so too: look at"
                    f" dataset.pixel_size_A={given_A:g} first"
                )

    say("orientations of other images, at random")
    by_chance = cross_score(sample, _shuffled(reading, sample.group))[0]
    above_chance = _standard_errors(score - by_chance)
    conclusive = above_chance >= _Z
    if not conclusive:
        words = (
            "the orientations predict their images no better than those of other images do"
            f" ({above_chance:.1f} standard errors, {len(sample):,} images)"
        )
        if len(sample.group.unique()) >= _ENOUGH:
            faults.append(
                f"{words}: are these the poses of these images? Compare the order and the number of rows with"
                " the file that the poses were refined from"
            )
        else:
            warnings.append(f"{words}: too few, or too noisy, to check the conventions")
    else:
        _sign_and_hand(maps, consensus, sample.pixel_A, particles, present, found, faults, warnings)
    return Report(len(sample), gain, resolution, first, faults, found, warnings, conclusive)


def digest(particles: Particles, more: str = "") -> str:
    """Hash of everything that a preflight depends on, and of `more`."""
    table = particles.table
    found = hashlib.sha256(more.encode())
    for path in table["image_path"].unique():
        status = os.stat(path)
        found.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    found.update(pd.factorize(table["image_path"])[0])
    for column in table.select_dtypes(["number", "bool"]):
        found.update(np.ascontiguousarray(table[column]))
    found.update(np.ascontiguousarray(require_poses(particles)))
    return found.hexdigest()[:16]


def require_sound(report: Report, source: str) -> None:
    """Raise an InputError where the preflight found a fault."""
    if not report.faults:
        return
    keys = " ".join(f"dataset.{key}={_written(value)}" for key, value in report.settings.items())
    advice = f"set {keys}, or " if keys else ""
    raise InputError(
        f"{source}: preflight: {'; '.join(report.faults)}; {advice}go on regardless with"
        " dataset.preflight=false."
    )


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.5g}"


def _alternatives(reading: Reading, pixel_A: float) -> Iterator[tuple[str, tuple[str, Any] | None, Reading]]:
    """Other readings of the same numbers: (name, option and value, reading); no option mends a lost row."""
    rotation, shift, row = reading
    yield (
        "rotation matrices transposed",
        ("transpose_rotations", True),
        reading._replace(rotation=rotation.mT),
    )
    yield (
        "images mirrored (y counted from the other side)",
        ("mirror_images", True),
        Reading(rotation * torch.tensor([[1.0], [-1.0], [-1.0]]), shift * torch.tensor([1.0, -1.0]), row),
    )
    factors = {
        -1.0: "shifts of the opposite sign",
        pixel_A: "shifts are pixels that were taken for Angstrom",
        1 / pixel_A: "shifts are Angstrom that were taken for pixels",
        2.0: "shifts are pixels of images binned twice as much",
        0.5: "shifts are pixels of images binned half as much",
        0.0: "no shifts (those given do harm)",
    }
    if float(shift.abs().max()) * pixel_A > 1e-3:
        for factor, name in factors.items():
            if factor <= 0 or abs(math.log(factor)) > 0.05:
                yield name, ("shift_factor", factor), reading._replace(shift_px=shift * factor)
    for offset, other in ((1, "after"), (-1, "before")):
        moved = row + offset
        there = (moved >= 0) & (moved < len(rotation))
        yield (
            f"each image has the pose of the row {other} it",
            None,
            reading._replace(row=torch.where(there, moved, -1)),
        )


def _of_one_field(particles: Particles, warnings: list[str]) -> NDArray[np.int64]:
    """Rows of the most frequent box and pixel size; a warning where there are others."""
    kinds, kind, counts = box_and_pixel(particles)
    usual = int(np.argmax(counts))
    if len(kinds) > 1:
        box, pixel_A = kinds[usual]
        warnings.append(
            f"only the {counts[usual]:,} images of {box} px at {pixel_A:.5g} A are checked, and not the"
            f" {len(particles) - counts[usual]:,} of other boxes or pixel sizes"
        )
    return np.flatnonzero(kind == usual)


def _shuffled(reading: Reading, group: Tensor) -> Reading:
    """The same reading with the orientations of other particles, each in its own place."""
    first = torch.zeros(int(group.max()) + 1, dtype=torch.int64)
    first[group] = reading.row
    order = torch.from_numpy(np.random.default_rng(1).permutation(len(first)))
    rotation = reading.rotation.clone()
    there = reading.row >= 0
    rotation[reading.row[there]] = reading.rotation[first[order[group[there]]].clamp_min(0)]
    return reading._replace(rotation=rotation)


def _sign_and_hand(
    maps: tuple[HalfMap, HalfMap],
    consensus: tuple[Tensor, float] | None,
    pixel_A: float,
    particles: Particles,
    present: Mapping[str, Any],
    found: dict[str, Any],
    faults: list[str],
    warnings: list[str],
) -> None:
    """Add what the halves cannot tell: the sign of the density and the hand of the map."""
    density = fourier.ifft(maps[0].transform + maps[1].transform, 3).real / 2
    other_sign = -float(particles.table["data_sign"].iloc[0])
    if consensus is None:
        skew = skewness(density)
        if skew < -_SKEW:
            faults.append(f"the protein comes out dark (skewness of the density {skew:.2f})")
            found["data_sign"] = other_sign
        elif skew < _SKEW:
            warnings.append(
                f"the density lies as much below as above the solvent (skewness {skew:.2f}), which leaves"
                " open whether protein is bright; dataset.consensus=MAP would tell"
            )
        return
    box_size = density.shape[-1]
    reference = _resampled(*consensus, pixel_A, box_size)
    mirrored = reference.flip(0) if box_size % 2 else reference.flip(0).roll(1, 0)
    shell = slice(1, box_size // 3)
    as_is, other = (float(fsc(density, m)[shell].mean()) for m in (reference, mirrored))
    if max(abs(as_is), abs(other)) < _ALIKE:
        warnings.append(
            f"the consensus map does not resemble the back-projection (FSC {as_is:.2f}, mirrored"
            f" {other:.2f}): it is of another molecule, or not in the frame of these poses"
        )
        return
    if max(as_is, other, key=abs) < 0:
        faults.append("the back-projection is the consensus map with its sign reversed")
        found["data_sign"] = other_sign
    if abs(other) > abs(as_is) + 0.1:
        faults.append(
            f"the back-projection is of the other hand than the consensus map (FSC {abs(other):.2f} with its"
            f" mirror image, {abs(as_is):.2f} with itself)"
        )
        found["mirror_map"] = not present["mirror_map"]


def skewness(density: Tensor) -> float:
    """Third standardised moment of a map (D, D, D) inside its sphere: > 0 where the molecule is bright."""
    inside = density[masks.window(density.shape[-1], ndim=3) > 0.5]
    deviation = inside - inside.mean()
    return float(deviation.pow(3).mean() / deviation.square().mean().pow(1.5).clamp_min(1e-30))


def _resampled(volume: Tensor, from_A: float, to_A: float, box_size: int) -> Tensor:
    """A map (L, L, L) of one pixel size in a box of another: cut or padded, then Fourier-resampled."""
    field = max(2, round(box_size * to_A / from_A))
    size = volume.shape[-1]
    if size > field:
        volume = fourier.crop(volume, field, 3)
    elif size < field:
        volume = fourier.pad(volume, field, 3)
    transform = fourier.fft(volume.float(), 3)
    change = fourier.crop if field >= box_size else fourier.pad
    return fourier.ifft(change(transform, box_size, 3), 3).real


def _standard_errors(values: Tensor) -> float:
    """How many of its standard errors the mean lies above 0."""
    if len(values) < 2:
        return 0.0
    error = values.std() / math.sqrt(len(values))
    return float(values.mean() / error) if error > 0 else 0.0
