"""What `drgn landscape` does: a sketch of maps, its clusters and components, and all particles among them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drgn import __version__
from drgn.analysis import landscape, pictures, plots, sketch, state_plots
from drgn.analysis.clusters import Clusters
from drgn.analysis.earlier import clear
from drgn.analysis.landscape import CAVEAT, Clustering, Mapping
from drgn.analysis.report import Picture, Section, Table
from drgn.analysis.selection import LABELS, write_labels
from drgn.formats.atomic import replacing
from drgn.formats.mrc import write_volume

if TYPE_CHECKING:
    from drgn.run import Latents, Run

_FACTS = "landscape.json"
# folders, and what is in them
_MADE = {r"cluster_\d+": r"(mean|std)\.mrc", "components": r"(mean|pc\d+)\.mrc"}
_POINTS = 5  # maps shown along each component
_WALKED = 2  # components along which maps are shown


@dataclass(frozen=True, eq=False)
class Landscape:
    """What was found.

    Attributes
    ----------
    rows, nearest
        (M,) particles that the maps of the sketch are of, and (N,) which map stands for each particle.
    maps
        (M, D, D, D) float32.
    pixel_size_A
        Of the maps.
    mask
        (D, D, D) bool.
    pca
        Volume principal components.
    clustering
        Of the maps.
    mapping
        From latents to volume principal components.
    coordinates
        (N, C) of all particles; those of the sketch are of their decoded maps.
    """

    rows: np.ndarray
    nearest: np.ndarray
    maps: np.ndarray
    pixel_size_A: float
    mask: np.ndarray
    pca: sketch.MapPCA
    clustering: Clustering
    mapping: Mapping
    coordinates: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """(M,) particles that each map stands for."""
        return np.bincount(self.nearest, minlength=len(self.rows))

    @property
    def labels(self) -> np.ndarray:
        """(N,) cluster of each particle: that of the map that stands for it."""
        return self.clustering.labels[self.nearest]


def find(
    run: Run,
    latents: Latents,
    *,
    maps: int,
    box_size: int,
    mask: Path | None,
    dilate_A: float,
    pcs: int,
    clusters: int | None,
    seed: int,
) -> Landscape:
    """Decode a sketch and find its landscape.

    Parameters
    ----------
    run, latents
        The run and its latents.
    maps
        Of the sketch.
    box_size
        In which they are decoded; the box of the run where that is smaller.
    mask
        A file; None: the union of where the maps have density, grown by `dilate_A`.
    dilate_A
        See `mask`.
    pcs
        Volume principal components kept.
    clusters
        Their number; None: chosen.
    seed
        Of everything random.
    """
    box_size = min(box_size, run.box_size)
    field_A = run.box_size * run.pixel_size_A
    pixel_size_A = field_A / box_size
    given = None if mask is None else sketch.read_mask(mask, box_size, field_A)
    rows, nearest = sketch.centres(latents.z, maps, seed)
    decoded = sketch.decode(run, latents.z[rows], box_size)
    inside = sketch.union_mask(decoded, pixel_size_A, dilate_A) if given is None else given
    weights = np.bincount(nearest, minlength=len(rows))
    pca = sketch.pca(decoded[:, inside], pcs, weights)
    clustering = landscape.cluster(pca.coordinates, weights, clusters)
    mapping = landscape.learn(latents.z[rows].astype(np.float64), pca.coordinates, seed)
    coordinates = mapping.predict(latents.z.astype(np.float64))
    coordinates[rows] = pca.coordinates
    return Landscape(rows, nearest, decoded, pixel_size_A, inside, pca, clustering, mapping, coordinates)


def write(run: Run, latents: Latents, found: Landscape, folder: Path) -> None:
    """Write maps, labels, coordinates and landscape.json; maps of an earlier landscape are removed."""
    clear(folder, _FACTS, _MADE)
    labels = found.clustering.labels
    key = np.asarray(latents.key, np.str_)

    def save(path: Path, volume: np.ndarray, what: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(path, volume.astype(np.float32), found.pixel_size_A, label=f"drgn {__version__} {what}")

    save(folder / "mask.mrc", found.mask, "mask of the landscape")
    for i, component in enumerate((found.pca.mean, *found.pca.components)):
        volume = np.zeros(found.mask.shape, np.float32)
        volume[found.mask] = component
        save(folder / "components" / (f"pc{i}.mrc" if i else "mean.mrc"), volume, f"volume PC{i}")
    centres = []
    for k in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == k)
        mean, spread = landscape.mean_and_spread(found.maps[members], found.weights[members])
        place = folder / f"cluster_{k:02d}"
        save(place / "mean.mrc", mean, f"mean of cluster {k}")
        save(place / "std.mrc", spread, f"standard deviation in cluster {k}")
        away = ((found.pca.coordinates[members] - found.pca.coordinates[members].mean(axis=0)) ** 2).sum(
            axis=1
        )
        centres.append(found.rows[members[away.argmin()]])
    at = np.array(centres)
    write_labels(folder / LABELS, key, Clusters(found.labels, at, latents.z[at]))
    arrays = {
        "key": key,
        "coordinates": found.coordinates.astype(np.float32),
        "sketch_row": found.rows,
        "sketch_coordinates": found.pca.coordinates.astype(np.float32),
        "sketch_particles": found.weights,
        "sketch_cluster": labels,
        "nearest": found.nearest,
    }
    with replacing(folder / "landscape.npz") as temporary:
        np.savez(temporary, **arrays)
    facts: dict[str, Any] = {
        "drgn": __version__,
        "run": str(run.path),
        "maps": len(found.rows),
        "box_size": found.mask.shape[0],
        "pixel_size_A": found.pixel_size_A,
        "mask_share": float(found.mask.mean()),
        "share_of_variance": found.pca.share.tolist(),
        "clusters": int(labels.max()) + 1,
        "silhouette": {str(k): v for k, v in found.clustering.silhouette.items()},
        "regression": found.mapping.name,
        "held_out_r2": found.mapping.scores,
        "held_out_r2_by_component": found.mapping.by_component.tolist(),
        "caveat": CAVEAT,
    }
    with replacing(folder / _FACTS) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")


def sections(found: Landscape, folder: Path) -> list[Section]:
    """The report, in reading order."""
    return [
        _where(found, folder),
        *_clusters(found, folder),
        *_along(found, folder),
        _regression(found, folder),
    ]


def _axes(found: Landscape) -> tuple[str, str]:
    share = 100 * found.pca.share
    second = f"volume PC2 ({share[1]:.0f} %)" if len(share) > 1 else ""
    return f"volume PC1 ({share[0]:.0f} % of the variance)", second


def _flat(coordinates: np.ndarray) -> np.ndarray:
    """First two coordinates, with a second of 0 where there is but one."""
    return np.pad(coordinates, ((0, 0), (0, max(0, 2 - coordinates.shape[1]))))[:, :2]


def _where(found: Landscape, folder: Path) -> Section:
    xy, maps = _flat(found.coordinates), _flat(found.pca.coordinates)
    energy, extent = landscape.free_energy_like(xy)
    path = state_plots.landscape(
        xy, energy, extent, maps, found.clustering.labels, _axes(found), CAVEAT, folder / "landscape.png"
    )
    with replacing(folder / "density.npz") as temporary:
        np.savez(temporary, minus_log_density=energy, extent=np.array(extent), caveat=np.array(CAVEAT))
    caption = (
        "Left: -log density of all particles in the first two volume components. "
        + CAVEAT
        + " Right: the maps "
        "of the sketch, coloured and numbered by cluster."
    )
    variance = plots.explained_variance(found.pca.share, folder / "explained_variance.png")
    text = [
        f"{len(found.rows)} maps, each at a real particle in the middle of a small region of the latent "
        "space, were "
        f"decoded in a box of {found.mask.shape[0]} voxels of {found.pixel_size_A:.3g} Å and compared inside "
        "a mask "
        f"({found.mask.mean():.0%} of the box). Volume components are the directions in which these maps "
        "vary most. "
        "Other than in the latent space, distance here is difference of density."
    ]
    shown = [
        Picture(path, caption),
        Picture(variance, "How much of the variance of the maps each volume component holds.", 50),
    ]
    return Section("The landscape", text, shown)


def _clusters(found: Landscape, folder: Path) -> list[Section]:
    labels, weights = found.clustering.labels, found.weights
    k = int(labels.max()) + 1
    particles = np.bincount(labels, weights, minlength=k).astype(int)
    pairs = [landscape.mean_and_spread(found.maps[labels == i], weights[labels == i]) for i in range(k)]
    titles = [f"{i}:  {n:,} particles" for i, n in enumerate(particles)]
    means = [mean for mean, _ in pairs]
    view = pictures.telling_view(means)
    surface = pictures.montage(
        means, titles, folder / "clusters.png", view, plots.label_colours(k), min(5, k)
    )
    shown = [
        Picture(
            surface,
            f"Mean map of each cluster, seen {view}, all at one contour level. They are in "
            "cluster_00/mean.mrc and on.",
            min(100, 30 * k),
        )
    ]
    few = pairs[:8]
    spread = pictures.slices(
        [std for _, std in few], [f"std {i}" for i in range(len(few))], found.pixel_size_A, folder / "std.png"
    )
    caption = (
        "Central slices of the standard deviation within each cluster (std.mrc), in one grey scale: bright "
        "is where "
        "maps of one cluster still differ, because a part moves or comes and goes, or is noisy."
    )
    shown.append(Picture(spread, caption, min(100, 16 * len(few) + 10)))
    tried = found.clustering.silhouette
    chosen = tried.get(k)
    text = [
        f"Ward's agglomerative clustering of the maps into {k}. "
        + (
            f"The mean silhouette is {chosen:.2f}; 1 is far apart, 0 is touching. "
            if chosen is not None
            else ""
        )
        + "Clustering always finds clusters, in continuous motion too; drgn discover asks whether there is a "
        "gap between them. A particle has the cluster of the map that stands for it (labels.npz)."
    ]
    rows = [
        (str(i), f"{n:,}", f"{100 * n / particles.sum():.1f} %", str((labels == i).sum()), f"cluster_{i:02d}")
        for i, n in enumerate(particles)
    ]
    table = Table(("cluster", "particles", "share", "maps", "folder"), rows)
    return [Section("Clusters of maps", text, shown, [table])]


def _along(found: Landscape, folder: Path) -> list[Section]:
    out = []
    for c in range(min(_WALKED, found.pca.coordinates.shape[1])):
        along = found.pca.coordinates[:, c]
        steps = np.linspace(*np.percentile(along, [5, 95]), _POINTS)
        # on-data: the nearest map of the sketch, near in the other components too
        scale = np.sqrt(found.pca.variances)
        at = []
        for step in steps:
            away = found.pca.coordinates.copy() / scale
            away[:, c] -= step / scale[c]
            away[:, c] *= 4
            at.append(int((away**2).sum(axis=1).argmin()))
        titles = [f"PC{c + 1} = {along[i]:.3g}" for i in at]
        shown = [found.maps[i] for i in at]
        view = pictures.telling_view(shown)
        surface = pictures.montage(shown, titles, folder / f"along_pc{c + 1}.png", view, None, _POINTS)
        cuts = pictures.slices(shown, titles, found.pixel_size_A, folder / f"along_pc{c + 1}_slices.png")
        caption = (
            f"Maps of the sketch nearest to five equally spaced points along volume component {c + 1}, seen "
            f"{view}."
        )
        pair = [
            Picture(surface, caption),
            Picture(cuts, "Central slices of the same maps in one grey scale."),
        ]
        out.append(Section(f"Along volume component {c + 1}", [], pair))
    return out


def _regression(found: Landscape, folder: Path) -> Section:
    mapping = found.mapping
    path = state_plots.regression(*mapping.held_out, mapping.by_component, folder / "regression.png")
    scores = ", ".join(f"{name} {score:.3f}" for name, score in mapping.scores.items())
    text = [
        "Only the maps of the sketch are decoded; the other particles are placed by a regression from the "
        "latent to "
        f"the volume components. On a fifth of the maps, held out, R² was: {scores}; the {mapping.name} is "
        "used, "
        "learnt again from all maps. Components with a low R² are placed badly: do not read the landscape "
        "along them."
    ]
    return Section(
        "How all particles were placed",
        text,
        [Picture(path, "Held-out maps; on the dotted line the regression is exact.")],
    )
