"""How partitions of the same particles agree: replicates of a run, other runs, published classes.

    drgn train dataset=toy sweep=replicates output=outputs/three
    drgn compare of=[outputs/three/0,outputs/three/1,outputs/three/2]             # Gaussian mixtures (P22)
    drgn compare of=[outputs/three/0,outputs/three/1] by=kmeans n=20
    drgn compare of=[classes.star:rlnClassNumber,outputs/three/0] n=6             # published classes (P27)
    drgn compare of=[run/analysis/gmm5/labels.npz,run/discover/labels.npz]

Labels are matched to those of the first so that most particles agree (Hungarian). Particles are joined by
what they are; those that not all have are left out. Writes report.html, agreement.csv (labels of each
particle after matching, and the share that agrees), states.csv (agreement by state), pairs.csv (adjusted
Rand index and mutual information of each two), confusion_*.csv and .png, and labels.npz, the consensus: the
most frequent label of each particle, for `drgn filter labels=...`.
"""

from pathlib import Path

from drgn.command import command
from drgn.errors import InputError, say


def compare(*, of: list[str], by: str, n: int | None, seed: int, output: Path, trust: list[str]) -> Path:
    """Match partitions and say how far they agree.

    Parameters
    ----------
    of
        Run folders, files of labels, or FILE:COLUMN; the first is what the others are matched to.
    by
        "gmm" or "kmeans", for run folders.
    n
        Number of clusters of each run; None: found in the first run by gmm.
    seed
        Of the fits.
    output
        The folder of the results.
    trust
        Module prefixes that the runs' configs may name besides drgn, torch and pytorch_lightning.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    InputError
        When there are fewer than two partitions, one cannot be read or would be replaced, or they have
        no particles in common.
    """
    from drgn.analysis import agreement
    from drgn.analysis.plots import require_matplotlib
    from drgn.analysis.selection import LABELS
    from drgn.formats.inside import require_apart

    require_matplotlib()
    if by not in ("gmm", "kmeans"):
        raise InputError(f"by={by}: expected gmm or kmeans.")
    if len(of) < 2:
        raise InputError(f"of={of}: expected at least two run folders, files of labels or FILE:COLUMN.")
    require_apart(output / LABELS, of, "partition")
    named = agreement.read(of, by, n, seed, trust)
    found = agreement.match(named)
    output.mkdir(parents=True, exist_ok=True)
    report = agreement.write(found, output)
    say(agreement.told(found))
    say(f"Report: {report}")
    return report


main = command(compare)
if __name__ == "__main__":
    main()
