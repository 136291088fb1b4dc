"""Compare what `cryodrgn abinit` found (with --checkpoint 1) with the truth of a set of `drgn simulate`.

    python abinit.py SET OUT BOX EPOCH RESULT.json

SET is a folder with particles.star and maps/, OUT that of abinit, BOX its box. The better hand and sign
count.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from drgn.formats.mrc import read_cubic
from drgn.formats.particles import Particles
from drgn.formats.pickles import load_pickle
from drgn.physics import fourier
from drgn.physics.alignment import align, resampled
from drgn.physics.fsc import fsc
from drgn.scoring.poses import pose_errors

folder, out, box, epoch, result = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5]), sys.argv[5]
particles = Particles.from_file(folder / "particles.star")
rotation = np.asarray(load_pickle(out / f"pose.{epoch}.pkl")[0], np.float64)
nowhere = np.zeros((len(particles), 2))
found = pose_errors(rotation, nowhere, particles.rotation, nowhere).rotation_deg
true = torch.from_numpy(read_cubic(next((folder / "maps").glob("*.mrc")))[0])
true = fourier.downsample(true, box, ndim=3).float()
made = torch.from_numpy(read_cubic(out / f"reconstruct.{epoch}.mrc")[0])
curves = []
for one in (made, -made):
    matrix, moved, _ = align(true, one, hand=True)
    curves.append(fsc(resampled(true, matrix, moved), one).numpy())
curve = max(curves, key=lambda c: c[1 : box // 2].mean())
below = np.flatnonzero(curve[1:] < 0.5)
told = {
    "rotation_median_deg": float(np.median(found)),
    "right_share": float((found < 10).mean()),
    "fsc_half_of_nyquist": float((below[0] + 1 if len(below) else box // 2) / (box / 2)),
    "fsc_area": float(curve[1 : box // 2].mean()),
}
print(told)
Path(result).write_text(json.dumps(told))
