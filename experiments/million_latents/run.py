"""Time drgn analyze on a million latents of eight dimensions; write report.md and results.json.

    python experiments/million_latents/run.py [--rows 1000000]

The run folder is made up: the particle table of a small simulated set over and over, without its stack,
random weights, and latents drawn from twenty Gaussians. The analysis (PCA, UMAP, k-means 20, report; no maps)
runs in a process of its own, whose peak memory is the whole process's.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ZDIM, GROUPS, KMEANS = 8, 20, 20
TARGET_MIN, TARGET_GIB = 15, 8


def make_star(folder: Path, rows: int) -> Path:
    """Write a star of so many rows: those of 300 simulated images over and over, renumbered."""
    from drgn.command import compose
    from drgn.simulate import simulate

    options = compose("simulate", ["n_particles=300", "box_size=16", "pixel_size_A=12"])
    small = simulate(**{**options, "output": folder / "small"}).read_text().splitlines()
    images = [i for i, line in enumerate(small) if "@" in line]
    head, body = small[: images[0]], [small[i] for i in images]
    parts = []
    for line in body:
        name = next(word for word in line.split() if "@" in word)
        before, after = line.split(name, 1)
        parts.append((before, "@" + name.split("@", 1)[1] + after))
    path = folder / "million.star"
    with path.open("w") as file:
        file.write("\n".join(head) + "\n")
        for i in range(rows):
            before, after = parts[i % len(parts)]
            file.write(f"{before}{i + 1:07d}{after}\n")
        file.write("\n")
    return path


def make_run(folder: Path, rows: int) -> Path:
    """Write a run folder with random weights and latents from twenty Gaussians."""
    import torch

    from drgn.command import compose
    from drgn.formats.particles import Particles
    from drgn.run import Run, build_reconstructor
    from drgn.training.encode import Encoded

    star = make_star(folder, rows)
    path = folder / "run"
    path.mkdir()
    options = ["dataset=custom", f"dataset.particles={star}", "model=128x3", "warmstart=none"]
    config = compose("train", [*options, f"output={path}", f"latent.zdim={ZDIM}"])
    run = Run.create(path, config, box_size=16, pixel_size_A=12.0, particles=Particles.from_file(star))
    model = build_reconstructor(config, box_size=16, n_particles=rows)
    weights = {f"reconstructor.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights}, run.folder("checkpoints") / "best.ckpt")
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(GROUPS, ZDIM))
    z = (centres[rng.integers(0, GROUPS, rows)] + rng.normal(size=(rows, ZDIM))).astype(np.float32)
    logvar = np.full((rows, ZDIM), -2, np.float32)
    run.save_latents(Encoded(z, logvar, np.ones(rows, np.float32)), np.arange(rows) % 10 == 0)
    return path


def analyse(path: Path) -> None:
    """Analyse the run in this process; print the figures as the last line."""
    from drgn.analyze import analyze
    from drgn.command import compose

    start = time.perf_counter()
    options = {"run": path, "kmeans": KMEANS, "volumes": False, "evidence": False}
    report = analyze(**{**compose("analyze"), **options})
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "wall_s": time.perf_counter() - start,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_GiB": used.ru_maxrss / 2**20,
        "report_MB": report.stat().st_size / 1e6,
    }
    print(json.dumps(figures))


def main() -> None:
    """Make the run, time its analysis and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        analyse(options.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = make_run(Path(folder), options.rows)
        command = [sys.executable, __file__, "--child", str(path)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    figures |= {"rows": options.rows, "zdim": ZDIM, "kmeans": KMEANS}
    figures |= {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    named = {f"latents_{options.rows}x{ZDIM}.drgn.{name}": value for name, value in figures.items()}
    (options.output / "results.json").write_text(json.dumps(named, indent=2) + "\n")
    met = figures["wall_s"] <= 60 * TARGET_MIN and figures["peak_GiB"] <= TARGET_GIB
    (options.output / "report.md").write_text(
        f"# The analysis of {options.rows:,} latents of {ZDIM} dimensions\n\n"
        f"`drgn analyze kmeans={KMEANS} volumes=false evidence=false` on {figures['cores']} core(s): "
        f"{figures['wall_s']:.0f} s ({figures['cpu_s']:.0f} s of CPU), at most {figures['peak_GiB']:.2f} GiB "
        f"of memory; the report has {figures['report_MB']:.1f} MB. The target, {TARGET_MIN} minutes and "
        f"{TARGET_GIB} GiB on two cores, is {'met' if met else 'missed'}.\n"
    )


if __name__ == "__main__":
    main()
