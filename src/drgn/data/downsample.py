"""Write smaller images with a star file that describes them: Fourier-cropped, otherwise untouched."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from drgn.data import building
from drgn.data.fields import fields_of, require_box_size
from drgn.data.transform import FieldTransform
from drgn.errors import InputError
from drgn.formats import relion, star
from drgn.formats.mrc import StackWriter
from drgn.formats.particles import Particles


def write_downsampled(
    particles: Particles,
    output: Path,
    box_size: int,
    *,
    window: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write images of a smaller box to an .mrcs beside the star, in the order of the table.

    Grey values are kept (`physics.fourier.downsample`), and so is their sign: RELION has no column for it, so
    that `dataset.data_sign` must be given for the new file as it was for the old. The star keeps all columns;
    rlnImageOriginalName says which image each was made from. Shifts are in Angstrom and stay as they are.

    Parameters
    ----------
    particles
        What to write.
    output
        The star file, *.star.
    box_size
        In pixels, even, at most the box of the images.
    window
        Whether to multiply by a soft round window.
    progress
        Called with (images done, images in all).

    Returns
    -------
    Path
        The stack.

    Raises
    ------
    InputError
        An image is not there, the box is odd or too large, the disk is too small, or the images have
        two signs.
    """
    if output.suffix != ".star":
        raise InputError(f"output={output}: expected a name that ends in .star")
    particles.require_images()
    fields, field = fields_of(particles)
    require_box_size(box_size, fields)
    signs = particles.table["data_sign"].unique()
    if len(signs) > 1:
        raise InputError(
            f"{particles.source.path} holds images with bright and with dark protein, which a star file"
            " cannot say; write them to two files, each with its indices="
        )
    stack = output.with_suffix(".mrcs")
    for path in (stack, output):
        particles.require_apart(path)
    n = len(particles)
    building.require_space(output.parent, n * box_size**2 * 4, "output")
    transforms = [FieldTransform(f.original_box_size, f.field_px, box_size, window) for f in fields]
    plan = building.Plan(particles.image_reader(), transforms, field, np.empty(0, np.float32))
    pixel_A = np.array([f.field_A for f in fields]) / box_size

    def small(start: int) -> NDArray[np.float32]:
        rows = np.arange(start, min(start + plan.chunk, n))
        images = np.empty((len(rows), box_size, box_size), dtype=np.float32)
        for number in np.unique(field[rows]):
            some = field[rows] == number
            whole = torch.from_numpy(plan.reader(rows[some]))
            images[some] = transforms[number].downsampled(whole).numpy()
        return images

    with building.workers() as pool, StackWriter(stack, n, box_size, pixel_A[0]) as writer:
        for start, images in building.in_order(pool, small, range(0, n, plan.chunk)):
            writer.write(images)
            if progress is not None:
                progress(start + len(images), n)
    described = _described(particles, str(stack), box_size, pixel_A[field])
    # comes last: where it is, the stack is whole
    star.write_blocks(output, relion.to_blocks(described.source, described.table, described.rotation))
    return stack


def _described(
    particles: Particles, stack: str, box_size: int, pixel_size_A: NDArray[np.float64]
) -> Particles:
    """The particles with the names, box and pixel size of their new images."""
    table, source = particles.table, particles.with_rows().source
    number = np.arange(len(table))
    name = _image_name(number, stack)
    original = table["original_image"].mask(
        table["original_image"] == "",
        _image_name(table["image_index"].to_numpy(), table["image_path"].astype("str")),
    )
    if source.kind == "star":
        written = source.rows["rlnImageName"]
        known = source.rows.get("rlnImageOriginalName")
        original = written if known is None else known.mask(known.isin(["", "None"]), written)
        rows = source.rows.assign(rlnImageName=name, rlnImageOriginalName=original)
        source = replace(source, rows=rows)
    table = table.assign(
        image_path=stack,
        image_index=number,
        box_size_px=box_size,
        pixel_size_A=pixel_size_A,
        original_image=original,
    )
    return replace(particles, table=table, source=replace(source, replaced="values"))


def _image_name(index: NDArray[np.int64], stack: "str | pd.Series[str]") -> "pd.Series[str]":
    """RELION's name of image `index`, counted from 0, of a stack."""
    return pd.Series(index + 1).astype("str").str.zfill(6) + "@" + stack
