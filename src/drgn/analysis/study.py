"""A whole analysis of one run, step by step: what the verb `analyze` does and the report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drgn.analysis import clusters as clustering
from drgn.analysis import colours, embedding, half_maps, metrics, movies, sections
from drgn.analysis.report import Section
from drgn.analysis.selection import EMBEDDING, LABELS, write_labels
from drgn.analysis.volumes import write_volumes
from drgn.data.progress import CheckProgress
from drgn.formats.atomic import replacing

if TYPE_CHECKING:
    from drgn.run import Run

TRAVERSAL_POINTS = 5  # P18


@dataclass
class Study:
    """What an analysis found.

    Attributes
    ----------
    sections
        Of the report, in reading order.
    findings
        The same in a few lines for the terminal.
    """

    sections: list[Section] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def homogeneous(run: Run, folder: Path) -> Study:
    """Study a run without a latent: it has one map, which is written to map/."""
    volumes = write_volumes(run, np.zeros((1, 0), np.float32), _made(folder / "map"))
    map_section = sections.one_map(volumes, run.pixel_size_A, folder, folder, homogeneous=True)
    return Study([map_section], [f"One map, {volumes.paths[0]}: this run has no latent."])


def heterogeneous(
    run: Run,
    folder: Path,
    *,
    kmeans: int,
    pcs: int,
    umap: bool,
    colour: Sequence[str],
    volumes: bool,
    seed: int,
) -> Study:
    """Study a run with a latent.

    Parameters
    ----------
    run
        The run.
    folder
        Where everything is written.
    kmeans
        Number of clusters.
    pcs
        Number of principal components along which volumes are made; a latent has at most zdim.
    umap
        Make a UMAP.
    colour
        What the latent space is coloured by, see `colours.columns`.
    volumes
        Make volumes and their pictures.
    seed
        Of everything random.
    """
    study = Study()
    about_latent: list[Section] = []  # behind the maps, which are what a reader came for
    latents = run.latents()
    z = latents.z
    pca = embedding.pca(z)
    certain = np.isfinite(latents.logvar).all()  # some programs do not keep it
    with CheckProgress("latents") as shown:
        shown.update("k-means")
        clusters = clustering.kmeans(z, kmeans, seed)
        shown.update("certainty of the clusters")
        shares = clustering.membership(z, latents.logvar, clusters.labels, seed) if certain else None
    flat = embedding.umap(z, seed) if umap and z.shape[1] > 1 else None
    cluster_folder = _made(folder / f"kmeans{kmeans}")
    write_labels(cluster_folder / LABELS, latents.key, clusters, shares)
    _write_embedding(folder / EMBEDDING, latents.key, pca, flat)

    if z.shape[1] == 1:
        points = embedding.percentiles_1d(z)
        about_latent.append(sections.latent_histogram(z, points, folder))
    else:
        about_latent.append(sections.latent_pca(pca, clusters, folder))
    if flat is not None:
        about_latent.append(sections.latent_umap(flat, clusters, folder))
    if known := colours.columns(run.particles(), latents, colour):
        shown, axes = pca.coordinates[:, :2], ("PC1", "PC2")
        if flat is not None and not flat.is_latent:
            shown, axes = flat.coordinates, ("UMAP 1", "UMAP 2")
        about_latent.append(colours.section(z, shown, axes, known, folder))

    truth = run.truth()
    scores = (
        {}
        if truth is None
        else metrics.truth_scores(z, truth, seed, None if flat is None else flat.coordinates)
    )
    if truth is not None:
        columns = {str(name): column.to_numpy() for name, column in metrics.true_states(truth).items()}
        about_latent.append(sections.truth(scores, pca, flat, columns, folder))

    maps = write_volumes(run, clusters.centres, cluster_folder) if volumes else None
    study.sections.append(sections.cluster_maps(clusters, shares, maps, cluster_folder, folder))
    if volumes and run.halves:
        study.sections.append(half_maps.section(run, clusters.centres))
    if volumes and z.shape[1] == 1:
        place = _made(folder / "percentiles")
        maps = write_volumes(run, points, place)
        movie = movies.for_report(run, points, maps, place / "movie.gif")
        study.sections.append(sections.percentile_maps(z, points, maps, place, folder, movie))
    for component in range(min(pcs, z.shape[1]) if volumes and z.shape[1] > 1 else 0):
        place = _made(folder / f"pc{component + 1}")
        points = pca.traverse(component, TRAVERSAL_POINTS)[1]
        maps = write_volumes(run, points, place)
        movie = movies.for_report(run, points, maps, place / "movie.gif")
        study.sections.append(
            sections.traversal(pca, component, maps, run.pixel_size_A, place, folder, movie)
        )
    if volumes:
        middle = clustering.on_data_mean(z, np.zeros(len(z), np.int64))
        maps = write_volumes(run, z[middle], _made(folder / "average"))
        study.sections.append(sections.one_map(maps, run.pixel_size_A, folder, folder, homogeneous=False))

    study.sections += about_latent

    share = ", ".join(f"PC{i + 1} {value:.0%}" for i, value in enumerate(pca.explained_variance_ratio[:3]))
    study.findings.append(f"{len(z):,} particles, zdim {z.shape[1]}; of the variance of z: {share}.")
    study.findings.append(
        f"{kmeans} clusters of {clusters.sizes.min():,} to {clusters.sizes.max():,} particles"
        + (f", each with a map in {cluster_folder}." if volumes else ".")
    )
    if scores:
        named = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        study.findings.append(f"Against the truth of the simulation (1 is perfect): {named}.")
    return study


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_embedding(path: Path, key: np.ndarray, pca: embedding.PCA, umap: embedding.UMAP | None) -> None:
    """Write the coordinates of each particle, with its key, and the axes they are in."""
    arrays = {
        "key": np.asarray(key, np.str_),
        "pca": pca.coordinates.astype(np.float32),
        "pca_mean": pca.mean,
        "pca_components": pca.components,
        "explained_variance_ratio": pca.explained_variance_ratio,
    }
    if umap is not None and not umap.is_latent:
        arrays["umap"] = umap.coordinates
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)
