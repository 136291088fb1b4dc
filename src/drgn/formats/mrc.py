"""MRC volumes and image stacks: reading without a copy too many, streaming and atomic writing.

Images are read at their place in the file, so that one image of a stack larger than memory costs one image.
"""

import bz2
import gzip
import os
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats.atomic import replacing
from drgn.formats.mrc_header import (
    HEADER_BYTES,
    PADDING_BYTES,
    Header,
    check_header,
    is_compressed,
    new_header,
    possible_headers,
    read_header,
)

_UNPACKED_BYTES = 1 << 30  # that a compressed map may have whatever its file has
_LARGEST_RATIO = 50  # of the map to its file, beyond that
_CONVERTED_BYTES = 1 << 22  # read at a time where numbers are not stored as float32


def read_volume(path: str | os.PathLike[str]) -> tuple[NDArray[np.float32], float]:
    """Read a volume; the file may be compressed (gzip, bzip2), as EMDB gives it.

    Returns
    -------
    volume : (z, y, x) float32; a file with permuted axes (mapc, mapr, maps) is brought into this order
    pixel_size_A : along x (crystal maps can differ in y and z: see `read_cubic`); NaN when the header does
        not say

    Raises
    ------
    InputError
        As `read_header`, and when the file holds several volumes or an axis order that is none.
    """
    volume, header = _read_volume(os.fspath(path))
    return volume, header.pixel_size_A[0]


def read_cubic(
    path: str | os.PathLike[str],
) -> tuple[NDArray[np.float32], float, tuple[float, float, float]]:
    """Read a volume into a cube whose side D is the longest side of the map.

    The middle of the map, voxel n // 2 along each axis, becomes voxel D // 2; what is added holds the mean of
    the map's six faces.

    Returns
    -------
    volume : (D, D, D) float32
    pixel_size_A : the same along all axes; NaN when the header does not say
    origin_A : of the first voxel of the cube along x, y, z

    Raises
    ------
    InputError
        As `read_volume`, and when the pixels are not cubes, or the map is so flat or long that it is none.
    """
    volume, header = _read_volume(os.fspath(path))
    known = [size for size in header.pixel_size_A if size == size]
    pixel_size_A = known[0] if known else np.nan
    if any(abs(size - pixel_size_A) > 1e-3 * pixel_size_A for size in known):
        sizes = " x ".join(f"{size:.5g}" for size in header.pixel_size_A)
        raise InputError(
            f"{header.path} has voxels of {sizes} A, where cubes are expected; resample it to one pixel size."
        )
    if any(angle and abs(angle - 90) > 0.01 for angle in header.cell_angle_deg):
        raise InputError(
            f"{header.path} is a map of a unit cell with the angles {header.cell_angle_deg}, where right "
            "angles are expected; resample it to cubic voxels."
        )
    side = max(volume.shape)
    if side > 8 * min(volume.shape):
        raise InputError(
            f"{header.path} has {' x '.join(map(str, volume.shape))} voxels, one side more than eight times "
            "another, where a map is expected; is it a stack of images?"
        )
    before = [side // 2 - n // 2 for n in volume.shape]
    origin_A = [
        origin - count * (pixel_size_A if known else 0.0)
        for origin, count in zip(header.origin_A, reversed(before), strict=True)
    ]
    if any(before) or len(set(volume.shape)) > 1:
        faces = [np.take(volume, end, axis) for axis in range(3) for end in (0, -1)]
        mean = sum(face.sum(dtype=np.float64) for face in faces) / sum(face.size for face in faces)
        cube = np.full((side, side, side), mean, dtype=np.float32)
        cube[tuple(slice(b, b + n) for b, n in zip(before, volume.shape, strict=True))] = volume
        volume = cube
    return volume, pixel_size_A, (origin_A[0], origin_A[1], origin_A[2])


def write_volume(
    path: str | os.PathLike[str],
    volume: NDArray[Any],
    pixel_size_A: float,
    origin_A: tuple[float, float, float] = (0.0, 0.0, 0.0),
    label: str = "drgn",
) -> None:
    """Write a volume (z, y, x) as float32 with its pixel size, origin (x, y, z) and one label of 80 bytes."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.writelines(_parts(volume, pixel_size_A, origin_A, label))


def volume_bytes(volume: NDArray[Any], pixel_size_A: float) -> bytes:
    """What `write_volume` would write."""
    return b"".join(_parts(volume, pixel_size_A, (0.0, 0.0, 0.0), "drgn"))


def _parts(
    volume: NDArray[Any], pixel_size_A: float, origin_A: tuple[float, float, float], label: str
) -> tuple[bytes, memoryview]:
    data = np.ascontiguousarray(volume, dtype="<f4")
    if data.ndim != 3:
        raise ValueError(f"a volume has three axes, not {data.ndim}")
    nz, ny, nx = data.shape
    header = new_header((nx, ny, nz), (nx, ny, nz), pixel_size_A, label)
    header["ispg"] = 1
    header["origin_A"] = origin_A
    header["minimum"], header["maximum"] = data.min(), data.max()
    header["mean"], header["rms"] = data.mean(dtype=np.float64), data.std(dtype=np.float64)
    return header.tobytes(), data.data


def read_stack_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of a stack of square images.

    Raises
    ------
    InputError
        As `read_header`, and when the images are not square.
    """
    header = read_header(path)
    _, rows, columns = header.shape
    if rows != columns:
        raise InputError(f"{header.path} has images of {columns} x {rows} pixels; they must be square.")
    return header


class StackReader:
    """Images of one stack; several threads may read from it, and it may be pickled.

    The file is opened on first use in each process. Memory holds the images that are asked for and no others.

    Raises
    ------
    InputError
        As `read_stack_header`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.header = read_stack_header(path)
        self.n, self.box_size_px, _ = self.header.shape
        self._file: int | None = None

    def __len__(self) -> int:
        return self.n

    def read(
        self, indices: NDArray[np.integer[Any]], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the images at `indices` (any order, 0-based) as (len(indices), D, D) float32.

        Parameters
        ----------
        indices : of the images; those that follow each other are read at once
        out : contiguous array of the returned shape, to be filled and returned
        """
        shape = (len(indices), self.box_size_px, self.box_size_px)
        if out is None:
            out = np.empty(shape, dtype=np.float32)
        elif out.shape != shape:
            raise ValueError(f"out has the shape {out.shape}, where {shape} is expected")
        ends = np.flatnonzero(np.diff(indices) != 1) + 1
        for start, stop in zip([0, *ends], [*ends, len(indices)], strict=True):
            if stop > start:
                self.read_run(int(indices[start]), out[start:stop])
        return out

    def read_run(self, first: int, out: NDArray[np.float32]) -> None:
        """Fill `out` (k, D, D), contiguous float32, with the images from `first` (0-based) on.

        Raises
        ------
        InputError
            When the stack does not hold so many images, or cannot be read to its end any more.
        """
        if out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError("images are read into a contiguous float32 array")
        if first < 0 or first + len(out) > self.n:
            raise InputError(
                f"{self.header.path} has {self.n} images, but image {first + len(out)} is asked for; "
                "is it the stack that the table was made for?"
            )
        if self.header.dtype == np.float32:
            self._fill(first, out.reshape(-1).view(np.uint8))
            return
        size = self.header.section_bytes
        step = max(1, _CONVERTED_BYTES // size)
        raw = np.empty(min(step, len(out)) * size, dtype=np.uint8)
        for start in range(0, len(out), step):
            part = out[start : start + step]
            self._fill(first + start, raw[: len(part) * size])
            part[:] = self.header.values(raw[: len(part) * size])

    def _fill(self, first: int, raw: NDArray[np.uint8]) -> None:
        """Read bytes from image `first` on; the position is the call's own, for the sake of threads."""
        view, position = memoryview(raw.data), self.header.offset + first * self.header.section_bytes
        try:
            file = self._file
            if file is None:  # two threads may both open it: both are closed in the end
                file = self._file = os.open(self.header.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
                weakref.finalize(self, os.close, file)
            while len(view):  # a single call gives at most 2 GiB
                count = os.preadv(file, [view], position)
                if not count:
                    raise InputError(
                        f"{self.header.path} ended while it was read; it was cut or replaced in the meantime."
                    )
                view, position = view[count:], position + count
        except OSError as error:
            raise InputError(f"{self.header.path} cannot be read ({error.strerror}).") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


class StackWriter:
    """Write a stack of known length image by image; the file appears under its name only when complete.

    Parameters
    ----------
    path : of the stack, which RELION wants to end in .mrcs
    n : number of images
    box : side of an image in pixels
    pixel_size_A : written to the header
    label : up to 80 bytes of provenance

    Examples
    --------
    >>> with StackWriter("particles.mrcs", n=100, box=64, pixel_size_A=1.5) as stack:
    ...     stack.write(images)  # (any number, 64, 64)
    """

    def __init__(
        self, path: str | os.PathLike[str], n: int, box: int, pixel_size_A: float, label: str = "drgn"
    ) -> None:
        self.path = Path(path)
        self.n = n
        self.box = box
        self.written = 0
        self._header = new_header((box, box, n), (box, box, 1), pixel_size_A, label)
        self._range = (np.inf, -np.inf)
        self._sum = self._sum_of_squares = 0.0
        self._replacing = replacing(self.path)

    def __enter__(self) -> Self:
        self._file = open(self._replacing.__enter__(), "wb")
        self._file.write(self._header.tobytes())
        return self

    def write(self, images: NDArray[Any]) -> None:
        """Append one image (D, D) or several (k, D, D); stored as float32."""
        data = np.ascontiguousarray(images, dtype="<f4").reshape(-1, *images.shape[-2:])
        if data.shape[1:] != (self.box, self.box) or self.written + len(data) > self.n:
            raise ValueError(
                f"{self.path} is a stack of {self.n} images of {self.box} pixels: {data.shape} do not fit "
                f"after the {self.written} written"
            )
        if not len(data):
            return
        self._file.write(data.data)
        self.written += len(data)
        low, high = self._range
        self._range = (min(low, float(data.min())), max(high, float(data.max())))
        self._sum += float(data.sum(dtype=np.float64))
        self._sum_of_squares += float(np.square(data, dtype=np.float64).sum())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = error
        if failure is None and self.written != self.n:
            failure = ValueError(f"{self.path}: {self.written} of {self.n} images were written")
        if failure is None and self.n:
            count = self.n * self.box * self.box
            mean = self._sum / count
            self._header["minimum"], self._header["maximum"] = self._range
            self._header["mean"] = mean
            self._header["rms"] = np.sqrt(max(self._sum_of_squares / count - mean * mean, 0.0))
            self._file.seek(0)
            self._file.write(self._header.tobytes())
        self._file.close()
        self._replacing.__exit__(None if failure is None else type(failure), failure, trace)
        if failure is not error and failure is not None:
            raise failure


def _read_volume(name: str) -> tuple[NDArray[np.float32], Header]:
    """Return the volume (z, y, x) and its header."""
    try:
        with open(name, "rb") as file:
            start = file.read(3)
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}).") from error
    if is_compressed(start):
        content = _unpack(name, bz2.open if start == b"BZh" else gzip.open)
        header = check_header(content[:HEADER_BYTES], name, len(content), lambda start: content[start:])
        raw = np.frombuffer(content, dtype=np.uint8)[header.offset : header.file_bytes]
    else:
        header = read_header(name)
        raw = np.fromfile(name, dtype=np.uint8, count=header.file_bytes - header.offset, offset=header.offset)
    if header.volumes > 1:
        raise InputError(
            f"{name} holds {header.volumes} volumes (space group {header.ispg}), where one is expected; "
            "write each to its own file."
        )
    axes = header.axes if any(header.axes) else (1, 2, 3)  # old writers leave them empty
    if sorted(axes) != [1, 2, 3]:
        raise InputError(
            f"{name} says that its axes are {axes} (mapc, mapr, maps), where 1, 2 and 3 in some order are "
            "expected; correct its header."
        )
    stored = header.values(raw).astype(np.float32, copy=False)  # (maps, mapr, mapc)
    place = {axis: 2 - number for number, axis in enumerate(axes)}  # 1 = x, 2 = y, 3 = z
    return np.require(stored.transpose(place[3], place[2], place[1]), requirements=["C", "W", "A"]), header


def _unpack(name: str, opener: Callable[[str], Any]) -> bytes:
    """Return what a compressed file holds, or so much of it as shows that it is longer than it should be."""
    try:
        with opener(name) as file:
            parts = [file.read(HEADER_BYTES)]
            longest = max(header.file_bytes for header in possible_headers(parts[0], name))
            if longest > max(_UNPACKED_BYTES, _LARGEST_RATIO * os.path.getsize(name)):
                raise InputError(
                    f"{name} would unpack to {longest} bytes, which is out of proportion to the file; unpack "
                    "it yourself (gunzip) if you trust it."
                )
            left = longest - HEADER_BYTES + PADDING_BYTES + 1
            while parts[-1]:
                parts.append(file.read(min(left, 1 << 22)))
                left -= len(parts[-1])
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name} cannot be unpacked ({error}); fetch it again.") from error
    return b"".join(parts)
