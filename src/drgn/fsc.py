"""Correlate two maps shell by shell: curves, picture and resolutions.

    drgn fsc map_1=half_map_1.mrc map_2=half_map_2.mrc
    drgn fsc map_1=vol_000.mrc map_2=truth.mrc mask=mask.mrc output=compared

Writes fsc.csv and fsc.png: without mask, with it, with phases randomised from where the unmasked curve falls
below 0.8, and corrected by that. Between half maps the resolution is read at 0.143, between a map and an
independent one (or the truth) at 0.5. The maps must lie in the same frame, with the same box and pixel size.
"""

from pathlib import Path

from drgn.command import command


def fsc(*, map_1: Path, map_2: Path, mask: Path | None, seed: int, output: Path) -> Path:
    """Write the Fourier shell correlation of two maps.

    Parameters
    ----------
    map_1, map_2
        Maps (.mrc) of one box and pixel size.
    mask
        Map that both are multiplied by; None: the paper's recipe (P23) on the mean of the two.
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
        A map is not there, or they differ in box or pixel size.
    """
    from drgn.analysis.plots import require_matplotlib
    from drgn.physics import masks
    from drgn.physics.fsc import correlations
    from drgn.scoring import foreign_maps, resolution

    require_matplotlib()
    one, two = foreign_maps.read(map_1, "map_1"), foreign_maps.read(map_2, "map_2")
    box_size, pixel_size_A = one.density.shape[-1], one.pixel_size_A
    foreign_maps.require_like(two, box_size, pixel_size_A, str(map_1))
    if mask is not None:
        given = foreign_maps.read(mask, "mask")
        foreign_maps.require_like(given, box_size, pixel_size_A, str(map_1))
        inside = given.density
    else:
        inside = masks.soft_mask((one.density + two.density) / 2, pixel_size_A)
    found = correlations(one.density, two.density, inside, seed)
    resolution.write(found, box_size, pixel_size_A, output, f"{map_1.stem} and {map_2.stem}")
    print(f"{resolution.sentence(found, box_size, pixel_size_A)}; in {output}")
    return output


main = command(fsc)
if __name__ == "__main__":
    main()
