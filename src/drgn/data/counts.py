"""How many of everything there are in the inputs of a data set, as lines of a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drgn.data.fields import box_and_pixel
from drgn.formats.mrc import read_header
from drgn.formats.particles import Particles

_LISTED = 8  # of stacks, boxes or optics groups; more are only counted


def input_counts(particles: Particles, options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Count the inputs of a particle table.

    Parameters
    ----------
    particles
        The table, its selection made.
    options
        The data set's: `poses`, `ctf` and `indices` are looked at.

    Returns
    -------
    list of tuple
        (what, how many) lines. That poses and CTF fit the particles was checked when they were read.

    Raises
    ------
    InputError
        A stack is not there.
    """
    table, source = particles.table, particles.source
    particles.require_images()
    stacks = table["image_path"].unique()
    held = sum(read_header(path).shape[0] for path in stacks)
    kinds, _, of_kind = box_and_pixel(particles)
    groups = table["optics_group"].astype("str").value_counts(sort=False)
    lines = [
        ("rows", f"{source.n_rows:,} in {source.path}"),
        ("poses", _given(options.get("poses"), particles.has_poses, source.n_rows)),
        ("CTF", _given(options.get("ctf"), particles.has_ctf, source.n_rows)),
    ]
    if options.get("indices") is not None:
        lines.append(("indices", f"{len(particles):,} of the rows, {options['indices']}"))
    lines += [
        ("images", f"{len(particles):,} used of {held:,} in {len(stacks):,} stack{'s'[: len(stacks) > 1]}"),
        *_some("box, pixel", [f"{box} px, {pixel_A:.5g} A" for box, pixel_A in kinds], of_kind),
        *_some("optics group", [str(name) or "not named" for name in groups.index], groups.to_numpy()),
        ("protein", _signs(particles)),
    ]
    return lines


def _given(file: Path | None, known: bool, n: int) -> str:
    if file is None:
        return f"{n:,} in the particle file" if known else "none"
    if Path(file).suffix in (".star", ".cs"):
        return f"{n:,} found by particle in {file}"
    return f"{n:,} in {file}"


def _some(what: str, names: list[str], counts: "np.ndarray[Any, Any]") -> list[tuple[str, str]]:
    if len(names) > _LISTED:
        return [(what, f"{len(names):,} different, of {counts.min():,} to {counts.max():,} images")]
    return [(what, f"{name}: {count:,} images") for name, count in zip(names, counts, strict=True)]


def _signs(particles: Particles) -> str:
    dark = int((particles.table["data_sign"] < 0).sum())
    bright = len(particles) - dark
    return ", ".join(f"{word} in {n:,}" for word, n in (("bright", bright), ("dark", dark)) if n)
