"""All scores of one subject: numbers with flat names, tables and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from drgn.analysis import metrics
from drgn.analysis.plots import confusion_matrix
from drgn.analysis.volumes import write_volumes
from drgn.errors import InputError
from drgn.formats.atomic import replacing, write_table
from drgn.formats.particles import Particles
from drgn.scoring import foreign, latents, maps, plots, poses
from drgn.scoring.subject import Subject

Scores = dict[str, float]
_TOLD_APART = 12  # curves in one picture
_SMALL_DEG, _SMALL_A = 0.05, 0.05  # poses that differ by less are the same, rounded


def of_latents(subject: Subject, folder: Path, seed: int) -> Scores:
    """How the latents order and class the particles, and whether neighbours are neighbours.

    Writes latents.csv (key, true states, what was read out), confusion_NAME.csv and .png,
    latent_truth.png.
    """
    z, states = subject.z, subject.states
    if not z.shape[1]:
        return {}
    table = pd.concat([pd.DataFrame({"key": subject.key}), states], axis=1)
    scores: Scores = {"n_particles": float(len(z))}
    panels = {}
    for name, column in states.items():
        values = column.to_numpy()
        if len(np.unique(values)) < 2:
            continue
        if values.dtype.kind == "f":
            found = metrics.read_out(z, values)
            scores[f"spearman_{name}"] = score = metrics.spearman(z, values)
            table[f"found_{name}"] = found
            panels[f"{name}: |Spearman| {score:.4f}"] = values, found
        else:
            rows, labels = metrics.classes_in(z, values, seed)
            scores.update(class_scores(str(name), labels, values[rows], folder))
    if panels:
        label = (
            "latent" if z.shape[1] == 1 else f"mean truth of {metrics.NEIGHBOURS} neighbours in the latent"
        )
        plots.against_truth(panels, label, folder / "latent_truth.png")
    scores.update(neighbour_scores(z, states, seed))
    write_table(table, folder / "latents.csv")
    return scores


def class_scores(name: str, labels: np.ndarray, truth: np.ndarray, folder: Path, prefix: str = "") -> Scores:
    """Agreement of labels (N,) with true classes; writes confusion_NAME.csv and .png."""
    from sklearn.metrics import adjusted_mutual_info_score

    scores = {
        f"{prefix}ari_{name}": metrics.adjusted_rand(labels, truth),
        f"{prefix}ami_{name}": float(adjusted_mutual_info_score(truth, labels)),
    }
    counts, classes, accuracy = latents.confusion(labels, truth)
    scores[f"{prefix}accuracy_{name}"] = accuracy
    title = f"{name}: ARI {scores[f'{prefix}ari_{name}']:.3f}"
    axes = "found class, best matched", "true class"
    confusion_matrix(counts, classes, axes, title, folder / f"{prefix}confusion_{name}.png")
    frame = pd.DataFrame(counts, columns=[f"found_{i}" for i in range(counts.shape[1])])
    frame.insert(0, "true_class", classes)
    write_table(frame, folder / f"{prefix}confusion_{name}.csv")
    return scores


def neighbour_scores(z: np.ndarray, states: pd.DataFrame, seed: int, prefix: str = "") -> Scores:
    """Imbalance and neighbourhood similarity of points (N, Z) and true states, on a draw of them."""
    rows = latents.sample(len(z), seed)
    known, z = latents.coordinates(states.iloc[rows]), z[rows]
    if len(rows) < 3 or not np.ptp(known, axis=0).any():
        return {}
    forward, back = latents.imbalance(z, known), latents.imbalance(known, z)
    shared = latents.similarity(z, known, latents.neighbourhood(len(rows)))
    return {
        f"{prefix}imbalance_latent_to_truth": forward.value,
        f"{prefix}imbalance_latent_to_truth_best": forward.best,
        f"{prefix}imbalance_truth_to_latent": back.value,
        f"{prefix}neighbourhood_similarity": shared.value,
        f"{prefix}neighbourhood_similarity_chance": shared.chance,
        f"{prefix}neighbourhood_k": float(shared.k),
    }


def choice_of(
    subject: Subject, images: Path | None, n_images: int, n_maps: int, needed: bool
) -> pd.DataFrame | None:
    """Images whose maps are compared: those of a list, or chosen; None where there are no true maps.

    Raises
    ------
    InputError
        There are none though they are needed.
    """
    if subject.truth.map_of_row is None:
        if needed:
            raise InputError(f"{subject.truth.folder} has no true maps to compare with: simulate it again")
        return None
    if images is not None:
        return foreign.read_choice(images, subject)
    return maps.choose(subject, n_images, n_maps)


def of_maps(
    subject: Subject,
    choice: pd.DataFrame,
    volumes: str | None,
    errors: poses.PoseErrors | None,
    folder: Path,
) -> tuple[Scores, list[str]]:
    """Correlation of maps with the true ones, and what a person should know of it.

    Writes fsc.csv (areas and resolutions), fsc_curves.csv, fsc_images.png and fsc_maps.png; where there are
    no maps yet, images.csv and z.txt, of which to make them.

    Parameters
    ----------
    subject
        What is scored.
    choice
        Images that the maps belong to.
    volumes
        Where the maps are; None: the run decodes them, if it can.
    errors
        Of the poses that the maps belong to; None: they are the true ones.
    folder
        Of the results.
    """
    if errors is not None and not errors.moves(subject.truth.pixel_size_A):
        errors = None
    moved = ["The maps are moved as their poses are to the true ones before they are compared."]
    run = subject.run
    if volumes is not None or (run is not None and run.decodes and not run.has_images):
        if volumes is not None:
            files = foreign.find_volumes(volumes, len(choice))
        else:  # of another program: sign and hand are its own
            assert run is not None
            files = write_volumes(run, subject.z[choice["row"].to_numpy()], folder / "volumes")
        reference = maps.Reference(subject.truth, foreign.box_of(files, subject.truth))
        fit = foreign.fit(files, choice["map"].to_list(), reference, errors)
        curve = fit.sign * maps.curves(files, choice["map"], reference, errors)
        found, said = {**maps.summary(choice, curve, reference), **fit.scores()}, fit.warnings()
    elif run is not None and run.decodes:
        reference = maps.Reference(subject.truth, run.box_size)
        decoded = subject.decoded(choice["row"].to_numpy())
        curve = maps.curves(decoded, choice["map"], reference, errors)
        found, said = maps.summary(choice, curve, reference), []
    elif subject.z.shape[1]:
        return {}, foreign.asked_for(folder, choice, subject)
    else:
        return {}, []
    write_maps(choice, curve, reference, folder, "fsc")
    return found, [*(moved if errors else []), *said]


def write_maps(
    choice: pd.DataFrame, curve: np.ndarray, reference: maps.Reference, folder: Path, name: str
) -> None:
    """Write NAME.csv, NAME_curves.csv, NAME_images.png and NAME_maps.png."""
    write_table(maps.table(choice, curve, reference), folder / f"{name}.csv")
    write_table(maps.curve_table(choice, curve, reference), folder / f"{name}_curves.csv")
    for use in ("image", "centre"):
        chosen = (choice["use"] == use).to_numpy()
        mine = curve[chosen]
        if len(mine):
            panels = {
                f"{kind}: area {maps.area(mine[:, k]).mean():.3f}": mine[:, k]
                for k, kind in enumerate(maps.KINDS)
            }
            picture = folder / f"{name}_{'images' if use == 'image' else 'maps'}.png"
            names = [file.removesuffix(".mrc") for file in choice["map"][chosen]]
            told = names if use == "centre" and len(names) <= _TOLD_APART else None
            plots.fsc_curves(panels, reference.pixel_size_A, picture, told)


def of_poses(subject: Subject, given: Path | None, folder: Path) -> poses.PoseErrors | None:
    """Error of the poses; None where they are the true ones. Writes poses.csv and poses.png.

    Parameters
    ----------
    subject
        Whose poses, if not those of
    given
        a particle file, or cryoDRGN's .pkl or .npz for the particle file of the subject.
    folder
        Of the results.
    """
    particles, rows = subject.particles, subject.all_rows
    if given is None and subject.run is not None and subject.run.place("poses.star").is_file():
        given = subject.run.place("poses.star")
    if given is not None and given.suffix in (".pkl", ".npz"):
        particles = Particles.from_file(particles.source.path, poses=given)
        rows = subject.truth.rows_of(particles)
    elif given is not None:
        particles = Particles.from_file(given)
        rows = subject.truth.rows_of(particles)
    if particles.rotation is None:
        if given is not None:
            raise InputError(f"poses={given} has no orientations of its particles")
        return None
    shift_A = particles.table[["shift_x_A", "shift_y_A"]].to_numpy(np.float64)
    right = [part[rows] for part in subject.truth.poses]
    if given is None and _same_poses(particles.rotation, shift_A, *right):
        return None
    errors = poses.pose_errors(particles.rotation, shift_A, *right)
    frame = pd.DataFrame(
        {
            "key": subject.truth.table.index.to_numpy(str)[rows],
            "rotation_error_deg": errors.rotation_deg,
            "view_error_deg": errors.view_deg,
            "shift_error_A": errors.shift_A,
        }
    )
    write_table(frame, folder / "poses.csv")
    plots.pose_errors(errors.rotation_deg, errors.shift_A, folder / "poses.png")
    return errors


def _same_poses(
    rotation: np.ndarray, shift_A: np.ndarray, true: np.ndarray, true_shift_A: np.ndarray
) -> bool:
    turned = np.rad2deg(np.linalg.norm(rotation - true, axis=(1, 2)) / np.sqrt(2))
    return bool(turned.max() < _SMALL_DEG and np.abs(shift_A - true_shift_A).max() < _SMALL_A)


def write_scores(scores: Mapping[str, float], path: Path) -> None:
    """Write flat JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(scores, indent=2) + "\n")


def printed(scores: Mapping[str, float]) -> str:
    """Table of the scores; beside each what the oracle has, or the best that can be, and chance."""
    names = [
        name
        for name in dict.fromkeys(name.removeprefix("oracle_") for name in scores)
        if not name.endswith(("_best", "_chance"))
    ]
    rows = [("score", "value", "ceiling", "chance")]
    for name in names:
        ceiling = scores.get(f"oracle_{name}", scores.get(f"{name}_best"))
        rows.append((name, *map(_number, (scores.get(name), ceiling, scores.get(f"{name}_chance")))))
    width = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip() for row in rows
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 and value == round(value) else f"{value:.4f}"
