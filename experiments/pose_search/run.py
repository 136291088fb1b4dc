"""Find the poses of a set of `drgn simulate` from nothing; say how far off they and the map are.

    python run.py SET BOX SEED MAPS RESULT.json

SET is a folder with particles.star, whose poses are looked at in the end alone. MAPS 1:
the poses are refined and the map is made by back-projection of half of the images and of the other half.
More: the map that each image shows is compared with what it shows.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import adjusted_rand_score

from drgn.data.backprojection import reconstruct
from drgn.data.dataset import ParticleDataset
from drgn.data.prepared import prepare
from drgn.formats.mrc import read_cubic
from drgn.formats.particles import Particles
from drgn.models.modes import LinearModes
from drgn.models.poses import SearchedPose
from drgn.physics import fourier
from drgn.physics.fsc import fsc
from drgn.scoring.poses import aligned, pose_errors
from drgn.training import search
from drgn.training.refinement import Refinement
from drgn.training.warmstart import fit

folder, box, seed, maps, result = Path(sys.argv[1]), *(int(a) for a in sys.argv[2:5]), Path(sys.argv[5])
torch.set_num_threads(1)
torch.manual_seed(seed)
particles = Particles.from_file(folder / "particles.star")
n = len(particles)
stack = prepare(particles, box_size=box, window=True, cache=folder / f"prepared_{box}")
dataset = ParticleDataset(particles, stack, posed=False)
rows = np.arange(n)
training, heldout = rows[n // 20 :], rows[: n // 20]
began, wall = time.process_time(), time.time()
told: dict[str, float] = {"n": n, "box": box, "seed": seed, "maps": maps}


def errors(known: ParticleDataset):
    """Of the present poses."""
    shift_A = (known.shift_px * known.pixel_size_A[:, None]).numpy()
    true_shift_A = particles.table[["shift_x_A", "shift_y_A"]].to_numpy()
    return pose_errors(known.rotation.numpy(), shift_A, particles.rotation, true_shift_A)


def tell(step: str, known: ParticleDataset) -> None:
    """Keep the errors after a step."""
    found = errors(known)
    pixel_A = float(known.pixel_size_A[0]) * box / 64
    told[f"{step}.cpu_s"] = round(time.process_time() - began, 1)
    told[f"{step}.wall_s"] = round(time.time() - wall, 1)
    told[f"{step}.rotation_median_deg"] = float(np.median(found.rotation_deg))
    told[f"{step}.rotation_90_percent_deg"] = float(np.percentile(found.rotation_deg, 90))
    told[f"{step}.shift_median_px64"] = float(np.median(found.shift_A)) / pixel_A
    told[f"{step}.right_share"] = float((found.rotation_deg < 10).mean())
    print(step, {k: round(v, 3) for k, v in told.items() if k.startswith(step)}, flush=True)


numbers = []


class Told(search.Search):
    """Keeps which map each image shows."""

    def poses(self, *known, **more):
        found = super().poses(*known, **more)
        numbers.append(found.number.numpy())
        return found


search.Search = Told
pose = SearchedPose(n_particles=n, maps=maps, restarts=1)
with torch.no_grad():
    known = search.find(pose, dataset, training, heldout, seed, lambda what, done, all_: None)
    tell("search", known)
    truth = pd.read_csv(folder / "truth.csv")
    if maps > 1:
        told["ari"] = float(adjusted_rand_score(truth["map"], numbers[-1]))
        print(pd.crosstab(truth["map"], numbers[-1]), told["ari"], flush=True)
    if maps == 1:
        refinement = Refinement(pose, known)
        mean = LinearModes(box_size=box, zdim=0, radius_px=32)
        fit(mean, known, training, beta=1.0, seed=seed, poses=refinement)
        known = refinement.dataset
        tell("refined", known)
        made = reconstruct(known, (rows[::2], rows[1::2]), np.eye(3)[None], 2, lambda what: None)
        true = torch.from_numpy(read_cubic(next((folder / "maps").glob("*.mrc")))[0])
        found = aligned(made.density, errors(known), stack.meta.pixel_size_A)
        curve = fsc(found, fourier.downsample(true, box, ndim=3)).numpy()
        below = np.flatnonzero(curve[1:] < 0.5)
        told["fsc_half_of_nyquist"] = float((below[0] + 1 if len(below) else box // 2) / (box / 2))
        told["fsc_area"] = float(curve[1 : box // 2].mean())
        told["curve"] = [round(float(v), 4) for v in curve[: box // 2 + 1]]
        print("FSC=0.5 at", told["fsc_half_of_nyquist"], "of Nyquist", flush=True)
result.parent.mkdir(parents=True, exist_ok=True)
result.write_text(json.dumps(told))
