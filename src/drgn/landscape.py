"""The landscape of a run in the space of its maps: clusters, volume components, all particles among them.

    drgn landscape                                           # 400 maps of the newest run, in a box of 64
    drgn landscape maps=1000 box_size=96 clusters=10
    drgn landscape mask=head.mrc                             # only what varies inside a mask

Decodes a map at each of many on-data k-means centres, describes them inside a mask by volume principal
components, and clusters them; a regression from the latent, whose held-out R^2 is reported, places all
particles. Writes to landscape/ of the run: report.html, cluster_00/mean.mrc and std.mrc and on, components/,
mask.mrc, labels.npz (cluster by particle, also for drgn generate labels= and drgn traverse labels=),
landscape.npz (coordinates of all particles) and landscape.json. The density of particles is drawn as -log
density; it is not a physical free energy.
"""

from pathlib import Path

from drgn.command import command
from drgn.errors import InputError, say


def landscape(
    *,
    run: Path,
    maps: int,
    box_size: int,
    mask: Path | None,
    dilate_A: float,
    pcs: int,
    clusters: int | None,
    seed: int,
    output: Path | None,
    trust: list[str],
) -> Path:
    """Find the landscape and write it.

    Parameters
    ----------
    run
        The run folder, or "latest".
    maps
        Of the sketch.
    box_size
        Of these maps.
    mask
        A map of the same field that is 1 where maps are compared; None: where any of them has density.
    dilate_A
        How far that region is grown.
    pcs
        Volume principal components.
    clusters
        Their number; None: chosen by silhouette.
    seed
        Of everything random.
    output
        The folder of the results; None: landscape/ of the run.
    trust
        Module prefixes that the run's config may name besides drgn, torch and pytorch_lightning.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    InputError
        When the run makes no maps or has no latent, an option is out of its range, or the mask would be
        replaced.
    """
    from drgn.analysis import landscape_report
    from drgn.analysis.plots import require_matplotlib
    from drgn.analysis.report import write_report
    from drgn.formats.inside import require_apart
    from drgn.run import Run

    require_matplotlib()
    for name, value, least in (("maps", maps, 10), ("box_size", box_size, 8), ("pcs", pcs, 1)):
        if value < least:
            raise InputError(f"{name}={value}: expected at least {least}.")
    if dilate_A < 0:
        raise InputError(f"dilate_A={dilate_A:g}: expected 0 or more.")
    opened = Run.open(run, trust=trust)
    if not opened.decodes:
        raise InputError(f"{opened.path} is a run of cryoDRGN, whose maps are not decoded here.")
    if opened.zdim == 0:
        raise InputError(f"{opened.path} has no latent (latent=none), so all its particles have one map.")
    require_apart((output or opened.place("landscape")) / "mask.mrc", [mask], "mask")
    latents = opened.latents()
    found = landscape_report.find(
        opened,
        latents,
        maps=maps,
        box_size=box_size,
        mask=mask,
        dilate_A=dilate_A,
        pcs=pcs,
        clusters=clusters,
        seed=seed,
    )
    folder = output or opened.folder("landscape")
    folder.mkdir(parents=True, exist_ok=True)
    landscape_report.write(opened, latents, found, folder)
    report = write_report(
        folder / "report.html",
        f"drgn: landscape of {opened.name}",
        str(opened.path),
        landscape_report.sections(found, folder),
    )
    share = ", ".join(f"PC{i + 1} {value:.0%}" for i, value in enumerate(found.pca.share[:3]))
    mapping = found.mapping
    say(f"{len(found.rows)} maps of {found.mask.shape[0]} voxels; of their variance: {share}.")
    say(f"{int(found.clustering.labels.max()) + 1} clusters of maps.")
    say(f"All particles placed by {mapping.name}; held-out R2 {mapping.scores[mapping.name]:.3f}.")
    say(f"Report: {report}")
    return report


main = command(landscape)
if __name__ == "__main__":
    main()
