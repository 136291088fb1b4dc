"""Measure what a run will cost: small runs of a few of its particles do all that it will do.

Each part is then extrapolated by what it grows with: the passes of the warm start with the images, its fit of
the latent with its steps, training with images and epochs, the maps of the analysis with their number. The
small runs are in a temporary folder beside the prepared stacks, which is removed.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from drgn.analysis.embedding import LANDMARKS, MOST_LAID_OUT
from drgn.data.datamodule import ParticleDataModule
from drgn.errors import say
from drgn.planning.forecast import Forecast, Row, line
from drgn.planning.sample import Rehearsed, options_of, rows_of
from drgn.training.pace import Pace
from drgn.training.stages import Mark, Seconds, Stages, duration
from drgn.training.warmstart import LATENT, REFIT, latent_steps

_FIRST, _FEW, _MANY, _LEAST = 48, 256, 1024, 128  # images of the small runs
_ENCODE_S = 40.0  # that encoding the largest of them may take
_STEPS_S = 20.0  # of training steps
_LAID_OUT = 4000  # latents of the UMAP that is measured
_SLOW_EPOCHS = 10_000  # latents up to which UMAP takes 500 epochs, not 200
_KEPT_B = 4096  # most that the warm start keeps of an image

Rehearse = Callable[[dict[str, Any], Stages, list[Any]], ParticleDataModule]


@dataclass(frozen=True)
class _Small:
    """A small run: its images, how many of them it trained on, and what it took."""

    n: int
    n_train: int
    stages: Stages
    pace: Pace
    folder: Path

    def seconds(self, part: str) -> Seconds:
        return self.stages.seconds.get(part, np.zeros(2))


def measure(
    config: Mapping[str, Any],
    data: ParticleDataModule,
    stages: Stages,
    rehearse: Rehearse,
    analyse: Callable[[Any, Path | None], Any] | None,
) -> Forecast:
    """Measure, and say what the whole run will take.

    Parameters
    ----------
    config
        Of the run.
    data
        Its particles.
    stages
        Of the start of the run, which is under way.
    rehearse
        Trains and encodes with other options, and more callbacks; gives back the particles.
    analyse
        Analyses an open run; None where the run ends without.
    """
    told = sys.stderr
    stages.begin("preflight")
    data.check()
    stages.end()
    say("plan: reading and transforming images", file=told)
    cost = data.cost()
    data.cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".plan-", dir=data.cache) as folder:

        def small(n: int, seconds: float) -> _Small:
            rows = rows_of(data, n, config["seed"])
            say(f"plan: a run of {len(rows):,} images", file=told)
            options = options_of(config, data, rows, Path(folder) / f"{n}")
            taken, pace = Stages(), Pace(seconds)
            with _silent():
                its = rehearse(options, taken, [pace])
            return _Small(len(rows), len(its.rows(heldout=False)), taken, pace, options["output"])

        first = small(min(_FIRST, len(data.particles)), 0.0)
        per_image = first.seconds("encoding")[0] / first.n
        n = int(np.clip(_ENCODE_S / max(per_image, 1e-9), _LEAST, _MANY))
        few = small(min(max(_FIRST + 1, n * _FEW // _MANY), len(data.particles)), 0.0)
        many = small(min(n, len(data.particles)), _STEPS_S)
        analysis = None
        if analyse is not None and find_spec("matplotlib") is not None:
            say("plan: the analysis", file=told)
            with _silent():
                analysis = _analysis(many, len(data.particles), analyse)
        run_B = _disk(few, many, data, config["epochs"], analysis is not None)
        other_B = _size(next(many.folder.with_name("prepared").glob("*/")), but="images.f16")
    rows = [
        Row("start", stages.seconds["start"] + _whole("start", first, few, many, many.n)),
        Row(
            "preflight", np.zeros(2), f"done now, in {duration(stages.seconds['preflight'][0])}; not repeated"
        ),
        _preparation(cost, many, data),
        _warm_start(first, few, many, data, bool(config.get("warmstart"))),
        *_training(config, many, data),
        Row("encoding", _whole("encoding", first, few, many, len(data.particles))),
        *([analysis[0]] if analysis is not None else []),
    ]
    held = _memory(few, many, data, None if analysis is None else analysis[1])
    if cost is not None:
        held["preparation"] = max(held.get("preparation", 0), cost.memory_bytes)
    return Forecast(
        rows=rows,
        memory_B=max(held.values()),
        memory_at=max(held, key=lambda part: held[part]),
        gpu_B=max(many.stages.gpu_B.values(), default=None),
        stack_B=0 if cost is None else cost.disk_bytes + other_B * len(data.particles) / many.n,
        run_B=run_B,
        notes=_notes(config, data),
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Small runs say nothing."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


def _once(seconds: Seconds, expected: Seconds) -> Seconds:
    """What the first run took for being the first: imports, compiled code."""
    return np.maximum(seconds - expected, 0)


def _whole(part: str, first: _Small, few: _Small, many: _Small, n: int) -> Seconds:
    """A part that grows with the images, at n of them."""
    sizes, taken = (few.n, many.n), (few.seconds(part), many.seconds(part))
    return line(sizes, taken, n) + _once(first.seconds(part), line(sizes, taken, first.n))


def _preparation(cost: Any, many: _Small, data: ParticleDataModule) -> Row:
    if cost is None:
        return Row("preparation", np.zeros(2), "the prepared stack is there")
    n = len(data.particles)
    rest = np.array([1.0, cost.threads]) * cost.seconds * max(0, n - many.n) / n
    return Row("preparation", many.seconds("preparation") + rest, f"of {n:,} images")


def _warm_start(first: _Small, few: _Small, many: _Small, data: ParticleDataModule, wanted: bool) -> Row:
    if not wanted or not many.stages.marks:
        return Row("warm start", np.zeros(2), "none")
    n = int((~data.heldout).sum())
    sizes = (few.n_train, many.n_train)
    taken = [_passes(run) for run in (first, few, many)]
    passes = line(sizes, [t.passes for t in taken[1:]], n)
    once = _once(taken[0].passes, line(sizes, [t.passes for t in taken[1:]], first.n_train))
    refits = max(len(latent_steps(n)) - 1, 0) if taken[2].latent_steps else 0
    refit = line(sizes, [t.refit for t in taken[1:]], n)
    latent = taken[2].latent / max(1, taken[2].latent_steps) * (sum(latent_steps(n)) if refits else 0)
    note = f"passes over the images {duration((passes + refits * refit)[0])}, latent {duration(latent[0])}"
    return Row("warm start", passes + once + refits * refit + latent, note)


@dataclass(frozen=True)
class _Passes:
    """Of a warm start: its passes but those of refits, one refit, and the fits of the latent in all."""

    passes: Seconds
    refit: Seconds
    latent: Seconds
    latent_steps: int


def _passes(run: _Small) -> _Passes:
    marks, seconds = run.stages.marks, run.seconds("warm start")
    if not marks:
        return _Passes(seconds, np.zeros(2), np.zeros(2), 0)
    end = Mark("", run.stages.ends["warm start"])
    took = [(one.what, two.at - one.at) for one, two in zip(marks, [*marks[1:], end], strict=True)]
    latent = [s for what, s in took if what == LATENT]
    refits = [s for what, s in took if what == REFIT]
    others = [s for what, s in took if what not in (LATENT, REFIT)]
    before = seconds - sum((s for _, s in took), np.zeros(2))
    return _Passes(
        passes=before + np.sum(others, axis=0),
        refit=np.mean(refits, axis=0) if refits else others[-1],
        latent=np.sum(latent, axis=0) if latent else np.zeros(2),
        latent_steps=sum(latent_steps(run.n_train)[: len(latent)]),
    )


def _training(config: Mapping[str, Any], many: _Small, data: ParticleDataModule) -> list[Row]:
    epochs, pace, settings = int(config["epochs"]), many.pace, config["trainer"]
    n_train, n_heldout = int((~data.heldout).sum()), int(data.heldout.sum())
    world = _processes(settings)
    n_train = _limited(n_train, settings.get("limit_train_batches"), data.batch_size * world)
    n_heldout = _limited(n_heldout, settings.get("limit_val_batches"), data.evaluated_at_once * world)
    once = np.maximum(many.seconds("training") - pace.whole, 0)
    speed = 1 / max(pace.per_image[0], 1e-9)
    notes = [
        f"{epochs} of {n_train:,} images, {speed:,.3g} images/s",
        f"of {n_heldout:,} images, {epochs} times",
    ]
    return [
        Row("epochs", once + epochs * (n_train / world * pace.per_image + pace.per_epoch), notes[0]),
        Row("held-out", epochs * n_heldout / world * pace.per_heldout_image, notes[1]),
    ]


def _processes(settings: Mapping[str, Any]) -> int:
    devices = settings.get("devices", 1)
    if devices in ("auto", -1, "-1"):
        devices = max(1, torch.cuda.device_count())
    if isinstance(devices, list):
        devices = len(devices)
    return int(devices) * int(settings.get("num_nodes", 1))


def _limited(n: int, limit: Any, batch: int) -> int:
    if isinstance(limit, float):
        return round(n * limit)
    return n if limit is None else min(n, int(limit) * batch)


def _analysis(many: _Small, n: int, analyse: Callable[..., Any]) -> tuple[Row, int]:
    """Analyse the small run, for n particles; also the memory that it held."""
    run, stages = Rehearsed(many.folder), Stages()
    stages.begin("analysis")
    analyse(run, None)
    stages.end()
    seconds = stages.seconds["analysis"] + run.seconds * (run.shown / max(run.decoded, 1e-9) - 1)
    z = run.latents().z
    if run.zdim > 2 and getattr(analyse, "keywords", {}).get("umap", True):
        some = min(n, _LAID_OUT)
        points = np.random.default_rng(0).standard_normal((some, z.shape[1]), np.float32)
        stages.begin("UMAP")
        _umap(points)
        stages.end()
        seconds = seconds + stages.seconds["UMAP"] * (_work(n) - _work(len(z))) / _work(some)
    note = f"{run.shown:.0f} maps, {duration(run.seconds[0] / max(run.decoded, 1e-9))} each to decode"
    return Row("analysis", seconds, note), max(stages.memory_B.values())


def _umap(points: Any) -> None:
    from drgn.analysis.embedding import umap

    umap(points, 0)


def _work(n: int) -> int:
    """Latents that UMAP lays out of n, times its epochs."""
    laid_out = n if n <= MOST_LAID_OUT else LANDMARKS
    return laid_out * (500 if laid_out <= _SLOW_EPOCHS else 200)


def _memory(few: _Small, many: _Small, data: ParticleDataModule, analysis_B: int | None) -> dict[str, float]:
    """Bytes that the process holds at most, by part."""
    held = {part: float(count) for part, count in many.stages.memory_B.items()}
    if "warm start" in held:
        before = few.stages.memory_B.get("warm start", 0)
        slope = (held["warm start"] - before) / max(1, many.n_train - few.n_train)
        held["warm start"] += np.clip(slope, 0, _KEPT_B) * (int((~data.heldout).sum()) - many.n_train)
    if analysis_B is not None:
        held["analysis"] = analysis_B
    return held


def _size(folder: Path, but: str = "") -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name != but)


def _disk(
    few: _Small, many: _Small, data: ParticleDataModule, epochs: int, analysed: bool
) -> dict[str, float]:
    """Bytes of the run folder, by what they are for."""
    n, sizes = len(data.particles), (few.n, many.n)

    def files(run: _Small, *patterns: str) -> list[float]:
        return [float(f.stat().st_size) for p in patterns for f in run.folder.glob(p) if f.is_file()]

    # the first checkpoint of a run has no moments of the optimiser yet, and stays where one epoch follows it
    checkpoints = [files(run, "checkpoints/*.ckpt") for run in (few, many)]
    first, later = min(map(min, checkpoints)), float(line(sizes, [max(s) for s in checkpoints], n))
    latents = [sum(files(run, "*.npz", "*.star", "*.cs", "*.csg")) for run in (few, many)]
    logs = sum(files(many, "tensorboard/**/*", "**/metrics.csv"))
    found = {
        "checkpoints": (len(checkpoints[1]) - 1) * later + (first if epochs == 1 else later),
        "latents, poses": float(line(sizes, latents, n)),
        "logs": logs * epochs / max(1, many.pace.epochs),
    }
    if analysed:
        arrays = sum(f.stat().st_size for f in (many.folder / "analysis").rglob("*.npz"))
        found["analysis"] = _size(many.folder / "analysis") + arrays * (n / many.n - 1)
    return found


def _notes(config: Mapping[str, Any], data: ParticleDataModule) -> list[str]:
    notes = []
    if (world := _processes(config["trainer"])) > 1:
        notes.append(f"Measured with one process of {world}: what they say to each other is not counted.")
    kept = data.cache / "preflight"
    if kept.is_dir():
        notes.append(f"Nothing is left behind but the result of the preflight, in {kept}.")
    return notes
