"""A script for UCSF ChimeraX that shows maps as one series and makes a movie of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drgn import __version__
from drgn.analysis.pictures import SURFACE_COLOUR
from drgn.formats.atomic import replacing

FRAMES_PER_MAP = 5  # graphics frames for which a map is shown
_LOOKS = ("set bgColor white", "lighting soft", "graphics silhouettes true", "view orient")
_TURNS = {"along z": None, "along x": "turn y -90", "along y": "turn x 90"}  # from ChimeraX's first view


def write_script(path: Path, volumes: Sequence[Path], level: float, view: str) -> Path:
    """Write a .cxc that opens maps as a series at one level, plays it there and back and saves a movie.

    ChimeraX runs a script in the folder of the script, so the maps are named without their folder, and the
    whole folder can be moved.

    Parameters
    ----------
    path
        The script, in the folder of the maps.
    volumes
        The maps, in order.
    level
        Density of the surfaces, the same for all.
    view
        A key of `render.VIEWS`.
    """
    names = " ".join(f'"{volume.name}"' if " " in volume.name else volume.name for volume in volumes)
    colour = "#" + "".join(f"{round(255 * part):02x}" for part in SURFACE_COLOUR)
    frames = FRAMES_PER_MAP * max(1, 2 * (len(volumes) - 1))
    lines = [
        f"# drgn {__version__}: {len(volumes)} maps in order, all at one contour level.",
        "# Open this file in ChimeraX. It closes what is open, plays the maps there and back, and saves",
        f"# {path.stem}.mp4 beside itself. Drag the slider that appears to look at single maps.",
        "close",
        f"open {names} vseries true",
        f"volume #1 style surface step 1 level {level:.6g} color {colour}",
        *_LOOKS,
        *filter(None, [_TURNS[view]]),
        "view",
        "movie record size 800,800 supersample 3",
        f"vseries play #1 direction oscillate startTime 0 pauseFrames {FRAMES_PER_MAP}",
        f"wait {frames}",
        "vseries stop #1",
        f"movie encode {path.stem}.mp4 framerate 25 quality high",
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    return path


@dataclass(frozen=True)
class Surface:
    """A map as it is shown.

    Attributes
    ----------
    file
        Its name, in the folder of the script.
    label
        For people.
    levels
        Pairs of a density and the colour of its surface, as #rrggbb.
    colours_by
        Name of a file of local resolution that colours it, with pairs of a resolution in A and a colour.
    """

    file: str
    label: str
    levels: Sequence[tuple[float, str]]
    colours_by: tuple[str, Sequence[tuple[float, str]]] | None = None


def write_scene(path: Path, surfaces: Sequence[Surface]) -> Path:
    """Write a .cxc that opens maps side by side in one view, each at its levels and in its colours.

    The maps are named without their folder, as in `write_script`.
    """
    lines = [
        f"# drgn {__version__}: {len(surfaces)} maps as they were shown. Open this file in ChimeraX.",
        "close",
    ]
    number = 0
    for surface in surfaces:
        number += 1
        shown = " ".join(f"level {level:.6g} color {colour}" for level, colour in surface.levels)
        label = "".join(letter for letter in surface.label if letter.isprintable() and letter not in "\"'\\;")
        lines += [
            f'open "{surface.file}"',
            f'rename #{number} "{label}"',
            f"volume #{number} style surface step 1 {shown}",
        ]
        if surface.colours_by is not None:
            file, scale = surface.colours_by
            palette = ":".join(f"{value:.4g},{colour}" for value, colour in scale)
            lines += [
                f'open "{file}"',
                f"volume #{number + 1} hide",
                f"color sample #{number} map #{number + 1} palette {palette}",
            ]
            number += 1
    with replacing(path) as temporary:
        temporary.write_text("\n".join([*lines, *_LOOKS, "view"]) + "\n")
    return path
