"""Agreement of partitions of the same particles, label by label and particle by particle (P22, P27)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from drgn.analysis import clusters as clustering
from drgn.analysis import plots
from drgn.analysis.partitions import classes_of
from drgn.analysis.report import Picture, Section, Table, write_report
from drgn.analysis.selection import LABELS, column_of, read_partition
from drgn.errors import InputError
from drgn.formats.atomic import replacing, write_table
from drgn.formats.particles import Particles
from drgn.run import Run


class Labelled(NamedTuple):
    """A partition with its name: particle keys (N,), labels (N,) from 0, and the names of the labels (k,)."""

    name: str
    key: np.ndarray
    label: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True, eq=False)
class Agreement:
    """Partitions of the particles that all of them have.

    Attributes
    ----------
    names
        (M,) of the partitions.
    classes
        Names of the labels of the first.
    key
        (N,) particles.
    labels
        (M, N) after matching to the first; labels beyond its own are those that had no match.
    left_out
        Particles that not all partitions have.
    """

    names: tuple[str, ...]
    classes: np.ndarray
    key: np.ndarray
    labels: np.ndarray
    left_out: int

    @property
    def consensus(self) -> np.ndarray:
        """(N,) most frequent label of each particle; the lowest of several."""
        votes = np.stack([(self.labels == k).sum(axis=0) for k in range(self.labels.max() + 1)])
        return votes.argmax(axis=0)

    @property
    def share(self) -> np.ndarray:
        """(N,) share of the partitions that have the consensus."""
        return (self.labels == self.consensus).mean(axis=0)


def read(of: Sequence[str], by: str, n: int | None, seed: int, trust: Sequence[str]) -> list[Labelled]:
    """Read or make the partitions; arguments as of the verb `drgn compare`.

    Raises
    ------
    InputError
        When something is neither a run folder, a file of labels, nor FILE:COLUMN.
    """
    found: list[Labelled] = []
    for entry in of:
        path, _, column = entry.rpartition(":")
        if Path(entry).is_dir():
            run = Run.open(entry, trust=trust)
            if run.zdim == 0:
                raise InputError(f"{run.path} has no latent (latent=none), so there is nothing to compare.")
            latents = run.latents()
            if n is None and by == "gmm":
                n = clustering.held_out_components(latents.z, seed)
            if n is None:
                raise InputError("by=kmeans needs a number of clusters: give n=...")
            parted = (
                clustering.gaussian_mixture(latents.z, seed, n)
                if by == "gmm"
                else clustering.kmeans(latents.z, n, seed)
            )
            found.append(_labelled(entry, latents.key, parted.labels))
        elif Path(entry).suffix == ".npz":
            found.append(_labelled(entry, *read_partition(Path(entry))))
        elif path:
            particles = Particles.from_file(path)
            values = column_of(particles, column)
            found.append(_labelled(entry, particles.table["key"].to_numpy(str), values))
        else:
            raise InputError(
                f"{entry} is no folder, no .npz of labels, and no column as in FILE.star:rlnClassNumber"
            )
    return found


def _labelled(name: str, key: np.ndarray, values: np.ndarray) -> Labelled:
    classes, label = classes_of(values, name)
    return Labelled(name, np.asarray(key, np.str_), label, classes.astype(str))


def match(partitions: Sequence[Labelled]) -> Agreement:
    """Match the labels of all partitions to those of the first, over the particles that all have.

    Raises
    ------
    InputError
        When there is no such particle.
    """
    from scipy.optimize import linear_sum_assignment

    first = partitions[0]
    common = first.key
    for other in partitions[1:]:
        common = np.intersect1d(common, other.key)
        if not len(common):
            raise InputError(
                f"{other.name} has no particle of {first.name} (their first are {other.key[0]} and"
                f" {first.key[0]}); compare partitions of the same particles."
            )
    labels = np.stack([one.label[pd.Index(one.key).get_indexer(common)] for one in partitions])
    k = len(first.classes)
    for row, one in zip(labels[1:], partitions[1:], strict=True):
        counts = np.zeros((k, len(one.classes)), np.int64)
        np.add.at(counts, (labels[0], row), 1)
        ours, theirs = linear_sum_assignment(-counts)
        number = np.full(len(one.classes), -1)
        number[theirs] = ours
        rest = np.flatnonzero(number < 0)
        number[rest] = k + np.arange(len(rest))
        row[:] = number[row]
    union = len(np.unique(np.concatenate([one.key for one in partitions])))
    names = tuple(one.name for one in partitions)
    return Agreement(names, first.classes, common, labels, union - len(common))


def pairs(found: Agreement) -> pd.DataFrame:
    """Adjusted Rand index, adjusted mutual information and share of equal labels of each two partitions."""
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    rows = []
    for i, first in enumerate(found.names):
        for j in range(i):
            a, b = found.labels[i], found.labels[j]
            rows.append(
                {
                    "first": found.names[j],
                    "second": first,
                    "ari": adjusted_rand_score(a, b),
                    "ami": adjusted_mutual_info_score(a, b),
                    "equal": (a == b).mean(),
                }
            )
    return pd.DataFrame(rows)


def states(found: Agreement) -> pd.DataFrame:
    """Of each label of the consensus: particles, mean share that agrees, particles on which all agree."""
    consensus, share = found.consensus, found.share
    names = _names(found, found.labels.max() + 1)
    rows = []
    for number in range(found.labels.max() + 1):
        inside = consensus == number
        rows.append(
            {
                "state": number,
                "name": names[number],
                "particles": int(inside.sum()),
                "mean_agreement": share[inside].mean() if inside.any() else np.nan,
                "all_agree": int((share[inside] == 1).sum()),
            }
        )
    return pd.DataFrame(rows)


def told(found: Agreement) -> str:
    """What agrees, for the terminal."""
    lines = [f"{len(found.key):,} particles in common, {found.left_out:,} left out."]
    for row in pairs(found).itertuples(index=False):
        lines.append(
            f"  {row.first} and {row.second}: adjusted Rand index {row.ari:.3f}, {row.equal:.1%} equal labels"
        )
    lines.append(f"All agree on {(found.share == 1).mean():.1%} of the particles.")
    return "\n".join(lines)


def write(found: Agreement, folder: Path) -> Path:
    """Write tables, confusion matrices, the consensus and the report; return the report."""
    write_table(pairs(found), folder / "pairs.csv")
    by_state = states(found)
    write_table(by_state, folder / "states.csv")
    columns = {f"label_{i}": row for i, row in enumerate(found.labels)}
    table = pd.DataFrame({"key": found.key, **columns, "consensus": found.consensus, "share": found.share})
    write_table(table, folder / "agreement.csv")
    with replacing(folder / LABELS) as temporary:
        np.savez(temporary, key=found.key, label=found.consensus)
    shown = []
    for i, name in enumerate(found.names[1:], 1):
        k = found.labels[[0, i]].max() + 1
        counts = np.zeros((k, k), np.int64)
        np.add.at(counts, (found.labels[0], found.labels[i]), 1)
        write_table(pd.DataFrame(counts), folder / f"confusion_{i}.csv")
        axes = "label, matched", "label of the first"
        title = f"equal {np.trace(counts) / counts.sum():.1%}"
        path = plots.confusion_matrix(counts, _names(found, k), axes, title, folder / f"confusion_{i}.png")
        shown.append(Picture(path, f"Particles by their label in {found.names[0]} and in {name}.", 60))
    text = [
        f"{len(found.key):,} particles that all have; {found.left_out:,} that not all have are left out."
        " Labels are matched to those of the first so that most particles agree. A state that every replicate"
        " finds with the same particles can be trusted further than one that comes and goes."
    ]
    numbers = pairs(found)
    rows = [
        (row.first, row.second, f"{row.ari:.3f}", f"{row.ami:.3f}", f"{row.equal:.1%}")
        for row in numbers.itertuples(index=False)
    ]
    overall = Table(("first", "second", "adjusted Rand index", "adjusted mutual information", "equal"), rows)
    rows = [
        (row.name, f"{row.particles:,}", f"{row.mean_agreement:.1%}", f"{row.all_agree:,}")
        for row in by_state.itertuples(index=False)
    ]
    by_name = Table(("state", "particles", "mean agreement", "particles on which all agree"), rows)
    sections = [
        Section("Agreement", text, tables=[overall, by_name]),
        Section("Label by label", [], shown),
    ]
    return write_report(folder / "report.html", "drgn: agreement", ", ".join(found.names), sections)


def _names(found: Agreement, k: int) -> list[str]:
    """Names of the first k labels; those beyond the labels of the first partition have no match in it."""
    extra = range(len(found.classes), k)
    return [*map(str, found.classes[:k]), *(f"unmatched {number}" for number in extra)]
