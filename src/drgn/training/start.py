"""What training begins from, where a model has more to begin from than random weights."""

import time
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from drgn.data.progress import CheckProgress
from drgn.errors import say
from drgn.models.latents import TableLatent
from drgn.models.poses import RefinedPose
from drgn.training.refinement import Refinement
from drgn.training.stages import Stages
from drgn.training.warmstart import fill, fit, fit_halves


def warm_start(reconstructor: Any, data: Any, seed: int, stages: Stages) -> None:
    """Fit the bases of a model, and what begins from them, in the first process.

    Parameters
    ----------
    reconstructor
        On the CPU.
    data
        A ParticleDataModule whose stack is prepared.
    seed
        Of the run.
    stages
        Get a mark for each pass.
    """
    bases = reconstructor.bases
    if not bases or rank_zero_only.rank != 0:
        return
    began = time.perf_counter()
    with CheckProgress("warm start") as shown:

        def told(what: str, done: int, n: int) -> None:
            stages.mark(what)
            shown.update(f"{what}, pass {done} of {n}")

        known: dict[str, Any] = {
            "beta": float(reconstructor.loss_function.weight(1 << 60)),
            "seed": seed,
            "nuisance": next(iter(reconstructor.nuisances), None),
            "progress": told,
        }
        rows, images = data.rows(heldout=False), data.dataset
        if isinstance(reconstructor.pose, RefinedPose):
            known["poses"] = refinement = Refinement(reconstructor.pose, images)
        if len(bases) == 1:
            fit(bases[0], images, rows, **known)
        else:
            fit_halves(bases, images, rows, **known)
        if isinstance(reconstructor.pose, RefinedPose):
            refinement.keep()
            images = refinement.dataset
        if isinstance(reconstructor.latent, TableLatent):
            fill(reconstructor.latent, bases, images)
    say(f"warm start: {len(bases[0].density)} volumes in {time.perf_counter() - began:.0f} s", flush=True)
