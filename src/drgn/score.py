"""Compare a run on simulated particles with the truth.

    drgn score                                               # the newest run
    drgn score run=outputs/train/toy/2026-01-31_12-00-00

Prints and writes analysis/score.json. spearman_NAME says how well the latents order the particles by a true
coordinate (the absolute Spearman correlation; with more than one latent dimension the coordinate is first
read from each particle's 20 nearest neighbours in the latent space). ari_NAME says how well as many classes
as there are, found in the UMAP of the latents without the truth, are the true ones (adjusted Rand index).
1 is perfect, 0 is chance.
"""

import json
from pathlib import Path

from drgn.command import command
from drgn.errors import InputError


def score(*, run: Path, seed: int, trust: list[str]) -> dict[str, float]:
    """Score the latents of a run against the truth of its simulated particles.

    Parameters
    ----------
    run
        The run folder, or "latest".
    seed
        Of UMAP and of the mixtures.
    trust
        Module prefixes that the run's config may name besides drgn, torch and pytorch_lightning.

    Returns
    -------
    dict
        Name and value of each score.

    Raises
    ------
    InputError
        When no truth is known, or when the run has no latent.
    """
    from drgn.analysis.metrics import truth_scores
    from drgn.formats.atomic import replacing
    from drgn.run import Run

    opened = Run.open(run, trust=trust)
    truth = opened.truth()
    if truth is None:
        raise InputError(
            f"{opened.path}: the truth of these particles is not known; score wants those of drgn simulate."
        )
    z = opened.latents().z
    if not z.shape[1]:
        raise InputError(
            f"{opened.path} has no latent (latent=none), so there is nothing to compare with the truth."
        )
    scores = truth_scores(z, truth, seed)
    with replacing(opened.folder("analysis") / "score.json") as temporary:
        temporary.write_text(json.dumps(scores, indent=2) + "\n")
    for name, value in scores.items():
        print(f"{name} {value:.3f}")
    return scores


main = command(score)
if __name__ == "__main__":
    main()
