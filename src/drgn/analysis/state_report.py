"""What `drgn discover` writes: states with maps, particles and evidence, each ready to be refined (P12)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drgn import __version__
from drgn.analysis import pictures, sketch, state_plots
from drgn.analysis.clusters import Clusters
from drgn.analysis.discovery import States
from drgn.analysis.earlier import clear
from drgn.analysis.embedding import pca
from drgn.analysis.export import columns, export
from drgn.analysis.plots import label_colours
from drgn.analysis.report import Picture, Section, Table
from drgn.analysis.selection import LABELS, umap_of_analysis, write_labels
from drgn.analysis.volumes import VolumeFiles
from drgn.formats.atomic import replacing
from drgn.formats.mrc import write_volume

if TYPE_CHECKING:
    from drgn.run import Latents, Run

INITIAL_A = 30.0  # low-pass of an initial model (P25)
_FACTS = "discovery.json"
# the folders of states, and what is in them
_MADE = {
    r"state_\d+": r"particles\.(star|cs|csg|mrcs)|particles_passthrough\.cs|map\.mrc|initial_model_\d+A\.mrc"
}
_MAPS = 150  # decoded in each state to see whether it moves
_BOX = 48  # at most, of these maps
_MOVES = 3.5  # variance of maps along a direction over that of a direction of noise, from which it is motion


@dataclass(frozen=True, eq=False)
class Motion:
    """Whether the maps of one state vary more along some directions than noise does.

    Attributes
    ----------
    ratios
        (C,) variance of the maps along each of their principal components over that of a component of noise,
        which is the median of the third to the Z-th; empty where Z < 3, and it is not known.
    """

    ratios: np.ndarray

    @property
    def directions(self) -> int:
        """Number of leading components along which the state moves."""
        still = np.flatnonzero(self.ratios < _MOVES)
        return int(still[0]) if len(still) else len(self.ratios)


def motions(run: Run, z: np.ndarray, labels: np.ndarray, seed: int) -> list[Motion]:
    """See `Motion`, for each state; up to 150 maps of its particles are decoded in a small box.

    A latent of Z dimensions in which nothing moves spreads its noise evenly, so that the maps of a still
    state vary about equally along Z directions.
    """
    zdim = z.shape[1]
    rng = np.random.default_rng(seed)
    found = []
    for label in range(int(labels.max()) + 1):
        rows = np.flatnonzero(labels == label)
        if zdim < 3 or len(rows) < 5 * zdim or not run.decodes:
            found.append(Motion(np.zeros(0)))
            continue
        some = rng.choice(rows, min(_MAPS, len(rows)), replace=False)
        maps = sketch.decode(run, z[some], min(run.box_size, _BOX))
        variances = sketch.pca(maps.reshape(len(maps), -1), zdim).variances
        found.append(Motion(variances / max(np.median(variances[2:zdim]), 1e-30)))
    return found


def words(states: States, moving: list[Motion]) -> str:
    """What was found: "3 discrete states", "continuous: one state", "..., state 1 continuous along PC1"."""
    k, wide = len(states.centres), int(states.diffuse.sum())
    moves = [i for i in range(k) if moving[i].directions and not states.diffuse[i]]
    if k - wide == 1:
        known = any(len(motion.ratios) for motion in moving)
        text = (
            "continuous: one state"
            if moves
            else "one state, without motion beyond the noise"
            if known
            else "one state"
        )
    elif moves:
        along = [f" to PC{moving[i].directions}" * (moving[i].directions > 1) for i in moves]
        text = f"{k - wide} states, " + ", ".join(
            f"state {i} continuous along PC1{to}" for i, to in zip(moves, along, strict=True)
        )
    else:
        text = f"{k - wide} discrete states"
    return text + (f" and {wide} diffuse group{'s' * (wide > 1)}" if wide else "")


def write(
    run: Run,
    latents: Latents,
    states: States,
    moving: list[Motion],
    folder: Path,
    *,
    threshold: float,
    min_probability: float,
    images: bool,
) -> list[Path]:
    """Write states.csv, labels.npz, valleys.csv, discovery.json and a folder for each state.

    Parameters
    ----------
    run, latents, states, moving
        The run, its latents, its states and whether they move.
    folder
        Created when it does not exist; what an earlier discovery wrote of its states is removed.
    threshold
        Of the valleys, for the record.
    min_probability
        Particles less certain of their state than this are left out of its folder.
    images
        Also copy the images of each state into a stack in its folder.

    Returns
    -------
    The folder of each state.
    """
    import pandas as pd
    import torch

    from drgn.physics.masks import low_pass

    clear(folder, _FACTS, _MADE)
    k = len(states.centres)
    particles = run.particles()
    form = "cs" if particles.source.kind == "cs" and not particles.source.replaced else "star"
    places = [folder / f"state_{i:0{len(str(k - 1))}d}" for i in range(k)]
    order = _rows_of(latents.key, particles.table["key"].to_numpy(str))
    label, certain = states.labels[order], states.probability[order] >= min_probability
    extra = columns(latents.z[order], label)
    extra["drgnProbability"] = states.probability[order]
    chosen = [np.flatnonzero((label == i) & certain) for i in range(k)]
    maps = (
        run.volumes(states.centres, "cuda" if torch.cuda.is_available() else "cpu") if run.decodes else None
    )
    for i, place in enumerate(places):
        place.mkdir(parents=True, exist_ok=True)
        export(particles, {place / f"particles.{form}": chosen[i]}, extra=extra, images=images)
        if maps is not None:
            volume = next(maps)
            write_volume(place / "map.mrc", volume, run.pixel_size_A, label=f"drgn {__version__} state {i}")
            smooth = low_pass(torch.from_numpy(volume), run.pixel_size_A, INITIAL_A).numpy()
            name = place / f"initial_model_{INITIAL_A:.0f}A.mrc"
            write_volume(
                name, smooth, run.pixel_size_A, label=f"drgn {__version__} state {i}, {INITIAL_A:g} A"
            )
    agreement = states.agreement
    table = pd.DataFrame(
        {
            "state": np.arange(k),
            "particles": states.sizes,
            "written": [len(rows) for rows in chosen],
            "mean_probability": [states.probability[states.labels == i].mean() for i in range(k)],
            "shallowest_valley": [_shallowest(states, i) for i in range(k)],
            "moving_directions": [m.directions if len(m.ratios) else -1 for m in moving],
            "first_direction_over_noise": [m.ratios[0] if len(m.ratios) else np.nan for m in moving],
            "diffuse": states.diffuse,
            "centre_key": latents.key[states.on_data_rows],
            "folder": [place.name for place in places],
        }
    )
    pairs = pd.DataFrame(
        [(a, b, v.depth, v.upper) for (a, b), v in sorted(states.valleys.items())],
        columns=["state_a", "state_b", "valley_depth", "valley_depth_95"],
    )
    for name, frame in (("states.csv", table), ("valleys.csv", pairs)):
        with replacing(folder / name) as temporary:
            frame.to_csv(temporary, index=False, float_format="%.4g")
    write_labels(folder / LABELS, latents.key, as_clusters(states))
    facts: dict[str, Any] = {
        "drgn": __version__,
        "run": str(run.path),
        "found": words(states, moving),
        "states": k,
        "diffuse_groups": int(states.diffuse.sum()),
        "valley_threshold": threshold,
        "stability_mean_ari": float(agreement.mean()) if len(agreement) else None,
        "stability_resamples": len(agreement),
        "states_in_resamples": {
            str(n): int(c) for n, c in zip(*np.unique(states.counts, return_counts=True), strict=True)
        },
        "components_of_mixture": states.components,
    }
    with replacing(folder / _FACTS) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
    return places


def as_clusters(states: States) -> Clusters:
    """The states as a partition like any other."""
    return Clusters(states.labels, states.on_data_rows, states.centres)


def stability(states: States) -> str:
    """How often the same is found again, in words."""
    n = len(states.agreement)
    if not n:
        return "Stability was not tested (resamples=0)."
    k = len(states.centres)
    same = int((states.counts == k).sum())
    mean = states.agreement.mean()
    text = f"{same} of {n} resamples found {k} as well; mean adjusted Rand index {mean:.3f}."
    if mean < 0.9 or same < 0.8 * n:
        text += " This is not stable: take the number of states with caution."
    return text


def sections(
    run: Run,
    latents: Latents,
    states: States,
    moving: list[Motion],
    folder: Path,
    places: list[Path],
    threshold: float,
) -> list[Section]:
    """The report: what was found, why, and what each state looks like."""
    k = len(states.centres)
    clusters = as_clusters(states)
    shown: list[Picture] = []
    if latents.z.shape[1] > 1:
        axes = pca(latents.z)
        flat = umap_of_analysis(run.place("analysis"), latents.key)
        names = [
            f"PC{i + 1} ({100 * axes.explained_variance_ratio[i]:.0f} % of the variance)" for i in (0, 1)
        ]
        path = state_plots.states(axes.coordinates[:, :2], clusters, (names[0], names[1]), folder / "pca.png")
        shown.append(Picture(path, "Principal components of the latents, coloured by state.", 60))
        if flat is not None and latents.z.shape[1] > 2:
            path = state_plots.states(flat, clusters, ("UMAP 1", "UMAP 2"), folder / "umap.png")
            shown.append(Picture(path, "UMAP of the analysis, coloured by state; it played no part.", 60))
    first = Section(
        "What was found",
        [
            words(states, moving)[0].upper() + words(states, moving)[1:] + ". " + stability(states),
            "States are groups of particles with a valley of the density between them. A mixture of "
            "Gaussians "
            f"({states.components} components) describes the density of the latents, in units of their "
            "noise; "
            "components are merged where no valley parts them. Nothing says that states closer than the "
            "noise "
            "are found: what is one state here may be several at better signal.",
        ],
        shown,
        [_table(states, moving, places)],
    )
    out = [first]
    if states.valleys:
        path = state_plots.profiles(states.valleys, threshold, folder / "valleys.png")
        caption = (
            "Density of the particles along the line that best tells two states apart (black) and what each "
            "adds to "
            "it. The number is the density at the lowest point over that of the lower peak: 0 is empty, 1 is "
            "no "
            f"valley. States are kept apart where the upper end of its 90 % interval is below {threshold:g}."
        )
        rows = [
            (f"{a} and {b}", f"{v.depth:.3f}", f"{v.upper:.3f}")
            for (a, b), v in sorted(states.valleys.items())
        ]
        table = Table(("states", "depth of the valley", "at most (95 %)"), rows)
        out.append(Section("Valleys between the states", [], [Picture(path, caption)], [table]))
    if run.decodes:
        volumes = VolumeFiles([place / "map.mrc" for place in places])
        titles = [f"{i}:  {size:,} particles" for i, size in enumerate(states.sizes)]
        view = pictures.telling_view(volumes)
        path = pictures.montage(volumes, titles, folder / "maps.png", view, label_colours(k), min(5, k))
        caption = (
            f"The map at the particle nearest to the middle of each state, seen {view}, all at one contour "
            "level. "
            f"Each folder has it as map.mrc, and low-passed to {INITIAL_A:.0f} Å as an initial model."
        )
        out.append(Section("Maps of the states", [], [Picture(path, caption, min(100, 30 * k))]))
    return out


def _table(states: States, moving: list[Motion], places: list[Path]) -> Table:
    rows = [
        (
            str(i),
            f"{size:,}",
            f"{100 * size / states.sizes.sum():.1f} %",
            f"{states.probability[states.labels == i].mean():.3f}",
            f"{_shallowest(states, i):.2f}" if states.valleys else "none",
            "diffuse"
            if states.diffuse[i]
            else f"{moving[i].ratios[0]:.1f} x noise"
            + (f": moves along {moving[i].directions}" if moving[i].directions else "")
            if len(moving[i].ratios)
            else "not known",
            places[i].name,
        )
        for i, size in enumerate(states.sizes)
    ]
    head = (
        "state",
        "particles",
        "share",
        "mean probability",
        "shallowest valley",
        "first direction of its maps",
        "folder",
    )
    return Table(head, rows)


def _shallowest(states: States, i: int) -> float:
    return max((v.depth for pair, v in states.valleys.items() if i in pair), default=float("nan"))


def _rows_of(key: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Row of each wanted key among the keys of the latents."""
    from drgn.analysis.selection import by_key

    return by_key(np.arange(len(key)), key, wanted)
