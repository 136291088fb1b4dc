"""The sections of the report: each draws its pictures into the analysis folder and explains them.

The words are for a biologist who opens the report without having read anything else; what the pictures cannot
say (P14) is said where it would be misread.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drgn.analysis import pictures, plots
from drgn.analysis.clusters import Clusters
from drgn.analysis.embedding import PCA, UMAP, counts_along
from drgn.analysis.history import losses, verdict
from drgn.analysis.report import Picture, Section, Table
from drgn.analysis.volumes import VolumeFiles

if TYPE_CHECKING:
    import pandas as pd

    from drgn.run import Run

_MONITOR = "heldout/loss"


def data_and_training(run: Run, folder: Path) -> list[Section]:
    """What was trained on what, and how the losses went."""
    particles = run.particles()
    rows = [
        ("particles", f"{len(particles):,} from {particles.source.path}"),
        ("training box", f"{run.box_size} pixels of {run.pixel_size_A:.4g} Å"),
        ("latent dimensions", str(run.zdim)),
        ("trained", run.trained),
    ]
    table = losses(run.path)
    if _MONITOR in table:
        best = table[_MONITOR].idxmin()
        rows.append(("best held-out loss", f"{table.loc[best, _MONITOR]:.5g}, after epoch {best}"))
    sections = [Section("Data and training", [], tables=[Table([], rows)])]
    if panels := _panels(table):
        caption = (
            "Losses after each pass through the images; a reconstruction loss of 1 is noise alone. "
            "Held-out particles are never trained on: when their curve rises while the training curve "
            "still falls, the model has begun to memorise noise, and a smaller model or fewer epochs will "
            "do better. The first point may lie outside the frame."
        )
        path = plots.learning_curve(panels, folder / "learning_curve.png")
        words = verdict(table, warm=run.config.get("warmstart") is not None)
        sections.append(
            Section(
                "Learning curve",
                [words] if words else [],
                [Picture(path, caption, min(100, 50 * len(panels)))],
            )
        )
    return sections


def latent_pca(pca: PCA, clusters: Clusters, folder: Path) -> Section:
    """Principal components of a latent of two or more dimensions."""
    share = 100 * pca.explained_variance_ratio
    axes = (f"PC1 ({share[0]:.0f} % of the variance)", f"PC2 ({share[1]:.0f} %)")
    text = [
        "Each particle image has been given a few numbers, its latent coordinates; particles with similar "
        "coordinates show similar structures. Principal components are the directions along which the "
        "coordinates vary most."
    ]
    maps = Picture(
        plots.latent_map(pca.coordinates[:, :2], axes, folder / "pca.png", clusters),
        "Left: how many particles lie where. Right: the same particles coloured by cluster; each number "
        "marks the particle whose map is shown under that number. Crowded regions are common in the "
        "data, but this is not an energy landscape: distances and densities depend on how the network was "
        "trained.",
    )
    variance = Picture(
        plots.explained_variance(pca.explained_variance_ratio, folder / "explained_variance.png"),
        "How much of the spread of the coordinates each component holds. Components after the steep part "
        "hold little.",
        50,
    )
    return Section("Latent space: principal components", text, [maps, variance])


def latent_histogram(z: np.ndarray, points: np.ndarray, folder: Path) -> Section:
    """A one-dimensional latent (P15)."""
    path = plots.histogram(z[:, 0], points[:, 0], folder / "histogram.png")
    caption = (
        "Each particle image has been given one number, its latent coordinate; particles with similar "
        "numbers show similar structures. The numbered lines are the 5th, 23rd, 41st, 59th, 77th and 95th "
        "percentile, where the maps along the latent were made. The height of the histogram is not a free "
        "energy."
    )
    return Section("Latent space", [], [Picture(path, caption, 80)])


def latent_umap(umap: UMAP, clusters: Clusters, folder: Path) -> Section:
    """UMAP, or the latent itself where it is flat already."""
    title = "Latent space: UMAP"
    path = folder / "umap.png"
    if umap.is_latent:
        plots.latent_map(umap.coordinates, ("z, first dimension", "z, second dimension"), path, clusters)
        text = ["The latent has two dimensions, so it is shown as it is and no UMAP was made."]
        return Section(
            "Latent space: its two dimensions",
            text,
            [Picture(path, "The two latent coordinates themselves.")],
        )
    plots.latent_map(umap.coordinates, ("UMAP 1", "UMAP 2"), path, clusters)
    caption = (
        "All latent dimensions flattened so that neighbours stay neighbours. Separate islands are worth a "
        "look as separate states; the distance between islands, their size and the axes mean nothing."
    )
    return Section(title, [], [Picture(path, caption)])


def cluster_maps(
    clusters: Clusters, membership: np.ndarray | None, volumes: VolumeFiles | None, folder: Path, root: Path
) -> Section:
    """k-means clusters: their maps, sizes, files, and how surely their particles belong to them."""
    sizes, k = clusters.sizes, len(clusters.centres)
    sure = ["unknown"] * k
    if membership is not None:
        sure = [f"{100 * float(membership[clusters.labels == i, i].mean()):.0f} %" for i in range(k)]
    shown = []
    if volumes is not None:
        titles = [f"{i}:  {size:,} particles" for i, size in enumerate(sizes)]
        caption = (
            "The map at the centre of each cluster, in the colour that the cluster has in the "
            "latent space. Each is made at a real particle's coordinates, not at an "
            "average that no particle has."
        )
        shown = [_montage(volumes, titles, caption, folder, plots.label_colours(k))]
    rows = [
        (
            str(i),
            f"{size:,}",
            f"{100 * size / sizes.sum():.1f} %",
            sure[i],
            _file(volumes, i, root),
        )
        for i, size in enumerate(sizes)
    ]
    text = [
        f"k-means cuts the latent space into {k} regions. It always finds {k}, whether or not the molecule "
        "has so many states: neighbouring numbers are neighbouring regions, and a continuous motion is cut "
        "into pieces. Clusters of broken particles or of noise can be removed with drgn filter "
        'clusters=[...]. Each particle\'s latent is known within its posterior: "certain" is the mean '
        "probability with which the particles of a cluster belong to it, in labels.npz for each particle."
    ]
    return Section(
        "Maps of the clusters",
        text,
        shown,
        [Table(("cluster", "particles", "share", "certain", "map"), rows)],
    )


def traversal(
    pca: PCA,
    component: int,
    volumes: VolumeFiles,
    pixel_size_A: float,
    folder: Path,
    root: Path,
    movie: Path,
) -> Section:
    """Maps along one principal component (P18)."""
    name = f"PC{component + 1}"
    coordinates = pca.coordinates[:, component]
    steps, _ = pca.traverse(component, len(volumes))
    counts = counts_along(coordinates, steps)
    titles = [f"{i}:  {name} = {step:.2f}" for i, step in enumerate(steps)]
    caption = (
        f"Maps at five equally spaced points along {name}, from its 5th to its 95th percentile, with all "
        "other components at their mean."
    )
    surfaces = _montage(volumes, titles, caption, folder)
    cuts = Picture(
        pictures.slices(volumes, titles, pixel_size_A, folder / "slices.png"),
        "Central slices of the same maps in one grey scale, across each axis: what moves, appears or fades "
        "changes from left to right.",
    )
    text = [
        "The line through the latent space is straight, and it may leave the region where particles are: a "
        "map with few particles nearby is the network's interpolation, not data. The order of the maps is "
        "not a path in time."
    ]
    rows = [
        (str(i), f"{step:.2f}", f"{count:,}", _file(volumes, i, root))
        for i, (step, count) in enumerate(zip(steps, counts, strict=True))
    ]
    table = Table(("point", name, "particles nearest to it along this axis", "map"), rows)
    shown = [surfaces, _moving(movie), cuts]
    return Section(f"Along principal component {component + 1}", text, shown, [table])


def percentile_maps(
    z: np.ndarray, points: np.ndarray, volumes: VolumeFiles, folder: Path, root: Path, movie: Path
) -> Section:
    """Maps at the percentiles of a one-dimensional latent (P19)."""
    titles = [f"{i}:  z = {value:.2f}" for i, value in enumerate(points[:, 0])]
    counts = counts_along(z[:, 0], points[:, 0])
    colours = plots.label_colours(len(points))
    picture = _montage(volumes, titles, "Maps at the numbered lines of the histogram.", folder, colours, 6)
    rows = [
        (str(i), f"{value:.2f}", f"{count:,}", _file(volumes, i, root))
        for i, (value, count) in enumerate(zip(points[:, 0], counts, strict=True))
    ]
    table = Table(("point", "z", "particles nearest to it", "map"), rows)
    return Section("Maps along the latent", [], [picture, _moving(movie)], [table])


def one_map(
    volumes: VolumeFiles, pixel_size_A: float, folder: Path, root: Path, homogeneous: bool
) -> Section:
    """One map from three sides: the only one of a homogeneous run, or that of the average particle."""
    path = pictures.orthogonal(volumes[0], pixel_size_A, folder / "map.png")
    which = (
        "This run has no latent: all particles were reconstructed as one structure."
        if homogeneous
        else "The map at the particle nearest to the mean of all latent coordinates."
    )
    caption = (
        "Top: isosurface at the level that best parts molecule from solvent. Middle: projection, the density "
        "added up along the line of sight. Bottom: slice through the centre. In the first column x points "
        "right and y up. The grey pictures should be quiet outside the molecule."
    )
    return Section(
        "The map" if homogeneous else "The average particle",
        [which],
        [Picture(path, caption, 85)],
        [Table([], [("map", _file(volumes, 0, root))])],
    )


def truth(
    scores: Mapping[str, float], pca: PCA, umap: UMAP | None, columns: Mapping[str, np.ndarray], folder: Path
) -> Section:
    """Scores against a known truth, and the latent coloured by it."""
    meaning = {
        "spearman": "how well the latent orders the particles by this coordinate (|Spearman|; 1 is perfect)",
        "ari": "how well the latent separates these classes (adjusted Rand index; 1 is perfect, 0 is chance)",
    }
    rows = [(name, f"{value:.3f}", meaning[name.partition("_")[0]]) for name, value in scores.items()]
    shown = []
    if pca.coordinates.shape[1] > 1:
        flat, axes = pca.coordinates[:, :2], ("PC1", "PC2")
        if umap is not None and not umap.is_latent:
            flat, axes = umap.coordinates, ("UMAP 1", "UMAP 2")
        path = plots.latent_columns(flat, axes, columns, folder / "truth.png")
        shown = [Picture(path, "The latent space, coloured by the truth.")]
    text = [
        "These particles were simulated, so the right answer is known. Training never saw it; it is used in "
        "this section only."
    ]
    return Section("Compared with the truth", text, shown, [Table(("score", "value", "meaning"), rows)])


def _montage(
    volumes: VolumeFiles,
    titles: list[str],
    caption: str,
    folder: Path,
    colours: np.ndarray | None = None,
    columns: int = 5,
) -> Picture:
    """Isosurfaces side by side, with the caption that every such picture needs."""
    view = pictures.telling_view(volumes)
    path = pictures.montage(volumes, titles, folder / "maps.png", view, colours, columns)
    seen = (
        f" They are seen {view}, where they differ most. All are contoured at one level, which best parts "
        "molecule from solvent, and drawn in one frame: a part that is missing or fainter in one of them is "
        "missing or fainter in the model."
    )
    return Picture(path, caption + seen)


def _moving(movie: Path) -> Picture:
    """The movie of the maps above it."""
    caption = (
        "The same maps as a movie, there and back, with more maps made between them; the ticks are the "
        "numbered maps. drgn traverse makes larger movies, along other paths too."
    )
    return Picture(movie, caption, 30)


def _panels(table: pd.DataFrame) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Bring the losses into panels of lines: {title: {set of particles: (epochs, values)}}."""
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name, title in (
        ("loss", "loss"),
        ("reconstruction", "reconstruction loss"),
        ("kl", "KL divergence (nats)"),
    ):
        for line, prefix in (("training particles", "train"), ("held-out particles", "heldout")):
            if (column := f"{prefix}/{name}") in table and table[column].any():
                values = table[column].dropna()
                panels.setdefault(title, {})[line] = (values.index.to_numpy(), values.to_numpy())
    return panels


def _file(volumes: VolumeFiles | None, i: int, root: Path) -> str | Path:
    """Path of a map, from the folder of the report; the table makes a link of it."""
    return "not made" if volumes is None else volumes.paths[i].relative_to(root)
