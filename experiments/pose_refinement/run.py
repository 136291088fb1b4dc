"""Refine disturbed poses of a set of `drgn simulate` in the warm start; print the errors after each step.

    python run.py SET N BOX DEG PX MODES > LOG      # MODES 0: homogeneous

SET is a folder with particles.star at true poses; its first N images are used at box BOX. Rotations are
disturbed by DEG degrees rms, shifts by PX pixels rms of a box of 64.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from drgn.analysis.metrics import spearman
from drgn.data.dataset import ParticleDataset
from drgn.data.prepared import prepare
from drgn.formats.particles import Particles
from drgn.models.modes import LinearModes, Subspace
from drgn.models.poses import RefinedPose
from drgn.physics import rotations
from drgn.scoring.poses import pose_errors
from drgn.training.expectation import Expectation
from drgn.training.refinement import Refinement
from drgn.training.warmstart import fit

folder, n, box, modes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[6])
deg, px = float(sys.argv[4]), float(sys.argv[5])
torch.set_num_threads(1)
torch.manual_seed(0)
particles = Particles.from_file(folder / "particles.star").select(np.arange(n))
stack = prepare(particles, box_size=box, window=True, cache=Path(f"prepared_{folder.name}_{box}_{n}"))
dataset = ParticleDataset(particles, stack)
rotation, shift_px = dataset.rotation.clone(), dataset.shift_px.clone()
noise = torch.randn(n, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
dataset = dataset.posed(
    rotations.from_rotvec(torch.deg2rad(noise[:, :3] * deg / 3**0.5)) @ rotation,
    shift_px + (noise[:, 3:] * px * box / 64 / 2**0.5).float(),
)
started = time.process_time()


def tell(what: str, poses: Refinement) -> None:
    """Print the errors."""
    scale = 64 / box
    errors = pose_errors(
        poses.dataset.rotation.numpy(),
        poses.dataset.shift_px.numpy() * scale,
        rotation.numpy(),
        shift_px.numpy() * scale,
    )
    print(
        f"{what} {time.process_time() - started:.0f}s rot median {np.median(errors.rotation_deg):.3f}"
        f" mean {errors.rotation_deg.mean():.3f} view {np.median(errors.view_deg):.3f}"
        f" shift px(64) {np.median(errors.shift_A):.3f}",
        flush=True,
    )


class Told(Refinement):
    """Says the errors after each step."""

    def step(self, basis, rows, radius, **options):
        super().step(basis, rows, radius, **options)
        wide = (
            f"prior {self.width[0] * self.pose.prior_deg:.2f} deg {self.width[1] * self.pose.prior_A:.2f} A"
        )
        tell(f"{len(basis.density)} r{radius} {wide}", self)


poses = Told(RefinedPose(n_particles=n, prior_deg=5, prior_A=12), dataset)
tell("start", poses)
basis = (
    Subspace(box_size=box, zdim=4, modes=modes, radius_px=32)
    if modes
    else LinearModes(box_size=box, zdim=0, radius_px=32)
)
fit(basis, dataset, np.arange(int(n * 0.95)), beta=1.0, seed=0, poses=poses)
tell("end", poses)
if modes:
    with torch.no_grad():
        known = Expectation(basis, poses.dataset, np.arange(n), torch.Generator()).statistics()
        z = basis.encode(known)[0].numpy()
    motion = pd.read_csv(folder / "truth.csv")["motion"].to_numpy()[:n]
    print(f"|Spearman| {spearman(z, motion):.4f}")
