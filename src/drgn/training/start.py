"""What a model knows before its networks are trained: poses that are searched, a basis that is fitted."""

import time
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from drgn.data.datamodule import ParticleDataModule
from drgn.data.progress import CheckProgress
from drgn.errors import say
from drgn.models.halves import Halves
from drgn.models.latents import TableLatent
from drgn.models.poses import RefinedPose, SearchedPose
from drgn.models.reconstructor import Reconstructor
from drgn.training.refinement import Refinement
from drgn.training.search import find
from drgn.training.stages import Stages
from drgn.training.warmstart import fill, fit, fit_halves


def warm_start(
    reconstructor: Reconstructor | Halves, data: ParticleDataModule, seed: int, stages: Stages
) -> None:
    """Find poses where they are searched, fit the bases of a model and what begins from them; in place.

    The first process does.

    Parameters
    ----------
    reconstructor
        On the CPU.
    data
        Its stack is prepared.
    seed
        Of the run.
    stages
        Get a mark for each pass.
    """
    bases, pose = reconstructor.bases, reconstructor.pose
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
        if isinstance(pose, SearchedPose):
            images = find(pose, images, rows, data.rows(heldout=True), seed, told)
        if isinstance(pose, RefinedPose):
            known["poses"] = refinement = Refinement(pose, images)
        if len(bases) == 1:
            fit(bases[0], images, rows, **known)
        else:
            fit_halves(bases, images, rows, **known)
        if isinstance(pose, RefinedPose):
            refinement.keep()
            images = refinement.dataset
        if isinstance(reconstructor.latent, TableLatent):
            fill(reconstructor.latent, bases, images)
    say(f"warm start: {len(bases[0].density)} volumes in {time.perf_counter() - began:.0f} s", flush=True)
