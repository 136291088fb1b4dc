"""One page that compares the runs of a sweep: what differs, losses, latents; works without a network."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from drgn.analysis import metrics
from drgn.analysis.history import losses
from drgn.analysis.report import Picture, Section, Table, write_report
from drgn.errors import InputError
from drgn.formats.documents import read_json
from drgn.hints import leaves
from drgn.run import Run
from drgn.sweeps import plots

NAME = "sweep.html"
_SCORES = 4  # columns of scores, most
_SHOWN = 24  # runs in pictures, most
_HELD_OUT, _TRAINED = "heldout/loss", "train/loss"
_NAMES = {_HELD_OUT: "held-out loss", _TRAINED: "training loss"}


@dataclass(frozen=True, eq=False)
class Job:
    """A run of the sweep.

    Attributes
    ----------
    run
        The run.
    chosen
        What was given on the command line for it alone, or differs in its options.
    losses
        See `analysis.history.losses`.
    z
        (N, Z) latents; None where there are none.
    scores
        Against a truth, where it is known.
    """

    run: Run
    chosen: Mapping[str, str]
    losses: pd.DataFrame
    z: np.ndarray | None
    scores: Mapping[str, float]

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.run.path.name

    @property
    def title(self) -> str:
        """Its name and what it is, in a few words."""
        said = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.chosen.items())
        return f"{self.name}: {said}" if said else self.name

    @property
    def monitor(self) -> str:
        """Which loss the best epoch has the lowest of: that of training, where nothing was held out."""
        told = self.run.info.get("monitor")
        trained = _HELD_OUT not in self.losses and _TRAINED in self.losses  # of a run that has not ended
        return _TRAINED if (trained if told is None else str(told).startswith(_TRAINED)) else _HELD_OUT

    @property
    def best(self) -> float:
        """The lowest loss; NaN before there is one."""
        column = self.losses.get(self.monitor, pd.Series(dtype=float))
        found = self.run.info.get("best_loss")
        return float(found) if found is not None else float(column.min()) if len(column) else float("nan")

    def at_best(self, part: str) -> float:
        """A part of the loss, "reconstruction" or "kl", after the epoch of the lowest."""
        table, column = self.losses, f"{self.monitor.partition('/')[0]}/{part}"
        if self.monitor not in table or column not in table or table[self.monitor].isna().all():
            return float("nan")
        return float(table.loc[table[self.monitor].idxmin(), column])


def write_page(folder: Path) -> Path | None:
    """Write sweep.html, and the pictures in it, into the folder of a sweep.

    Parameters
    ----------
    folder
        Below which each job has a run folder.

    Returns
    -------
    Path or None
        The page; None where there is no run.
    """
    found = [path.parent for path in folder.glob("*/run.json") if (path.parent / "config.yaml").is_file()]
    runs = [Run(path) for path in sorted(found, key=lambda path: _natural(path.name))]
    if not runs:
        return None
    jobs = [_job(run, chosen) for run, chosen in zip(runs, _differences(runs), strict=True)]
    ranked = sorted(jobs, key=lambda job: (not np.isfinite(job.best), job.monitor == _TRAINED, job.best))
    place = folder / "sweep"
    place.mkdir(exist_ok=True)
    shown = ranked[:_SHOWN]
    sections = [_table(ranked, folder)]
    curves = {job.title: job.losses for job in shown if len(job.losses)}
    if curves:
        caption = _CURVES if any(_HELD_OUT in table for table in curves.values()) else _CURVES_OF_TRAINING
        picture = Picture(plots.curves(curves, place / "curves.png"), caption + _left_out(ranked, shown))
        sections.append(Section("Training", [], [picture]))
    latents = {job.title: job.z for job in shown if job.z is not None}
    if latents:
        width = min(100, 30 * len(latents))
        path = plots.latents(latents, place / "latents.png")
        picture = Picture(path, _LATENTS + _left_out(ranked, shown), width)
        sections.append(Section("Latents side by side", [], [picture]))
    return write_report(folder / NAME, f"drgn: sweep of {runs[0].name}", str(folder), sections)


def _job(run: Run, chosen: Mapping[str, str]) -> Job:
    z, scores = None, {}
    if run.zdim and (run.path / "latents.npz").is_file():
        latents = run.latents()
        z = latents.z
        scores = _scores(run, z)
    return Job(run, chosen, losses(run.path), z, scores)


def _scores(run: Run, z: np.ndarray) -> dict[str, float]:
    """Those of `drgn score`, where it was run; else what the latents say of the truth of a simulation."""
    path = run.place("analysis", "score", "score.json")
    if path.is_file():
        found = read_json(path)
        return {k: float(v) for k, v in found.items() if k != "n_particles" and isinstance(v, int | float)}
    try:
        truth = run.truth()
    except (InputError, OSError):
        return {}  # the particles are not there any more
    return {} if truth is None else dict(metrics.truth_scores(z, truth, 0))


def _differences(runs: Sequence[Run]) -> list[dict[str, str]]:
    """For each run the options in which it differs from others: as given, else as composed."""
    given = [dict(_words(run.info.get("command", []))) for run in runs]
    varying = _varying(given)
    if not varying:
        composed = [{k: str(v) for k, v in leaves(run.config) if k != "output"} for run in runs]
        given, varying = composed, _varying(composed)
    return [{key: of[key] for key in varying if key in of} for of in given]


def _words(command: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [str(word).partition("=") for word in command[1:] if "=" in str(word)]
    return [(key, value) for key, _, value in pairs if not re.match(r"output$|hydra[./]", key)]


def _varying(options: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys whose value is not that of all; of several that vary alike, the one with the shortest name."""
    keys = sorted({key for of in options for key in of}, key=lambda key: (key.count("."), key))
    patterns: dict[tuple[str | None, ...], str] = {}
    for key in keys:
        pattern = tuple(of.get(key) for of in options)
        if len(set(pattern)) > 1:
            patterns.setdefault(pattern, key)
    return list(patterns.values())


def _table(jobs: Sequence[Job], folder: Path) -> Section:
    keys = list(dict.fromkeys(key for job in jobs for key in job.chosen))
    scores = list(dict.fromkeys(name for job in jobs for name in job.scores))[:_SCORES]
    header = [
        "run",
        *keys,
        *_NAMES.values(),
        "reconstruction",
        "KL (nats)",
        "epochs",
        "time",
        *scores,
        "report",
    ]
    rows = []
    for job in jobs:
        facts, report = job.run.info, job.run.place("analysis", "report.html")
        rows.append(
            [
                job.name,
                *(job.chosen.get(key, "") for key in keys),
                *(_number(job.best, ".5f") if job.monitor == name else "" for name in _NAMES),
                _number(job.at_best("reconstruction"), ".5f"),
                _number(job.at_best("kl"), ".2f"),
                _epochs(job),
                _time(facts.get("seconds_of", {})),
                *(_number(job.scores.get(name, float("nan")), ".3f") for name in scores),
                report.relative_to(folder) if report.is_file() else "",
            ]
        )
    kept = [i for i in range(len(header)) if any(row[i] != "" for row in rows)]
    header, rows = [header[i] for i in kept], [[row[i] for i in kept] for row in rows]
    best = jobs[0]
    said = f"{len(jobs)} runs, the best first."
    if np.isfinite(best.best):
        said += f" The lowest {_NAMES[best.monitor]}, {best.best:.5f}, is that of run {best.title}."
    text = [said, _meaning({job.monitor for job in jobs}), *([_SCORED] if scores else [])]
    return Section("The runs", text, tables=[Table(header, rows)])


def _meaning(monitors: Collection[str]) -> str:
    """What the losses of the table are of, and what they compare."""
    held_out = [_OF_HELD_OUT] if _HELD_OUT in monitors else []
    trained = [_OF_TRAINING] if _TRAINED in monitors else []
    return " ".join([*held_out, *trained, *([_APART] if held_out and trained else []), _COMPARED])


def _epochs(job: Job) -> str:
    facts, wanted = job.run.info, int(job.run.config.get("epochs", 0))
    if facts.get("complete"):
        return str(facts.get("epochs", "?"))
    last = int(job.losses.index[-1]) if len(job.losses) else 0
    return f"{last} of {wanted}, not finished"


def _time(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values())
    if not total:
        return ""
    minutes, rest = divmod(round(total), 60)
    said = f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"
    return said.replace(" ", "\N{NO-BREAK SPACE}")


def _number(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else ""


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts)


def _left_out(jobs: Sequence[Job], shown: Sequence[Job]) -> str:
    return "" if len(jobs) == len(shown) else f" The {len(shown)} best of {len(jobs)} runs are shown."


_OF_HELD_OUT = "The held-out loss is of particles that were never trained on."
_OF_TRAINING = (
    "The training loss is of the particles that were trained on, where none were held out: it falls on while "
    "noise is learnt by heart, so that the lowest may not be the best."
)
_APART = "A training loss does not compare with a held-out loss: such runs come after the others."
_COMPARED = (
    "A loss is reconstruction plus the weighted KL, for each frequency of an image. It compares runs on the "
    "same images with the same weight of the KL: that is 1/zdim where loss.beta gives no other, so that "
    "between runs of several latent.zdim the reconstruction says more. Reconstruction and KL are those of "
    "the epoch with the lowest loss."
)
_SCORED = (
    "These particles have a known truth: the last columns say how well the latents follow it; 1 is perfect."
)
_CURVES = (
    "Loss of the held-out particles (lines) and of the training particles (dotted) after each epoch. The "
    "scale leaves out the steep start."
)
_CURVES_OF_TRAINING = "Loss of the training particles after each epoch. The scale leaves out the steep start."
_LATENTS = (
    "Density of the particles in the first two principal components of each latent, or along its only "
    "dimension. Axes, signs and scales of two latents mean nothing to each other: compare the shapes."
)
