"""One structure: decoders of several sizes beside voxel back-projection of the same images.

    export DRGN_DATA=data
    python experiments/homogeneous/run.py --box 64 --images 10000 --models 256x3 512x3 1024x3
    python experiments/homogeneous/run.py --box 128 --images 2500 --models 256x3 512x3 1024x3

The set homogeneous (a 70S ribosome, SNR 0.1, defocus of EMPIAR-10028) in a field of 384 A. Each map is
compared with the true one shell by shell: where the FSC falls below 0.5, without a mask and in a soft mask of
the true map. `drgn`: the default, one epoch after the warm start; `none`: warmstart=none, so many epochs.
`backproject`: map.mrc of `drgn backproject`, Wiener-filtered by its half maps. The truth is looked at in the
end. After each map writes results.json, where other figures stay, and a picture of the curves.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from drgn.benchmark.programs import run
from drgn.command import compose
from drgn.formats.mrc import read_volume
from drgn.physics.fsc import fsc, resolution_A
from drgn.physics.masks import soft_mask
from drgn.run import Run
from drgn.simulate import simulate

FIELD_A = 384.0
HERE = Path(__file__).parent


def simulated(box: int, images: int, folder: Path) -> Path:
    """Make the set where it is not there yet."""
    if not (folder / "simulation.json").is_file():
        options = ["set=homogeneous_small", f"n_particles={images}", f"box_size={box}"]
        options += [f"pixel_size_A={FIELD_A / box}", f"shift_px={5 * box / 64}"]
        simulate(**{**compose("simulate", options), "output": folder})
    return folder


def verb(name: str, truth: Path, output: Path, *options: str) -> dict[str, float]:
    """Run a verb on the set with one thread; its seconds."""
    shutil.rmtree(output, ignore_errors=True)
    words = ["dataset=custom", f"dataset.particles={truth / 'particles.star'}", "dataset.preflight=false"]
    words += [f"dataset.cache={truth / 'prepared'}", f"output={output}", *options]
    ran = run([sys.executable, "-m", f"drgn.{name}", *words], threads=1)
    return {"seconds": ran.seconds, "cpu_seconds": ran.cpu_seconds}


def compared(
    volume: torch.Tensor, true: torch.Tensor, pixel_size_A: float
) -> tuple[dict[str, float], list[float]]:
    """Where the FSC with the truth falls below 0.5, and the curve without a mask."""
    figures, curves = {}, []
    for name, mask in (("unmasked", None), ("masked", soft_mask(true, pixel_size_A))):
        curve = fsc(volume, true, mask)
        at = resolution_A(curve, pixel_size_A, 0.5)
        figures[f"fsc05_{name}_A"] = at
        figures[f"fsc05_{name}_shell"] = len(true) * pixel_size_A / at
        figures[f"fsc_{name}_mean"] = float(curve[1:].mean())
        curves.append(curve.tolist())
    return figures, curves[0]


def drawn(curves: dict[str, list[float]], label: str, path: Path) -> None:
    """Draw the FSC of each map with the truth."""
    figure, axes = plt.subplots(figsize=(6, 4))
    for name, curve in curves.items():
        wide = name == "backproject"
        axes.plot(curve, label=name, lw=3 if wide else 1.3, color="0.6" if wide else None)
    axes.axhline(0.5, color="0.8", lw=0.8)
    shells = f"shell of {len(next(iter(curves.values()))) - 1}"
    axes.set(xlabel=shells, ylabel="FSC with the true map, no mask", ylim=(-0.02, 1.02), title=label)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--models", nargs="+", default=["128x3", "256x3", "512x3", "1024x3"])
    parser.add_argument("--none-epochs", type=int, default=0, help="of warmstart=none; 0 leaves it out")
    parser.add_argument("--folder", type=Path, default=Path("outputs/homogeneous"))
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    given = parser.parse_args()
    label = f"homogeneous_{given.box}_{given.images}"
    truth = simulated(given.box, given.images, given.folder / label)
    (path,) = (truth / "maps").glob("*.mrc")
    true, pixel_size_A = torch.from_numpy(read_volume(path)[0].copy()), FIELD_A / given.box
    curves: dict[str, list[float]] = {}

    def keep(name: str, volume: torch.Tensor, spent: dict[str, float]) -> None:
        figures, curves[name] = compared(volume, true, pixel_size_A)
        figures |= spent
        results = json.loads(given.results.read_text()) if given.results.exists() else {}
        results.update({f"{label}.{name}.{key}": round(v, 4) for key, v in figures.items()})
        given.results.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        drawn(curves, label, given.results.with_name(f"{label}.png"))
        print(label, name, {key: round(value, 3) for key, value in figures.items()}, flush=True)

    spent = verb("backproject", truth, truth / "backproject")
    keep("backproject", torch.from_numpy(read_volume(truth / "backproject" / "map.mrc")[0].copy()), spent)
    ways = {"drgn": ("subspace", 1), **({"none": ("none", given.none_epochs)} if given.none_epochs else {})}
    for model in given.models:
        for way, (start, epochs) in ways.items():
            output = truth / f"{way}_{model}"
            options = [f"model={model}", "latent=none", f"warmstart={start}", f"epochs={epochs}"]
            spent = verb("train", truth, output, *options, "trainer=cpu", "analyze=false", "seed=0")
            (volume,) = Run.open(output).volumes(np.zeros((1, 0)))
            keep(f"{way}_{model}", torch.from_numpy(volume), spent)


if __name__ == "__main__":
    main()
