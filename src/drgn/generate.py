"""Make volumes from a run, at given latent coordinates or at cluster centres.

    drgn generate z=[0.1,-1.2]                 # one volume of the newest run (here zdim is 2)
    drgn generate z=[[0,0],[1,0]] output=two   # two volumes in the folder two/
    drgn generate z_file=path.txt              # one latent in each line, or a .npy of shape (M, zdim)
    drgn generate kmeans=5                     # at the particle nearest to each of 5 cluster centres
    drgn generate labels=classes.npz           # at the particle nearest to the mean of each known class
    drgn generate run=outputs/train/map        # a run without a latent has one volume

Writes vol_000.mrc, vol_001.mrc, ... and z_values.txt with their latents.
"""

from pathlib import Path

from drgn.command import command


def generate(
    *,
    run: Path,
    z: list | None,
    z_file: Path | None,
    kmeans: int | None,
    labels: Path | None,
    seed: int,
    output: Path | None,
    trust: list[str],
) -> list[Path]:
    """Write the volumes at the latents that exactly one of z, z_file, kmeans and labels names.

    Parameters
    ----------
    run
        The run folder, or "latest".
    z
        One latent as a list of numbers, or a list of such lists.
    z_file
        A text file with one latent in each line, or a .npy of shape (M, zdim).
    kmeans
        Number of k-means clusters; the latents are their on-data centres (P16).
    labels
        A .npz with the arrays `key` and `label`; the latents are the on-data class means (P17), in the order
        of the sorted labels.
    seed
        Seed of k-means.
    output
        The folder of the volumes; None: volumes/ of the run.
    trust
        Module prefixes that the run's config may name besides drgn, torch and pytorch_lightning.

    Returns
    -------
    list of Path
        The volumes.

    Raises
    ------
    InputError
        When not exactly one of the four is given, or when the latents do not have the run's dimension.
    """
    from drgn.analysis import points
    from drgn.analysis.volumes import write_volumes
    from drgn.run import Run

    opened = Run.open(run, trust=trust)
    latents = points.wanted(opened, z=z, z_file=z_file, kmeans=kmeans, labels=labels, seed=seed)
    folder = output or opened.folder("volumes")
    volumes = write_volumes(opened, latents, folder)
    print(f"{len(volumes)} volume{'s' * (len(volumes) != 1)} in {folder}")
    return volumes.paths


main = command(generate)
if __name__ == "__main__":
    main()
