"""The latent space coloured by what else is known of each particle (P15, P27)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drgn.analysis import plots
from drgn.analysis.report import Picture, Section
from drgn.analysis.selection import column_of

if TYPE_CHECKING:
    from drgn.formats.particles import Particles
    from drgn.run import Latents

IN_A_ROW = 3  # panels of one picture
WORDS = {
    "z_norm": "distance of the latent from 0",
    "reconstruction_loss": "reconstruction loss (1 is noise alone)",
    "rot_deg": "rotation angle (°)",
    "tilt_deg": "tilt angle (°)",
    "psi_deg": "in-plane angle (°)",
    "defocus_u_A": "defocus U (Å)",
    "defocus_v_A": "defocus V (Å)",
    "defocus_angle_deg": "angle of the astigmatism (°)",
    "phase_shift_deg": "phase shift (°)",
    "shift_x_A": "shift along x (Å)",
    "shift_y_A": "shift along y (Å)",
}
_EULER = ("rot_deg", "tilt_deg", "psi_deg")


def columns(particles: Particles, latents: Latents, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Values (N,) of each name, for all particles.

    Parameters
    ----------
    particles
        With the table and the columns of its file.
    latents
        Of the same particles, in the same order.
    names
        A column of either; or z_norm, reconstruction_loss, and of the orientation rot_deg, tilt_deg, psi_deg
        (RELION's angles). What a run does not know, such as losses of cryoDRGN, is left out.

    Raises
    ------
    InputError
        There is no such column.
    """
    found = {}
    for name in names:
        if name == "z_norm":
            values = np.linalg.norm(latents.z, axis=1)
        elif name == "reconstruction_loss":
            values = latents.reconstruction_loss
        elif name in _EULER:
            if particles.rotation is None:
                continue
            values = _angles(particles.rotation)[_EULER.index(name)]
        else:
            values = column_of(particles, name)
        if values.dtype.kind in "OUS" or isinstance(values[0], str):  # words become classes
            values = np.unique(np.asarray(values, str), return_inverse=True)[1]
        values = np.asarray(values)
        if np.isfinite(values.astype(float)).all():
            found[name] = values
    return found


def section(
    z: np.ndarray,
    flat: np.ndarray,
    axes: tuple[str, str],
    values: dict[str, np.ndarray],
    folder: Path,
) -> Section:
    """Pictures of three columns each; a latent of one dimension is drawn against them.

    Parameters
    ----------
    z
        (N, Z) latents.
    flat
        (N, 2) coordinates, and their names `axes`; not looked at where Z is 1.
    values
        From `columns`.
    folder
        Of the pictures colours_1.png, ...
    """
    names, pictures = list(values), []
    for number, start in enumerate(range(0, len(names), IN_A_ROW), 1):
        part = {WORDS.get(name, name): values[name] for name in names[start : start + IN_A_ROW]}
        path = folder / f"colours_{number}.png"
        if z.shape[1] == 1:
            _against(z[:, 0], part, path)
        else:
            plots.latent_columns(flat, axes, part, path)
        pictures.append(Picture(path, f"Coloured by {', '.join(part)}.", 100 * len(part) // IN_A_ROW))
    text = [
        "The same particles, coloured by what the particle file and the run say of them. Structure that"
        " follows the defocus, the orientation or the micrograph is a sign that the latent describes the"
        " imaging and not the molecule; particles with a high reconstruction loss or far from the others may"
        " be junk."
    ]
    return Section("Latent space: what else is known", text, pictures)


def _against(z: np.ndarray, values: dict[str, np.ndarray], path: Path) -> Path:
    figure = plots._figure(5.2 * len(values), 4.4)
    for panel, (name, column) in zip(
        figure.subplots(1, len(values), squeeze=False)[0], values.items(), strict=True
    ):
        panel.hexbin(z, column.astype(float), gridsize=50, mincnt=1, bins="log", cmap="viridis", lw=0.1)
        plots._dress(panel, "latent z", name)
    return plots.save(figure, path)


def _angles(rotation: np.ndarray) -> np.ndarray:
    """RELION's angles (3, N), in degrees."""
    import torch

    from drgn.physics.rotations import to_euler

    return to_euler(torch.from_numpy(rotation)).numpy().T
