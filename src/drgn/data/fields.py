"""Fields of view: how images of several boxes and pixel sizes are brought to one training box.

The field of the most frequent box and pixel size is the reference. Other images are cropped or padded in real
space to the number of pixels whose field is nearest to it, and then cropped in Fourier space to the training
box. The remaining difference, less than half a pixel of the field, is kept as a pixel size of their own.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats.particles import Particles

_SAME = 1e-4  # relative difference of pixel sizes that is rounding


@dataclass(frozen=True)
class Field:
    """Images of one box and pixel size.

    Attributes
    ----------
    original_box_size, original_pixel_size_A
        Of the images.
    field_px
        Pixels that they are cropped or padded to.
    """

    original_box_size: int
    original_pixel_size_A: float
    field_px: int

    @property
    def field_A(self) -> float:
        """Width of what is seen."""
        return self.field_px * self.original_pixel_size_A

    def matches(self, box_size: int, pixel_size_A: float) -> bool:
        """Whether images of this box and pixel size belong here."""
        same = abs(pixel_size_A - self.original_pixel_size_A) <= _SAME * self.original_pixel_size_A
        return box_size == self.original_box_size and same


def fields_of(particles: Particles) -> tuple[list[Field], NDArray[np.int64]]:
    """Return the fields of a table, the reference first, and the field of each row (N,).

    Raises
    ------
    InputError
        A stack is not found, or a pixel size is not known.
    """
    kinds, kind_of_row, counts = box_and_pixel(particles)
    box, pixel_A = kinds[int(np.argmax(counts))]
    reference_A = box * pixel_A
    fields, field_of_kind = [Field(box, pixel_A, box)], np.zeros(len(kinds), dtype=np.int64)
    for number, (size, step_A) in enumerate(kinds):
        if fields[0].matches(size, step_A):
            continue
        if abs(step_A - pixel_A) <= _SAME * pixel_A:
            step_A = pixel_A
        field = Field(size, step_A, round(reference_A / step_A))
        if field not in fields:
            fields.append(field)
        field_of_kind[number] = fields.index(field)
    return fields, field_of_kind[kind_of_row]


def box_and_pixel(
    particles: Particles,
) -> tuple[list[tuple[int, float]], NDArray[np.int64], NDArray[np.int64]]:
    """Return the different (box in pixels, pixel size in A), which of them each row has, and their counts.

    Raises
    ------
    InputError
        A stack is not found, or a pixel size is not known.
    """
    table = particles.table
    if (table["box_size_px"] == 0).any():
        particles.require_images()
    pixel_A = table["pixel_size_A"].to_numpy(np.float64)
    if not np.isfinite(pixel_A).all():
        raise InputError(
            f"{particles.source.path} does not give the pixel size of its images; set"
            " dataset.pixel_size_A=VALUE"
        )
    boxes, box_of_row = np.unique(table["box_size_px"].to_numpy(), return_inverse=True)
    pixels, pixel_of_row = np.unique(pixel_A, return_inverse=True)
    kind_of_row, kinds = pd.factorize(box_of_row * len(pixels) + pixel_of_row)
    counts = np.bincount(kind_of_row, minlength=len(kinds))
    pairs = [(int(boxes[kind // len(pixels)]), float(pixels[kind % len(pixels)])) for kind in kinds]
    return pairs, kind_of_row.astype(np.int64), counts


def default_box_size(fields: list[Field]) -> int:
    """Return the largest even training box that no image has to be enlarged for."""
    smallest = min(field.field_px for field in fields)
    return smallest - smallest % 2


def require_box_size(box_size: int, fields: list[Field]) -> None:
    """Raise an InputError where a training box cannot be reached by cropping."""
    original = fields[0].original_box_size
    if box_size % 2 or not 8 <= box_size <= original:
        raise InputError(
            f"dataset.box_size={box_size}: expected an even number from 8 to the images' box, {original}"
        )
    coarse = min(fields, key=lambda field: field.field_px)
    if coarse.field_px < box_size:
        raise InputError(
            f"dataset.box_size={box_size}: some images have {coarse.original_pixel_size_A:.5g} A per pixel,"
            f" so that the field of view of {fields[0].field_A:.5g} A has only {coarse.field_px} of their"
            f" pixels and they would have to be enlarged; set dataset.box_size={default_box_size(fields)} or"
            " less, or leave those images out"
        )
