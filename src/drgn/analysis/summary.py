"""The first and the last section of the report: what was found in a few lines, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from drgn.analysis.history import losses, verdict
from drgn.analysis.report import Section

if TYPE_CHECKING:
    from drgn.run import Run


def in_short(run: Run, findings: Sequence[str]) -> Section:
    """Say what was put in, what came out and how far it can be trusted.

    Parameters
    ----------
    run
        The run.
    findings
        Lines of the analysis, as the terminal gets them.
    """
    particles = run.particles()
    known = " and ".join(
        what for what, there in (("pose", particles.has_poses), ("CTF", particles.has_ctf)) if there
    )
    each = f", each with its {known}" if known else ""
    lacking = "" if particles.has_ctf else " (no CTF: the file gives no defocus)"
    put_in = (
        f"Put in: {len(particles):,} particle images from {Path(particles.source.path).name}{each}{lacking}, "
        f"trained on in a box of {run.box_size} pixels of {run.pixel_size_A:.4g} Å: no detail "
        f"finer than {2 * run.pixel_size_A:.3g} Å can be in any map below."
    )
    if run.pixel_size_A != run.pixel_size_A:  # a foreign run whose files do not say it
        put_in = f"Put in: {len(particles):,} particle images from {Path(particles.source.path).name}."
    trained = verdict(losses(run.path), warm=run.config.get("warmstart") is not None)
    trust = f"Training: {trained}" if trained else "Training: no held-out losses are there to judge it by."
    return Section("In short", [put_in, "Came out: " + " ".join(findings), trust])


def next_steps(run: Run, kmeans: int, folder: Path) -> Section:
    """Give the commands that usually follow, with this run's own folder in them.

    Parameters
    ----------
    run
        The run.
    kmeans
        Number of clusters of the analysis.
    folder
        Of the analysis; `drgn filter` and `drgn validate` find its clusters only in the run's own.
    """
    here = shlex.quote(f"run={run.path}")
    suffix = ".cs" if Path(run.particles().source.path).suffix == ".cs" else ".star"
    kept = shlex.quote(f"output={run.place(f'kept{suffix}')}")
    of_clusters = folder.resolve() == run.place("analysis").resolve()
    steps = []
    if run.zdim and run.has_images and of_clusters:
        steps.append(
            (
                "Check a cluster against its own images before interpreting its map, by half maps and FSC:",
                f"drgn validate {here} kmeans={kmeans} 'clusters=[0]'",
            )
        )
    if run.zdim and of_clusters:
        steps.append(
            (
                "Keep the particles of some clusters, here 0 and 1, and refine them in the program that the "
                "particles came from:",
                f"drgn filter {here} kmeans={kmeans} 'clusters=[0,1]' {kept}",
            )
        )
        steps.append(
            (
                "Follow a motion from cluster to cluster, over particles only; where no path leads to a "
                "cluster, to the nearest particle that one leads to:",
                f"drgn traverse {here} kind=graph kmeans={kmeans} disconnected=largest",
            )
        )
    if run.zdim and run.decodes:
        steps += [
            ("Ask how many discrete states there are:", f"drgn discover {here}"),
            ("Make maps at more places:", f"drgn generate {here} kmeans={2 * kmeans}"),
        ]
    if not steps:
        steps.append(
            (
                "Look for heterogeneity, with the particles of this run:",
                "drgn train dataset=custom "
                + shlex.quote(f"dataset.particles={run.particles().source.path}")
                + f" dataset.box_size={run.box_size}",
            )
        )
    text = ["Each line can be pasted into a terminal; --help behind it says what else the command takes."]
    return Section("What to do next", text, commands=steps)
