"""Correlate two maps shell by shell: curves, picture and resolutions.

    drgn fsc map_1=half_map_1.mrc map_2=half_map_2.mrc
    drgn fsc map_1=vol_000.mrc map_2=truth.mrc mask=mask.mrc output=compared
    drgn fsc map_1=vol_000.mrc map_2=cryosparc.mrc align=true      # laid on map_1 first, in either hand

Writes fsc.csv and fsc.png: without mask, with a loose one, with the mask that is given or else a tight one,
with phases randomised from where the unmasked curve falls below 0.8, and corrected by that; where random
phases agree in the mask as well as the maps do, no corrected value is told. Between half maps the resolution
is read at 0.143, between a map and an independent one (or the truth) at 0.5. The maps must have the same box
and pixel size, and lie in the same frame unless align=true, which also writes the map as it was laid,
aligned.mrc.
"""

from pathlib import Path

from drgn.command import command
from drgn.errors import say


def fsc(
    *, map_1: Path, map_2: Path, mask: Path | None, align: bool, hand: bool, seed: int, output: Path
) -> Path:
    """Write the Fourier shell correlation of two maps.

    Parameters
    ----------
    map_1, map_2
        Maps (.mrc) of one box and pixel size.
    mask
        Map that both are multiplied by; None: a tight mask of the mean of the two. The loose one is the
        paper's (P23), of the mean too.
    align
        First find the rotation and the shift that lay map_2 on map_1.
    hand
        When aligning, look at the mirror image of map_2 too.
    seed
        Of the random phases.
    output
        Folder to write to.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        A map is not there, or would be replaced by aligned.mrc, or they differ in box or pixel size.
    """
    from drgn.analysis.plots import require_matplotlib
    from drgn.formats.inside import require_apart
    from drgn.formats.mrc import write_volume
    from drgn.physics import alignment, masks
    from drgn.physics.fsc import correlations
    from drgn.scoring import foreign_maps, resolution

    require_matplotlib()
    if align:
        require_apart(output / "aligned.mrc", [map_1, map_2, mask], "map or mask")
    one, two = foreign_maps.read(map_1, "map_1"), foreign_maps.read(map_2, "map_2")
    box_size, pixel_size_A = one.density.shape[-1], one.pixel_size_A
    foreign_maps.require_like(two, box_size, pixel_size_A, str(map_1))
    given = foreign_maps.read(mask, "mask") if mask is not None else None
    if given is not None:
        foreign_maps.require_like(given, box_size, pixel_size_A, str(map_1))
    if align:
        placed = alignment.align(two.density, one.density, hand)
        two = two._replace(density=alignment.resampled(two.density, placed.matrix, placed.shift_px))
        write_volume(output / "aligned.mrc", two.density.numpy(), pixel_size_A)
        moved_A = float(placed.shift_px.norm()) * pixel_size_A
        mirrored = "mirrored, " if placed.mirrored else ""
        say(
            f"{map_2} was {mirrored}turned by {placed.angle_deg:.1f} degrees and"
            f" shifted by {moved_A:.1f} A onto {map_1}"
        )
    mean = (one.density + two.density) / 2
    inside = given.density if given is not None else masks.tight_mask(mean, pixel_size_A)
    loose = masks.soft_mask(mean, pixel_size_A)
    found = correlations(one.density, two.density, inside, loose, seed)
    resolution.write(found, box_size, pixel_size_A, output, f"{map_1.stem} and {map_2.stem}")
    say(f"{resolution.sentence(found, box_size, pixel_size_A)}; in {output}")
    return output


main = command(fsc)
if __name__ == "__main__":
    main()
