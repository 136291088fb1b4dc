"""A wrong contrast that goes with the defocus: does it get into z, and does the penalty keep it out?

    drgn simulate n_particles=3000 box_size=32 pixel_size_A=6 snr=0.3 output=toy
    python experiments/nuisance/run.py toy work

Writes toy/leak.star, whose rlnCtfScalefactor rises with the defocus from 0.5 to 1.5 though the images were
made with 1, trains on both files, on leak.star with nuisance=independent too, audits, and writes
work/results.json.
"""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

from drgn.analysis.metrics import truth_scores
from drgn.analysis.nuisance_report import nuisance_section
from drgn.run import Run

RUNS = {
    "toy.plain": ("particles", []),
    "leak.plain": ("leak", []),
    "leak.independent": ("leak", ["nuisance=independent"]),
}
OPTIONS = [
    "dataset=custom",
    "dataset.preflight=false",
    "latent.zdim=4",
    "model=128x3",
    "epochs=1",
    "trainer=cpu",
]
OPTIONS += ["trainer.precision=32-true", "analyze=false", "logger=none"]


def write_leak(star: Path) -> Path:
    """Add the column as the last one of the particles."""
    lines = star.read_text().splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("_rln"))
    start = next(i for i, line in enumerate(lines) if line == "data_particles")
    names = [line.split()[0] for line in lines[start : last + 1] if line.startswith("_rln")]
    u, v = names.index("_rlnDefocusU"), names.index("_rlnDefocusV")
    rows = [line for line in lines[last + 1 :] if line.strip()]
    defocus = pd.Series([(float(row.split()[u]) + float(row.split()[v])) / 2 for row in rows])
    scale = 0.5 + (defocus - defocus.min()) / (defocus.max() - defocus.min())
    path = star.with_name("leak.star")
    head = [*lines[: last + 1], f"_rlnCtfScalefactor #{len(names) + 1}"]
    path.write_text("\n".join([*head, *(f"{r}\t{s:.6f}" for r, s in zip(rows, scale, strict=True))]) + "\n")
    return path


def main() -> None:
    toy, work = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    work.mkdir(parents=True, exist_ok=True)
    write_leak(toy / "particles.star")
    results: dict[str, float] = {}
    for name, (star, words) in RUNS.items():
        output = work / name
        given = [
            f"dataset.particles={toy / star}.star",
            f"dataset.cache={work / 'prepared'}",
            f"output={output}",
        ]
        subprocess.run([sys.executable, "-m", "drgn.train", *OPTIONS, *given, *words], check=True)
        run = Run.open(output)
        nuisance_section(run, run.folder("analysis"), 0)
        table = pd.read_csv(output / "analysis" / "nuisance.csv").set_index("variable")
        results |= {f"{name}.share_{v}": round(float(x), 4) for v, x in table["share"].items()}
        results |= {f"{name}.noise_{v}": round(float(x), 4) for v, x in table["noise"].items()}
        truth = run.truth()
        assert truth is not None
        z = run.latents().z
        results |= {f"{name}.{key}": round(value, 4) for key, value in truth_scores(z, truth, 0).items()}
        results[f"{name}.heldout_loss"] = round(float(run.info["best_loss"]), 5)
        results[f"{name}.least_std_z"] = round(float(z.std(0).min()), 3)
    (work / "results.json").write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
