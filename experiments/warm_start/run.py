"""Does the subspace start hide what the network would have found? Write results.json.

    DRGN_DATA=/path/to/data python experiments/warm_start/run.py --folder work
    ... --sets rare_1pc --programs default none_20_epochs

Sets that a few linear modes represent badly, in box 32: a state of 1 % of the particles (a 70S ribosome
without the head of its small subunit), nine states (a ribosome that lacks parts), a large motion (a Fab of an
antibody turns once about its hinge). Each is trained as the program does by default, with more epochs after
the start, with too few modes, and with no warm start at all.
The truth is looked at when a run is done.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import pandas as pd

from drgn.benchmark.programs import run
from drgn.command import compose
from drgn.run import Run
from drgn.score import score
from drgn.simulate import simulate

SETS = {
    "rare_1pc": ["set=ribosome_parts", "molecule.population.shares=[0.99,0.01,0,0,0,0,0,0,0]"],
    "nine_states": ["set=ribosome_parts"],
    "full_turn": ["set=igg"],
}
FIELD_A = {"rare_1pc": 400.0, "nine_states": 400.0, "full_turn": 256.0}
PROGRAMS = {
    "default": ["epochs=1"],
    "default_5_epochs": ["epochs=5"],
    "two_modes": ["epochs=1", "warmstart.modes=2"],
    "two_modes_5_epochs": ["epochs=5", "warmstart.modes=2"],
    "none_20_epochs": ["warmstart=none", "epochs=20"],
    "none_40_epochs": ["warmstart=none", "epochs=40"],
}
KEPT = ("imbalance_latent_to_truth", "neighbourhood_similarity", "ari_state", "fsc_auc_mean")
RARE = "70S_no_head"
NEIGHBOURS = 20


def rare_precision(folder: Path, truth: Path) -> float:
    """Average precision of the share of a particle's nearest latents that are of the rare state."""
    from sklearn.metrics import average_precision_score
    from sklearn.neighbors import NearestNeighbors

    z = Run.open(folder).latents().z
    states = pd.read_csv(truth / "truth.csv")
    rare = (states["map"].astype(str).str.contains(RARE)).to_numpy()
    near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(z).kneighbors(return_distance=False)
    return float(average_precision_score(rare, rare[near].mean(1)))


def trained(truth: Path, folder: Path, options: list[str]) -> dict[str, float]:
    shutil.rmtree(folder, ignore_errors=True)
    common = ["dataset=custom", f"dataset.particles={truth / 'particles.star'}", "dataset.preflight=false"]
    common += [f"dataset.cache={truth / 'prepared'}", "model=256x3", "latent.zdim=8", "trainer=cpu"]
    ran = run(
        [sys.executable, "-m", "drgn.train", *common, *options, "analyze=false", f"output={folder}"],
        threads=1,
    )
    found = score(**{**compose("score"), "run": folder, "truth": truth, "output": folder / "score"})
    figures = {key: found[key] for key in KEPT if key in found}
    return {
        "cpu_seconds": ran.cpu_seconds,
        "heldout_loss": float(Run.open(folder).info["best_loss"]),
        **figures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("outputs/warm_start"))
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results.json"))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--images", type=int, default=5000)
    given = parser.parse_args()
    for name in given.sets:
        truth = given.folder / name
        options = [
            f"n_particles={given.images}",
            "box_size=32",
            "shift_px=2.5",
            f"pixel_size_A={FIELD_A[name] / 32}",
        ]
        simulate(**{**compose("simulate", [*SETS[name], *options]), "output": truth})
        for program in given.programs:
            figures = trained(truth, truth / program, PROGRAMS[program])
            if name == "rare_1pc":
                figures["rare_precision"] = rare_precision(truth / program, truth)
            print(name, program, figures, flush=True)
            results = json.loads(given.results.read_text()) if given.results.exists() else {}
            results.update({f"{name}.{program}.{key}": round(value, 5) for key, value in figures.items()})
            given.results.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
