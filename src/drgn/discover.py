"""Find discrete states by themselves: how many, which particles, their maps, and how sure that is.

    drgn discover                                            # the newest run
    drgn discover run=outputs/train/toy/2026-01-31_12-00-00
    drgn discover threshold=0.3 smallest_share=0.003         # deeper valleys, rarer states
    drgn discover min_probability=0.9 images=true            # only certain particles, with their images

Two groups of particles are two states where the density of the latents has a valley between them; where there
is none, a motion is continuous, and one state is reported. Writes to discover/ of the run: report.html,
states.csv, valleys.csv, labels.npz (state by particle, also for drgn generate labels= and drgn traverse
labels=), discovery.json, and for each state a folder ready to be refined, state_0 and on: particles.star (or
.cs) with all columns of the file they came from, map.mrc, and initial_model_30A.mrc.
"""

from pathlib import Path

from drgn.command import command
from drgn.errors import InputError, say


def discover(
    *,
    run: Path,
    threshold: float,
    smallest_share: float,
    resamples: int,
    min_probability: float,
    images: bool,
    seed: int,
    output: Path | None,
    trust: list[str],
) -> Path:
    """Find states and write them.

    Parameters
    ----------
    run
        The run folder, of cryoDRGN too, or "latest".
    threshold
        Two groups are two states where the density between them falls below this share of the lower peak.
    smallest_share
        Smaller groups are given to their neighbour.
    resamples
        How often the search is repeated on a draw of the particles.
    min_probability
        Particles less certain of their state are left out of its folder.
    images
        Also copy the images into the folders.
    seed
        Of everything random.
    output
        The folder of the results; None: discover/ of the run.
    trust
        Module prefixes that the run's config may name besides drgn, torch and pytorch_lightning.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    InputError
        When the run has no latent, or an option is out of its range.
    """
    import numpy as np

    from drgn.analysis import discovery, state_report
    from drgn.analysis.plots import require_matplotlib
    from drgn.analysis.report import write_report
    from drgn.run import Run

    require_matplotlib()
    for name, value, most in (
        ("threshold", threshold, 1.0),
        ("smallest_share", smallest_share, 0.5),
        ("min_probability", min_probability, 1.0),
    ):
        if not 0 <= value <= most:
            raise InputError(f"{name}={value:g}: expected a share from 0 to {most:g}.")
    if resamples < 0:
        raise InputError(f"resamples={resamples}: expected 0 or more.")
    opened = Run.open(run, trust=trust)
    if opened.zdim == 0:
        raise InputError(f"{opened.path} has no latent (latent=none), so there are no states to find.")
    latents = opened.latents()
    if len(latents.z) < 50:
        raise InputError(f"{opened.path} has {len(latents.z)} particles; states are not looked for below 50.")
    known = bool(np.isfinite(latents.logvar).all())
    if not known:
        say(f"{opened.path} has no variances of its latents: states are parted by the latents' spread alone")
    states = discovery.discover(
        latents.z,
        np.exp(latents.logvar) if known else None,
        seed,
        threshold=threshold,
        smallest_share=smallest_share,
        resamples=resamples,
    )
    moving = state_report.motions(opened, latents.z, states.labels, seed)
    folder = output or opened.folder("discover")
    folder.mkdir(parents=True, exist_ok=True)
    places = state_report.write(
        opened,
        latents,
        states,
        moving,
        folder,
        threshold=threshold,
        min_probability=min_probability,
        images=images,
    )
    found = state_report.words(states, moving)
    report = write_report(
        folder / "report.html",
        f"drgn: states of {opened.name}",
        str(opened.path),
        state_report.sections(opened, latents, states, moving, folder, places, threshold),
    )
    say(f"{found[0].upper()}{found[1:]}. {state_report.stability(states)}")
    for i, (place, size) in enumerate(zip(places, states.sizes, strict=True)):
        say(f"State {i}: {size:,} particles, {place}")
    say(f"Report: {report}")
    return report


main = command(discover)
if __name__ == "__main__":
    main()
