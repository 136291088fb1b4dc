"""The scoreboard: simulated sets, drgn with and without its warm start, and cryoDRGN; write results.json.

    make scoreboard                                     # as below, with its defaults
    python experiments/scoreboard/run.py --sets uniform cooperative --cryodrgn /path/to/cryodrgn --folder work

For each set: it is simulated at this box and number of images (the same field of view), its ceiling is
found (`drgn score oracle=true`), each program runs as a whole command with one thread, and `drgn score`
compares what it left with the truth. cryoDRGN is also asked after each of its epochs (z.N.pkl), at the CPU
time that it had used when it said that the epoch was over; its maps are decoded from its weights, as its
eval_vol does. The truth is looked at when a program is done. The figures of a set and program
that are run anew replace those in results.json; all others stay.
"""

import argparse
import json
import re
import shutil
import statistics
import sys
from pathlib import Path

from drgn.benchmark.programs import run
from drgn.command import compose
from drgn.formats.cryodrgn import write_cryodrgn
from drgn.formats.particles import Particles
from drgn.score import score
from drgn.simulate import simulate

FIELD_A = 384.0
CLASSES = ("compositional",)
SETS = ("uniform", "cooperative", "noncontiguous", "compositional", "ribosome_head")
QUALITY = {"spearman_motion": 0.97, "ari_state": 0.99}
SCORES = ("spearman_motion", "ari_state", "fsc_auc_mean", "fsc_auc_masked_mean", "map_fsc05_nyquist_mean")
PROGRAMS = ("drgn", "drgn_none", "cryodrgn")


def scored(truth: Path, output: Path, **options: object) -> dict[str, float]:
    return score(**{**compose("score"), "run": None, "truth": truth, "output": output, **options})  # type: ignore[arg-type]


def simulated(name: str, given: argparse.Namespace, folder: Path) -> Path:
    known = name if name == "ribosome_head" else f"{name}_small"
    options = [f"set={known}", f"n_particles={given.images}", f"box_size={given.box}"]
    options += [f"pixel_size_A={FIELD_A / given.box}", f"shift_px={5 * given.box / 64}", f"snr={given.snr}"]
    simulate(**{**compose("simulate", options), "output": folder})
    return folder


def drgn(truth: Path, folder: Path, zdim: int, seed: int, epochs: int, start: str) -> dict[str, float]:
    for old in (folder, truth / "prepared"):
        shutil.rmtree(old, ignore_errors=True)
    options = ["dataset=custom", f"dataset.particles={truth / 'particles.star'}", "dataset.preflight=false"]
    options += [
        f"dataset.cache={truth / 'prepared'}",
        f"warmstart={start}",
        f"latent.zdim={zdim}",
        "trainer=cpu",
    ]
    options += ["model=256x3", f"epochs={epochs}", f"seed={seed}", "analyze=false", f"output={folder}"]
    ran = run([sys.executable, "-m", "drgn.train", *options], threads=1)
    found = scored(truth, folder / "score", run=folder)
    return {"seconds": ran.seconds, "cpu_seconds": ran.cpu_seconds, "epochs": epochs, **found}


def cryodrgn(
    truth: Path, folder: Path, zdim: int, seed: int, epochs: int, program: Path, target: tuple[str, float]
) -> dict[str, float]:
    shutil.rmtree(folder, ignore_errors=True)
    particles = Particles.from_file(truth / "particles.star")
    write_cryodrgn(truth / "cryodrgn", particles.table, particles.rotation)
    command: list[str | Path] = [program, "train_vae", truth / "particles.mrcs", "--uninvert-data"]
    command += ["--poses", truth / "cryodrgn/poses.pkl", "--ctf", truth / "cryodrgn/ctf.pkl", "--no-analysis"]
    command += ["--zdim", str(zdim), "-o", folder, "-n", str(epochs), "--seed", str(seed)]
    command += ["--enc-dim", "256", "--enc-layers", "3", "--dec-dim", "256", "--dec-layers", "3"]
    ran = run(command, threads=1)
    figures: dict[str, float] = {"seconds": ran.seconds, "cpu_seconds": ran.cpu_seconds, "epochs": epochs}
    name, enough = target
    for moment in ran.moments:
        if hit := re.search(r"Epoch: (\d+) Average", moment.line):
            output = folder / "score" / hit[1]
            found = scored(truth, output, latents=folder / f"z.{hit[1]}.pkl", n_images=0, n_maps=0)
            figures[f"{name}_epoch{hit[1]}"] = found[name]
            figures[f"cpu_seconds_epoch{hit[1]}"] = moment.cpu_seconds
            if found[name] >= enough:
                figures.setdefault("cpu_seconds_to_quality", moment.cpu_seconds)
    figures.update(scored(truth, folder / "maps", run=folder))
    return figures


def measure(name: str, program: str, given: argparse.Namespace, truth: Path) -> dict[str, float]:
    zdim = 8 if name in CLASSES else 1
    measured = "ari_state" if name in CLASSES else "spearman_motion"
    target = measured, QUALITY[measured]
    runs = []
    for seed in range(given.seeds):
        folder = truth / f"{program}_{seed}"
        if program == "cryodrgn":
            runs.append(cryodrgn(truth, folder, zdim, seed, given.peer_epochs, given.cryodrgn, target))
        elif program == "drgn":
            runs.append(drgn(truth, folder, zdim, seed, given.epochs, "subspace"))
        else:
            runs.append(drgn(truth, folder, zdim, seed, given.peer_epochs, "none"))
        print(
            name,
            program,
            seed,
            {key: round(runs[-1][key], 4) for key in SCORES if key in runs[-1]},
            flush=True,
        )
    kept: dict[str, float] = {"seeds": given.seeds}
    for key in runs[0]:
        values = [one[key] for one in runs if key in one]
        if key in SCORES or "epoch" in key or "seconds" in key:
            kept[key] = statistics.median(values)
            if len(values) > 1 and key in SCORES:
                kept[f"{key}_least"], kept[f"{key}_most"] = min(values), max(values)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--cryodrgn", type=Path, help="the program, in an environment of its own")
    parser.add_argument("--folder", type=Path, default=Path("outputs/scoreboard"))
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results.json"))
    parser.add_argument("--box", type=int, default=32)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1, help="of drgn after its warm start")
    parser.add_argument(
        "--peer-epochs", type=int, default=20, help="of cryoDRGN and of drgn without a warm start"
    )
    given = parser.parse_args()
    programs = [p for p in given.programs if p != "cryodrgn" or given.cryodrgn is not None]
    for name in given.sets:
        label = f"{name}_{given.box}_{given.images // 1000}k_snr{given.snr:g}".replace(".", "p")
        truth = simulated(name, given, given.folder / label)
        found = {"oracle": scored(truth, truth / "oracle", oracle=True)}
        found["oracle"] = {
            key.removeprefix("oracle_"): value
            for key, value in found["oracle"].items()
            if key.startswith("oracle_")
        }
        for program in programs:
            found[program] = measure(name, program, given, truth)
        _record(given.results, label, found)


def _record(path: Path, label: str, found: dict[str, dict[str, float]]) -> None:
    results = json.loads(path.read_text()) if path.exists() else {}
    for program, figures in found.items():
        results = {k: v for k, v in results.items() if not k.startswith(f"{label}.{program}.")}
        results.update({f"{label}.{program}.{k}": round(v, 5) for k, v in figures.items()})
    ours, theirs = (f"{label}.{program}" for program in ("drgn", "cryodrgn"))
    if f"{ours}.cpu_seconds" in results and f"{theirs}.cpu_seconds" in results:
        reached = f"{theirs}.cpu_seconds_to_quality"
        name = "time_to_quality" if reached in results else "time_to_quality_at_least"
        for stale in ("time_to_quality", "time_to_quality_at_least"):
            results.pop(f"{label}.ratio.{stale}", None)
        theirs_s = results.get(reached, results[f"{theirs}.cpu_seconds"])
        results[f"{label}.ratio.{name}"] = round(theirs_s / results[f"{ours}.cpu_seconds"], 2)
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    _draw(results, path.with_suffix(".png"))


def _draw(results: dict[str, float], path: Path) -> None:
    """Draw quality against CPU time, a panel for each set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = sorted({key.split(".")[0] for key in results})
    columns = min(4, len(labels))
    rows = -(-len(labels) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(3.4 * columns, 3 * rows), squeeze=False)
    longest = max(value for key, value in results.items() if key.endswith("cpu_seconds"))
    for panel in panels.flat[len(labels) :]:
        panel.axis("off")
    for label, panel in zip(labels, panels.flat, strict=False):
        name = "ari_state" if f"{label}.oracle.ari_state" in results else "spearman_motion"
        panel.axhline(results.get(f"{label}.oracle.{name}", 1), color="0.6", ls="--", label="ceiling")
        for program, colour in zip(PROGRAMS, ("#0072b2", "#56b4e9", "#d55e00"), strict=True):
            at = f"{label}.{program}"
            epochs = sorted(
                int(hit[1]) for key in results if (hit := re.fullmatch(rf"{at}\.{name}_epoch(\d+)", key))
            )
            points = [
                (results[f"{at}.cpu_seconds_epoch{n}"], results[f"{at}.{name}_epoch{n}"]) for n in epochs
            ]
            if not points and f"{at}.{name}" in results:
                points = [(results[f"{at}.cpu_seconds"], results[f"{at}.{name}"])]
            if points:
                panel.plot(
                    *zip(*points, strict=True),
                    "o-",
                    color=colour,
                    ms=5 if len(points) == 1 else 3,
                    label=program,
                )
        panel.set(xscale="log", xlabel="CPU-s", xlim=(20, 1.5 * longest), ylim=(-0.03, 1.03))
        panel.set_title(label, fontsize=10)
    for row in panels:
        row[0].set_ylabel("|Spearman| or ARI")
    panels[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
