"""Back-project the particles of states alone, and say to what resolution they support the neural maps.

    drgn validate                                   # every cluster of the newest run's analysis
    drgn validate clusters=[3] kmeans=10            # one cluster
    drgn validate indices=selected.star             # particles that drgn filter or another program selected
    drgn validate z=[0.1,-1.2] n_effective=500      # the neighbours of a point of the latent

No network is involved: the images are inserted into two half maps as drgn backproject does. One line for each
state says to what resolution the halves agree (FSC 0.143, corrected for a tight mask), and to what resolution
the neural map, decoded at the particle nearest to the middle of the state or at the point, agrees with their
sum (FSC 0.5, in the paper's mask). The coarser of the two is what the images support. States of one molecule
are mostly alike; where there are several, the line also says how well what sets the neural map apart from
their mean correlates with what sets the map of its images apart.

Writes a folder for each state with half_map_1.mrc, half_map_2.mrc, map.mrc (both halves, Wiener-filtered),
neural.mrc, weights.npz (for weights= of drgn backproject), fsc.csv, fsc.png, views.png and validate.json, and
states.csv of all states.
"""

from pathlib import Path
from typing import Literal

from drgn.command import command
from drgn.errors import InputError, say


def validate(
    *,
    run: Path,
    clusters: list[int] | None,
    kmeans: int,
    labels: Path | None,
    indices: Path | None,
    z: list | None,
    z_file: Path | None,
    n_effective: float | None,
    half_sets: Literal["given", "random"],
    mask: Path | None,
    seed: int,
    output: Path | None,
    trust: list[str],
) -> Path:
    """Compare the neural maps of states with maps of their particles alone.

    Parameters
    ----------
    run
        The run folder, or "latest".
    clusters
        Clusters of the analysis, each a state; None, and none of the next three: all.
    kmeans
        Which k-means of the analysis.
    labels
        A labels.npz of another partition, which `clusters` means instead.
    indices
        A .star or .cs of particles, or a .pkl, .npy or .txt of rows of the original file: one state.
    z
        One latent as a list of numbers, or a list of such lists: their neighbours.
    z_file
        A text file with one latent in each line, or a .npy of shape (M, zdim).
    n_effective
        How many particles stand behind a latent, (sum w)^2 / sum w^2; None: a tenth of all, 2000 at most.
    half_sets
        "given": those of the particle file where it has any, else drawn; "random": drawn.
    mask
        Map that all maps are multiplied by; None: a loose and a tight mask of each state.
    seed
        Of the half sets and of the random phases.
    output
        Folder to write to; None: in validation/ of the run.
    trust
        Module prefixes that the run's config may name besides drgn, torch and pytorch_lightning.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        Several ways to choose are given, nothing is chosen, too few particles are, the mask is of another box
        or pixel size, or the run has no latent, no analysis with such a k-means, or no prepared images.
    """
    import numpy as np
    import torch

    from drgn.analysis.plots import require_matplotlib
    from drgn.analysis.volumes import VolumeFiles
    from drgn.evidence import results, states, validation
    from drgn.formats.mrc import write_volume
    from drgn.run import Run
    from drgn.scoring import foreign_maps

    require_matplotlib()
    ways = {"clusters": clusters, "indices": indices, "z": z, "z_file": z_file}
    if len(named := [name for name, value in ways.items() if value is not None]) > 1:
        raise InputError(f"validate takes one of {', '.join(ways)}; {' and '.join(named)} are given.")
    opened = Run.open(run, trust=trust)
    dataset, particles = validation.dataset_of(opened)
    opened.require_maps()
    given = foreign_maps.read(mask, "mask") if mask is not None else None
    if given is not None:
        foreign_maps.require_like(given, opened.box_size, opened.pixel_size_A, "the training box")
    chosen, group = states.choose(
        opened,
        particles,
        dataset.group.numpy(),
        clusters=clusters,
        kmeans=kmeans,
        labels=labels,
        indices=indices,
        z=z,
        z_file=z_file,
        n_effective=n_effective,
    )
    folder = output or opened.folder("validation", group)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    paths = [folder / state.name / "neural.mrc" for state in chosen]
    decoded = opened.volumes(np.stack([state.z for state in chosen]), device)
    for path, volume in zip(paths, decoded, strict=True):
        write_volume(path, volume, opened.pixel_size_A)
    key, rows = particles.table["key"].to_numpy(str), []
    inside = given.density if given is not None else None
    evidence = validation.examine_all(
        dataset, particles, chosen, VolumeFiles(paths), half_sets=half_sets, mask=inside, seed=seed
    )
    for state, found in zip(chosen, evidence, strict=True):
        if not isinstance(found, str):
            results.write(found, key, folder / state.name)
        rows.append(results.row(found))
    made = [folder / state.name / "map.mrc" for state in chosen]
    results.tell_apart(rows, paths, made, opened.pixel_size_A)
    results.write_table(rows, folder / "states.csv")
    say("\n".join(str(row["sentence"]) for row in rows))
    say(f"Maps, curves and pictures: {folder}")
    return folder


main = command(validate)
if __name__ == "__main__":
    main()
