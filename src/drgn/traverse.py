"""Follow a path through the latent space: maps along it, a movie, a ChimeraX script.

    drgn traverse                                            # principal component 1, percentiles 5 to 95
    drgn traverse pc=2 points=10 low=1 high=99
    drgn traverse kind=percentiles                           # of a one-dimensional latent
    drgn traverse kind=line anchors=[3,120]                  # straight from particle 3 to particle 120
    drgn traverse kind=line anchors=[[0,0],[1,-2]]           # between latents (here zdim is 2)
    drgn traverse kind=graph kmeans=20                       # through all cluster centres, always on data
    drgn traverse kind=graph kmeans=20 pathway=[0,7,3] name=assembly
    drgn traverse kind=graph labels=classes.npz pathway=[B,C,E]
    drgn traverse kind=graph random=5 disconnected=widen
    drgn traverse run=my_cryodrgn_run kind=graph random=3    # z.txt for cryodrgn eval_vol --zfile

Writes to traverse/NAME/ of the run: z.csv and path.npz (points, particles, latents), path.png (the path over
the latents), vol_000.mrc and on, movie.gif and movie.mp4, chimerax.cxc (opens the maps in ChimeraX, saves a
movie) and traverse.json (how the path was found; the contour level). An .mp4 needs pip install 'drgn[movie]'.
"""

from pathlib import Path

from drgn.command import command
from drgn.errors import InputError, say


def traverse(
    *,
    run: Path,
    kind: str,
    pc: int,
    low: float,
    high: float,
    points: int | None,
    anchors: list | None,
    kmeans: int | None,
    labels: Path | None,
    pathway: list | None,
    random: int | None,
    seed: int,
    average_neighbors: float,
    max_neighbors: int,
    disconnected: str,
    volumes: bool,
    movie: bool,
    frames: int,
    view: str | None,
    level: float | None,
    name: str | None,
    output: Path | None,
    trust: list[str],
) -> Path:
    """Find a path and write it with what is made along it.

    Parameters
    ----------
    run
        The run folder, of cryoDRGN too, or "latest".
    kind
        pc (P18), percentiles (P19), line or graph (P20).
    pc
        Principal component, counted from 1.
    low, high
        Percentiles between which pc and percentiles go.
    points
        Number of maps; None: 5 along a pc, 6 percentiles, 5 on each line, all particles on a graph path.
    anchors
        Rows, keys or latents, in order.
    kmeans
        Anchors at the on-data centres of this k-means of the analysis.
    labels
        Anchors at the on-data class means of a .npz with the arrays key and label.
    pathway
        Which clusters or labels, in which order; None: all.
    random
        So many random anchors.
    seed
        Of their draw.
    average_neighbors, max_neighbors
        Of a particle in the graph.
    disconnected
        stop, widen or largest, where no path joins the anchors.
    volumes
        Make maps.
    movie
        Make a movie of them.
    frames
        Its pictures, one way.
    view
        "along x", "along y" or "along z"; None: where the maps differ most.
    level
        Contour level of all maps; None: found.
    name
        Folder in traverse/ of the run; None: pcN or the kind.
    output
        The folder itself; None: traverse/NAME of the run.
    trust
        Module prefixes that the run's config may name besides drgn, torch and pytorch_lightning.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        When the options do not name a path through this run's latents.
    """
    from drgn.analysis import traversal
    from drgn.analysis.embedding import pca
    from drgn.analysis.plots import require_matplotlib
    from drgn.run import Run

    require_matplotlib()
    opened = Run.open(run, trust=trust)
    if opened.zdim == 0:
        raise InputError(f"{opened.path} has no latent (latent=none), so there is no path through it.")
    latents = opened.latents()
    if volumes and opened.decodes:
        opened.require_maps()
    axes = pca(latents.z)
    route = traversal.find(
        latents,
        axes,
        opened.place("analysis"),
        kind=kind,
        pc=pc,
        low=low,
        high=high,
        points=points,
        average_neighbors=average_neighbors,
        max_neighbors=max_neighbors,
        disconnected=disconnected,
        anchors=anchors,
        kmeans=kmeans,
        labels=labels,
        pathway=pathway,
        random=random,
        seed=seed,
    )
    folder = output or opened.folder("traverse", name or (f"pc{pc}" if kind == "pc" else kind))
    said = traversal.write(
        opened,
        latents,
        axes,
        route,
        folder,
        kind=kind,
        volumes=volumes,
        movie=movie,
        frames=frames,
        view=view,
        level=level,
    )
    say("\n".join([*said, f"Path: {folder}"]))
    return folder


main = command(traverse)
if __name__ == "__main__":
    main()
