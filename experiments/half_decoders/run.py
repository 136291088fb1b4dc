"""Half maps of two decoders against the truth, and on images without any signal; write results.json.

    drgn simulate set=uniform_small n_particles=6000 output=uniform_small
    python experiments/half_decoders/run.py truth --set uniform_small --zdim 1 --folder work
    drgn simulate n_particles=2000 box_size=32 pixel_size_A=6 output=toy
    python experiments/half_decoders/run.py noise --set toy --zdim 2 --folder work --draws 4
    python experiments/half_decoders/run.py picture --folder work

truth: at 20 latents the FSC F of the half maps, the correlation with the truth that follows from it,
sqrt(2 F / (1 + F)), and that of the mean of the half maps with the true map; masks are made of the true map.
"centre": the particle nearest to the mean latent of all particles of one true map; "image": particles evenly
spread over the order of the true states, each at its own latent. noise: the same poses and CTF, the images
replaced by white noise; the FSC of the half maps at 20 latents drawn from the
prior, without a mask, for three ways to train and several draws. picture: of all that is in the folder.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import mrcfile
import numpy as np
import torch
from torch import Tensor

from drgn.analysis.clusters import on_data_mean
from drgn.analysis.metrics import truth_scores
from drgn.physics import fourier
from drgn.physics.fsc import correlations, fsc, resolution_A
from drgn.physics.grids import radii, shells
from drgn.physics.masks import soft_mask
from drgn.physics.sharpening import figure_of_merit
from drgn.run import Run
from drgn.scoring.truth import Truth

STATES = 20
WAYS = {
    "subspace": ["warmstart=subspace", "model=256x3"],
    "linear": ["model=linear"],
    "random start with one encoder": ["warmstart=none", "model=256x3"],
}


def train(
    star: Path, folder: Path, output: Path, words: list[str], epochs: int, zdim: int, seed: int
) -> float:
    """Train with two halves; the seconds that it took."""
    started = time.perf_counter()
    options = ["dataset=custom", f"dataset.particles={star}", "dataset.preflight=false", "half_sets=random"]
    options += [
        f"latent.zdim={zdim}" if zdim else "latent=none",
        "trainer=cpu",
        "trainer.precision=bf16-mixed",
    ]
    options += [f"dataset.cache={folder / 'prepared'}", "logger=none"]
    options += [f"epochs={epochs}", "analyze=false", f"seed={seed}", f"output={output}", *words]
    subprocess.run([sys.executable, "-m", "drgn.train", *options], check=True)
    return time.perf_counter() - started


def truth(sim: Path, folder: Path, zdim: int, epochs: int) -> dict[str, float]:
    """Curves of 20 states into an npz; numbers."""
    output = folder / sim.name
    figures = {}
    if not (output / "latents.npz").is_file():
        figures["seconds"] = train(sim / "particles.star", folder, output, WAYS["subspace"], epochs, zdim, 0)
    run, known = Run.open(output), Truth(sim)
    files = known.map_of_row
    assert files is not None
    order = known.order(np.arange(len(files)))
    z = run.latents().z
    n = STATES if zdim else 1
    images = order[((np.arange(n) + 0.5) * len(order) / n).astype(int)]
    names = list(known.maps["file"])
    chosen = np.unique(np.linspace(0, len(names) - 1, STATES).round().astype(int))
    members = [np.flatnonzero(files == names[i]) for i in chosen]
    centres = [
        rows[0] if not zdim else rows[on_data_mean(z[rows], np.zeros(len(rows), np.int64))[0]]
        for rows in members
    ]
    inside = slice(1, run.box_size // 2)
    kept: dict[str, np.ndarray] = {}
    for kind, rows in (("image", images), ("centre", np.array(centres))):
        found = []
        for row, (one, two) in zip(rows, run.half_volumes(z[rows]), strict=True):
            right = known.read_map(files[row], run.box_size)
            mask = soft_mask(right, run.pixel_size_A)
            both = [correlations(*pair, mask, mask) for pair in ((one, two), ((one + two) / 2, right))]
            found.append(torch.stack([curve for c in both for curve in (c.unmasked, c.masked, c.corrected)]))
        curves = torch.stack(found)  # (states, 6, shells)
        kept[kind] = curves.numpy()
        for column, name in enumerate(("no_mask", "masked", "corrected")):
            right_column = column + 3
            expected = figure_of_merit(curves[:, column])[:, inside]
            true = curves[:, right_column][:, inside]
            resolved = true > 0.5
            figures |= {
                f"{kind}.{name}.expected": float(expected.mean()),
                f"{kind}.{name}.true": float(true.mean()),
                f"{kind}.{name}.mean_absolute_difference": float((expected - true).abs().mean()),
                f"{kind}.{name}.mean_absolute_difference_resolved": float(
                    (expected - true)[resolved].abs().mean()
                ),
                f"{kind}.{name}.mean_difference_resolved": float((expected - true)[resolved].mean()),
            }
            for half, threshold in ((column, 0.143), (right_column, 0.5)):
                resolutions = [
                    resolution_A(curve, run.pixel_size_A, threshold, box_size=run.box_size)
                    for curve in curves[:, half]
                ]
                which = "halves_0.143" if half == column else "true_0.5"
                figures[f"{kind}.{name}.{which}_A"] = float(np.mean(resolutions))
        figures[f"{kind}.states"] = float(len(rows))
    half = run.datamodule.dataset.half
    assert half is not None
    for number in (0, 1) if zdim else ():
        mine = np.flatnonzero(half.numpy() == number)
        scores = truth_scores(z[mine], known.table.reset_index(drop=True).iloc[mine], 0, None)
        figures |= {f"half_{number + 1}.{name}": value for name, value in scores.items()}
    figures["images"] = float(len(files))
    np.savez(folder / f"truth_{sim.name}.npz", **kept, pixel_size_A=run.pixel_size_A)
    return {f"truth.{sim.name}.{name}": value for name, value in figures.items()}


def noise_of(sim: Path, folder: Path, draw: int) -> Path:
    """The star file of a set whose images are white noise."""
    made = folder / f"noise_{sim.name}_{draw}"
    if not made.is_dir():
        made.mkdir(parents=True)
        shutil.copy(sim / "particles.star", made)
        shutil.copy(sim / "particles.mrcs", made)
        rng = np.random.default_rng(draw)
        with mrcfile.mmap(made / "particles.mrcs", mode="r+") as file:
            for image in file.data:
                image[:] = rng.standard_normal(image.shape, np.float32)
    return made / "particles.star"


def independent(volume: Tensor) -> float:
    """Share of a map's voxels that are independent, where noise has an envelope: (sum p)^2 / n sum p^2."""
    size = volume.shape[-1]
    near = torch.exp(-((radii(size, 3) / 4) ** 2))
    power = fourier.ifft(fourier.fft(volume**2, 3) * near, 3).real.clamp_min(0)
    return float(power.sum() ** 2 / power.square().sum() / size**3)


def noise(sim: Path, folder: Path, zdim: int, epochs: int, draws: int) -> dict[str, float]:
    """Curves at 20 latents of the prior for each way and draw into an npz; numbers."""
    found: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
    share: dict[str, list[float]] = {way: [] for way in WAYS}
    figures = {}
    for way, words in WAYS.items():
        for draw in range(draws if way in ("subspace", "linear") else min(draws, 2)):
            output = folder / f"noise_{sim.name}_{draw}_{way.split()[0]}"
            if not (output / "latents.npz").is_file():
                star = noise_of(sim, folder, draw)
                figures[f"{way}.seconds"] = train(star, folder, output, words, epochs, zdim, draw)
            run = Run.open(output)
            z = np.random.default_rng(0).standard_normal((STATES, zdim)).astype(np.float32)
            maps = list(run.half_volumes(z[z[:, 0].argsort()]))
            curves = [fsc(one, two) for one, two in maps]
            # what changes with the latent: the map at one end less that at the other
            curves.append(fsc(maps[-1][0] - maps[0][0], maps[-1][1] - maps[0][1]))
            found[way].append(torch.stack(curves).numpy())
            share[way] += [independent(half) for half in maps[STATES // 2]]
        size = run.box_size
        shell = shells(size, 3).flatten()
        voxels = torch.bincount(shell)[: size // 2].numpy()
        every = np.array(found[way])[..., : size // 2]  # (draws, 21, shells)
        scatter = 1 / np.sqrt(voxels * np.mean(share[way]))
        for name, values in (("map", every[:, :STATES]), ("difference", every[:, STATES:])):
            far = values[..., 9:]
            worst = np.unravel_index(np.abs(far).argmax(), far.shape)
            mean = values.mean(1)  # maps of one draw are not independent of each other
            figures |= {
                f"{way}.{name}.largest": float(far[worst]),
                f"{way}.{name}.largest_shell": float(worst[-1] + 9),
                f"{way}.{name}.largest_in_scatter": float(np.abs(far / scatter[9:]).max()),
                f"{way}.{name}.mean_below_9": float(values[..., 1:9].mean()),
                f"{way}.{name}.mean_from_9": float(far.mean()),
                f"{way}.{name}.mean_from_9_in_its_scatter": float(
                    (mean[:, 9:] / scatter[9:]).mean() * np.sqrt(mean[:, 9:].size)
                ),
                f"{way}.{name}.rms_from_9_in_scatter": float(np.sqrt(np.mean((far / scatter[9:]) ** 2))),
            }
        figures[f"{way}.independent_voxels"] = float(np.mean(share[way]))
        np.savez(folder / f"noise_{sim.name}_{way.split()[0]}.npz", curves=every, scatter=scatter, way=way)
    return {f"noise.{sim.name}.{name}": value for name, value in figures.items()}


def picture(folder: Path, path: Path) -> None:
    """Expected and true correlation of 20 states of each set, and the FSC of noise for each way to train."""
    truths, noises = sorted(folder.glob("truth_*.npz")), sorted(folder.glob("noise_*.npz"))
    columns = max(len(truths), len(noises))
    figure, axes = plt.subplots(3, columns, figsize=(4.2 * columns, 11), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_visible(False)
    for i, file in enumerate(truths):
        with np.load(file) as kept:
            curves, pixel_size_A = torch.from_numpy(kept["centre"]), float(kept["pixel_size_A"])
            if len(curves) < STATES:
                curves = torch.from_numpy(kept["image"])
        n = curves.shape[-1] - 1
        frequency = np.arange(n) / (2 * n * pixel_size_A)
        for axis, (half, right, how) in zip(
            axes[:2, i], ((0, 3, "no mask"), (2, 5, "masked, corrected")), strict=True
        ):
            expected, true = figure_of_merit(curves[:, half]).numpy(), curves[:, right].numpy()
            for k in range(len(curves)):
                named = k == 0
                axis.plot(
                    frequency, expected[k, :n], "C0", lw=0.7, label="by the half maps" if named else None
                )
                axis.plot(frequency, true[k, :n], "C1", lw=0.7, label="with the truth" if named else None)
            axis.legend()
            title = f"{file.stem.removeprefix('truth_')}, {how}"
            axis.set(title=title, xlabel="1/A", ylabel="correlation", ylim=(-0.1, 1.02))
            axis.set_visible(True)
    for axis, file in zip(axes[2], noises, strict=False):
        with np.load(file) as kept:
            curves, scatter, way = kept["curves"], kept["scatter"], str(kept["way"])
        shell = np.arange(curves.shape[-1])
        axis.fill_between(shell[1:], -2 * scatter[1:], 2 * scatter[1:], color="0.85", label="2 sd of chance")
        for draw in range(len(curves)):
            axis.plot(shell[1:], curves[draw, :-1, 1:].T, "C0", lw=0.4)
            axis.plot(shell[1:], curves[draw, -1, 1:], "C3", lw=1)
        axis.plot([], [], "C0", label="20 latents")
        axis.plot([], [], "C3", label="difference of the ends")
        axis.set(title=f"noise: {way}", xlabel="shell", ylabel="FSC of the half maps", ylim=(-0.5, 1))
        axis.legend()
        axis.set_visible(True)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["truth", "noise", "picture"])
    parser.add_argument("--set", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent)
    parser.add_argument("--zdim", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--draws", type=int, default=4)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.results / "results.json"
    if given.part == "picture":
        picture(given.folder, given.results / "half_decoders.png")
        return
    if given.part == "truth":
        found = truth(given.set, given.folder, given.zdim, given.epochs)
    else:
        found = noise(given.set, given.folder, given.zdim, given.epochs, given.draws)
    results = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**results, **found}, indent=1, sort_keys=True) + "\n")
    for key, value in sorted(found.items()):
        print(f"{key} {value:.4g}")


if __name__ == "__main__":
    main()
