"""Make a soft mask of a map: threshold, dilate, soft edge.

    drgn mask map=map.mrc output=mask.mrc
    drgn mask map=map.mrc output=tight.mrc threshold=0.012 dilate_A=6 edge_A=10

The defaults are those of the paper's map-to-map FSC (P23): half of the 99.99th percentile of the density,
grown by 25 A, a cosine edge of 15 A outside that.
"""

from pathlib import Path

from drgn.command import command
from drgn.errors import InputError, say


def mask(*, map: Path, output: Path, threshold: float | None, dilate_A: float, edge_A: float) -> Path:
    """Write a soft mask, 1 inside and 0 outside, in the box of the map.

    Parameters
    ----------
    map
        The density (.mrc).
    output
        The mask to write (.mrc).
    threshold
        Density above which a voxel belongs to the molecule; None: half of the 99.99th percentile.
    dilate_A
        How far that region grows.
    edge_A
        Width of the edge outside it, from 1 to 0.

    Returns
    -------
    Path
        The mask.

    Raises
    ------
    InputError
        The map is not there or would be replaced, no voxel is above the threshold, or a width is negative.
    """
    from drgn.formats.inside import require_apart
    from drgn.formats.mrc import write_volume
    from drgn.physics.masks import soft_mask
    from drgn.scoring import foreign_maps

    for name, width in (("dilate_A", dilate_A), ("edge_A", edge_A)):
        if width < 0:
            raise InputError(f"{name}={width:g}: expected a width of at least 0 A.")
    require_apart(output, [map], "map")
    given = foreign_maps.read(map, "map")
    density = given.density
    try:
        made = soft_mask(density, given.pixel_size_A, dilate_A=dilate_A, edge_A=edge_A, threshold=threshold)
    except InputError:
        raise InputError(
            f"{map}: no voxel is above threshold={'null' if threshold is None else f'{threshold:g}'}; the"
            f" densities go from {density.min():.4g} to {density.max():.4g}: give a threshold between them."
        ) from None
    write_volume(output, made.numpy(), given.pixel_size_A)
    say(
        f"{output}: {float(made.mean()):.1%} of the box, {float((made == 1).float().mean()):.1%} without edge"
    )
    return output


main = command(mask)
if __name__ == "__main__":
    main()
