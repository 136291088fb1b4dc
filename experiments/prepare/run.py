"""Measure preparing and reading of prepared images; write report.md and results.json.

    python experiments/prepare/run.py                      # some minutes, 7 GB of disk
    python experiments/prepare/run.py --quick --folder /tmp/x --results /tmp/x    # a minute: does it run?
    CRYODRGN=/path/to/cryodrgn python experiments/prepare/run.py

Images of noise: the figures do not depend on what is in them.
(a) Speed of `drgn prepare` against a sequential copy of the same file and, where its program is given,
    `cryodrgn downsample`: in turn, with the page cache emptied of the file, and with the file in it.
(b) Peak memory of processes that prepare, and that train, on few and on many particles.
(c) The part of a training step that waits for images of a cold prepared stack.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from drgn import __version__
from drgn.command import compose
from drgn.data.datamodule import ParticleDataModule
from drgn.data.prepared import prepare
from drgn.formats.mrc import StackWriter
from drgn.formats.particles import Particles
from drgn.formats.relion import matrix_to_euler
from drgn.formats.star import write_blocks
from drgn.physics.rotations import random_rotations
from drgn.run import build_reconstructor

HERE = Path(__file__).parent
PIXEL_A = 3.0


def make(folder: Path, n: int, size: int) -> Path:
    """Write n images of noise with poses and CTF; returns the star."""
    star = folder / f"n{n}_box{size}.star"
    if star.exists():
        return star
    noise = np.random.default_rng(0).normal(size=(500, size, size)).astype(np.float32)
    with StackWriter(star.with_suffix(".mrcs"), n, size, PIXEL_A) as stack:
        for start in range(0, n, 500):
            stack.write(np.roll(noise[: n - start], start // 500, axis=1))
    euler_deg = matrix_to_euler(random_rotations(n, torch.Generator().manual_seed(0)).numpy())
    optics = {"rlnOpticsGroup": [1], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7]}
    optics |= {"rlnAmplitudeContrast": [0.1], "rlnImagePixelSize": [PIXEL_A], "rlnImageSize": [size]}
    table = pd.DataFrame({"rlnImageName": [f"{i + 1:06d}@{star.stem}.mrcs" for i in range(n)]})
    table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]] = euler_deg
    table[["rlnOriginXAngst", "rlnOriginYAngst", "rlnDefocusAngle"]] = 0.0
    table["rlnDefocusU"] = table["rlnDefocusV"] = np.linspace(8000.0, 25000.0, n)
    table["rlnOpticsGroup"] = 1
    write_blocks(star, {"optics": pd.DataFrame(optics), "particles": table})
    return star


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy(source: Path, target: Path) -> None:
    """Read and write a file from beginning to end, and wait for the disk, as preparing does."""
    buffer = memoryview(bytearray(1 << 23))
    with open(source, "rb", buffering=0) as read, open(target, "wb", buffering=0) as write:
        while count := read.readinto(buffer):
            write.write(buffer[:count])
        os.fsync(write.fileno())


def speed(
    folder: Path, n: int, size: int, box_size: int, repeats: int, cryodrgn: str | None
) -> dict[str, float]:
    """MB of source images per second of each program, median."""
    star = make(folder, n, size)
    stack, scratch = star.with_suffix(".mrcs"), folder / "scratch"
    particles = Particles.from_file(star)

    def ours() -> None:
        prepare(particles, box_size=box_size, window=True, cache=scratch)

    programs: dict[str, Callable[[], object]] = {"copy": lambda: copy(stack, scratch / "copy"), "drgn": ours}
    if cryodrgn:
        command = [cryodrgn, "downsample", str(stack), "-D", str(box_size), "-o", str(scratch / "small.mrcs")]
        programs["cryodrgn"] = lambda: subprocess.run(command, check=True, capture_output=True)
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        for state in ("cold", "warm"):
            for name, program in programs.items():
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir()
                if state == "cold":
                    forget(stack)
                start = time.perf_counter()
                program()
                seconds.setdefault(f"{name}.{state}", []).append(time.perf_counter() - start)
    shutil.rmtree(scratch)
    megabytes = stack.stat().st_size / 1e6
    return {f"{key}_MB_per_s": megabytes / statistics.median(s) for key, s in seconds.items()}


class Peak:
    """Largest resident memory of this process while it is watched, MB: private, and with pages of files."""

    def __enter__(self) -> "Peak":
        self.private_MB = self.all_MB = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            self.private_MB = max(self.private_MB, int(status["RssAnon"].split()[0]) / 1e3)
            self.all_MB = max(self.all_MB, int(status["VmRSS"].split()[0]) / 1e3)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def data_of(star: Path, box_size: int, batch: int) -> ParticleDataModule:
    """The data module that training uses."""
    return ParticleDataModule(
        name="measured",
        particles=star,
        box_size=box_size,
        batch_size=batch,
        cache=star.parent / "prepared",
    )


def steps(data: ParticleDataModule, n_steps: int, box_size: int) -> tuple[list[float], list[float]]:
    """Seconds of waiting for a batch and of training on it, in each of some steps of a 256x3 model."""
    config = compose("train", ["model=256x3"])
    model = build_reconstructor(config, box_size=box_size, n_particles=len(data.particles))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    waiting, training = [], []
    batches = iter(data.train_dataloader())
    for _ in range(n_steps):
        start = time.perf_counter()
        batch = next(batches)
        fetched = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model.loss(batch).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        waiting.append(fetched - start)
        training.append(time.perf_counter() - fetched)
    return waiting, training


def child(what: str, star: Path, box_size: int, batch: int) -> None:
    """In a process of its own: prepare, or train some steps and read a whole epoch; print the peaks."""
    data = data_of(star, box_size, batch)
    with Peak() as reading:
        data.particles.require_images()
        time.sleep(0.05)
    with Peak() as peak:
        if what == "prepare":
            data.prepare_data()
        else:
            steps(data, 5, box_size)
            for _ in data.train_dataloader():
                pass
    table = data.particles.table.memory_usage(deep=True).sum() / 1e6
    found = {"private_MB": peak.private_MB, "resident_MB": peak.all_MB, "table_MB": table}
    print(json.dumps({**found, "reading_MB": reading.private_MB}))


def memory(folder: Path, what: str, n: int, size: int, box_size: int, batch: int) -> dict[str, float]:
    """Peaks of a child process."""
    command = [
        sys.executable,
        __file__,
        "--child",
        what,
        str(make(folder, n, size)),
        str(box_size),
        str(batch),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def waits(folder: Path, n: int, box_size: int, batch: int, n_steps: int) -> dict[str, float]:
    """Part of the time of training steps that is waiting, from a cold prepared stack."""
    data = data_of(make(folder, n, box_size), box_size, batch)
    data.prepare_data()
    images = data.prepare().folder / "images.f16"
    data = data_of(make(folder, n, box_size), box_size, batch)
    data.particles.require_images()
    forget(images)
    waiting, training = steps(data, n_steps, box_size)
    wait, step = sum(waiting[1:]), sum(training[1:])  # the first pays for what is made once
    return {
        "wait_ms": 1e3 * wait / (n_steps - 1),
        "step_ms": 1e3 * step / (n_steps - 1),
        "wait_share": wait / (wait + step),
    }


def measure(given: argparse.Namespace, folder: Path) -> None:
    """Measure everything and write what was found."""
    given.results.mkdir(parents=True, exist_ok=True)
    results: dict[str, float] = {}
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# Preparing images, and reading prepared ones",
        "",
        f"{time.strftime('%Y-%m-%d')}, drgn {__version__}, torch {torch.__version__}, {platform.node()},"
        f" {cores} cores, load {os.getloadavg()[0]:.1f} at the start. Command: `{' '.join(sys.argv)}`.",
        "",
        f"## Speed, {given.gigabytes} GB of source images, median of {given.repeats}",
        "",
        "MB of source images per second. The copy reads and writes the whole file; both wait for the disk.",
        "Expected: drgn at 70 % of the copy or, where the FFT bounds it, 5 times cryodrgn.",
        "",
        "| images | cache | copy | drgn | of copy | cryodrgn | over cryodrgn |",
        "|---|---|---|---|---|---|---|",
    ]
    for size, box_size in ((128, 64), (256, 128)):
        n = int(given.gigabytes * 1e9 / (4 * size**2))
        found = speed(folder, n, size, box_size, given.repeats, given.cryodrgn)
        for state in ("cold", "warm"):
            rate = {p: found.get(f"{p}.{state}_MB_per_s") for p in ("copy", "drgn", "cryodrgn")}
            name = f"box{size}to{box_size}_{state}"
            results |= {f"{name}.{p}.MB_per_s": round(value, 1) for p, value in rate.items() if value}
            ours, other = rate["drgn"] or 0.0, rate["cryodrgn"]
            results[f"{name}.drgn.of_copy"] = round(ours / (rate["copy"] or 1.0), 3)
            lines.append(
                f"| {n:,} of {size} px to {box_size} | {state} | {rate['copy']:.0f} | {ours:.0f} |"
                f" {ours / (rate['copy'] or 1.0):.0%} | {f'{other:.0f}' if other else 'not given'} |"
                f" {f'{ours / other:.1f}' if other else ''} |"
            )
            print(lines[-1], flush=True)
    lines += [
        "",
        "## Peak memory",
        "",
        "Private memory (RssAnon) is what the program holds. Resident memory (VmRSS) counts also pages of",
        "files, such as the memory-mapped prepared stack, which the system takes back when it needs them.",
        "Reading the star comes first and is what grows with the number of particles; what is left of it",
        "(the table and the original columns) is in the figures after it.",
        "",
        "| what | particles | reading the star, MB | private, MB | resident, MB | table, MB |",
        "|---|---|---|---|---|---|",
    ]
    for what in ("prepare", "train"):
        private, above = [], []
        for n in given.particles:
            peak = memory(folder, what, n, 64, 32, given.batch)
            private.append(peak["private_MB"])
            above.append(peak["private_MB"] - peak["reading_MB"])
            results |= {f"{what}_n{n}.drgn.{key}": round(value, 1) for key, value in peak.items()}
            lines.append(
                f"| {what} | {n:,} | {peak['reading_MB']:.0f} | {peak['private_MB']:.0f} |"
                f" {peak['resident_MB']:.0f} | {peak['table_MB']:.1f} |"
            )
            print(lines[-1], flush=True)
        results[f"{what}.drgn.private_growth"] = round(private[1] / private[0] - 1, 4)
        results[f"{what}.drgn.growth_above_reading_MB"] = round(above[1] - above[0], 1)
        lines.append(
            f"| {what} | growth | | {private[1] / private[0] - 1:+.1%}, above reading"
            f" {above[1] - above[0]:+.0f} MB | | |"
        )
    lines += [
        "",
        f"## Waiting for images, 256x3, batch {given.batch}, bf16, from a cold prepared stack",
        "",
        "Expected: below 5 %.",
        "",
        "| box | particles | wait, ms | step, ms | share of waiting |",
        "|---|---|---|---|---|",
    ]
    for box_size in (64, 128):
        n = int(given.gigabytes * 1e9 / (4 * box_size**2))
        found = waits(folder, n, box_size, given.batch, given.steps)
        results |= {f"wait_box{box_size}.drgn.{key}": round(value, 4) for key, value in found.items()}
        lines.append(
            f"| {box_size} | {n:,} | {found['wait_ms']:.1f} | {found['step_ms']:.0f} |"
            f" {found['wait_share']:.2%} |"
        )
        print(lines[-1], flush=True)
    (given.results / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (given.results / "report.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("outputs/bench_prepare"), help="for the images")
    options.add_argument("--results", type=Path, default=HERE, help="where results.json and report.md go")
    options.add_argument("--cryodrgn", default=os.environ.get("CRYODRGN"), help="its executable")
    options.add_argument("--gigabytes", type=float, default=1.3, help="of source images, in (a)")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--particles", type=int, nargs=2, default=(10_000, 100_000), help="in (b)")
    options.add_argument("--steps", type=int, default=40, help="in (c)")
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--quick", action="store_true", help="small sizes")
    options.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        what, star, box_size, batch = given.child
        child(what, Path(star), int(box_size), int(batch))
        return
    if given.quick:
        given.gigabytes, given.repeats, given.particles, given.steps = 0.1, 1, (1_000, 4_000), 4
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        measure(given, Path(folder))


if __name__ == "__main__":
    main()
