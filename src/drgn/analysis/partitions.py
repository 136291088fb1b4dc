"""Partitions of a run's particles by any method or by given classes, and what describes the clusters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from drgn.analysis import clusters as clustering
from drgn.analysis import embedding, pictures, plots
from drgn.analysis.selection import LABELS, column_of, umap_of_analysis, write_labels
from drgn.analysis.volumes import write_volumes
from drgn.errors import InputError
from drgn.formats.atomic import write_table

if TYPE_CHECKING:
    from drgn.run import Run

MOST_CLASSES = 200  # of a column
FAR = 3.0  # times the median particle's |z|, beyond which the mean of a cluster is far out


@dataclass(frozen=True, eq=False)
class Partition:
    """Clusters with their names and what is known of their particles.

    Attributes
    ----------
    title
        What parted them.
    clusters
        Labels and on-data centres.
    table
        One row for each cluster: name, particles, share, mean_z_norm, mean_reconstruction_loss, far.
    """

    title: str
    clusters: clustering.Clusters
    table: pd.DataFrame


def part(run: Run, by: str, n: int | None, smallest: int | None, seed: int) -> Partition:
    """Part the particles of a run; arguments as of the verb `drgn cluster`.

    Raises
    ------
    InputError
        When kmeans has no number, there are too few particles, or a column has too many values.
    """
    latents = run.latents()
    z = latents.z
    names: list[str] | None = None
    if by == "kmeans":
        if n is None:
            raise InputError("by=kmeans needs a number of clusters: give n=...")
        found = clustering.kmeans(z, n, seed)
    elif by == "gmm":
        found = clustering.gaussian_mixture(z, seed, n)
    elif by == "hdbscan":
        found = clustering.hdbscan(z, max(5, len(z) // 100) if smallest is None else smallest, seed)
    else:
        found, names = given(z, column_of(run.particles(), by), by)
    norm = np.linalg.norm(z, axis=1)
    rows = []
    for number, size in enumerate(found.sizes):
        inside = found.labels == number
        rows.append(
            {
                "cluster": number,
                "name": names[number] if names else str(number),
                "particles": int(size),
                "share": size / len(z),
                "mean_z_norm": norm[inside].mean(),
                "mean_reconstruction_loss": latents.reconstruction_loss[inside].mean(),
                "far": bool(norm[inside].mean() > FAR * np.median(norm)),
            }
        )
    return Partition(by, found, pd.DataFrame(rows))


def classes_of(values: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Classes (k,) among values (N,) of any kind, sorted, and the number (N,) of each value's class.

    Raises
    ------
    InputError
        When there are more than 200 values: a coordinate, not classes; `name` names it.
    """
    classes, labels = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)
    if len(classes) > MOST_CLASSES:
        raise InputError(
            f"{name} has {len(classes):,} values, more than the {MOST_CLASSES} of which classes are made."
        )
    return classes, labels


def given(z: np.ndarray, values: np.ndarray, name: str) -> tuple[clustering.Clusters, list[str]]:
    """Classes of a column as clusters, in the order of its values, and these as words.

    Latents (N, Z); the other arguments and the error as of `classes_of`.
    """
    classes, labels = classes_of(values, name)
    rows = clustering.on_data_mean(z, labels)
    centres = np.asarray(z[rows], np.float32)
    return clustering.Clusters(labels.astype(np.int64), rows, centres), [str(value) for value in classes]


def write(run: Run, partition: Partition, folder: Path, *, volumes: bool, seed: int) -> Path:
    """Write labels.npz, clusters.csv, latent.png and, if asked for, maps; return the labels' path."""
    latents, found = run.latents(), partition.clusters
    path = folder / LABELS
    known = np.isfinite(latents.logvar).all() and (found.labels >= 0).all()
    # the share of draws nearest to a mean describes clusters that k-means made
    shares = (
        clustering.membership(latents.z, latents.logvar, found.labels, seed)
        if known and partition.title == "kmeans"
        else None
    )
    write_labels(path, latents.key, found, shares)
    table = partition.table.assign(centre_key=latents.key[found.on_data_rows])
    write_table(table, folder / "clusters.csv")
    title = f"{len(table)} clusters by {partition.title}"
    flat = umap_of_analysis(run.place("analysis"), latents.key)
    if latents.z.shape[1] == 1:
        plots.histogram(latents.z[:, 0], found.centres[:, 0], folder / "latent.png")
    else:
        pca = embedding.pca(latents.z).coordinates[:, :2]
        shown, axes = (pca, ("PC1", "PC2")) if flat is None else (flat, ("UMAP 1", "UMAP 2"))
        plots.latent_map(shown, axes, folder / "latent.png", found, title)
    if volumes:
        maps = write_volumes(run, found.centres, folder)
        named = [f"{row.name}:  {row.particles:,}" for row in table.itertuples(index=False)]
        colours = plots.label_colours(len(table))
        pictures.montage(maps, named, folder / "maps.png", pictures.telling_view(maps), colours, 5)
    return path


def told(partition: Partition) -> str:
    """A line for each cluster, for the terminal."""
    table, outside = partition.table, int((partition.clusters.labels < 0).sum())
    lines = [f"{len(table)} clusters by {partition.title}:"]
    for row in table.itertuples(index=False):
        far = "; far from the others: junk?" if row.far else ""
        loss = row.mean_reconstruction_loss
        fit = f", mean reconstruction loss {loss:.4g}" if np.isfinite(loss) else ""
        size = f"{row.particles:,} particles ({row.share:.1%})"
        lines.append(f"  {row.name}: {size}, mean |z| {row.mean_z_norm:.3g}{fit}{far}")
    if outside:
        lines.append(f"  none: {outside:,} particles ({outside / len(partition.clusters.labels):.1%})")
    return "\n".join(lines)
