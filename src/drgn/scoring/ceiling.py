"""Scores of the oracle (`drgn.scoring.oracle`), under the names of those of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.progress import Progress

from drgn.analysis import metrics
from drgn.errors import InputError
from drgn.formats.atomic import write_table
from drgn.physics import fourier
from drgn.scoring import latents, maps, oracle
from drgn.scoring.scores import Scores, class_scores, neighbour_scores, write_maps
from drgn.scoring.subject import Subject
from drgn.scoring.truth import Truth

_MAP_BYTES = 1 << 30  # true maps that are held at a time


def of_ceiling(
    subject: Subject,
    choice: pd.DataFrame | None,
    n_images: int | None,
    box_size: int,
    folder: Path,
    seed: int,
) -> Scores:
    """Scores of the oracle, which knows maps, poses, CTF and noise; all begin with oracle_.

    Writes oracle.csv (posterior mean of each coordinate, most likely classes), oracle_fsc.csv and pictures.

    Parameters
    ----------
    subject
        Its images are scored.
    choice
        From `maps.choose`, of which maps are scored too.
    n_images
        Score this many of the images, evenly spread over the true states; None: all.
    box_size
        In which maps are compared, as those of the subject were.
    folder
        Of the results.
    seed
        Of the draw of particles whose neighbours are looked at.
    """
    truth, rows = subject.truth, subject.all_rows
    if choice is None:
        raise InputError(f"{truth.folder} has no maps, so the ceiling is not known: simulate the set again")
    oracle.require_maps_of_images(truth)
    images = oracle.Images(truth)
    files = truth.maps["file"].to_list()
    file_of_row = truth.map_of_row
    assert file_of_row is not None
    own = pd.Index(files).get_indexer(file_of_row)
    prior = np.bincount(own, minlength=len(files)).astype(np.float64)
    keys = pd.Index(truth.table.index)
    wanted = keys.get_indexer(choice["key"])
    group = subject.particles.table["group"].to_numpy(str)
    if n_images is not None and n_images < len(rows):
        ordered = truth.order(rows)
        spread = ordered[((np.arange(n_images) + 0.5) * len(rows) / n_images).astype(np.int64)]
        # whole particles: their images are multiplied
        taken = np.isin(group, group[np.isin(rows, [*spread, *wanted])])
        rows, group = rows[taken], group[taken]
    _, first, number = np.unique(group, return_index=True, return_inverse=True)
    with Progress(disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("likelihood of every true map", total=None)
        likelihood = oracle.log_likelihood(
            images,
            rows,
            [lambda file=file: truth.read_map(file) for file in files],
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    share = oracle.posterior(likelihood, number, prior)
    particle = rows[first]
    states = truth.states.iloc[particle].reset_index(drop=True)
    scores: Scores = {"oracle_images": float(len(rows))}
    table = pd.DataFrame({"key": keys[particle]})
    for name, column in states.items():
        values, at = column.to_numpy(), truth.maps[name].to_numpy()
        if len(np.unique(values)) < 2:
            continue
        if values.dtype.kind == "f":
            mean = share @ at
            scores[f"oracle_spearman_{name}"] = metrics.spearman(mean[:, None], values)
            table[f"mean_{name}"] = mean
        else:
            classes = np.unique(at)
            summed = np.stack([share[:, at == one].sum(1) for one in classes], axis=1)
            labels = classes[summed.argmax(1)]
            table[f"class_{name}"] = labels
            scores.update(class_scores(str(name), labels, values, folder, "oracle_"))
    points = share @ latents.coordinates(truth.maps[list(states)])
    near = neighbour_scores(points, states, seed, "oracle_")
    scores.update(
        (name, value) for name, value in near.items() if not name.endswith(("_best", "_chance", "_k"))
    )
    write_table(table, folder / "oracle.csv")
    share = share[number[pd.Index(rows).get_indexer(wanted)]]
    scores.update(_ceiling_of_maps(truth, images, choice, share, box_size, folder))
    return scores


def _in_box(volume: torch.Tensor, box_size: int) -> torch.Tensor:
    return volume if len(volume) == box_size else fourier.downsample(volume, box_size, 3)


def _ceiling_of_maps(
    truth: Truth,
    images: oracle.Images,
    choice: pd.DataFrame,
    share: np.ndarray,
    box_size: int,
    folder: Path,
) -> Scores:
    """Posterior mean maps of the chosen images, and back-projections of the chosen states."""
    reference = maps.Reference(truth, box_size)
    files = truth.maps["file"].to_list()
    kept = max(1, _MAP_BYTES // (4 * truth.box_size**3))
    read = lru_cache(maxsize=kept)(truth.read_map)
    file_of_row = truth.map_of_row
    assert file_of_row is not None

    def best() -> Iterable[torch.Tensor]:
        for use, file, weights in zip(choice["use"], choice["map"], share, strict=True):
            if use == "image":
                mean = sum(float(w) * read(f) for w, f in zip(weights, files, strict=True) if w > 1e-6)
                assert isinstance(mean, torch.Tensor)
                yield mean
            else:
                power = oracle.shell_power(read(file))
                rows = np.flatnonzero(file_of_row == file)
                yield torch.from_numpy(oracle.back_project(images, rows, power))

    cropped = (_in_box(volume, box_size).numpy() for volume in best())
    curve = maps.curves(cropped, choice["map"], reference)
    write_maps(choice, curve, reference, folder, "oracle_fsc")
    found = maps.summary(choice, curve, reference)
    rename = {name: f"oracle_{name}" for name in found if name.startswith("fsc_auc")}
    rename |= {name: name.replace("map_", "backprojection_", 1) for name in found if name.startswith("map_")}
    return {rename[name]: value for name, value in found.items() if name in rename}
