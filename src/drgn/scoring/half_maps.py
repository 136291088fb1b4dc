"""Half maps at latents, with what they say of the map, as files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from drgn.analysis import half_maps, plots
from drgn.analysis.volumes import VolumeFiles, write_volumes
from drgn.errors import say
from drgn.formats.mrc import write_volume
from drgn.physics.local_resolution import local_resolution
from drgn.scoring import resolution

if TYPE_CHECKING:
    from drgn.run import Run


def write_half_maps(
    run: Run, z: np.ndarray, folder: Path, *, mask: Tensor | None, local_window_A: float | None, seed: int
) -> VolumeFiles:
    """Write the volumes, as `write_volumes` does, and beside each of them its halves and their correlation.

    Parameters
    ----------
    run
        Trained with half_sets.
    z
        (M, Z) latents; (1, 0) for a run without a latent.
    folder
        Created when it does not exist.
    mask
        (D, D, D), that halves are multiplied by; None: made of each volume.
    local_window_A
        Width of the window of the local resolution; None: it is not made.
    seed
        Of the random phases.

    Returns
    -------
    VolumeFiles
        The volumes: means of the half maps.
    """
    plots.require_matplotlib()
    pixel_size_A = run.pixel_size_A

    def written() -> Iterator[np.ndarray]:
        for number, maps in enumerate(half_maps.compared(run, z, mask, seed)):
            stem = VolumeFiles.stem(number, len(z))
            made = {"half_1": maps.one, "half_2": maps.two, "weighted": maps.weighted}
            if local_window_A is not None:
                made["local_resolution"] = local_resolution(
                    maps.one * maps.mask, maps.two * maps.mask, pixel_size_A, local_window_A
                )
            for name, volume in made.items():
                write_volume(folder / f"{stem}_{name}.mrc", volume.numpy(), pixel_size_A)
            resolution.write(maps.found, run.box_size, pixel_size_A, folder, "Half maps", f"{stem}_fsc")
            say(f"{stem}: half maps agree to {resolution.sentence(maps.found, run.box_size, pixel_size_A)}")
            yield maps.mean.numpy()

    return write_volumes(run, z, folder, written())
