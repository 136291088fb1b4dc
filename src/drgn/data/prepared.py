"""The prepared stack: images windowed, Fourier-cropped and normalised once, in one memory-mapped file.

Each image is kept as the half of its Fourier transform inside Nyquist of the training box (see
`physics.grids.half_lattice`), in half precision and in units of the noise: the noise of every coefficient has
variance 1. A folder holds images.f16, particles.parquet (which image each row is, see `data.identity`) and
meta.json; its name is a hash of everything that the images were made from. Rows stand in the order of the
source stacks, whatever the order of the table, and a table finds its images by what they are: a selection
needs no stack of its own.
"""

import fcntl
import hashlib
import json
import mmap
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn import __version__
from drgn.data import building, identity, sums
from drgn.data.building import Cost, Plan
from drgn.data.fields import Field, fields_of, require_box_size
from drgn.data.header import read_meta, summary
from drgn.data.identity import SourceFile
from drgn.data.noise import noise_std
from drgn.data.transform import FieldTransform
from drgn.errors import InputError, say
from drgn.formats.atomic import naming
from drgn.formats.memory import give_back
from drgn.formats.particles import Particles
from drgn.formats.stacks import ImageReader
from drgn.physics.grids import half_lattice

_FORMAT = 2  # raised when the content of a prepared stack changes
_FAULT_BYTES = 1 << 16  # the system maps so much of what it has in its cache around a page that is touched
_MAPPED_BYTES = 1 << 23  # of the memory map that a process holds at a time


@dataclass
class Meta:
    """What a prepared stack says of itself.

    Attributes
    ----------
    n, box_size, original_box_size, pixel_size_A
        Images, training box, box of the particle images, pixel size of the training box; of the reference
        field, which most images have.
    noise_std
        Of the particle images' background in the largest optics group, in their grey values.
    density_scale
        Grey values of those images per unit of the prepared transform, for a volume's inverse transform on
        the training box.
    rejected
        Rows whose image is constant, not finite, or too far above the noise to be kept in half precision;
        they hold zeros and are never used.
    fields
        See `data.fields.Field`; the first is the reference.
    signal
        How much larger the signal of each field is in units of its noise than that of the reference, because
        more or less empty background is seen.
    noise
        Standard deviation of the noise by optics group and field.
    sources
        See `data.identity.SourceFile`.
    provenance
        Program, date, host, command and particle file.
    """

    n: int
    box_size: int
    original_box_size: int
    pixel_size_A: float
    window: bool
    noise_std: float
    density_scale: float
    rejected: list[int] = field(default_factory=list)
    fields: list[Field] = field(default_factory=list)
    signal: list[float] = field(default_factory=list)
    noise: list[dict[str, Any]] = field(default_factory=list)
    sources: list[SourceFile] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    format: int = _FORMAT

    def __post_init__(self) -> None:  # from JSON
        self.fields = [f if isinstance(f, Field) else Field(**f) for f in self.fields]
        self.sources = [SourceFile(*source) for source in self.sources]


@dataclass(frozen=True, eq=False)
class Images:
    """Source images in the order of the stack that is made of them.

    Attributes
    ----------
    particles, order
        The particle table, and the row in it of each image (N,).
    files, stack
        The stacks, and which of them each image is in (N,).
    fields, field
        The fields of view, and which of them each image has (N,).
    """

    particles: Particles
    order: NDArray[np.int64]
    files: list[SourceFile]
    stack: NDArray[np.int64]
    fields: list[Field]
    field: NDArray[np.int64]

    def column(self, name: str) -> "pd.Series[Any]":
        """A column of the table, (N,); made when it is needed, so that memory holds it once."""
        return self.particles.table[name].iloc[self.order].reset_index(drop=True)

    @property
    def optics(self) -> tuple[NDArray[np.int64], "pd.Index[str]"]:
        """Optics group of each image, and their names."""
        return pd.factorize(self.column("optics_group"))

    def reader(self) -> ImageReader:
        """Of the images by row."""
        return ImageReader(self.column("image_path"), self.column("image_index").to_numpy())


class PreparedStack:
    """A finished prepared stack.

    Attributes
    ----------
    meta
        See `Meta`.
    images
        (N, P, 2) float16 memory map, real and imaginary parts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta = read_meta(folder, Meta)
        self.lattice = half_lattice(self.meta.box_size, 2)
        shape = (self.meta.n, len(self.lattice), 2)
        with open(folder / "images.f16", "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._map.madvise(mmap.MADV_RANDOM)  # neighbours are not read with an image: they are not its batch
        self.images = np.frombuffer(self._map, dtype=np.float16).reshape(shape)
        self._mapped = 0  # bytes read since the map was last let go

    def __reduce__(self) -> tuple[type["PreparedStack"], tuple[Path]]:
        return PreparedStack, (self.folder,)  # another process maps the file itself

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Transforms (len(rows), P) complex64."""
        size = self._map.size()  # of the file as it is now
        if size < self.images.nbytes:  # reading on would end the process with a bus error
            raise InputError(
                f"{self.folder / 'images.f16'} has {size:,} bytes, where {self.images.nbytes:,} are expected:"
                " it was cut off; the same command prepares the images again"
            )
        self._mapped += len(rows) * (self.images[0].nbytes + _FAULT_BYTES)
        if self._mapped > _MAPPED_BYTES:  # the pages stay in the system's cache, not in this process
            self._map.madvise(mmap.MADV_DONTNEED)
            self._mapped = 0
        return torch.view_as_complex(torch.from_numpy(self.images[rows].astype(np.float32)))

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Let the system begin to read images that are wanted soon; returns at once."""
        length = self.images[0].nbytes
        for row in np.sort(rows).tolist():
            start = row * length // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, (row + 1) * length - start)

    def find(self, particles: Particles) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row of this stack that holds each particle's image (N,), -1 where none does; and its field (N,)."""
        files, stack = identity.source_files(particles)
        theirs, kind = fields_of(particles)
        asked = [(f.original_box_size, f.original_pixel_size_A) for f in theirs]
        number = [next((i for i, f in enumerate(self.meta.fields) if f.matches(*one)), -1) for one in asked]
        of_field = np.array(number, dtype=np.int64)[kind]
        table = particles.table
        rows = identity.find_rows(
            self.folder,
            self.meta.sources,
            files,
            stack,
            table["image_index"].to_numpy(np.int64),
            table["data_sign"].to_numpy(np.float64),
            of_field,
        )
        return rows, of_field


def prepare(
    particles: Particles,
    *,
    box_size: int,
    window: bool,
    cache: Path,
    say: Callable[[Cost], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedStack:
    """Open a prepared stack that holds these particles, making it first where there is none yet.

    A killed build goes on where it stopped; an unfinished stack never has the finished name. Of several
    processes that want the same stack one makes it, the others wait.

    Parameters
    ----------
    particles
        The table, in any order.
    box_size
        Training box D in pixels, even, at most the box of the images.
    window
        Whether to multiply by a soft round window.
    cache
        Folder of all prepared stacks.
    say
        Called with what it will cost, before it is made.
    progress
        Called with (images done, images in all).

    Raises
    ------
    InputError
        An image is not there, the box is odd or too large, or the disk too small.
    """
    images = _images(particles, box_size)
    folder = cache / _key(images, box_size, window)
    found = _finished(particles, cache, folder, images.files, box_size, window)
    if found is not None:
        return found
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "meta.json").exists():
            with naming(cache):
                _build(images, partial, box_size, window, say, progress)
            os.fsync(lock)
            os.replace(partial, folder)
        else:
            with suppress(OSError):  # empty, or renamed by the process that was waited for
                partial.rmdir()
    finally:
        os.close(lock)
    return PreparedStack(folder)


def cost(particles: Particles, *, box_size: int, window: bool, cache: Path) -> Cost | None:
    """What `prepare` would take; None where a finished stack holds these particles.

    The time is that of reading and transforming; nothing is written.

    Raises
    ------
    InputError
        As of `prepare`.
    """
    images = _images(particles, box_size)
    folder = cache / _key(images, box_size, window)
    if _finished(particles, cache, folder, images.files, box_size, window) is not None:
        return None
    plan = _plan(images, box_size, window, np.ones(len(images.field), np.float32))
    with building.workers() as pool:
        return building.cost_of(plan, cache, 0, pool)


def _images(particles: Particles, box_size: int) -> Images:
    """The images of a table as they lie on the disk."""
    particles.require_images()
    fields, field = fields_of(particles)
    require_box_size(box_size, fields)
    files, stack = identity.source_files(particles)
    order = np.lexsort((particles.table["image_index"].to_numpy(), stack))
    return Images(particles, order, files, stack[order], fields, field[order])


def _plan(images: Images, box_size: int, window: bool, scale: NDArray[np.float32]) -> Plan:
    """How the images are transformed, each then times its `scale`."""
    transforms = [FieldTransform(f.original_box_size, f.field_px, box_size, window) for f in images.fields]
    return Plan(images.reader(), transforms, images.field, scale)


def _finished(
    particles: Particles, cache: Path, folder: Path, files: list[SourceFile], box_size: int, window: bool
) -> PreparedStack | None:
    """Look for a finished stack that holds all these images, the one made for them first."""
    if (folder / "meta.json").exists() and _sound(folder):
        return PreparedStack(folder)
    others = [path.parent for path in sorted(cache.glob("*/meta.json")) if path.parent.suffix != ".partial"]
    for other in others:
        meta = summary(other)
        if (meta.get("format"), meta.get("box_size"), meta.get("window")) != (_FORMAT, box_size, window):
            continue
        if not set(files) <= {SourceFile(*source) for source in meta["sources"]}:
            continue
        if not _sound(other):
            continue
        stack = PreparedStack(other)
        rows, field = stack.find(particles)
        optics = pd.factorize(particles.table["optics_group"])[0]
        together = len(stack.meta.noise) == len(stack.meta.fields)
        if (rows >= 0).all() and identity.measured_alike(other, rows, optics, field, together):
            return stack
    return None


def _sound(folder: Path) -> bool:
    """Whether a stack is what it was when it was made; otherwise it is removed, which is said."""
    wrong = sums.damage(folder)
    if wrong is None:
        return True
    say(f"{folder} is damaged ({wrong}): its images are prepared again", file=sys.stderr)
    shutil.rmtree(folder)
    return False


def _key(images: Images, box_size: int, window: bool) -> str:
    """Hash of the source images and of how they are treated."""
    digest = hashlib.sha256(f"{_FORMAT} {box_size} {window} {images.fields} {images.files}".encode())
    index = images.column("image_index").to_numpy(np.int64)
    sign = images.column("data_sign").to_numpy(np.int8)
    for column in (images.stack, index, sign, images.field, images.optics[0]):
        digest.update(np.ascontiguousarray(column))
    return digest.hexdigest()[:16]


def _build(
    images: Images,
    partial: Path,
    box_size: int,
    window: bool,
    say: Callable[[Cost], None] | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    fields, kinds = images.fields, images.field
    plan = _plan(images, box_size, window, np.empty(0, np.float32))
    optics, names = images.optics
    group, codes = pd.factorize(optics * len(fields) + kinds)
    largest = int(np.argmax(np.bincount(group[kinds == 0], minlength=len(codes))))
    del optics
    state_file = partial / "state.json"
    energy = np.array([t.energy for t in plan.transforms])
    give_back()
    with building.workers() as pool:
        if state_file.exists():
            state = json.loads(state_file.read_text())
        else:
            # too small a disk is told before the noise is measured
            building.require_space(partial.parent, len(plan) * plan.row_bytes)
            measured = noise_std(plan, group, images.particles.source.path, pool)
            state = {"done": 0, "rejected": [], "noise_std": measured.tolist()}
        noise = np.array(state["noise_std"])
        scale = 1 / (noise[group] * np.sqrt(energy[kinds]))  # noise variance 1
        plan.scale = (scale * images.column("data_sign").to_numpy()).astype(np.float32)
        group = group.astype(np.int32)
        del scale
        if say is not None:
            say(building.cost_of(plan, partial.parent, state["done"], pool))
        rejected = building.write_images(plan, partial / "images.f16", state_file, state, pool, progress)
    give_back()
    columns = {name: images.column(name) for name in ("key", "image_index", "data_sign")}
    identity.write(partial, columns, images.stack, kinds, group)
    del columns
    extent = np.array([f.original_pixel_size_A for f in fields]) * np.sqrt(energy)
    meta = Meta(
        n=len(plan),
        box_size=box_size,
        original_box_size=fields[0].original_box_size,
        pixel_size_A=fields[0].original_pixel_size_A * fields[0].field_px / box_size,
        window=window,
        noise_std=float(noise[largest]),
        density_scale=float((box_size / fields[0].field_px) ** 3 * noise[largest] * np.sqrt(energy[0])),
        rejected=rejected,
        fields=fields,
        signal=(extent[0] / extent).tolist(),
        noise=[
            {"optics_group": names[code // len(fields)], "field": int(code % len(fields)), "std": float(std)}
            for code, std in zip(codes, noise, strict=True)
        ],
        sources=images.files,
        provenance={
            "drgn": __version__,
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "host": platform.node(),
            "command": sys.argv,
            "particles": os.path.abspath(images.particles.source.path),
        },
    )
    building.write_json(partial / "meta.json", asdict(meta))
    sums.record(partial)
    state_file.unlink()
