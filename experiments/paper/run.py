"""The paper's simulated experiments at the scale of two cores (P33-P36): latents, FSC of images, maps.

    python experiments/scoreboard/run.py --programs drgn --box 64 --images 10000 --folder F
    python experiments/paper/run.py --folder F --box 64 --images 10000 --seed 0
    python experiments/paper/run.py --folder G --box 32 --images 5000 --seed 0 --replicates 3

Looks at what the scoreboard keeps in its folder: simulated sets, runs of drgn and their scores. A row of the
picture is a set: its latents beside the truth, the FSC of 100 images with their true maps, and maps at three
latents (at the 10th, 50th and 90th percentile of the particles; of compositional at the centres of k-means,
k = 3) above the true maps of the particles there. The truth is looked at in the end; nothing is chosen by it.
`--replicates N`: agreement of as many seeds by `drgn compare` (P22), mixtures of three.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from drgn.analysis.clusters import kmeans
from drgn.analysis.render import VIEWS, Frame, isosurface, isosurface_level
from drgn.command import compose
from drgn.compare import compare
from drgn.formats.mrc import read_volume
from drgn.run import Run

SETS = ("uniform", "cooperative", "noncontiguous", "compositional")
FOUND, TRUE = (0.27, 0.53, 0.75), (0.65, 0.65, 0.65)


def row(axes: np.ndarray, name: str, truth: Path, folder: Path) -> None:
    """Draw a set."""
    run = Run.open(folder)
    z, known = run.latents().z, run.truth()
    state = known.iloc[:, 0].to_numpy()
    latents, curves, *maps = axes
    if z.shape[1] == 1:
        latents.plot(state, z[:, 0], ".", ms=1, alpha=0.3, color=FOUND)
        latents.set(xlabel="true coordinate", ylabel="latent", title=name)
        order = np.argsort(z[:, 0])
        chosen = order[(np.array([0.1, 0.5, 0.9]) * len(order)).astype(int)]
    else:
        centred = z - z.mean(0)
        shown = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        for value, colour in zip(np.unique(state), ("#d55e00", "#009e73", "#0072b2"), strict=True):
            of = known["map"].to_numpy()[state == value][0].removesuffix(".mrc")
            latents.plot(*shown[state == value].T, ".", ms=1, alpha=0.3, color=colour, label=of)
        latents.legend(markerscale=8, fontsize=8, loc="best")
        latents.set(xlabel="PC1", ylabel="PC2", title=name)
        chosen = kmeans(z, 3, seed=0).on_data_rows
        latents.plot(*shown[chosen].T, "o", mfc="white", mec="black", ms=5)
    table = pd.read_csv(folder / "score" / "fsc_curves.csv")
    table = table[(table["use"] == "image") & (table["mask"] == "unmasked")].iloc[:, 4:]
    at = table.columns.astype(float)
    curves.plot(at, table.T.to_numpy(), color=FOUND, lw=0.4, alpha=0.4)
    curves.plot(at, table.mean().to_numpy(), color="black", lw=1.5)
    curves.axhline(0.5, color="0.7", lw=0.8)
    scores = pd.read_csv(folder / "score" / "fsc.csv")
    area = scores[scores["use"] == "image"]["auc_unmasked"].mean()
    curves.set(xlabel="1/A", ylabel="FSC", ylim=(-0.05, 1.02), title=f"100 images, mean area {area:.3f}")
    volumes = list(run.volumes(z[chosen]))
    true = [read_volume(truth / "maps" / file)[0] for file in known["map"].to_numpy()[chosen]]
    frame = Frame.of(true, isosurface_level(true))
    for panel, pair in zip(maps, zip(volumes, true, strict=True), strict=True):
        view, levels = VIEWS["along y"], (isosurface_level(volumes), isosurface_level(true))
        parts = [
            isosurface(volume, level, colour, view, 220, frame)
            for volume, level, colour in zip(pair, levels, (FOUND, TRUE), strict=True)
        ]
        panel.imshow(np.concatenate(parts))
        panel.axis("off")
    maps[0].set_title("found, above the truth", loc="left")


def main() -> None:
    """Draw and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("outputs/scoreboard"))
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replicates", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results.json"))
    given = parser.parse_args()
    labels = {name: f"{name}_{given.box}_{given.images // 1000}k_snr0p1" for name in SETS}
    figure, axes = plt.subplots(
        len(SETS), 5, figsize=(14, 3.4 * len(SETS)), width_ratios=(1.4, 1.4, 1, 1, 1), layout="constrained"
    )
    for name, panels in zip(SETS, axes, strict=True):
        truth = given.folder / labels[name]
        row(panels, name, truth, truth / f"drgn_{given.seed}")
    figure.savefig(given.results.with_name(f"box{given.box}.png"), dpi=80)
    for name in SETS if given.replicates else ():
        truth = given.folder / labels[name]
        options = compose("compare", [])
        output = truth / "replicates"
        runs = [str(truth / f"drgn_{seed}") for seed in range(given.replicates)]
        compare(**{**options, "of": runs, "by": "gmm", "n": 3, "output": output})
        pairs = pd.read_csv(output / "pairs.csv")
        results = json.loads(given.results.read_text()) if given.results.exists() else {}
        results |= {
            f"{labels[name]}.drgn.replicates_{key}": round(float(value), 4)
            for key, value in pairs.select_dtypes("number").mean().items()
        }
        given.results.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        print(name, pairs.to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
