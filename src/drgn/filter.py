"""Select particles of a run and write them as .star, .cs and .csg, for cryoDRGN, or as row indices.

    drgn filter output=kept.star clusters=[0,3,7]            # three clusters of the newest run's analysis
    drgn filter output=good.cs clusters=[4,5] invert=true    # all but two clusters
    drgn filter output=kept.pkl max_z_norm=10                # without outliers, as row indices
    drgn filter output=kept.star max_loss_percentile=98      # without the images that are explained worst
    drgn filter output=kept.star labels=analysis/gmm5/labels.npz clusters=[0,2]   # of drgn cluster
    drgn filter output=both.star indices=[a.star,b.star]     # in both; with any=true in one of them
    drgn filter output=state.star split=true                 # each cluster to a file of its own
    drgn filter output=all.star max_z_norm=100 columns=true  # latents and clusters as columns
    drgn filter output=full.star clusters=[0] original=unbinned.star images=true
    drgn filter run=outputs/train/toy/2026-01-31_12-00-00 output=both.star clusters=[0,1] indices=mine.star

A particle is kept when every given condition keeps it, or with any=true when one does. Files are joined by
what the particles are (cryoSPARC uid, image name, name of the original image, micrograph and position),
never by row. A .star or .cs keeps all columns of the file that the particles came from, and a .star says
from which folder its images are named where that is another. A name without a
suffix is a folder for cryoDRGN (particles.star, poses.pkl, ctf.pkl); row indices count the rows of the
original file from 0.
"""

from pathlib import Path

from drgn.command import command
from drgn.errors import InputError, say


def filter(
    *,
    run: Path,
    clusters: list[int] | None,
    kmeans: int,
    labels: Path | None,
    max_z_norm: float | None,
    z_between: list[float] | None,
    max_loss_percentile: float | None,
    indices: Path | list[Path] | None,
    any: bool,
    invert: bool,
    output: Path,
    split: bool,
    columns: bool,
    star_version: float | None,
    original: Path | None,
    original_datadir: Path | None,
    images: bool,
    trust: list[str],
) -> int:
    """Write the particles that satisfy all given conditions.

    Parameters
    ----------
    run
        The run folder, or "latest".
    clusters
        Keep the particles of these clusters.
    kmeans
        Which k-means of the analysis `clusters`, `split` and `columns` mean.
    labels
        A labels.npz of another partition, which they mean instead.
    max_z_norm
        Keep the particles whose latent is at most this far from the origin.
    z_between
        Keep the particles whose latent, of one dimension, is in this range.
    max_loss_percentile
        Keep the particles whose reconstruction loss is at most this percentile of all.
    indices
        Keep the particles of this .star or .cs, or those whose rows of the original file stand in this .pkl,
        .npy or .txt; several files are as many conditions.
    any
        Keep what one condition keeps.
    invert
        Keep the others instead.
    output
        The file or folder to write; its suffix says the form.
    split
        One file for each cluster.
    columns
        Add latents (drgnLatent1, ...) and clusters (drgnCluster) as columns.
    star_version
        Dialect of RELION, 3.1 or 3.0; None: that of the source.
    original
        A particle file with other images of the same particles, for instance unbinned ones: written instead.
    original_datadir
        Where its stacks lie, when not where it says.
    images
        Also copy the images into a stack beside the file.
    trust
        Module prefixes that the run's config may name besides drgn, torch and pytorch_lightning.

    Returns
    -------
    int
        Number of particles kept.

    Raises
    ------
    InputError
        When no condition is given, one needs a latent that the run has not, a range does not fit the latent,
        a loss is asked for that is not known, or nothing is kept.
    """
    import numpy as np

    from drgn.analysis import export, selection
    from drgn.formats.inside import require_apart
    from drgn.formats.particles import Particles
    from drgn.run import Run

    files = [] if indices is None else [indices] if isinstance(indices, Path) else indices
    ways = (clusters, max_z_norm, z_between, max_loss_percentile)
    if all(way is None for way in ways) and not files and not split:
        raise InputError(
            "filter needs a condition: clusters=[...], max_z_norm=..., z_between=[...],"
            " max_loss_percentile=..., indices=FILE or split=true."
        )
    if star_version not in (None, 3.0, 3.1):
        raise InputError(f"star_version={star_version}: expected 3.1, 3.0 or null.")
    opened = Run.open(run, trust=trust)
    if opened.zdim == 0 and (
        ways[1:3] != (None, None) or columns or (labels is None and (clusters or split))
    ):
        raise InputError(
            f"{opened.path} has no latent (latent=none), so nothing of it can be chosen by: give"
            " max_loss_percentile=..., indices=FILE, or clusters=[...] with labels=FILE."
        )
    particles = opened.particles()
    key = particles.table["key"].to_numpy()
    label = None
    if clusters is not None or split or columns:
        label = selection.labels_of(opened.place("analysis"), kmeans, labels, key)
    masks: dict[str, np.ndarray] = {}
    if clusters is not None:
        masks[f"clusters={clusters}"] = selection.in_clusters(label, clusters)
    z, loss = None, None
    if columns or ways[1:] != (None, None, None):
        latents = opened.latents()
        z = selection.by_key(latents.z, latents.key, key)
        loss = selection.by_key(latents.reconstruction_loss, latents.key, key)
    if max_z_norm is not None:
        masks[f"max_z_norm={max_z_norm:g}"] = selection.within_norm(z, max_z_norm)
    if z_between is not None:
        masks[f"z_between={z_between}"] = selection.within_range(z, z_between)
    if max_loss_percentile is not None:
        name = f"max_loss_percentile={max_loss_percentile:g}"
        masks[name] = selection.within_loss(loss, max_loss_percentile)
    for file in files:
        masks[f"indices={file}"] = np.zeros(len(particles), dtype=bool)
        masks[f"indices={file}"][particles.rows_of(file)] = True
    for name, mask in masks.items() if len(masks) > 1 else ():
        say(f"{name} keeps {mask.sum():,} of {len(mask):,} particles")
    everything = [np.ones(len(particles), dtype=bool)]
    rows = selection.choose(list(masks.values()) or everything, invert, any)
    parts = export.files(output, rows, label if split else None)
    for path in parts:
        require_apart(path if path.suffix else path / "particles.star", files, "selection")
    export.export(
        particles,
        parts,
        star_version={None: None, 3.0: "3.0", 3.1: "3.1"}[star_version],
        extra=export.columns(z, label) if columns else None,
        original=None if original is None else Particles.from_file(original, datadir=original_datadir),
        images=images,
    )
    for path, kept in parts.items():
        share = len(kept) / len(particles)
        say(f"Kept {len(kept)} of {len(particles)} particles ({share:.1%}): {path}")
    return len(rows)


main = command(filter)
if __name__ == "__main__":
    main()
