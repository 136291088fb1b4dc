"""Back-projection beside cryoDRGN and RELION, time and FSC with the truth; write results.json.

    python experiments/evidence/run.py --cryodrgn /path/to/cryodrgn --folder work

At each box the set `uniform` is simulated, where it is not there (real defocus, SNR 0.1, its arm turns over
50 maps; at box 256, 10). The three programs run in turn, one thread each, and their maps are compared with
the mean of the true maps as often as each occurs, shell by shell, without a mask and in the loose mask
(P23) of that mean. Of drgn it is the mean of the unfiltered half maps, as the other two do not filter: in a
mask, shells that a filter has emptied are filled from others. cryoDRGN's map is taken times the sign of its
correlation with the truth.
"""

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path

import pandas as pd
import torch

from drgn.benchmark.programs import run
from drgn.command import compose
from drgn.formats.cryodrgn import write_cryodrgn
from drgn.formats.mrc import read_volume
from drgn.formats.particles import Particles
from drgn.physics.fsc import fsc
from drgn.physics.masks import soft_mask
from drgn.simulate import simulate

SIZES = {64: (10_000, 50), 128: (5_000, 50), 256: (2_000, 10)}  # images, maps along the motion
FIELD_A = 384.0


def read(path: Path) -> torch.Tensor:
    return torch.from_numpy(read_volume(path)[0].copy()).double()


def mean_truth(folder: Path) -> torch.Tensor:
    counts = pd.read_csv(folder / "truth.csv")["map"].value_counts()
    return sum(n * read(folder / "maps" / str(name)) for name, n in counts.items()) / counts.sum()  # type: ignore[return-value]


def compare(files: list[Path], truth: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    made = sum((read(file) for file in files), torch.zeros_like(truth)) / len(files)
    made = made * torch.sign((made * truth).sum())
    plain, masked = fsc(made, truth), fsc(made * mask, truth * mask)
    inside = slice(1, len(plain) - 1)
    return {"fsc_mean": float(plain[inside].mean()), "fsc_mean_masked": float(masked[inside].mean())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cryodrgn", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("outputs/evidence"))
    parser.add_argument("--boxes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    path = Path(__file__).with_name("results.json")
    results = json.loads(path.read_text()) if path.exists() else {}
    for box in given.boxes:
        pixel_A, folder = FIELD_A / box, given.folder / f"box{box}"
        images, maps = SIZES[box]
        options = ["set=uniform", f"n_particles={images}", f"box_size={box}", f"pixel_size_A={pixel_A}"]
        options += [f"molecule.n_maps={maps}"]
        star = folder / "particles.star"
        if not star.exists():
            simulate(**{**compose("simulate", [*options, f"shift_px={5 * box / 64}"]), "output": folder})
        particles = Particles.from_file(star)
        write_cryodrgn(folder / "cryodrgn", particles.table, particles.rotation)
        truth = mean_truth(folder)
        mask = soft_mask(truth, pixel_A).double()
        ours, theirs = folder / "ours", folder / "theirs"
        poses, ctf = folder / "cryodrgn/poses.pkl", folder / "cryodrgn/ctf.pkl"
        other: list[str | Path] = ["--poses", poses, "--ctf", ctf, "--uninvert-data"]
        halves = [ours / f"half_map_{number}.mrc" for number in (1, 2)]
        data = ["dataset=custom", f"dataset.particles={star}", "dataset.preflight=false"]
        data += [f"dataset.cache={folder / 'prepared'}"]
        commands: dict[str, tuple[list[str | Path], list[Path]]] = {
            "drgn": ([sys.executable, "-m", "drgn.backproject", *data, f"output={ours}"], halves),
            "cryodrgn": (
                [given.cryodrgn, "backproject_voxel", folder / "particles.mrcs", *other, "-o", theirs],
                [theirs / "backproject.mrc"],
            ),
            "relion": (
                ["bash", "-c", f"cd {folder} && relion_reconstruct --i particles.star --o relion.mrc --ctf"],
                [folder / "relion.mrc"],
            ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(given.repeats):
            for old in (ours, theirs, folder / "prepared"):
                shutil.rmtree(old, ignore_errors=True)
            theirs.mkdir()
            for name, (command, _) in commands.items():
                ran = run(command, threads=1)
                seconds[name].append(ran.seconds)
                cpu_seconds[name].append(ran.cpu_seconds)
        for name, (_, made) in commands.items():
            at = f"box{box}.{name}"
            results[f"{at}.seconds"] = round(statistics.median(seconds[name]), 2)
            results[f"{at}.seconds_least"] = round(min(seconds[name]), 2)
            results[f"{at}.seconds_most"] = round(max(seconds[name]), 2)
            results[f"{at}.cpu_seconds"] = round(statistics.median(cpu_seconds[name]), 2)
            results.update({f"{at}.{k}": round(v, 4) for k, v in compare(made, truth, mask).items()})
        for name in ("cryodrgn", "relion"):
            ratio = results[f"box{box}.{name}.seconds"] / results[f"box{box}.drgn.seconds"]
            results[f"box{box}.ratio.{name}_time"] = round(ratio, 2)
            ratio = results[f"box{box}.{name}.cpu_seconds"] / results[f"box{box}.drgn.cpu_seconds"]
            results[f"box{box}.ratio.{name}_cpu_time"] = round(ratio, 2)
        path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        for key, value in sorted(results.items()):
            if key.startswith(f"box{box}."):
                print(f"{key} {value:.4g}", flush=True)


if __name__ == "__main__":
    main()
