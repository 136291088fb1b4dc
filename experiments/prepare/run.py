"""Measure preparing and reading of prepared images; write report.md and results.json.

    CRYODRGN=/path/to/cryodrgn python experiments/prepare/run.py    # half an hour, 20 GB of disk
    python experiments/prepare/run.py --only wait64 wait128         # some parts; the results are put together
    python experiments/prepare/run.py --quick --folder /tmp/x --results /tmp/x    # minutes: does it run?

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
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from drgn import __version__
from drgn.command import compose
from drgn.data.datamodule import ParticleDataModule
from drgn.data.prepared import prepare
from drgn.errors import InputError
from drgn.formats.mrc import StackWriter
from drgn.formats.particles import Particles
from drgn.formats.relion import matrix_to_euler
from drgn.formats.star import write_blocks
from drgn.physics.rotations import random_rotations
from drgn.run import build_reconstructor
from drgn.training.memory import keep_freed

HERE = Path(__file__).parent
PIXEL_A = 3.0
WHAT = {32: ("prepare", "preflight", "train"), 64: ("prepare", "train")}  # whose memory, by training box


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
) -> dict[str, list[float]]:
    """MB of source images per second of each program, in each repeat."""
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
    return {key: [megabytes / t for t in taken] for key, taken in seconds.items()}


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
        cache=star.with_suffix(".prepared"),
        preflight=False,
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
    if what == "train":
        keep_freed()  # as `drgn train` does
    data = data_of(star, box_size, batch)
    with Peak() as reading:
        data.particles.require_images()
        time.sleep(0.05)
    with Peak() as peak:
        if what == "prepare":
            data.prepare_data()
        elif what == "preflight":
            with suppress(InputError):  # it is noise
                data.preflight(anew=True)
        else:
            steps(data, 5, box_size)
            for _ in data.train_dataloader():
                pass
    table = data.particles.table.memory_usage(deep=True).sum() / 1e6
    found = {
        "reading_MB": reading.private_MB,
        "private_MB": max(reading.private_MB, peak.private_MB),
        "resident_MB": max(reading.all_MB, peak.all_MB),
        "table_MB": table,
    }
    print(json.dumps(found))


def memory(folder: Path, what: str, n: int, size: int, box_size: int, batch: int) -> dict[str, float]:
    """Peaks of a child process."""
    star = make(folder, n, size)
    if what == "prepare":
        shutil.rmtree(star.with_suffix(".prepared"), ignore_errors=True)
    # drgn is imported first, as in the program
    start = (
        "import drgn, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", start, __file__, "--child", what, str(star), str(box_size), str(batch)]
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


def measure_speed(given: argparse.Namespace, folder: Path, size: int, box_size: int) -> dict[str, float]:
    n = int(given.gigabytes * 1e9 / (4 * size**2))
    results: dict[str, float] = {}
    found = speed(folder, n, size, box_size, given.repeats, given.cryodrgn)
    for key, rates in found.items():
        program, state = key.split(".")
        name = f"box{size}to{box_size}_{state}.{program}.MB_per_s"
        results[name] = round(statistics.median(rates), 1)
        results[f"{name}_min"], results[f"{name}_max"] = round(min(rates), 1), round(max(rates), 1)
    for state in ("cold", "warm"):
        name = f"box{size}to{box_size}_{state}"
        results[f"{name}.drgn.images"] = n
        for program in ("copy", "cryodrgn"):
            if f"{program}.{state}" in found:
                ratio = results[f"{name}.drgn.MB_per_s"] / results[f"{name}.{program}.MB_per_s"]
                results[f"{name}.drgn.over_{program}"] = round(ratio, 3)
    return results


def measure_memory(given: argparse.Namespace, folder: Path, size: int, box_size: int) -> dict[str, float]:
    results: dict[str, float] = {}
    for what in WHAT[box_size]:
        private, all_of_it = [], []
        for n in given.particles:
            peak = memory(folder, what, n, size, box_size, given.batch)
            private.append(peak["private_MB"])
            all_of_it.append(peak["resident_MB"])
            results |= {f"{what}{box_size}_n{n}.drgn.{key}": round(value, 1) for key, value in peak.items()}
        results[f"{what}{box_size}.drgn.private_growth"] = round(private[1] / private[0] - 1, 4)
        results[f"{what}{box_size}.drgn.resident_growth"] = round(all_of_it[1] / all_of_it[0] - 1, 4)
    return results


def measure_wait(given: argparse.Namespace, folder: Path, box_size: int) -> dict[str, float]:
    n = int(given.gigabytes * 1e9 / (4 * box_size**2))
    found = waits(folder, n, box_size, given.batch, given.steps)
    return {f"wait_box{box_size}.drgn.{key}": round(value, 4) for key, value in found.items()}


PARTS: dict[str, Callable[[argparse.Namespace, Path], dict[str, float]]] = {
    "speed128": lambda given, folder: measure_speed(given, folder, 128, 64),
    "speed256": lambda given, folder: measure_speed(given, folder, 256, 128),
    "memory32": lambda given, folder: measure_memory(given, folder, 64, 32),
    "memory64": lambda given, folder: measure_memory(given, folder, 128, 64),
    "wait64": lambda given, folder: measure_wait(given, folder, 64),
    "wait128": lambda given, folder: measure_wait(given, folder, 128),
}


def processor() -> str:
    models = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    return models[0].split(":")[1].strip() if models else platform.processor()


def report(results: dict[str, float], given: argparse.Namespace) -> list[str]:
    """Lines of report.md for everything that was measured, in this run or before."""

    def value(key: str, digits: int = 0) -> str:
        return f"{results[key]:,.{digits}f}" if key in results else "not measured"

    lines = [
        "# Preparing images, and reading prepared ones",
        "",
        f"{time.strftime('%Y-%m-%d')}, drgn {__version__}, torch {torch.__version__}, cryoDRGN 4.3.1;"
        f" {processor()}, {len(os.sched_getaffinity(0))} cores.",
        "Command: `python experiments/prepare/run.py --only PART` for each PART of"
        f" {', '.join(PARTS)}, with `--gigabytes {given.gigabytes:g} --repeats {given.repeats}`.",
        "",
        "## Speed",
        "",
        "MB of source images per second: median (least to most). The copy reads and writes the whole file;",
        "all wait for the disk. Cold: the file was dropped from the page cache before.",
        "Expected: drgn at 70 % of the copy or, where the FFT bounds it, 5 times `cryodrgn downsample`.",
        "",
        "| images | cache | copy | drgn | cryodrgn | drgn of copy | drgn over cryodrgn |",
        "|---|---|---|---|---|---|---|",
    ]
    for size, box_size in ((128, 64), (256, 128)):
        for state in ("cold", "warm"):
            name = f"box{size}to{box_size}_{state}"
            rates, n = [], value(f"{name}.drgn.images")
            for program in ("copy", "drgn", "cryodrgn"):
                key = f"{name}.{program}.MB_per_s"
                rates.append(f"{value(key)} ({value(key + '_min')} to {value(key + '_max')})")
            lines.append(
                f"| {n} of {size} px to {box_size} | {state} | {' | '.join(rates)} |"
                f" {value(f'{name}.drgn.over_copy', 2)} | {value(f'{name}.drgn.over_cryodrgn', 1)} |"
            )
    lines += [
        "",
        "## Peak memory",
        "",
        "Private memory (RssAnon) is what a process holds; resident memory (VmRSS) counts also the pages of",
        "files that it has mapped: libraries and a part of the prepared stack. MB. The preflight is measured",
        "apart because images of noise do not pass it. Expected: growth within 10 %.",
        "",
        "| what | particles | reading the star | private | resident | table |",
        "|---|---|---|---|---|---|",
    ]
    few, many = given.particles
    for size, box_size in ((64, 32), (128, 64)):
        for what in WHAT[box_size]:
            name = f"{what}{box_size}"
            for n in (few, many):
                numbers = [
                    value(f"{name}_n{n}.drgn.{key}_MB") for key in ("reading", "private", "resident", "table")
                ]
                lines.append(f"| {what}, {size} px to {box_size} | {n:,} | {' | '.join(numbers)} |")
            private, resident = (
                results.get(f"{name}.drgn.{key}_growth", float("nan")) for key in ("private", "resident")
            )
            lines.append(f"| | growth | | {private:+.1%} | {resident:+.1%} | |")
    lines += [
        "",
        f"## Waiting for images, 256x3, batch {given.batch}, bf16, from a cold prepared stack",
        "",
        f"Means of {given.steps} steps. Expected: a share of waiting below 5 %.",
        "",
        "| box | wait, ms | step, ms | share of waiting |",
        "|---|---|---|---|",
    ]
    for box_size in (64, 128):
        name = f"wait_box{box_size}.drgn"
        share = results.get(f"{name}.wait_share", float("nan"))
        lines.append(
            f"| {box_size} | {value(f'{name}.wait_ms', 2)} | {value(f'{name}.step_ms')} | {share:.2%} |"
        )
    return [*lines, "", "## What is missed", "", *missed(results)]


def missed(results: dict[str, float]) -> list[str]:
    """A line for each figure that is not as expected."""
    lines = []
    for key, value in results.items():
        if key.endswith("over_copy") and value < 0.7:
            other = results.get(key.replace("over_copy", "over_cryodrgn"), 0)
            lines += [f"- {key}: {value:.0%}"] if other < 5 else []
        elif key.endswith("_growth") and value > 0.1:
            lines.append(f"- {key}: {value:+.1%}, expected at most 10 %")
        elif key.endswith("wait_share") and value > 0.05:
            lines.append(f"- {key}: {value:.1%}, expected at most 5 %")
    return lines or ["Nothing."]


def measure(given: argparse.Namespace, folder: Path) -> None:
    """Measure what was asked for; write it beside what was measured before."""
    given.results.mkdir(parents=True, exist_ok=True)
    file = given.results / "results.json"
    results: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}
    for part in given.only:
        found = PARTS[part](given, folder)
        print(part, json.dumps(found, indent=2), flush=True)
        results |= found
        file.write_text(json.dumps(dict(sorted(results.items())), indent=2) + "\n")
    (given.results / "report.md").write_text("\n".join(report(results, given)) + "\n")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("outputs/bench_prepare"), help="for the images")
    options.add_argument("--results", type=Path, default=HERE, help="where results.json and report.md go")
    options.add_argument("--cryodrgn", default=os.environ.get("CRYODRGN"), help="its executable")
    options.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts")
    options.add_argument("--gigabytes", type=float, default=3.0, help="of source images, in (a)")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--particles", type=int, nargs=2, default=(10_000, 100_000), help="in (b)")
    options.add_argument("--steps", type=int, default=40, help="in (c)")
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--kept", type=Path, help="a folder for images that are not made again")
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
        measure(given, given.kept or Path(folder))


if __name__ == "__main__":
    main()
