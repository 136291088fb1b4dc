"""The prepared stack: images windowed, Fourier-cropped and normalised once, in one memory-mapped file.

Each image is kept as the half of its Fourier transform inside Nyquist of the training box (see
`physics.grids.half_lattice`), in half precision and in units of the noise: the noise of every coefficient has
variance 1. The folder's name is a hash of everything the file was made from.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drgn.errors import InputError
from drgn.formats.particles import Particles, read_images
from drgn.physics import fourier, masks
from drgn.physics.grids import half_lattice

_FORMAT = 1  # raised when the content of a prepared stack changes
_CHUNK = 512  # images transformed at a time: memory does not grow with the number of particles
_BACKGROUND = 0.9  # the background ring starts here, in half boxes


@dataclass
class Meta:
    """What a prepared stack says of itself.

    Attributes
    ----------
    n, box_size, original_box_size, pixel_size_A
        Images, training box, box of the particle images, pixel size of the training box.
    noise_std
        Of the particle images' background, in their grey values.
    density_scale
        Grey values of the particle images per unit of the prepared transform, for a volume's inverse
        transform on the training box.
    rejected
        Rows whose image is constant, not finite, or too far above the noise to be kept in half precision;
        they hold zeros and are never used.
    """

    n: int
    box_size: int
    original_box_size: int
    pixel_size_A: float
    window: bool
    noise_std: float
    density_scale: float
    rejected: list[int] = field(default_factory=list)


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
        self.meta = Meta(**json.loads((folder / "meta.json").read_text()))
        self.lattice = half_lattice(self.meta.box_size, 2)
        shape = (self.meta.n, len(self.lattice), 2)
        self.images = np.memmap(folder / "images.f16", dtype=np.float16, mode="r", shape=shape)

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Transforms (len(rows), P) complex64."""
        return torch.view_as_complex(torch.from_numpy(self.images[rows].astype(np.float32)))


def prepare(
    particles: Particles,
    *,
    box_size: int,
    window: bool,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedStack:
    """Open the prepared stack of these particles, making it first where it is not there yet.

    A killed build goes on where it stopped; an unfinished stack never has the finished name. Of several
    processes that want the same stack one makes it, the others wait.

    Parameters
    ----------
    particles
        The table; its order is the order of the stack.
    box_size
        Training box D in pixels, even, at most the box of the images.
    window
        Whether to multiply by a soft round window.
    cache
        Folder of all prepared stacks.
    progress
        Called with (images done, images in all).

    Raises
    ------
    InputError
        An image is not there, or the box is odd or too large.
    """
    require_box_size(box_size, particles.box_size)
    particles.require_images()
    folder = cache / _key(particles, box_size, window)
    if not (folder / "meta.json").exists():
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "meta.json").exists():
                _build(particles, partial, box_size, window, progress)
                os.replace(partial, folder)
            else:
                with suppress(OSError):  # empty, or renamed by the process that was waited for
                    partial.rmdir()
        finally:
            os.close(lock)
    return PreparedStack(folder)


def require_box_size(box_size: int, original: int) -> None:
    """Raise an InputError where images of box `original` cannot be cropped to `box_size`."""
    if box_size % 2 or not 8 <= box_size <= original:
        raise InputError(
            f"dataset.box_size={box_size}: expected an even number from 8 to the images' box, {original}"
        )


def _key(particles: Particles, box_size: int, window: bool) -> str:
    """Hash of the source images and of how they are treated."""
    digest = hashlib.sha256(f"{_FORMAT} {box_size} {window} {particles.pixel_size_A}".encode())
    for path in sorted(set(particles.table["image_path"])):
        status = os.stat(path)
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    for column in ("image_path", "image_index", "data_sign"):
        digest.update("\n".join(particles.table[column].astype(str)).encode())
    return digest.hexdigest()[:16]


def _build(
    particles: Particles,
    partial: Path,
    box_size: int,
    window: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    n, original = len(particles), particles.box_size
    lattice = half_lattice(box_size, 2)
    taper = masks.window(original) if window else torch.ones(original, original)
    state_file = partial / "state.json"
    if state_file.exists():
        state = json.loads(state_file.read_text())
    else:
        state = {"done": 0, "rejected": [], "noise_std": _noise_std(particles)}
    # unitary transform, noise variance 1 after the window took its share
    scale = 1 / (original * state["noise_std"] * float(taper.square().mean().sqrt()))
    size = n * len(lattice) * 2 * 2
    with open(partial / "images.f16", "r+b" if state["done"] else "w+b") as file:
        file.truncate(size)
    out = np.memmap(partial / "images.f16", dtype=np.float16, mode="r+", shape=(n, len(lattice), 2))
    sign = torch.from_numpy(particles.table["data_sign"].to_numpy(np.float32))
    background = _ring(original)
    for start in range(state["done"], n, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, n))
        images = torch.from_numpy(read_images(particles, rows))
        good = _usable(images)
        images[~good] = 0
        images = (images - images[:, background].mean(1)[:, None, None]) * taper * sign[rows, None, None]
        transform = fourier.crop(fourier.fft(images, 2), box_size, 2)
        values = (torch.view_as_real(lattice.gather(transform)) * scale).to(torch.float16)
        good &= values.isfinite().all(-1).all(-1)
        values[~good] = 0
        out[rows] = values.numpy()
        state["rejected"] += rows[~good.numpy()].tolist()
        state["done"] = int(rows[-1]) + 1
        out.flush()
        _write_json(state_file, state)
        if progress is not None:
            progress(state["done"], n)
    meta = Meta(
        n=n,
        box_size=box_size,
        original_box_size=original,
        pixel_size_A=particles.pixel_size_A * original / box_size,
        window=window,
        noise_std=state["noise_std"],
        density_scale=(box_size / original) ** 3 / scale,
        rejected=state["rejected"],
    )
    _write_json(partial / "meta.json", asdict(meta))
    state_file.unlink()


def _ring(box_size: int) -> Tensor:
    """Pixels (D, D) bool of the background: outside the largest circle but a tenth."""
    axis = torch.arange(box_size) - box_size // 2
    return (axis[:, None] ** 2 + axis[None, :] ** 2) > (_BACKGROUND * box_size / 2) ** 2


def _noise_std(particles: Particles) -> float:
    """Standard deviation of the background over about 1,000 evenly spaced images.

    Images far louder than the others do not count. Images without noise (simulated, for tests) are measured
    as a whole instead.
    """
    rows = np.unique(np.linspace(0, len(particles) - 1, min(len(particles), 1000)).astype(np.int64))
    ring = _ring(particles.box_size)
    background, everything = [], []
    for chunk in np.array_split(rows, max(1, len(rows) // _CHUNK)):
        images = torch.from_numpy(read_images(particles, chunk))
        images = images[_usable(images)]
        if len(images):
            background.append(images[:, ring].var(dim=1))
            everything.append(images.flatten(1).var(dim=1))
    if not everything:
        raise InputError(
            f"{particles.source.path}: the images are empty (constant or not finite), not particles"
        )
    noise, total = _without_outliers(background), _without_outliers(everything)
    return float((noise if noise > 1e-4 * total else total).sqrt())


def _usable(images: Tensor) -> Tensor:
    """Which of (n, D, D) are finite and not constant, (n,) bool."""
    flat = images.flatten(1)
    return flat.isfinite().all(1) & (flat.amax(1) > flat.amin(1))


def _without_outliers(variances: list[Tensor]) -> Tensor:
    """Mean of the variances that are not far above their median."""
    values = torch.cat(variances)
    return values[values <= 10 * values.median()].mean()


def _write_json(path: Path, content: dict[str, object]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)
