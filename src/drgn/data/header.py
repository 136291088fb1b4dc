"""What a prepared stack says of itself (meta.json), believed only where it fits its files."""

import os
from pathlib import Path
from typing import Any, TypeVar

from drgn.errors import InputError
from drgn.formats.documents import read_json
from drgn.physics.grids import half_lattice

_LARGEST_BOX, _MOST_IMAGES = 4096, 1 << 40

Kind = TypeVar("Kind")


def read_meta(folder: Path, kind: type[Kind]) -> Kind:
    """Read meta.json of a prepared stack as `kind`, a data class of its fields.

    Raises
    ------
    InputError
        It is missing or damaged, or images.f16 is not as long as it says.
    """
    path = folder / "meta.json"
    facts = read_json(path)
    try:
        meta = kind(**facts)
        sides = [
            facts["box_size"],
            *(n for f in facts["fields"] for n in (f["original_box_size"], f["field_px"])),
        ]
        numbers = [facts[name] for name in ("pixel_size_A", "noise_std", "density_scale")] + facts["signal"]
        sound = (
            all(type(side) is int and 0 < side <= _LARGEST_BOX for side in sides)
            and sides[0] % 2 == 0
            and type(facts["n"]) is int
            and 0 < facts["n"] < _MOST_IMAGES
            and all(type(number) in (int, float) for number in numbers)
            and all(type(f["original_pixel_size_A"]) in (int, float) for f in facts["fields"])
            and all(type(row) is int and 0 <= row < facts["n"] for row in facts["rejected"])
            and all(type(part) in (str, int) for source in facts["sources"] for part in source)
            and len(facts["signal"]) == len(facts["fields"]) > 0
        )
    except (TypeError, ValueError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise InputError(f"{path} is not that of a prepared stack; remove {folder} and prepare again.")
    needed = facts["n"] * len(half_lattice(facts["box_size"], 2)) * 4
    images = folder / "images.f16"
    if not images.is_file() or os.path.getsize(images) != needed:
        raise InputError(
            f"{images} is not {needed} bytes long, as it was made; remove {folder} and prepare again."
        )
    return meta


def summary(folder: Path) -> dict[str, Any]:
    """Return meta.json of a folder among others, {} where it cannot be read."""
    try:
        return read_json(folder / "meta.json")
    except InputError:
        return {}
