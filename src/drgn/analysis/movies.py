"""Movies of maps along a path: isosurfaces at one level, in one view, there and back.

Between the maps that are on disk the model decodes more, so that a movie is smooth without blending maps: a
part that moves is seen to move, and not to fade out in one place and in at another.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drgn.analysis.paths import between
from drgn.analysis.pictures import SURFACE_COLOUR, telling_view
from drgn.analysis.render import VIEWS, Frame, isosurface, isosurface_level
from drgn.analysis.volumes import VolumeFiles
from drgn.formats.atomic import replacing

if TYPE_CHECKING:
    from drgn.run import Run

REPORT_BYTES = 1_500_000  # largest movie inside a report
_REPORT_FRAMES, _REPORT_SIZE_PX = 13, 240
_DOT, _LINE, _TICK = (213, 94, 0), (200, 205, 210), (90, 98, 106)
_TICKS = 24  # most ticks that can be told apart
_COLOURS = 60  # of the surface in a GIF; its shades are those of one colour


def for_report(run: Run, z: np.ndarray, volumes: VolumeFiles, path: Path) -> Path:
    """Movie of a few decoded maps as a small GIF, to be shown in the report.

    Parameters
    ----------
    run
        The run whose model decodes.
    z
        (M, Z) latents of the maps.
    volumes
        The M maps.
    path
        The .gif to write.
    """
    view, level = telling_view(volumes), isosurface_level(volumes)
    pictures = draw(run, z, volumes, view, level, _REPORT_FRAMES, _REPORT_SIZE_PX)
    return write_gif(there_and_back(pictures, hold=3), path, frames_per_s=10, most_bytes=REPORT_BYTES)


def draw(
    run: Run, z: np.ndarray, volumes: VolumeFiles, view: str, level: float, frames: int, size_px: int
) -> list[np.ndarray]:
    """Pictures of the maps from the first latent to the last.

    Parameters
    ----------
    run
        The run whose model decodes.
    z
        (M, Z) latents of the maps.
    volumes
        The M maps, from which the part of the box that is shown is taken.
    view
        A key of `render.VIEWS`.
    level
        Density of the surfaces.
    frames
        How many pictures at least; each map has one.
    size_px
        Width and height.

    Returns
    -------
    list of (size_px, size_px, 3) uint8 arrays
        Each with a bar below on which a dot shows the place on the path, and ticks the maps on disk, if few.
    """
    import torch

    dense, steps = between(z, frames)
    frame = Frame.of(volumes, level, margin=1.12)
    maps = run.volumes(dense, "cuda" if torch.cuda.is_available() else "cpu")
    surfaces = _surfaces(maps, level, view, frame, size_px)
    return [_with_bar(surface, i, len(dense), steps) for i, surface in enumerate(surfaces)]


def there_and_back(pictures: Sequence[np.ndarray], hold: int) -> list[np.ndarray]:
    """Pictures from the first to the last and back, resting at both ends; without a jump when it repeats."""
    return [*[pictures[0]] * hold, *pictures, *[pictures[-1]] * hold, *pictures[-2:0:-1]]


def write_gif(
    pictures: Sequence[np.ndarray], path: Path, frames_per_s: float, most_bytes: int | None = None
) -> Path:
    """Write an animated GIF that repeats for ever.

    Parameters
    ----------
    pictures
        (H, W, 3) uint8 arrays of one size.
    path
        The file to write.
    frames_per_s
        Pictures each second.
    most_bytes
        Where the file would be larger, the pictures are made smaller until it is not.
    """
    from PIL import Image

    images = [Image.fromarray(picture) for picture in pictures]
    while True:
        content = _gif(images, round(1000 / frames_per_s))
        if most_bytes is None or len(content) <= most_bytes or images[0].width < 64:
            break
        smaller = (int(images[0].width * 0.85), int(images[0].height * 0.85))
        images = [image.resize(smaller, Image.Resampling.LANCZOS) for image in images]
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def write_mp4(pictures: Sequence[np.ndarray], path: Path, frames_per_s: float) -> Path | None:
    """Write an H.264 movie, where imageio-ffmpeg, which brings the encoder, is installed; else None.

    Parameters
    ----------
    pictures
        (H, W, 3) uint8 arrays of one size; H and W are even.
    path
        The file to write.
    frames_per_s
        Pictures each second.
    """
    from importlib.util import find_spec

    if find_spec("imageio_ffmpeg") is None:
        return None
    from imageio_ffmpeg import write_frames

    height, width = pictures[0].shape[:2]
    with replacing(path) as temporary:
        writer = write_frames(
            str(temporary),
            (width, height),
            fps=frames_per_s,
            quality=8,
            macro_block_size=2,
            pix_fmt_in="rgb24",
        )
        writer.send(None)
        for picture in pictures:
            writer.send(np.ascontiguousarray(picture))
        writer.close()
    return path


def _surfaces(
    maps: Iterable[np.ndarray], level: float, view: str, frame: Frame, size_px: int
) -> Iterable[np.ndarray]:
    """Isosurfaces on white, (size_px, size_px, 3) uint8; a few maps are in memory at a time."""

    def surface(volume: np.ndarray) -> np.ndarray:
        rgba = isosurface(volume, level, SURFACE_COLOUR, VIEWS[view], size_px, frame)
        rgb = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
        return np.round(255 * rgb).astype(np.uint8)

    workers = min(4, os.cpu_count() or 1)  # scipy's interpolation runs in parallel
    maps = iter(maps)
    with ThreadPoolExecutor(workers) as pool:
        while some := list(islice(maps, workers)):
            yield from pool.map(surface, some)


def _with_bar(picture: np.ndarray, number: int, total: int, steps: int) -> np.ndarray:
    """The picture with a bar along its lower edge: where on the path it is, and where the maps are."""
    from PIL import Image, ImageDraw

    if total < 2:
        return picture
    fine = 4  # drawn larger and averaged, so that the dot is round
    size, height = picture.shape[1], max(12, picture.shape[0] // 20)
    strip = Image.new("RGB", (size * fine, height * fine), "white")
    pen = ImageDraw.Draw(strip)
    middle, radius = height * fine // 2, height * fine // 3

    def across(i: int) -> float:
        return (0.06 + 0.88 * i / (total - 1)) * size * fine

    pen.line([(across(0), middle), (across(total - 1), middle)], fill=_LINE, width=fine * 2)
    for tick in range(0, total, steps) if total <= _TICKS * steps else ():
        pen.line(
            [(across(tick), middle - radius * 0.7), (across(tick), middle + radius * 0.7)], _TICK, width=fine
        )
    at = across(number)
    pen.ellipse([at - radius, middle - radius, at + radius, middle + radius], fill=_DOT)
    drawn = np.asarray(strip.resize((size, height), Image.Resampling.BOX))
    return np.concatenate([picture[:-height], np.minimum(picture[-height:], drawn)])


def _gif(images: Sequence, duration_ms: int) -> bytes:
    """Encode PIL images with one palette for all, which makes the file small and keeps it from flickering."""
    from PIL import Image

    together = np.concatenate([np.asarray(image)[::2, ::2] for image in images[:: max(1, len(images) // 8)]])
    palette = Image.fromarray(together).quantize(_COLOURS, dither=Image.Dither.NONE)
    colours = [*(palette.getpalette() or [])[: 3 * _COLOURS], *_DOT, *_LINE, *_TICK, 255, 255, 255]
    palette.putpalette(colours)
    flat = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    content = BytesIO()
    flat[0].save(
        content, "GIF", save_all=True, append_images=flat[1:], duration=duration_ms, loop=0, optimize=False
    )
    return content.getvalue()
