"""The nuisance audit of a run: what is known of how its images were taken, a table, a picture, and words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from drgn.analysis import plots
from drgn.analysis.nuisance import Dependence, audit
from drgn.analysis.report import Picture, Section, Table
from drgn.errors import InputError
from drgn.formats.atomic import replacing

if TYPE_CHECKING:
    from drgn.formats.particles import Particles
    from drgn.run import Run

TITLE = "What the latent should not follow"
CSV, PICTURE = "nuisance.csv", "nuisance.png"
_CONTRAST_IMAGES = 2_000  # whose contrast is measured, most
_CONTRAST_RADIUS_PX = 16  # in Fourier pixels
_BATCH = 100

# what a variable is called, and what to do about it
WORDS = {
    "view": (
        "the viewing direction",
        "some states may be seen from some sides only, or the poses may follow the state: look at the views "
        "of each cluster, refine the poses again within one cluster, and train with nuisance=independent",
    ),
    "angle": (
        "the in-plane angle",
        "look for what turns with the image and not with the particle, as beam tilt, astigmatism or the "
        "direction of motion; then train with nuisance=independent",
    ),
    "defocus": (
        "the defocus",
        "refine the defocus of each particle, look at the amplitude contrast and the B-factor in the file, "
        "and train with nuisance=independent",
    ),
    "shift": (
        "the shift",
        "centre the particles again and extract them anew, in a larger box if they are cut off; or train "
        "with nuisance=independent",
    ),
    "micrograph": (
        "the micrograph",
        "look at ice, magnification and scale of the micrographs that differ, and leave bad ones out with "
        "drgn filter; a true change from grid to grid looks the same",
    ),
    "contrast": (
        "the contrast of the image",
        "normalise the images again, or give their scale in the particle file (rlnCtfScalefactor); thick ice "
        "and false particles show as low contrast",
    ),
}


def nuisance_section(run: Run, folder: Path, seed: int) -> tuple[Section, list[str]]:
    """Audit a run; writes nuisance.csv and nuisance.png into the folder of its analysis.

    Parameters
    ----------
    run
        With a latent.
    folder
        Of its analysis.
    seed
        Of the particles looked at and of the permutations.

    Returns
    -------
    tuple
        The section, and a line for the terminal for each alarm, or one that there is none.
    """
    particles, latents = run.particles(), run.latents()
    first = np.sort(np.unique(particles.table["group"].to_numpy(str), return_index=True)[1])
    known = variables_of(particles)
    known["contrast"] = contrasts(run, np.random.default_rng(seed).permutation(first)[:_CONTRAST_IMAGES])
    found = audit(latents.z[first], {name: values[first] for name, values in known.items()}, seed)
    _write(found, folder / CSV)
    sentences = [sentence(dependence) for dependence in found]
    missing = [WORDS[name][0] for name in known if name not in {d.variable for d in found}]
    if missing:
        sentences.append(f"Not known, or the same for nearly all particles looked at: {', '.join(missing)}.")
    pictures = [Picture(draw(found, folder / PICTURE), _CAPTION, 70)] if found else []
    rows = [
        (
            WORDS[d.variable][0],
            f"{100 * d.share:.1f} %",
            f"PC{d.component + 1}",
            f"{100 * d.noise:.1f} %",
            f"{d.particles:,}",
        )
        for d in found
    ]
    alarms = [sentence(d) for d in found if d.alarm]
    section = Section(TITLE, [_TEXT, *sentences], pictures, [Table(_HEADER, rows)] if rows else [])
    if slight := [WORDS[d.variable][0] for d in found if d.significant and not d.alarm]:
        none = f"The latent follows {', '.join(slight)} more than noise does, too little for an alarm."
    else:
        none = "The latent follows no orientation, defocus or other nuisance that is known."
    return section, alarms or [none]


def variables_of(particles: Particles) -> dict[str, NDArray[np.generic]]:
    """What the table says of how each image was taken, as `nuisance.audit` wants it.

    view: (N, 3), the direction in the frame of the volume from which it was seen. angle: (N, 2), the
    direction in the image of the volume's z axis. defocus: (N, 1), mean, in A. shift: (N, 2), in A.
    micrograph: (N,). What the table does not say is NaN, or one category.
    """
    table = particles.table
    n = len(table)
    if particles.rotation is None:
        view, axis = np.full((n, 3), np.nan), np.full((n, 2), np.nan)
    else:
        view, axis = particles.rotation[:, 2], particles.rotation[:, :2, 2]
    return {
        "view": view,
        "angle": axis / np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-9),
        "defocus": table[["defocus_u_A", "defocus_v_A"]].to_numpy(np.float64).mean(axis=1, keepdims=True),
        "shift": table[["shift_x_A", "shift_y_A"]].to_numpy(np.float64),
        "micrograph": table["micrograph"].cat.codes.to_numpy(np.int64),
    }


def contrasts(run: Run, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Contrast of some images in that of the model, (N, 1); NaN elsewhere, and where there are no images.

    The factor on the model's image at the particle's own latent that fits the image best, at low resolution.
    It is 1 on average whatever the state, as the model shows the state too.
    """
    found = np.full((len(run.particles()), 1), np.nan)
    if not run.has_images:
        return found
    import torch

    try:
        dataset = run.datamodule.dataset
        model = run.model()
    except InputError:
        return found
    near = model.frequencies.norm(dim=1) * run.box_size
    pixels = torch.nonzero((near < _CONTRAST_RADIUS_PX) & (near > 0)).squeeze(1)
    rows = np.sort(rows[~dataset.rejected[rows]])
    with torch.no_grad():
        for part in np.array_split(rows, max(1, -(-len(rows) // _BATCH))):
            if not len(part):
                break
            batch = dataset[part]
            model_image = model(batch, pixels).image
            seen = (model_image.conj() * batch["image"][:, pixels]).real.sum(1)
            found[part, 0] = (seen / model_image.abs().square().sum(1).clamp_min(1e-12)).numpy()
    return found


def sentence(found: Dependence) -> str:
    """What was found of one variable, and what to do."""
    name, advice = WORDS[found.variable]
    capital = name[0].upper() + name[1:]
    if not found.significant:
        shares = f"{100 * found.share:.1f} %, noise up to {100 * found.noise:.1f} %"
        return f"{capital}: not more than noise ({shares})."
    explained = f"it explains {100 * found.share:.1f} % of the variance of PC{found.component + 1}"
    if not found.alarm:
        least = f"{100 * found.least:.0f} %"
        return f"{capital}: {explained}, more than noise, but too little for an alarm (from {least} on)."
    return f"The latent knows {name}: {explained}. What to do: {advice}."


def draw(found: Sequence[Dependence], path: Path) -> Path:
    """Bars of the shares, each with what chance reaches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 1.2 + 0.45 * len(found)), layout="constrained")
    panel = figure.subplots()
    places = np.arange(len(found))[::-1]
    colours = [plots.OKABE_ITO[3] if d.alarm else plots.OKABE_ITO[0] for d in found]
    panel.barh(places, [100 * d.share for d in found], color=colours, height=0.6)
    for number, (place, d) in enumerate(zip(places, found, strict=True)):
        label = "noise up to here" if number == 0 else None
        panel.plot([100 * d.noise] * 2, [place - 0.38, place + 0.38], color=plots.INK, lw=1.6, label=label)
        label = "alarm from here on" if number == 0 else None
        panel.plot(
            [100 * d.least] * 2, [place - 0.5, place + 0.5], color=plots.INK, lw=0.9, ls=":", label=label
        )
    panel.set_yticks(places, [WORDS[d.variable][0] for d in found])
    panel.set_xlim(0, 105 * max(max(d.share, d.noise, d.least) for d in found))
    panel.set_xlabel("explained share of the variance of a principal component of z (%)")
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    return plots.save(figure, path)


def _write(found: Sequence[Dependence], path: Path) -> None:
    import pandas as pd

    names = ("variable", "share", "component", "noise", "p", "particles", "nats", "significant", "alarm")
    rows = [{name: getattr(d, name) for name in names} | {"component": d.component + 1} for d in found]
    with replacing(path) as temporary:
        pd.DataFrame(rows, columns=list(names)).to_csv(temporary, index=False)


_HEADER = ("variable", "explains at most", "of", "noise up to", "particles")
_TEXT = (
    "The latent should say what a particle looks like, not how its image was taken. For each thing that is "
    "known of the taking, this is the share of the variance of the latent that it explains. Noise is what it "
    "explains when it is given to the wrong particles, 100 times: up to the largest of these shares, and to "
    "4 of their standard deviations above their mean. An alarm need "
    "not be a fault of the program: a state that lies on the grid in one way only is seen from one side only."
)
_CAPTION = (
    "For each variable the principal component of the latent that depends on it most. Bars that end left of "
    "the black line are noise; red bars are alarms."
)
