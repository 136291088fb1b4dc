r"""Compare a run on simulated particles, ours or another program's, with the truth.

    drgn score                                               # the newest run
    drgn score run=outputs/train/toy/2026-01-31_12-00-00
    drgn score oracle=true                                   # with the ceiling: what the images tell at best
    drgn score run=null truth=sim oracle=true output=ceiling # the ceiling alone
    drgn score poses=refined.star                            # poses of a refinement against the true ones

Writes to analysis/score/ of the run: score.json (flat names), tables (.csv) and pictures (.png).

spearman_NAME says how well the latents order the particles by a true coordinate (the absolute Spearman
correlation; with more than one latent dimension the coordinate is first read from each particle's 20 nearest
neighbours in the latent space). ari_NAME, ami_NAME and accuracy_NAME say how well as many classes as there
are, found in the UMAP of the latents without the truth, are the true ones. fsc_auc is the area under the
Fourier shell correlation of the maps decoded at the latents of 100 images with their true maps, as a share of
that of identical maps; map_fsc05_nyquist how far, as a share of Nyquist, the map at the on-data centre of a
true state agrees with it (masked: with the paper's mask, made of the true map). imbalance: 0 where neighbours
stay neighbours, 1 by chance. neighbourhood_similarity: share of true neighbours among those in the latent.

Of a cryoDRGN run, the first call writes images.csv and z.txt, from which cryoDRGN makes the maps:

    drgn score run=my_cryodrgn_run                           # a run of its own on the same images
    cryodrgn eval_vol my_cryodrgn_run/weights.pkl --config my_cryodrgn_run/config.yaml \
        --zfile my_cryodrgn_run/drgn/analysis/score/z.txt -o maps --Apix 6
    drgn score run=my_cryodrgn_run volumes=maps

Of any other program, from plain files (.npy, .npz, .pkl, .csv or text), with maps in the order of images.csv:

    drgn score truth=sim latents=z.npy output=scores/recovar
    drgn score truth=sim latents=z.npy output=scores/recovar volumes=maps images=scores/recovar/images.csv
"""

from pathlib import Path

from drgn.command import command
from drgn.errors import InputError, say


def score(
    *,
    run: Path | None,
    truth: Path | None,
    latents: Path | None,
    particles: Path | None,
    volumes: str | None,
    images: Path | None,
    poses: Path | None,
    n_images: int,
    n_maps: int,
    oracle: bool,
    oracle_images: int | None,
    seed: int,
    output: Path | None,
    trust: list[str],
) -> dict[str, float]:
    """Score latents, maps and poses against the truth of simulated particles.

    Parameters
    ----------
    run
        The run folder, of cryoDRGN too, or "latest"; not read where `latents` is given.
    truth
        Folder of drgn simulate; None: where the particles of the run lie.
    latents
        Of another program, see `drgn.scoring.subject.read_latents`.
    particles
        The particle file that the rows of `latents` are of; None: particles.star of `truth`.
    volumes
        Folder or pattern of .mrc, one for each row of `images`, in the order of the numbers in their names;
        None: the run decodes them.
    images
        A .csv with a column key (and use: image or centre); None: the images that score chooses itself.
    poses
        Poses to compare with the true ones; None: those that the run had, where they are not the true ones.
    n_images, n_maps
        How many images' maps, and how many true maps, are compared.
    oracle
        Score also what is known to one who knows the maps, poses, CTF and noise.
    oracle_images
        Look at this many images for that, evenly spread over the true states; None: all.
    seed
        Of UMAP, of the mixtures, and of the draw of particles whose neighbours are looked at.
    output
        The folder of the results; None: analysis/score of the run.
    trust
        Module prefixes that the run's config may name besides drgn, torch and pytorch_lightning.

    Returns
    -------
    dict
        Name and value of each score.

    Raises
    ------
    InputError
        When no truth is known, or files do not fit each other, or one would be replaced.
    """
    from drgn.analysis.plots import require_matplotlib
    from drgn.formats.inside import require_apart
    from drgn.run import Run
    from drgn.scoring import scores
    from drgn.scoring.ceiling import of_ceiling
    from drgn.scoring.poses import summary as pose_scores
    from drgn.scoring.subject import of_files, of_run, of_truth

    require_matplotlib()
    if min(n_images, n_maps) < 0 or (oracle_images is not None and oracle_images < 1):
        raise InputError(
            f"n_images={n_images} n_maps={n_maps} oracle_images={oracle_images}: expected 0 or more, and at"
            " least one image for the oracle."
        )
    if latents is None and run is not None:
        opened = Run.open(run, trust=trust)
        subject, folder = of_run(opened, truth), output or opened.folder("analysis", "score")
    elif truth is None or output is None:
        raise InputError("Without a run, give truth=FOLDER (of drgn simulate) and output=FOLDER.")
    else:
        for name in ("latents.csv", "z.txt"):
            require_apart(output / name, [latents], "file of latents")
        subject = of_truth(truth) if latents is None else of_files(latents, truth, particles)
        folder = output
    folder.mkdir(parents=True, exist_ok=True)
    found = scores.of_latents(subject, folder, seed)
    errors = scores.of_poses(subject, poses, folder)
    if errors is not None:
        found |= pose_scores(errors, subject.truth.pixel_size_A)
    choice = scores.choice_of(subject, images, n_images, n_maps, bool(volumes))
    if choice is not None:
        more, said = scores.of_maps(subject, choice, volumes, errors, folder)
        found |= more
        say("\n".join(said), end="\n" * bool(said))
    if oracle:
        box_size = int(found.get("fsc_box_size", subject.truth.box_size))
        found |= of_ceiling(subject, choice, oracle_images, box_size, folder, seed)
    scores.write_scores(found, folder / "score.json")
    say(scores.printed(found))
    say(f"Tables and pictures: {folder}")
    return found


main = command(score)
if __name__ == "__main__":
    main()
