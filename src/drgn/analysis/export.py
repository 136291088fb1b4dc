"""Write selected particles: in any format, to one file or one for each cluster, binned or original images."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from rich.progress import Progress

from drgn.errors import InputError
from drgn.formats.identity import match
from drgn.formats.particles import Particles


def columns(z: np.ndarray, labels: np.ndarray | None) -> pd.DataFrame:
    """Latents (N, Z) and, where given, clusters (N,) as columns drgnLatent1, ... and drgnCluster."""
    frame = pd.DataFrame({f"drgnLatent{i + 1}": z[:, i].astype(np.float64) for i in range(z.shape[1])})
    if labels is not None:
        frame["drgnCluster"] = labels.astype(np.int64)
    return frame


def files(output: Path, rows: np.ndarray, labels: np.ndarray | None) -> dict[Path, np.ndarray]:
    """Which rows go to which file: all to `output`, or those of each label (N,) to NAME_cluster03."""
    if labels is None:
        return {output: rows}
    return {
        output.with_name(f"{output.stem}_cluster{label:02d}{output.suffix}"): rows[labels[rows] == label]
        for label in np.unique(labels[rows])
    }


def export(
    particles: Particles,
    parts: Mapping[Path, np.ndarray],
    *,
    star_version: Literal["3.1", "3.0"] | None = None,
    extra: pd.DataFrame | None = None,
    original: Particles | None = None,
    images: bool = False,
) -> None:
    """Write files of particles.

    Parameters
    ----------
    particles
        Of the run.
    parts
        File or folder, and the rows of `particles` that go there.
    star_version
        Dialect of RELION; None keeps that of the source.
    extra
        A row for each of `particles`, added as columns.
    original
        Other images of the same particles, found by what they are, to be written instead: with their own
        columns, and with the poses of `particles` where they have none.
    images
        Also copy the images into one stack for each file, beside it or in the folder.

    Raises
    ------
    InputError
        When `original` does not hold a selected particle; names both files. When a file would replace one
        that is read.
    """
    for path in parts:  # before anything is written
        table = path if path.suffix else path / "particles.star"
        for target in (table, _stack_of(path)) if images else (table,):
            for read in (particles, original):
                if read is not None:
                    read.require_apart(target)
    if original is None and any(path.suffix in ("", ".star", ".cs") for path in parts):
        particles = particles.with_rows()  # once for all parts
    for path, rows in parts.items():
        chosen = particles.select(rows)
        if original is not None:
            there = match(chosen.table, original.table, chosen.source.path, original.source.path)
            unposed, chosen = chosen, original.select(there)
            if not chosen.has_poses:
                chosen = chosen.posed_as(unposed, np.arange(len(rows)))
        if images:
            if path.suffix not in (".star", ".cs", ""):
                raise InputError(
                    f"{path}: images=true goes with a .star, a .cs or a folder, not with row indices."
                )
            stack = _stack_of(path)
            with Progress(disable=not sys.stderr.isatty(), transient=True) as bar:
                task = bar.add_task(f"copying images to {stack}", total=len(rows))
                chosen = chosen.copy_images(
                    stack, lambda done, _, bar=bar, task=task: bar.update(task, completed=done)
                )
        added = None if extra is None else extra.iloc[rows].reset_index(drop=True)
        chosen.save(path, star_version=star_version, extra=added)


def _stack_of(path: Path) -> Path:
    """Where the images of a file or folder of particles are copied to."""
    return path.with_suffix(".mrcs") if path.suffix else path / "particles.mrcs"
