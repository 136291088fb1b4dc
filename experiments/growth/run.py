"""Measure how time and memory grow with particles, box and width; write report.md, results.json, growth.png.

    python experiments/growth/run.py                          # all, two hours of one core, 3 GB of disk
    python experiments/growth/run.py --only particles=1000,10000 box=32     # some points, added to the others
    python experiments/growth/run.py --report                 # the report again, from results.json

Each point is `drgn train epochs=1` in a process of its own, taken apart into its stages: reading the table,
preparing the images, the warm start, an epoch, encoding all particles. Seconds are of CPU, peaks are of
private memory (RssAnon). Images are those of 500 simulated particles over and over, each time with new noise.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SIMULATED, SIDE_A = 500, 192.0  # particles that are repeated, and the side of their images
# particles, box, hidden width, images a step
POINTS = {
    "particles": {n: (n, 16, 64, 128) for n in (1000, 10_000, 100_000, 1_000_000)},
    "box": {box: (n, box, 256, 8) for box, n in ((32, 1600), (64, 400), (128, 200), (256, 64))},
    "width": {width: (400, 32, width, 8) for width in (256, 512, 1024)},
}
SLOPE = (10_000, 100_000)  # particles between which the memory of each particle more is told
STAGES = ("table", "prepare", "warmstart", "epoch", "encode")


def make(folder: Path, n: int, box: int) -> Path:
    """Write n images with poses and CTF; returns the star."""
    from drgn.command import compose
    from drgn.formats.mrc import StackReader, StackWriter
    from drgn.formats.star import read_blocks, write_blocks
    from drgn.simulate import simulate

    pixel_A, few = SIDE_A / box, min(n, SIMULATED)
    options = compose("simulate", [f"n_particles={few}", f"box_size={box}", f"pixel_size_A={pixel_A}"])
    few_star = simulate(**{**options, "output": folder / "few"})
    images = StackReader(few_star.with_suffix(".mrcs")).read(np.arange(few))
    rng = np.random.default_rng(1)
    with StackWriter(folder / "many.mrcs", n, box, pixel_A) as stack:
        for start in range(0, n, few):
            part = images[: n - start]
            stack.write(part + 0.3 * rng.standard_normal(part.shape, dtype=np.float32))
    blocks = read_blocks(few_star)
    table = blocks["particles"]
    table = table.iloc[np.arange(n) % few].reset_index(drop=True)
    table["rlnImageName"] = [f"{i + 1:07d}@many.mrcs" for i in range(n)]
    write_blocks(folder / "many.star", {"optics": blocks["optics"], "particles": table})
    return folder / "many.star"


class Stages:
    """CPU seconds and peak of private memory of each stage."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}
        self._peak, self._stop = 0.0, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self._peak = max(self._peak, private_MB())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        before, wall, self._peak = cpu_s(), time.perf_counter(), private_MB()
        yield
        self.found[f"{name}_cpu_s"] = cpu_s() - before
        self.found[f"{name}_wall_s"] = time.perf_counter() - wall
        self.found[f"{name}_peak_MB"] = max(self._peak, private_MB())

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Measure the first call of a function under this name."""
        inner: Callable[..., Any] = getattr(owner, attribute)

        def measured(*given: Any, **named: Any) -> Any:
            if f"{name}_cpu_s" in self.found:
                return inner(*given, **named)
            with self.stage(name):
                return inner(*given, **named)

        setattr(owner, attribute, measured)


def private_MB() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split(None, 1)[0]) / 1e3


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def child(star: Path, box: int, width: int, batch: int) -> None:
    """Train one epoch in this process; print what its stages took."""
    from drgn.command import bind, compose
    from drgn.data.datamodule import ParticleDataModule
    from drgn.formats.particles import Particles
    from drgn.train import train

    import pytorch_lightning as pl  # isort: skip
    import torch

    import drgn.training.encode
    import drgn.training.warmstart

    stages = Stages()
    stages.wrap(Particles, "from_file", "table")
    stages.wrap(ParticleDataModule, "prepare", "prepare")
    stages.wrap(drgn.training.warmstart, "fit", "warmstart")
    stages.wrap(pl.Trainer, "fit", "epoch")
    stages.wrap(drgn.training.encode, "encode", "encode")
    steps = [0]
    real = torch.optim.Adam.step

    def step(self: Any, *given: Any, **named: Any) -> Any:
        steps[0] += 1
        return real(self, *given, **named)

    torch.optim.Adam.step = step
    options = [
        "dataset=custom",
        f"dataset.particles={star}",
        f"dataset.cache={star.parent / 'prepared'}",
        "dataset.preflight=false",
        f"dataset.batch_size={batch}",
        "dataset.heldout_fraction=0.05",
        "model=256x3",
        f"model.hidden_dim={width}",
        "latent.zdim=8",
        "trainer=cpu",
        "epochs=1",
        "analyze=false",
        "logger=none",
        f"output={star.parent / 'run'}",
    ]
    start = stages.found["import_MB"] = private_MB()
    before = cpu_s()
    train(**bind(train, compose("train", options)))
    from drgn.run import Run

    run = Run.open(star.parent / "run")
    stages.found |= {
        "start_MB": start,
        "train_cpu_s": cpu_s() - before,
        "rows": len(run.particles()),
        "weights": sum(p.numel() for p in run.model().parameters()),
        "pixels": len(run.datamodule.dataset.stack.lattice),
        "prepared_MB": (run.datamodule.dataset.stack.folder / "images.f16").stat().st_size / 1e6,
        "threads": torch.get_num_threads(),
        "optimizer_steps": steps[0],
        "precision_is_bf16": float("bf16" in str(run.config["trainer"]["precision"])),
    }
    stages.found["peak_MB"] = max(
        stages.found[f"{s}_peak_MB"] for s in STAGES if f"{s}_peak_MB" in stages.found
    )
    print(json.dumps(stages.found))


def measure(n: int, box: int, width: int, batch: int, scratch: Path | None) -> dict[str, float]:
    """Make the images and train on them in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="growth_", dir=scratch))
    try:
        star = make(folder, n, box)
        # drgn is imported first, as in the program
        words = [sys.executable, __file__, "--child", str(star), str(box), str(width), str(batch)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return result | {"n": n, "box": box, "width": width, "batch": batch}
    finally:
        shutil.rmtree(folder)


def rows_of(found: dict[str, Any], axis: str) -> list[dict[str, float]]:
    """Figures of the points of an axis, in order."""
    rows = []
    for value in POINTS[axis]:
        start = f"{axis}_{value}.drgn."
        figures = {name.removeprefix(start): v for name, v in found.items() if name.startswith(start)}
        if figures:
            rows.append({"value": value, **figures})
    return rows


def table(found: dict[str, Any], axis: str) -> str:
    """Markdown: CPU milliseconds an image of each stage, and the peaks."""
    head = ["particles", "box", "width", *(f"{stage}, ms" for stage in STAGES[1:]), "most memory, MB"]
    lines = [f"| {' | '.join(head)} |", "|" + "--:|" * len(head)]
    for row in rows_of(found, axis):
        n = row["n"]
        cells = [f"{n:,.0f}", f"{row['box']:.0f}", f"{row['width']:.0f}"]
        cells += [f"{1e3 * row[f'{stage}_cpu_s'] / n:.3g}" for stage in STAGES[1:]]
        cells.append(f"{row['peak_MB']:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def memory_table(found: dict[str, Any]) -> str:
    """Markdown: peaks by stage, and what each particle more takes."""
    rows = rows_of(found, "particles")
    lines = ["| particles | start | " + " | ".join(STAGES) + " |", "|" + "--:|" * (len(STAGES) + 2)]
    for row in rows:
        cells = [
            f"{row['n']:,.0f}",
            f"{row['start_MB']:.0f}",
            *(f"{row[f'{s}_peak_MB']:,.0f}" for s in STAGES),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    low, high = (next(row for row in rows if row["value"] == n) for n in SLOPE)
    more = [1e6 * (high[f"{s}_peak_MB"] - low[f"{s}_peak_MB"]) / (high["n"] - low["n"]) for s in STAGES]
    lines.append(
        "| bytes for each particle more, 10,000 to 100,000 | | "
        + " | ".join(f"{value:,.0f}" for value in more)
        + " |"
    )
    return "\n".join(lines)


def picture(found: dict[str, Any], path: Path) -> None:
    """Seconds and memory against particles, box and width."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colours = dict(zip(STAGES, ("#999999", "#009e73", "#d55e00", "#0072b2", "#cc79a7"), strict=True))
    figure, axes = plt.subplots(2, 3, figsize=(12, 7), layout="constrained")
    units = {"particles": "particles", "box": "box, px", "width": "width of the hidden layers"}
    for column, axis in enumerate(POINTS):
        rows = rows_of(found, axis)
        x = np.array([row["value"] for row in rows])
        time_axis, memory_axis = axes[:, column]
        for stage in STAGES:
            cpu = np.array([row[f"{stage}_cpu_s"] for row in rows])
            each = cpu if axis == "particles" else 1e3 * cpu / np.array([row["n"] for row in rows])
            time_axis.plot(x, each, "o-", color=colours[stage], label=stage)
            memory_axis.plot(x, [row[f"{stage}_peak_MB"] for row in rows], "o-", color=colours[stage])
        power, law = (1, "proportional") if axis == "particles" else (2, "its square")
        last = rows[-1]["epoch_cpu_s"] * (1 if axis == "particles" else 1e3 / rows[-1]["n"])
        time_axis.plot(x, last * (x / x[-1]) ** power, ":", color="black", label=law)
        time_axis.set_title(f"dotted: {law}", fontsize=10)
        for place in (time_axis, memory_axis):
            place.set(xscale="log", yscale="log", xlabel=units[axis])
            place.set_xticks(x, [f"{value:,}" for value in x], minor=False)
            place.minorticks_off()
            place.grid(alpha=0.3)
        time_axis.set_ylabel("CPU seconds" if axis == "particles" else "CPU ms for each image")
        memory_axis.set_ylabel("most private memory, MB")
        memory_axis.set_ylim(300, 6000)
        memory_axis.set_yticks([300, 500, 1000, 2000, 4000], ["300", "500", "1,000", "2,000", "4,000"])
    handles = [line for line in axes[0, 0].get_lines() if line.get_label() in STAGES]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(STAGES))
    figure.savefig(path, dpi=100)


def processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    return text.partition("model name")[2].partition(":")[2].splitlines()[0].strip()


def main() -> None:
    """Measure, or write the report of what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", help="axis=value,value; all by default")
    parser.add_argument("--scratch", type=Path, help="folder for the images")
    parser.add_argument("--results", type=Path, default=HERE)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(Path(given.child[0]), *map(int, given.child[1:]))
        return
    path = given.results / "results.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    wanted = given.only or [f"{axis}={','.join(map(str, points))}" for axis, points in POINTS.items()]
    for axis, values in [] if given.report else [word.split("=") for word in wanted]:
        for value in map(int, values.split(",")):
            figures = measure(*POINTS[axis][value], given.scratch)
            found |= {f"{axis}_{value}.drgn.{name}": round(v, 4) for name, v in figures.items()}
            found |= {"machine": processor(), "cores": len(os.sched_getaffinity(0))}
            found |= {"python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}
            path.write_text(json.dumps(dict(sorted(found.items())), indent=2) + "\n")
            print(axis, value, {k: round(v, 2) for k, v in figures.items()}, flush=True)
    picture(found, given.results / "growth.png")
    report, mark = given.results / "report.md", "\n## Tables\n"
    head = report.read_text().partition(mark)[0] if report.is_file() else "# Growth\n"
    parts = [f"### By {axis}\n\n{table(found, axis)}" for axis in POINTS]
    parts.append(f"### Most private memory of each stage, MB\n\n{memory_table(found)}")
    report.write_text(head.rstrip() + "\n" + mark + "\n" + "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
