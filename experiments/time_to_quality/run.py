"""Time from the start of a command to a latent that orders the motion, beside cryoDRGN; write results.json.

    drgn simulate set=uniform_small output=sim
    python experiments/time_to_quality/run.py --set sim --cryodrgn /path/to/cryodrgn --folder work

Both programs run with one thread, the same images, decoder size and zdim 1. `drgn train` is timed as a whole
command: start-up, preparation, warm start, one epoch, latents of all images. cryoDRGN is asked after each of
its epochs (z.N.pkl), at the CPU time it had used when it said that the epoch was over. The truth is looked at
when both are done. --part keeps to one program; its figures are put together with those of the other that are
in results.json already.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

from drgn.benchmark.programs import run
from drgn.command import compose
from drgn.formats.cryodrgn import write_cryodrgn
from drgn.formats.particles import Particles
from drgn.score import score


def scored(sim: Path, output: Path, **options: object) -> dict[str, float]:
    return score(**{**compose("score"), "run": None, "truth": sim, "output": output, **options})  # type: ignore[arg-type]


def ours(sim: Path, folder: Path, epochs: int) -> dict[str, float]:
    output = folder / "drgn"
    for old in (output, folder / "prepared"):
        shutil.rmtree(old, ignore_errors=True)
    options = ["dataset=custom", f"dataset.particles={sim / 'particles.star'}", "dataset.preflight=false"]
    options += [f"dataset.cache={folder / 'prepared'}", "warmstart=subspace", "latent.zdim=1"]
    options += ["model=256x3", "trainer=cpu", f"epochs={epochs}", "analyze=false", f"output={output}"]
    ran = run([sys.executable, "-m", "drgn.train", *options], threads=1)
    found = scored(sim, output / "score", run=output)
    return {
        "seconds": ran.seconds,
        "cpu_seconds": ran.cpu_seconds,
        "epochs": epochs,
        "spearman": found["spearman_motion"],
        "fsc_auc": found["fsc_auc_mean"],
    }


def theirs(sim: Path, folder: Path, epochs: int, cryodrgn: Path) -> dict[str, float]:
    output = folder / "cryodrgn"
    shutil.rmtree(output, ignore_errors=True)
    particles = Particles.from_file(sim / "particles.star")
    write_cryodrgn(folder / "cryodrgn_input", particles.table, particles.rotation)
    command: list[str | Path] = [cryodrgn, "train_vae", sim / "particles.mrcs", "--uninvert-data"]
    command += ["--poses", folder / "cryodrgn_input/poses.pkl", "--ctf", folder / "cryodrgn_input/ctf.pkl"]
    command += ["--zdim", "1", "-o", output, "-n", str(epochs), "--seed", "0", "--no-analysis"]
    command += ["--enc-dim", "256", "--enc-layers", "3", "--dec-dim", "256", "--dec-layers", "3"]
    ran = run(command, threads=1)
    figures: dict[str, float] = {"seconds": ran.seconds, "cpu_seconds": ran.cpu_seconds, "epochs": epochs}
    for moment in ran.moments:
        if hit := re.search(r"Epoch: (\d+) Average", moment.line):
            n = hit[1]
            found = scored(sim, folder / "score", latents=output / f"z.{n}.pkl", n_images=0, n_maps=0)
            figures[f"epoch{n}.spearman"] = found["spearman_motion"]
            figures[f"epoch{n}.cpu_seconds"] = moment.cpu_seconds
    figures["spearman"] = figures[f"epoch{epochs}.spearman"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--cryodrgn", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--peer-epochs", type=int, default=20)
    parser.add_argument("--part", choices=["drgn", "cryodrgn", "both"], default="both")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    name, path = given.set.name, given.results / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    if given.part != "cryodrgn":
        found = ours(given.set, given.folder, given.epochs)
        results.update({f"{name}.drgn.{key}": value for key, value in found.items()})
    if given.part != "drgn" and given.cryodrgn is not None:
        found = theirs(given.set, given.folder, given.peer_epochs, given.cryodrgn)
        results.update({f"{name}.cryodrgn.{key}": value for key, value in found.items()})
    given.results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    for key, value in sorted(results.items()):
        print(f"{key} {value:.4g}")


if __name__ == "__main__":
    main()
