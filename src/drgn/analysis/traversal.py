"""What `drgn traverse` does: find a path, decode maps along it, write all with pictures and script."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drgn import __version__
from drgn.analysis import anchors as anchoring
from drgn.analysis import movies, paths, plots
from drgn.analysis.chimerax import write_script
from drgn.analysis.embedding import PCA
from drgn.analysis.pictures import telling_view
from drgn.analysis.render import VIEWS, isosurface_level
from drgn.analysis.volumes import VolumeFiles, write_volumes
from drgn.errors import InputError
from drgn.formats.atomic import for_spreadsheets, replacing

if TYPE_CHECKING:
    from drgn.run import Latents, Run

KINDS = ("pc", "percentiles", "line", "graph")
SIZE_PX = 320  # of a movie
FRAMES_PER_S = 15
_FACTS = "traverse.json"
_MADE = ("movie.gif", "movie.mp4", "chimerax.cxc", "chimerax.mp4", "z.txt", "vol_*.mrc", "z_values.txt")


@dataclass
class Route:
    """A path and how it was found.

    Attributes
    ----------
    path
        The path.
    facts
        For traverse.json.
    findings
        For the terminal.
    """

    path: paths.LatentPath
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)


def find(
    latents: Latents,
    axes: PCA,
    analysis: Path,
    *,
    kind: str,
    pc: int,
    low: float,
    high: float,
    points: int | None,
    average_neighbors: float,
    max_neighbors: int,
    disconnected: str,
    **anchors: Any,
) -> Route:
    """Find the path that the options of `drgn traverse` ask for.

    Parameters
    ----------
    latents
        Of all particles.
    axes
        Their principal components.
    analysis
        The folder that `drgn analyze` wrote.
    kind
        pc, percentiles, line or graph.
    pc, low, high, points, average_neighbors, max_neighbors, disconnected
        The options.
    **anchors
        Those of `anchors.find`.

    Raises
    ------
    InputError
        When the options do not name a path.
    """
    if kind not in KINDS:
        raise InputError(f"kind={kind}: expected {', '.join(KINDS[:-1])} or {KINDS[-1]}.")
    if not 0 <= low < high <= 100:
        raise InputError(
            f"low={low:g} and high={high:g}: expected percentiles from 0 to 100, low below high."
        )
    if points is not None and points < 2:
        raise InputError(f"points={points}: expected at least 2.")
    z = latents.z
    if kind == "pc":
        return Route(
            paths.along_component(axes, pc, points or 5, low, high), {"pc": pc, "percentiles": [low, high]}
        )
    if kind == "percentiles":
        return Route(paths.along_percentiles(z, points or 6, low, high), {"percentiles": [low, high]})
    found = anchoring.find(z, latents.key, analysis, **anchors)
    if kind == "line":
        if len(np.unique(found.z, axis=0)) < 2:
            raise InputError("A line needs at least two different anchors; name others.")
        return Route(paths.straight(found.z, found.row, points or 5))
    rows = anchoring.snapped(found, z)
    way = paths.through_graph(
        z,
        latents.key,
        rows,
        average=average_neighbors,
        maximum=max_neighbors,
        disconnected=disconnected,
    )
    graph, component = way.graph, way.graph.component
    inside = np.bincount(component[graph.node])[component[graph.node[way.path.row[0]]]]
    facts = {
        "neighbours_on_average": graph.average,
        "neighbours_at_most": graph.maximum,
        "longest_step": graph.cutoff,
        "particles_in_its_component": int(inside),
        "particles_visited": len(way.path),
        "anchors_moved": way.moved,
    }
    findings = [
        f"The path visits {len(way.path)} particles, in steps of at most {graph.cutoff:.3g}; {inside:,} of "
        f"{len(z):,} particles are connected with it."
    ]
    if graph.maximum != max_neighbors:
        findings.append(
            f"Neighbours had to be raised to {graph.average:g} on average, {graph.maximum} at most."
        )
    if way.moved:
        findings.append(
            f"Anchors {', '.join(map(str, way.moved))} are outside the largest component; the nearest "
            "particles in it were taken."
        )
    return Route(way.path if points is None else way.path.thinned(points), facts, findings)


def write(
    run: Run,
    latents: Latents,
    axes: PCA,
    route: Route,
    folder: Path,
    *,
    kind: str,
    volumes: bool,
    movie: bool,
    frames: int,
    view: str | None,
    level: float | None,
) -> list[str]:
    """Write a path and what is made along it into a folder; returns lines for the terminal.

    Parameters
    ----------
    run, latents, axes
        The run, its latents and their principal components.
    route
        The path.
    folder
        Created when it does not exist; what an earlier path left there is removed.
    kind
        For traverse.json.
    volumes
        Decode maps.
    movie
        Draw them as a movie.
    frames
        Pictures of the movie, one way.
    view
        A key of `render.VIEWS`; None: the one in which the maps differ most.
    level
        Density of the surfaces; None: the one that best parts molecule from solvent.
    """
    if view is not None and view not in VIEWS:
        raise InputError(f"view={view}: expected {', '.join(VIEWS)} or null.")
    if frames < 2:
        raise InputError(f"frames={frames}: expected at least 2.")
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    path, said = route.path, list(route.findings)
    nearest = _nearest(latents.z, path.z)
    _write_points(folder, path, latents.key, *nearest)
    said += _far_from_data(latents.z, nearest[1])
    _picture(run, latents, axes, path, nearest[0], folder)
    facts: dict[str, Any] = {"drgn": __version__, "run": str(run.path), "kind": kind, "points": len(path)}
    facts |= route.facts
    if volumes and not run.decodes:
        said += _instructions(run, path.z, folder)
    elif volumes:
        files = write_volumes(run, path.z, folder)
        said.append(f"{len(files)} maps in {folder}, named vol_000.mrc and on.")
        facts["level"] = float(isosurface_level(files)) if level is None else level
        facts["level_is"] = (
            "the median over the maps of the density that best parts each into molecule and solvent (Otsu)"
            if level is None
            else "given"
        )
        facts["view"] = view = view or telling_view(files)
        write_script(folder / "chimerax.cxc", files.paths, facts["level"], view)
        if movie:
            said += _movie(run, path.z, files, view, facts["level"], frames, folder)
    with replacing(folder / _FACTS) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
    return said


def _clear(folder: Path) -> None:
    """Remove what an earlier path left, so that the folder never holds a mixture of two."""
    if not (folder / _FACTS).is_file():
        return
    for pattern in (_FACTS, *_MADE):
        for old in folder.glob(pattern):
            old.unlink()


def _nearest(z: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row (M,) of the particle nearest to each point, and its distance."""
    from scipy.spatial import cKDTree

    distance, row = cKDTree(z).query(points)
    return row, distance


def _write_points(
    folder: Path, path: paths.LatentPath, key: np.ndarray, nearest: np.ndarray, distance: np.ndarray
) -> None:
    """Write z.csv for people and path.npz for programs."""
    import pandas as pd

    on_data = path.row >= 0
    columns = {
        "point": np.arange(len(path)),
        "key": np.where(on_data, key[path.row], ""),
        "anchor": path.anchor.astype(int),
        "length": path.length,
        "nearest_key": key[np.where(on_data, path.row, nearest)],
        "nearest_distance": np.where(on_data, 0.0, distance),
        **{f"z{i + 1}": path.z[:, i] for i in range(path.z.shape[1])},
    }
    with replacing(folder / "z.csv") as temporary:
        for_spreadsheets(pd.DataFrame(columns)).to_csv(temporary, index=False, float_format="%.7g")
    with replacing(folder / "path.npz") as temporary:
        np.savez(
            temporary,
            key=columns["key"].astype(np.str_),
            row=path.row,
            z=path.z,
            anchor=path.anchor,
            length=path.length,
            nearest_key=columns["nearest_key"].astype(np.str_),
            nearest_distance=columns["nearest_distance"],
        )


def _far_from_data(z: np.ndarray, distance: np.ndarray) -> list[str]:
    """Say which points are farther from all particles than particles are from each other (P14)."""
    from scipy.spatial import cKDTree

    distinct = np.unique(z, axis=0)
    sample = distinct[:: max(1, len(distinct) // 2000)]
    between = cKDTree(distinct).query(sample, min(2, len(distinct)))[0]
    usual = np.percentile(between.reshape(len(sample), -1)[:, -1], 99)
    far = np.flatnonzero(distance > usual)
    if not len(far):
        return []
    return [
        f"Points {', '.join(map(str, far[:10]))}{', ...' * (len(far) > 10)} are farther from every particle "
        "than 99 % of the particles are from their nearest: the maps there are the network's interpolation."
    ]


def _picture(
    run: Run, latents: Latents, axes: PCA, path: paths.LatentPath, nearest: np.ndarray, folder: Path
) -> None:
    """Draw the path over the latents: path.png."""
    from drgn.analysis.selection import umap_of_analysis

    if path.z.shape[1] == 1:
        plots.histogram(latents.z[:, 0], path.z[:, 0], folder / "path.png")
        return
    share = 100 * axes.explained_variance_ratio
    names = (f"PC1 ({share[0]:.0f} % of the variance)", f"PC2 ({share[1]:.0f} %)")
    line = (path.z - axes.mean) @ axes.components[:2].T
    panels = [plots.PathPanel("Principal components", names, axes.coordinates[:, :2], line)]
    flat = umap_of_analysis(run.place("analysis"), latents.key)
    if flat is not None and path.z.shape[1] > 2:
        on_data = path.row >= 0
        line = flat[np.where(on_data, path.row, nearest)]
        title = "UMAP" if on_data.all() else "UMAP, at the nearest particles"
        panels.append(plots.PathPanel(title, ("UMAP 1", "UMAP 2"), flat, line, bool(on_data.all())))
    plots.latent_path(panels, path.anchor, folder / "path.png")


def _instructions(run: Run, z: np.ndarray, folder: Path) -> list[str]:
    """Write the latents for cryoDRGN, and say how it makes the maps."""
    points = folder / "z.txt"
    with replacing(points) as temporary:
        np.savetxt(temporary, z, fmt="%.8g")
    weights = max(
        run.path.glob("weights*.pkl"), key=lambda path: path.stat().st_mtime, default=Path("WEIGHTS.pkl")
    )
    config = next(run.path.glob("config.*"))
    words = ["cryodrgn", "eval_vol", weights, "--config", config, "--zfile", points, "-o", folder / "maps"]
    if np.isfinite(run.pixel_size_A):
        words += ["--Apix", f"{run.pixel_size_A:.6g}"]
    return [
        f"No maps are made: these weights of cryoDRGN are not decoded here. {points} has the latents; make"
        " maps by",
        "  " + " ".join(shlex.quote(str(word)) for word in words),
    ]


def _movie(
    run: Run, z: np.ndarray, files: VolumeFiles, view: str, level: float, frames: int, folder: Path
) -> list[str]:
    """Write movie.gif and, where it can be encoded, movie.mp4."""
    pictures = movies.there_and_back(
        movies.draw(run, z, files, view, level, frames, SIZE_PX), hold=FRAMES_PER_S // 2
    )
    gif = movies.write_gif(pictures, folder / "movie.gif", FRAMES_PER_S)
    if movies.write_mp4(pictures, folder / "movie.mp4", FRAMES_PER_S):
        return [f"The movie: {folder / 'movie.mp4'} and {gif.name}, seen {view}."]
    return [f"The movie: {gif}, seen {view}; for an .mp4 as well: pip install 'drgn[movie]'."]
