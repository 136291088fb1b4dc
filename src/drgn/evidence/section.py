"""The section of the report on what the images of each cluster support."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drgn.analysis.pictures import telling_view
from drgn.analysis.report import Picture, Section, Table
from drgn.analysis.selection import by_key, labels_of_analysis
from drgn.analysis.volumes import VolumeFiles
from drgn.evidence import results, states, validation
from drgn.evidence.pictures import Overview
from drgn.formats.mrc import write_volume

if TYPE_CHECKING:
    from drgn.run import Run

TITLE = "What the images of the clusters support"
_HEADER = (
    "cluster",
    "particles",
    "half maps agree to",
    "network's map agrees to",
    "supported to",
    "difference from the mean map",
    "map of the images",
)


def clusters_section(run: Run, folder: Path, kmeans: int, seed: int) -> tuple[Section, str]:
    """Back-project each cluster, write its map beside the neural one, and tell.

    Writes backprojected_NNN.mrc, evidence.csv and evidence.png into kmeansK/ of the analysis.

    Parameters
    ----------
    run
        The run.
    folder
        Of its analysis, with labels and volumes of this k-means.
    kmeans
        Which.
    seed
        Of the half sets and of the random phases.

    Returns
    -------
    tuple
        The section, and a line for the terminal.

    Raises
    ------
    InputError
        The images are not there any more, or are others.
    """
    dataset, particles = validation.dataset_of(run)
    key = particles.table["key"].to_numpy(str)
    latents = run.latents()
    labels = labels_of_analysis(folder, kmeans, key)
    chosen = states.of_clusters(by_key(latents.z, latents.key, key), labels, None)
    place = folder / f"kmeans{kmeans}"
    neural = VolumeFiles(sorted(place.glob("vol_*.mrc")))
    titles = [f"{i}:  {int(state.weight.sum()):,} images" for i, state in enumerate(chosen)]
    overview = Overview(neural, titles, telling_view(neural))
    evidence = validation.examine_all(
        dataset, particles, chosen, neural, half_sets="given", mask=None, seed=seed
    )
    made = [path.with_name(path.name.replace("vol_", "backprojected_")) for path in neural.paths]
    rows = []
    for number, (found, path) in enumerate(zip(evidence, made, strict=True)):
        overview.add(number, found, neural[number])
        rows.append(results.row(found))
        if not isinstance(found, str):
            write_volume(path, found.density.numpy(), found.pixel_size_A)
    results.tell_apart(rows, neural.paths, made, run.pixel_size_A)
    results.write_table(rows, place / "evidence.csv")
    table = [
        (str(i), *_cells(row, path.relative_to(folder)))
        for i, (row, path) in enumerate(zip(rows, made, strict=True))
    ]
    picture = Picture(overview.save(place / "evidence.png"), _CAPTION)
    section = Section(TITLE, _TEXT, [picture], [Table(_HEADER, table)])
    known = [row["supported_A"] for row in rows if row.get("supported_A") is not None]
    line = f"Of {len(rows)} clusters' maps {len(known)} are supported by their own particles"
    return section, f"{line}, to {min(known):.3g} to {max(known):.3g} A." if known else f"{line}."


def _cells(row: Mapping[str, Any], path: Path) -> list[str | Path]:
    if "n_particles" not in row:
        return ["too few for two half sets", "", "", "", "", "not made"]
    reached = [row[name] for name in ("halves_A", "neural_A", "supported_A")]
    difference = f"{row['difference']:.2f}" if "difference" in row else ""
    said = ["nowhere" if value is None else f"{value:.3g} Å" for value in reached]
    return [f"{row['n_particles']:,}", *said, difference, path]


_TEXT = [
    "The maps above come from the network, which has learned from all images. Here the images of each "
    "cluster are put together by themselves, without the network, in two halves that share no image. Up to "
    "the resolution at which the halves agree (FSC 0.143, corrected for the mask) there is signal in these "
    "images; up to the one at which the network's map agrees with them (FSC 0.5) it shows that signal. Finer "
    "detail of the network's map comes from other images or from nowhere.",
    "A cluster of few particles supports little by itself, which is no reason to disbelieve its map: "
    "the network shares what all clusters have in common. A map that agrees to much less than the "
    "halves do is one to disbelieve. But all states are mostly alike, and agree well for that alone. So "
    "the last column says how well what sets the network's map apart from the mean of all these maps "
    "correlates with what sets the map of the images apart: 1 is the same difference, 0 none of it. "
    "drgn validate gives half maps and all curves of any cluster, selection or point.",
]
_CAPTION = (
    "For each cluster: the network's map, the map of its images alone, and the correlation of its half maps "
    "(blue) and of the network's map with theirs (orange) against resolution; dotted lines at "
    "0.5 and 0.143. All surfaces have one level."
)
