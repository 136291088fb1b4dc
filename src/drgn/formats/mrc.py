"""MRC volumes and image stacks (MRC2014): header, memory-mapped reading, streaming and atomic writing.

Images of a stack are read by their offset, so that one image of a stack larger than memory costs one image.
Modes 0 (int8), 1 (int16), 2 (float32), 6 (uint16) and 12 (float16) are read in both byte orders, also from
old writers that left the machine stamp empty.
"""

import os
import threading
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from drgn.errors import InputError
from drgn.formats.atomic import replacing

HEADER_BYTES = 1024
MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
LARGEST_SIDE = 1 << 24  # a larger count means that the header was read in the wrong byte order

_HEADER = np.dtype(
    [
        ("n", "<i4", 3),  # nx, ny, nz: columns, rows, sections
        ("mode", "<i4"),
        ("start", "<i4", 3),
        ("m", "<i4", 3),  # sampling of the unit cell: mx, my, mz
        ("cell_A", "<f4", 3),
        ("cell_angle_deg", "<f4", 3),
        ("axes", "<i4", 3),  # mapc, mapr, maps: 1 = x, 2 = y, 3 = z
        ("minimum", "<f4"),
        ("maximum", "<f4"),
        ("mean", "<f4"),
        ("ispg", "<i4"),  # space group; 0 = a stack of images
        ("nsymbt", "<i4"),  # bytes of the extended header
        ("extra", "V100"),
        ("origin_A", "<f4", 3),
        ("map", "S4"),
        ("stamp", "u1", 4),
        ("rms", "<f4"),
        ("nlabl", "<i4"),
        ("label", "S80", 10),
    ]
)


@dataclass(frozen=True)
class Header:
    """What is needed of an MRC header.

    Attributes
    ----------
    path : file the header was read from
    shape : (sections, rows, columns) as stored
    dtype : of one voxel, byte order included
    offset : bytes before the first voxel
    pixel_size_A : along x, y, z; NaN where the header does not say
    axes : (mapc, mapr, maps)
    ispg : space group number; 0 for a stack by the standard, though many writers say 1
    origin_A : of the first voxel along x, y, z
    """

    path: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    pixel_size_A: tuple[float, float, float]
    axes: tuple[int, int, int]
    ispg: int
    origin_A: tuple[float, float, float]


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of an MRC file.

    Raises
    ------
    InputError
        When there is no such file, when it is not MRC, or when its length is not what its header promises.
    """
    name = os.fspath(path)
    try:
        length = os.path.getsize(name)
        with open(name, "rb") as file:
            raw = file.read(HEADER_BYTES)
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}).") from error
    if len(raw) < HEADER_BYTES:
        raise InputError(
            f"{name} is {len(raw)} bytes long, too short for the 1024-byte header of an MRC file."
        )
    header, order = _parse(raw, name)
    nx, ny, nz = (int(side) for side in header["n"])
    dtype = np.dtype(order + MODES[int(header["mode"])])
    offset = HEADER_BYTES + int(header["nsymbt"])
    expected = offset + nx * ny * nz * dtype.itemsize
    if length != expected:
        fault = "truncated" if length < expected else "longer than it should be"
        raise InputError(
            f"{name} is {fault}: its header promises {nz} x {ny} x {nx} values of {dtype.itemsize} bytes, "
            f"{expected} bytes in all, but the file has {length}; copy or write it again."
        )
    sampling = np.maximum(header["m"], 1)
    # 7 digits are what a float32 holds: 13.1 comes back as 13.1, not as 13.100000381
    pixels = [float(f"{a:.7g}") for a in header["cell_A"].astype(np.float64) / sampling]
    axes = tuple(int(a) for a in header["axes"])
    return Header(
        path=name,
        shape=(nz, ny, nx),
        dtype=dtype,
        offset=offset,
        pixel_size_A=_triple([a if np.isfinite(a) and a > 0 else np.nan for a in pixels]),
        axes=(axes[0], axes[1], axes[2]) if sorted(axes) == [1, 2, 3] else (1, 2, 3),
        ispg=int(header["ispg"]),
        origin_A=_triple([float(a) for a in header["origin_A"]]),
    )


def read_volume(path: str | os.PathLike[str]) -> tuple[NDArray[np.float32], float]:
    """Read a volume.

    Returns
    -------
    volume : (z, y, x) float32; a file with permuted axes (mapc, mapr, maps) is brought into this order
    pixel_size_A : along x (crystal maps can differ in y and z: see `read_header`); NaN when the header does
        not say

    Raises
    ------
    InputError
        As `read_header`.
    """
    header = read_header(path)
    stored = np.array(_memmap(header), dtype=np.float32)  # (maps, mapr, mapc)
    axis_of = {axis: 2 - place for place, axis in enumerate(header.axes)}  # 1 = x, 2 = y, 3 = z
    volume = stored.transpose(axis_of[3], axis_of[2], axis_of[1])
    return np.ascontiguousarray(volume), header.pixel_size_A[0]


def write_volume(
    path: str | os.PathLike[str],
    volume: NDArray[Any],
    pixel_size_A: float,
    origin_A: tuple[float, float, float] = (0.0, 0.0, 0.0),
    label: str = "drgn",
) -> None:
    """Write a volume (z, y, x) as float32 with its pixel size, origin (x, y, z) and one label of 80 bytes."""
    data = np.ascontiguousarray(volume, dtype="<f4")
    if data.ndim != 3:
        raise ValueError(f"a volume has three axes, not {data.ndim}")
    nz, ny, nx = data.shape
    header = _new_header((nx, ny, nz), (nx, ny, nz), pixel_size_A, label)
    header["ispg"] = 1
    header["origin_A"] = origin_A
    header["minimum"], header["maximum"] = data.min(), data.max()
    header["mean"], header["rms"] = data.mean(dtype=np.float64), data.std(dtype=np.float64)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(header.tobytes())
        file.write(data.data)


class StackReader:
    """Images of one stack, read from a file opened on first use in each process; threads may share it.

    Raises
    ------
    InputError
        As `read_header`, and when the images are not square.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.header = read_header(path)
        n, rows, columns = self.header.shape
        if rows != columns:
            raise InputError(
                f"{self.header.path} has images of {columns} x {rows} pixels; they must be square."
            )
        self.n = n
        self.box_size_px = rows
        self._file: FileIO | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.n

    def read(self, indices: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return the images at `indices` (any order, 0-based) as (len(indices), D, D) float32.

        Neighbours in the stack are read as one piece. Raises InputError where the file became shorter.
        """
        with self._lock:
            if self._file is None:
                self._file = open(self.header.path, "rb", buffering=0)  # noqa: SIM115 (closed with the reader)
        indices = np.asarray(indices, dtype=np.int64)
        box, stored = self.box_size_px, self.header.dtype
        raw = np.empty((len(indices), box, box), dtype=stored)
        starts = np.flatnonzero(np.diff(indices, prepend=-2) != 1)
        for start, end in zip(starts, [*starts[1:], len(indices)], strict=True):
            self._read_into(raw[start:end], int(indices[start]))
        return raw.astype(np.float32, copy=False)

    def _read_into(self, images: NDArray[Any], index: int) -> None:
        """Fill an array with neighbouring images."""
        assert self._file is not None
        piece = images.reshape(-1).view(np.uint8).data
        offset = self.header.offset + index * self.box_size_px**2 * images.itemsize
        while len(piece):  # one call gives at most 2 GiB
            count = os.preadv(self._file.fileno(), [piece], offset)
            if count == 0:
                raise InputError(
                    f"{self.header.path} became shorter while it was read; copy or write it again."
                )
            piece, offset = piece[count:], offset + count

    def __del__(self) -> None:
        if self.__dict__.get("_file") is not None:
            self._file.close()  # type: ignore[union-attr]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = {**state, "_lock": threading.Lock()}


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
        self._header = _new_header((box, box, n), (box, box, 1), pixel_size_A, label)
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


def _parse(raw: bytes, name: str) -> tuple[Any, str]:
    """Return the header record and its byte order, the stamped order tried first."""
    little = np.frombuffer(raw, _HEADER)[0]
    orders: tuple[Literal["<", ">"], ...] = (">", "<") if little["stamp"][0] == 0x11 else ("<", ">")
    for order in orders:
        header = np.frombuffer(raw, _HEADER.newbyteorder(order))[0]
        sides = header["n"]
        if (
            int(header["mode"]) in MODES
            and sides.min() > 0
            and sides.max() < LARGEST_SIDE
            and header["nsymbt"] >= 0
        ):
            return header, order
    raise InputError(
        f"{name} is not an MRC file that can be read: its header gives the size {little['n'].tolist()} and "
        f"the mode {int(little['mode'])}, where modes {', '.join(map(str, MODES))} are known."
    )


def _memmap(header: Header) -> NDArray[Any]:
    return np.memmap(header.path, dtype=header.dtype, mode="r", offset=header.offset, shape=header.shape)


def _new_header(n: tuple[int, int, int], m: tuple[int, int, int], pixel_size_A: float, label: str) -> Any:
    header = np.zeros((), _HEADER)
    header["n"], header["m"] = n, m
    header["mode"] = 2
    header["cell_A"] = [side * pixel_size_A for side in m]
    header["cell_angle_deg"] = 90.0
    header["axes"] = (1, 2, 3)
    header["map"] = b"MAP "
    header["stamp"] = (0x44, 0x44, 0, 0)
    header["nlabl"] = 1
    header["label"][0] = label.encode("ascii", "replace")[:80]
    # MRC2014 version number 20141, in bytes 109-112 of the header (12 bytes into the free words)
    header["extra"] = np.void(b"\0" * 12 + (20141).to_bytes(4, "little") + b"\0" * 84)
    return header


def _triple(values: list[float]) -> tuple[float, float, float]:
    return values[0], values[1], values[2]
