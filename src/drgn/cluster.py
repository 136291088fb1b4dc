"""Part the particles of a run into clusters: Gaussian mixture, k-means, HDBSCAN, or classes that were given.

    drgn cluster                                    # as many Gaussians as held-out particles prefer
    drgn cluster by=gmm n=5
    drgn cluster by=hdbscan smallest=500            # groups of any shape; the rest are outliers, cluster -1
    drgn cluster by=rlnClassNumber                  # published classes: the map in the middle of each

Writes to analysis/gmm5/ and so on of the run: labels.npz (by particle), clusters.csv (size, and how far out
and how badly explained the particles of each are), latent.png, and a map at the particle nearest to the mean
of each cluster (P17) with maps.png. `drgn filter` and `drgn validate` take labels=analysis/gmm5/labels.npz;
`drgn compare` tells how two partitions agree.
"""

from pathlib import Path

from drgn.command import command
from drgn.errors import InputError, say


def cluster(
    *,
    run: Path,
    by: str,
    n: int | None,
    smallest: int | None,
    volumes: bool,
    seed: int,
    output: Path | None,
    trust: list[str],
) -> Path:
    """Part the particles, describe the clusters and make a map of each.

    Parameters
    ----------
    run
        The run folder, of cryoDRGN too, or "latest".
    by
        "kmeans", "gmm", "hdbscan", or the name of a column.
    n
        Number of clusters, of kmeans and gmm; None: found by gmm.
    smallest
        Particles of the smallest group of hdbscan; None: a hundredth of all.
    volumes
        Make maps, where the run decodes.
    seed
        Of everything random.
    output
        The folder of the results; None: analysis/BY of the run.
    trust
        Module prefixes that the run's config may name besides drgn, torch and pytorch_lightning.

    Returns
    -------
    Path
        labels.npz.

    Raises
    ------
    InputError
        When the run has no latent, an option is not one of `by`, or a column has too many values.
    """
    from drgn.analysis import partitions
    from drgn.analysis.plots import require_matplotlib
    from drgn.run import Run

    require_matplotlib()
    if n is not None and by not in ("kmeans", "gmm"):
        raise InputError(f"n={n} is for by=kmeans and by=gmm; by={by} has no number of clusters.")
    if smallest is not None and by != "hdbscan":
        raise InputError(f"smallest={smallest} is for by=hdbscan, not by={by}.")
    opened = Run.open(run, trust=trust)
    if opened.zdim == 0:
        raise InputError(f"{opened.path} has no latent (latent=none), so there is nothing to part.")
    if volumes and opened.decodes:
        opened.require_maps()
    found = partitions.part(opened, by, n, smallest, seed)
    name = by if n is None else f"{by}{n}"
    folder = output or opened.folder("analysis", name)
    folder.mkdir(parents=True, exist_ok=True)
    path = partitions.write(opened, found, folder, volumes=volumes and opened.decodes, seed=seed)
    say(partitions.told(found))
    say(f"Labels: {path}")
    return path


main = command(cluster)
if __name__ == "__main__":
    main()
