"""PCA, UMAP, clusters, volumes, pictures and a report of a run's latents.

    drgn analyze                                             # the newest run
    drgn analyze run=outputs/train/toy/2026-01-31_12-00-00 kmeans=10
    drgn analyze umap=false volumes=false                    # the quick look: no UMAP, no volumes
    drgn analyze colour=[micrograph,rlnClassNumber]          # the latent space coloured by columns
    drgn analyze evidence=false                              # without maps of each cluster's images alone
    drgn analyze audit=false                                # without the audit of orientation, defocus, ...
    drgn analyze run=my_cryodrgn_run                         # a run of cryoDRGN, with its maps

Writes to analysis/ of the run: report.html (one file, opens anywhere), embedding.npz (PCA and UMAP by
particle), kmeansK/ (labels.npz by particle, a volume at the particle nearest to each centre, and
evidence.csv: to what resolution the cluster's own images, back-projected alone, support it), nuisance.csv
(what of z follows how the images were taken), pcN/ (volumes along the principal components), average/ (the
volume at the particle nearest to the mean), and the pictures.
For a run of cryoDRGN it writes to drgn/analysis/ of it, and leaves cryoDRGN's own analyze.N/ alone.
A run without a latent gets map/ and its picture; a one-dimensional latent percentiles/ in place of pcN/.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from drgn.command import command
from drgn.errors import InputError, say

if TYPE_CHECKING:
    from drgn.analysis.study import Study
    from drgn.run import Run


def analyze(
    *,
    run: Path,
    kmeans: int,
    pcs: int,
    umap: bool,
    colour: list[str],
    volumes: bool,
    evidence: bool,
    audit: bool,
    seed: int,
    output: Path | None,
    trust: list[str],
) -> Path:
    """Analyse the latents of a run and write the report.

    Parameters
    ----------
    run
        The run folder, of cryoDRGN too, or "latest".
    kmeans
        Number of k-means clusters.
    pcs
        Number of principal components along which volumes are made.
    umap
        Make a UMAP.
    colour
        What the latent space is coloured by, see `analysis.colours.columns`.
    volumes
        Make volumes and their pictures.
    evidence
        Back-project the images of each cluster and compare its volume with them; needs `volumes`.
    audit
        Audit whether the latent follows orientation, defocus, micrograph, shift or contrast.
    seed
        Seed of k-means, UMAP, the scores and the audit.
    output
        The folder of the results; None: analysis/ of the run.
    trust
        Module prefixes that the run's config may name besides drgn, torch and pytorch_lightning.

    Returns
    -------
    Path
        The report.
    """
    from drgn.run import Run

    return analyzed(
        Run.open(run, trust=trust),
        output,
        kmeans=kmeans,
        pcs=pcs,
        umap=umap,
        colour=colour,
        volumes=volumes,
        evidence=evidence,
        audit=audit,
        seed=seed,
    )


def analyzed(
    opened: "Run",
    output: Path | None,
    *,
    kmeans: int,
    pcs: int,
    umap: bool,
    colour: list[str],
    volumes: bool,
    evidence: bool,
    audit: bool,
    seed: int,
) -> Path:
    """Analyse a run that is open; the arguments and the result are those of `analyze`."""
    from drgn.analysis import study
    from drgn.analysis.nuisance_report import nuisance_section
    from drgn.analysis.plots import require_matplotlib
    from drgn.analysis.report import write_report
    from drgn.analysis.sections import data_and_training
    from drgn.analysis.summary import in_short, next_steps

    require_matplotlib()
    if volumes and not opened.decodes:
        volumes = False
        say(
            "No maps are made: these weights of cryoDRGN are not decoded here (cryodrgn eval_vol makes maps)."
        )
    if opened.zdim:
        opened.latents()
    if volumes:
        opened.require_maps()
    folder = output or opened.folder("analysis")
    folder.mkdir(parents=True, exist_ok=True)
    if opened.zdim == 0:
        found = study.homogeneous(opened, folder)
    else:
        found = study.heterogeneous(
            opened, folder, kmeans=kmeans, pcs=pcs, umap=umap, colour=colour, volumes=volumes, seed=seed
        )
        if evidence and volumes:
            _add_evidence(found, opened, folder, kmeans, seed)
        if audit:
            section, lines = nuisance_section(opened, folder, seed)
            found.sections.append(section)
            found.findings += lines
    report = write_report(
        folder / "report.html",
        f"drgn: {opened.name}",
        str(opened.path),
        [
            in_short(opened, found.findings),
            *found.sections,
            next_steps(opened, kmeans, folder),
            *data_and_training(opened, folder),
        ],
    )
    say("\n".join(found.findings))
    say(f"Report: {report}")
    return report


def _add_evidence(study: "Study", run: "Run", folder: Path, kmeans: int, seed: int) -> None:
    """Put what the images support behind the maps of the clusters; the rest stands where images are gone."""
    from drgn.evidence.section import clusters_section

    try:
        section, line = clusters_section(run, folder, kmeans, seed)
    except InputError as error:
        say(f"No maps of the images alone are made: {error}")
        return
    after = [i for i, other in enumerate(study.sections) if other.title == "Maps of the clusters"]
    study.sections.insert(after[0] + 1, section)
    study.findings.append(line)


main = command(analyze)
if __name__ == "__main__":
    main()
