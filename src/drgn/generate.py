"""Make volumes from a run, at given latent coordinates or at cluster centres.

    drgn generate z=[0.1,-1.2]                 # one volume of the newest run (here zdim is 2)
    drgn generate z=[[0,0],[1,0]] output=two   # two volumes in the folder two/
    drgn generate z_file=path.txt              # one latent in each line, or a .npy of shape (M, zdim)
    drgn generate kmeans=5                     # at the particle nearest to each of 5 cluster centres
    drgn generate labels=classes.npz           # at the particle nearest to the mean of each known class
    drgn generate particles=[000007@a.mrcs] samples=32   # of this particle, and how uncertain its map is
    drgn generate run=outputs/train/map        # a run without a latent has one volume
    drgn generate kmeans=5 halves=true         # of a run with half_sets: half maps, FSC, local resolution

Writes vol_000.mrc, vol_001.mrc, ... and z_values.txt with their latents, to a folder in volumes/ of the run
that is named after them (kmeans5, z_0.1_-1.2), or to output=, whose volumes they replace. With samples=,
vol_000_sd.mrc is the standard deviation of the maps that the particle's posterior allows. A run that was
trained with half_sets decodes two half maps, each from half of the particles, and vol_000.mrc is their mean;
halves=true writes beside it vol_000_half_1.mrc and vol_000_half_2.mrc, vol_000_weighted.mrc (the mean, each
shell times the correlation with the truth that the FSC of the halves lets expect), vol_000_fsc.csv and .png,
and where a window is given vol_000_local_resolution.mrc (of the masked halves, at 0.5).
"""

from pathlib import Path

from drgn.command import command
from drgn.errors import InputError, say


def generate(
    *,
    run: Path,
    z: list | None,
    z_file: Path | None,
    kmeans: int | None,
    labels: Path | None,
    particles: list[str] | None,
    samples: int | None,
    halves: bool,
    mask: Path | None,
    local_window_A: float | None,
    seed: int,
    output: Path | None,
    trust: list[str],
) -> list[Path]:
    """Write the volumes at the latents that exactly one of z, z_file, kmeans, labels and particles names.

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
    particles
        Keys of particles, as latents.npz has them.
    samples
        Draws from the posterior of each of these particles, of whose maps the standard deviation is written.
    halves
        Write the half maps and their correlation too; the run must have been trained with half_sets.
    mask
        Map that the halves are multiplied by; None: made of each volume by the paper's recipe (P23).
    local_window_A
        Width of the window of the local resolution of the halves; None: it is not made.
    seed
        Seed of k-means and of the random phases.
    output
        The folder of the volumes; None: volumes/ of the run, and in it one for each choice of latents.
    trust
        Module prefixes that the run's config may name besides drgn, torch and pytorch_lightning.

    Returns
    -------
    list of Path
        The volumes.

    Raises
    ------
    InputError
        When not exactly one of the five is given, when the latents do not have the run's dimension, or when
        the run has no halves, or no variances for samples; a mask of another box or pixel size, a window that
        is not positive.
    """
    import numpy as np

    from drgn.analysis import points
    from drgn.analysis.volumes import write_spread, write_volumes
    from drgn.run import Run
    from drgn.scoring import foreign_maps
    from drgn.scoring.half_maps import write_half_maps

    opened = Run.open(run, trust=trust)
    if samples is not None and (particles is None or samples < 2):
        raise InputError(
            f"samples={samples}: expected at least 2, of particles=[...], whose posteriors are known."
        )
    for name, value in () if halves else (("mask", mask), ("local_window_A", local_window_A)):
        if value is not None:
            raise InputError(f"{name}={value} is of half maps: give halves=true, or leave it out.")
    if local_window_A is not None and local_window_A <= 0:
        raise InputError(f"local_window_A={local_window_A:g}: expected a length above 0 A.")
    known = foreign_maps.read(mask, "mask") if mask is not None else None
    if known is not None:
        foreign_maps.require_like(known, opened.box_size, opened.pixel_size_A, "the training box")
    opened.require_maps(halves)
    latents = points.wanted(
        opened, z=z, z_file=z_file, kmeans=kmeans, labels=labels, particles=particles, seed=seed
    )
    if samples is not None and particles is not None:
        encoded = opened.latents()
        rows = points.rows_of(encoded.key, particles)
        if not np.isfinite(encoded.logvar[rows]).all():
            raise InputError(
                f"samples={samples}: {opened.path} has no variances of these latents, expected those of the"
                " particles' posteriors; leave samples= out"
            )
    way = "labels" if labels else "particles" if particles else "z"
    if kmeans is not None:
        way = f"kmeans{kmeans}" + (f"_seed{seed}" if seed else "")
    ending = "_halves" * halves + (f"_samples{samples}" if samples else "")
    folder = output or opened.folder("volumes") / f"{points.named(way, latents)}{ending}"
    if halves:
        volumes = write_half_maps(
            opened,
            latents,
            folder,
            mask=known.density if known is not None else None,
            local_window_A=local_window_A,
            seed=seed,
        )
    else:
        volumes = write_volumes(opened, latents, folder)
    if samples is not None and particles is not None:
        write_spread(opened, encoded.z[rows], encoded.logvar[rows], samples, volumes.paths, seed)
    say(f"{len(volumes)} volume{'s' * (len(volumes) != 1)} in {folder}")
    return volumes.paths


main = command(generate)
if __name__ == "__main__":
    main()
