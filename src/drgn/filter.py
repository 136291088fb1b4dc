"""Select particles of a run and write them as .star, .cs or row indices.

    drgn filter output=kept.star clusters=[0,3,7]            # three clusters of the newest run's analysis
    drgn filter output=good.cs clusters=[4,5] invert=true    # all but two clusters
    drgn filter output=kept.pkl max_z_norm=10                # without outliers, as row indices
    drgn filter run=outputs/train/toy/2026-01-31_12-00-00 output=both.star clusters=[0,1] indices=mine.npy

A particle is kept when every given condition keeps it; the conditions are joined by the particle's identity.
A .star or .cs keeps all columns of the file that the particles came from; row indices count its rows from 0.
"""

from pathlib import Path

from drgn.command import command
from drgn.errors import InputError


def filter(
    *,
    run: Path,
    clusters: list[int] | None,
    kmeans: int,
    max_z_norm: float | None,
    indices: Path | None,
    invert: bool,
    output: Path,
    trust: list[str],
) -> int:
    """Write the particles that satisfy all given conditions.

    Parameters
    ----------
    run
        The run folder, of cryoDRGN too, or "latest".
    clusters
        Keep the particles of these clusters.
    kmeans
        Which k-means of the analysis `clusters` counts in.
    max_z_norm
        Keep the particles whose latent is at most this far from the origin.
    indices
        Keep the particles whose rows of the original file stand in this file.
    invert
        Keep the others instead.
    output
        The file to write; its suffix says the form.
    trust
        Module prefixes that the run's config may name besides drgn, torch and pytorch_lightning.

    Returns
    -------
    int
        Number of particles kept.

    Raises
    ------
    InputError
        When no condition is given, or nothing is kept.
    """
    from drgn.analysis import selection
    from drgn.run import Run

    if clusters is None and max_z_norm is None and indices is None:
        raise InputError("filter needs a condition: clusters=[...], max_z_norm=... or indices=FILE.")
    opened = Run.open(run, trust=trust)
    particles = opened.particles()
    key = particles.table["key"].to_numpy()
    masks = []
    if clusters is not None:
        labels = selection.labels_of_analysis(opened.folder("analysis"), kmeans, key)
        masks.append(selection.in_clusters(labels, clusters))
    if max_z_norm is not None:
        latents = opened.latents()
        masks.append(selection.within_norm(selection.by_key(latents.z, latents.key, key), max_z_norm))
    if indices is not None:
        masks.append(selection.in_index_file(particles.table["source_row"].to_numpy(), indices))
    rows = selection.choose(masks, invert)
    particles.select(rows).save(output)
    print(f"Kept {len(rows)} of {len(particles)} particles ({len(rows) / len(particles):.1%}): {output}")
    return len(rows)


main = command(filter)
if __name__ == "__main__":
    main()
