"""The volumes that the page shows, as files and a script that shows them in ChimeraX in the same way.

The page sends one request: a line of JSON that describes the volumes, then their MRC files one by one.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

from drgn.analysis.chimerax import Surface, write_scene
from drgn.errors import InputError
from drgn.explorer.selections import named
from drgn.formats.atomic import replacing

MOST = 12  # maps
_HEADER = 1024  # bytes of an MRC file before its values
_COLOUR = re.compile("#[0-9a-f]{6}")


def write(folder: Path, name: str, sent: bytes) -> list[Path]:
    """Write what the page sent; returns the script and a .zip with it and the maps.

    Parameters
    ----------
    folder
        Where a folder of that name is made; one that is there is replaced file by file.
    name
        Of the scene.
    sent
        {"layers": [{"label": ..., "levels": [[0.1, "#0072b2"]], "bytes": 1}]}, a line break, then the files;
        where a layer has "scale", pairs of a resolution and a colour, the file after its own is its local
        resolution, of "scale_bytes".

    Raises
    ------
    InputError
        It is something else.
    """
    head, _, data = sent.partition(b"\n")
    try:
        layers = json.loads(head)["layers"]
        wanted = [_layer(layer) for layer in layers]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError("Expected a description of the volumes that are shown.") from None
    if not 1 <= len(wanted) <= MOST:
        raise InputError(f"{len(wanted)} volumes are shown: expected 1 to {MOST}.")
    folder = folder / named(name)
    folder.mkdir(parents=True, exist_ok=True)
    surfaces, made = [], []

    def put(file: str, size: int) -> str:
        nonlocal data
        part, data = data[:size], data[size:]
        if not _is_map(part):
            raise InputError(f"{file} is no MRC file of float numbers.")
        with replacing(folder / file) as temporary:
            temporary.write_bytes(part)
        made.append(folder / file)
        return file

    for number, layer in enumerate(wanted):
        file = put(f"map_{number}.mrc", layer["bytes"])
        by = None
        if layer["scale"]:
            by = (put(f"local_resolution_{number}.mrc", layer["scale_bytes"]), layer["scale"])
        surfaces.append(Surface(file, layer["label"], layer["levels"], by))
    script = write_scene(folder / f"{name}.cxc", surfaces)
    archive = folder / f"{name}.zip"
    with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in (script, *made):
            packed.write(path, f"{name}/{path.name}")
    return [script, archive]


def _layer(given: dict[str, Any]) -> dict[str, Any]:
    """A layer with its types checked; a ValueError otherwise."""

    def pairs(values: list) -> list[tuple[float, str]]:
        found = [(float(value), str(colour)) for value, colour in values]
        if len(found) > 16 or not all(
            abs(value) < 1e30 and _COLOUR.fullmatch(colour) for value, colour in found
        ):
            raise ValueError
        return found

    scale = pairs(given.get("scale") or [])
    sizes = {"bytes": int(given["bytes"]), "scale_bytes": int(given.get("scale_bytes") or 0)}
    levels = pairs(given["levels"])
    if not levels or min(sizes.values()) < 0:
        raise ValueError
    return {"label": str(given["label"])[:100], "levels": levels, "scale": scale, **sizes}


def _is_map(data: bytes) -> bool:
    """Whether bytes are an MRC file of a cube of 32-bit floats, and nothing else."""
    if len(data) <= _HEADER:
        return False
    columns, rows, sections, mode = struct.unpack("<4i", data[:16])
    return (
        mode == 2
        and min(columns, rows, sections) > 0
        and len(data) == _HEADER + 4 * columns * rows * sections
    )
