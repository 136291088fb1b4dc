"""Reconstruct maps from particles with known poses, by voxels: two half maps, both together, and their FSC.

    drgn backproject dataset=custom dataset.particles=run_data.star output=consensus
    drgn backproject dataset=custom dataset.particles=kept.star dataset.box_size=128 symmetry=D2 seed=1
    drgn backproject dataset=custom dataset.particles=run_data.star half_sets=random mask=mask.mrc
    drgn backproject dataset=custom dataset.particles=run_data.star weights=weights.npz    # of each particle

Writes half_map_1.mrc and half_map_2.mrc (unfiltered), map.mrc (both, Wiener-filtered with the signal-to-noise
ratio that the halves show), sharpened.mrc (the mean of the halves, weighed by their correlation, sharpened,
low-passed), mask.mrc where none is given, fsc.csv and fsc.png, and local_resolution.mrc where a window is
given. Images are read from the prepared stack that training reads too. The FSC is given without mask, with a
loose one, with the mask that is given or else a tight one, with phases randomised from where the unmasked FSC
falls below 0.8, and corrected by that. Half sets are those of the file (rlnRandomSubset, cryoSPARC's split)
where it has any, else drawn. Each image is inserted once for every rotation of the symmetry, in RELION's
orientation of the group.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from drgn.command import command
from drgn.errors import InputError, say
from drgn.signature import build


def backproject(
    *,
    dataset: Mapping[str, Any],
    half_sets: Literal["given", "random"],
    symmetry: str,
    padding: int,
    mask: Path | None,
    weights: Path | None,
    b_factor_A2: float | None,
    guinier_from_A: float,
    low_pass_A: float | None,
    local_window_A: float | None,
    seed: int,
    output: Path,
    trust: list[str],
) -> Path:
    """Reconstruct two half maps and their sum, and correlate the halves.

    Parameters
    ----------
    dataset
        Node of the configuration: `_target_` and keyword arguments, see conf/dataset.
    half_sets
        "given": those of the particle file where it has any, else drawn; "random": drawn.
    symmetry
        Point group: C1, C2, ..., D2, ..., T, O, I1 or I2.
    padding
        How much finer than that of the box the grid of the transform is; memory grows with its cube.
    mask
        Map that both halves are multiplied by; None: a tight mask of map.mrc.
    weights
        A .npz with the arrays `key` and `weight` of the particles; None: all count alike.
    b_factor_A2
        Of the sharpening, negative to sharpen; None: that of the fall of the amplitudes (Guinier).
    guinier_from_A
        Resolution from which on the fall is fitted.
    low_pass_A
        Of the sharpened map; None: the resolution of the corrected curve at 0.143.
    local_window_A
        Width of the window of the local resolution (at an FSC of 0.5); None: it is not made.
    seed
        Of the half sets and of the random phases.
    output
        Folder to write to.
    trust
        Module prefixes that a `_target_` may name besides drgn's, torch's and Lightning's own.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        There is no such symmetry, nothing is selected, a half set has one particle, the mask is of another
        box or pixel size or would be replaced, a resolution is not positive, or the weights do not know a
        particle, are below 0 or are all 0.
    """
    from drgn.analysis.plots import require_matplotlib
    from drgn.analysis.selection import read_weights
    from drgn.data import backprojection
    from drgn.data.progress import CheckProgress
    from drgn.formats.inside import require_apart
    from drgn.formats.mrc import write_volume
    from drgn.physics import masks, sharpening
    from drgn.physics.fsc import correlations
    from drgn.physics.local_resolution import local_resolution
    from drgn.physics.symmetry import point_group
    from drgn.scoring import foreign_maps, resolution
    from drgn.simulate import make_missing

    require_matplotlib()
    group = point_group(symmetry)
    if padding < 1:
        raise InputError(f"padding={padding}: expected a whole number of at least 1.")
    for name, value in (
        ("guinier_from_A", guinier_from_A),
        ("low_pass_A", low_pass_A),
        ("local_window_A", local_window_A),
    ):
        if value is not None and value <= 0:
            raise InputError(f"{name}={value:g}: expected a length above 0 A.")
    for name in ("half_map_1", "half_map_2", "map", "sharpened", "local_resolution"):
        require_apart(output / f"{name}.mrc", [mask], "mask")
    make_missing(dataset)
    data = build({k: v for k, v in dataset.items() if k != "simulate"}, trust=trust, key="dataset")
    known = foreign_maps.read(mask, "mask") if mask is not None else None
    data.prepare_data()
    meta = data.dataset.stack.meta
    if known is not None:
        foreign_maps.require_like(known, meta.box_size, meta.pixel_size_A, "the training box")
    share = None
    if weights is not None:
        share = read_weights(weights, data.particles.table["key"].to_numpy(str))
    halves = backprojection.half_sets(data.particles, data.dataset, half_sets, seed, share)
    with CheckProgress("backproject") as shown:
        found = backprojection.reconstruct(data.dataset, halves, group, padding, shown.update, share)
        maps = {"half_map_1": found.halves[0], "half_map_2": found.halves[1], "map": found.density}
        for name, volume in maps.items():
            write_volume(output / f"{name}.mrc", volume.numpy(), meta.pixel_size_A)
        shown.update("FSC")
        loose = masks.soft_mask(found.density, meta.pixel_size_A)
        inside = known.density if known is not None else masks.tight_mask(found.density, meta.pixel_size_A)
        if known is None:
            write_volume(output / "mask.mrc", inside.numpy(), meta.pixel_size_A)
        curves = correlations(*found.halves, inside, loose, seed)
        resolution.write(curves, meta.box_size, meta.pixel_size_A, output, "Half maps")
        reached_A = resolution.corrected_A(curves, meta.box_size, meta.pixel_size_A, 0.143)
        mean = (found.halves[0] + found.halves[1]) / 2
        weighed = sharpening.weigh_shells(mean, sharpening.figure_of_merit(curves.corrected))
        fall = sharpening.guinier(weighed, meta.pixel_size_A, guinier_from_A, reached_A)
        b = b_factor_A2 if b_factor_A2 is not None else (fall or 0.0)
        sharp = sharpening.sharpened(weighed, meta.pixel_size_A, b, low_pass_A or reached_A)
        write_volume(output / "sharpened.mrc", sharp.numpy(), meta.pixel_size_A)
        if local_window_A is not None:
            local = local_resolution(*found.halves, meta.pixel_size_A, local_window_A, progress=shown.update)
            write_volume(output / "local_resolution.mrc", local.numpy(), meta.pixel_size_A)
    numbers = [f"{len(rows):,}" for rows in halves]
    say(
        f"{sum(len(rows) for rows in halves):,} images ({' and '.join(numbers)}), half maps agree to:"
        f" {resolution.sentence(curves, meta.box_size, meta.pixel_size_A)}; in {output}"
    )
    if b_factor_A2 is None:
        say(
            f"B-factor {b:.0f} A^2 (Guinier, {guinier_from_A:g} to {reached_A:.3g} A)"
            if fall is not None
            else f"no B-factor: fewer than 4 shells between {guinier_from_A:g} and {reached_A:.3g} A"
        )
    return output


main = command(backproject)
if __name__ == "__main__":
    main()
