"""The header of an MRC file (MRC2014, CCP4 and IMOD dialects): read and checked, and made anew.

Modes 0 (int8; uint8 where IMOD's flags say so), 1 (int16), 2 (float32), 6 (uint16), 12 (float16) and 101
(4 bits) are known in both byte orders, also from old writers that left the machine stamp empty.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drgn.errors import InputError

HEADER_BYTES = 1024
PADDING_BYTES = 1 << 16  # zeros after the last voxel that are taken for the padding of a block-wise writer
MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2", 101: "u1"}
_COMPLEX_MODES = {3, 4}
_PACKED_MODE = 101  # two values of 4 bits in a byte, the lower half first; each row starts with a new byte
_LARGEST_SIDE = 1 << 24  # a larger count means that the header was read in the wrong byte order
_IMOD_STAMP = 1146047817  # IMOD wrote the flags, of which bit 0 says that the bytes of mode 0 are signed

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
# the same in the order of the file, which takes a tenth of the time: tables can name 10,000 stacks
_FIELDS = "10i6f3i3f2i56x2i36x3f"


@dataclass(frozen=True)
class Header:
    """What is needed of an MRC header.

    Attributes
    ----------
    path : file the header was read from
    shape : (sections, rows, columns) as stored
    dtype : of one voxel, byte order included; of two voxels where `packed`
    packed : whether a byte holds two voxels of 4 bits
    offset : bytes before the first voxel
    pixel_size_A : along x, y, z; NaN where the header does not say
    cell_angle_deg : alpha, beta, gamma of the unit cell
    axes : (mapc, mapr, maps) as written: the axis (1 = x, 2 = y, 3 = z) of columns, rows and sections
    ispg : space group number; 0 for a stack by the standard, though many writers say 1
    volumes : number of volumes that a file of volumes (space group 401 to 630) holds, else 1
    origin_A : of the first voxel along x, y, z; from nxstart and its kin where the header gives no origin
    """

    path: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    packed: bool
    offset: int
    pixel_size_A: tuple[float, float, float]
    cell_angle_deg: tuple[float, float, float]
    axes: tuple[int, int, int]
    ispg: int
    volumes: int
    origin_A: tuple[float, float, float]

    @property
    def section_bytes(self) -> int:
        """Length of one section (one image of a stack) in the file."""
        _, rows, columns = self.shape
        return rows * ((columns + 1) // 2 if self.packed else columns * self.dtype.itemsize)

    @property
    def file_bytes(self) -> int:
        """Length that the file should have."""
        return self.offset + self.shape[0] * self.section_bytes

    def values(self, raw: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the bytes of k whole sections, (k * section_bytes,), as (k, rows, columns) numbers."""
        _, rows, columns = self.shape
        if not self.packed:
            return raw.view(self.dtype).reshape(-1, rows, columns)
        pairs = raw.reshape(-1, rows, (columns + 1) // 2)
        return np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(*pairs.shape[:2], -1)[..., :columns]


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of an MRC file.

    Zeros after the last voxel, up to 64 KiB, are taken for padding.

    Raises
    ------
    InputError
        When there is no such file, when it is not MRC (compressed, complex, random bytes), or when its length
        is not what its header promises.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb", buffering=0) as file:
            raw = file.read(HEADER_BYTES)
            if is_compressed(raw):
                raise InputError(
                    f"{name} is compressed, and only a single map may be; unpack it first (gunzip)."
                )

            def tail(start: int) -> bytes:
                file.seek(start)
                return file.read(PADDING_BYTES)

            return check_header(raw, name, os.fstat(file.fileno()).st_size, tail)
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}).") from error


def is_compressed(start: bytes) -> bool:
    """Whether a file starts as one of gzip or bzip2, which no MRC file with sides below 2^19 can."""
    return start.startswith((b"\x1f\x8b\x08", b"BZh"))


def possible_headers(raw: bytes, name: str) -> list[Header]:
    """Return the header as read in each byte order that makes sense of it, the stamped order first.

    Raises
    ------
    InputError
        When none does, or the values are complex.
    """
    if len(raw) < HEADER_BYTES:
        raise InputError(
            f"{name} is {len(raw)} bytes long, too short for the 1024-byte header of an MRC file."
        )
    orders = (">", "<") if raw[212] == 0x11 else ("<", ">")
    fields = [(order, struct.unpack_from(order + _FIELDS, raw)) for order in orders]
    found = [
        (order, values)
        for order, values in fields
        if (values[3] in MODES or values[3] in _COMPLEX_MODES)
        and all(0 < side < _LARGEST_SIDE for side in values[:3])
        and values[23] >= 0
    ]
    if not found:
        *size, mode = struct.unpack_from("<4i", raw)
        raise InputError(
            f"{name} is not an MRC file that can be read: its header gives the size {size} and "
            f"the mode {mode}, where modes {', '.join(map(str, MODES))} are known."
        )
    real = [_header(name, order, values) for order, values in found if values[3] in MODES]
    if not real:
        raise InputError(
            f"{name} holds complex numbers (mode {found[0][1][3]}: a Fourier transform), where images or a "
            "map are expected; transform it back, or give the file it was made from."
        )
    return real


def check_header(raw: bytes, name: str, length: int, tail: Callable[[int], bytes]) -> Header:
    """Return the header that fits a file of `length` bytes; `tail` gives what follows a number of bytes.

    Raises
    ------
    InputError
        As `read_header`.
    """
    headers = possible_headers(raw, name)
    header = next((header for header in headers if header.file_bytes == length), headers[0])
    surplus = length - header.file_bytes
    if surplus == 0 or (0 < surplus <= PADDING_BYTES and not any(tail(header.file_bytes))):
        return header
    sections, rows, columns = header.shape
    whole = max(length - header.offset, 0) // header.section_bytes
    voxel = "half a byte" if header.packed else f"{header.dtype.itemsize} bytes"
    raise InputError(
        f"{name} is {'truncated' if surplus < 0 else 'longer than it should be'}: its header promises "
        f"{sections} x {rows} x {columns} values of {voxel}, {header.file_bytes} bytes in all, but the file "
        f"has {length}; these are {whole} whole sections (images), so copy or write it again."
    )


def new_header(n: tuple[int, int, int], m: tuple[int, int, int], pixel_size_A: float, label: str) -> Any:
    """Return the header record of a new float32 file of n voxels in a cell of m (both x, y, z)."""
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


def _header(name: str, order: str, values: tuple[Any, ...]) -> Header:
    nx, ny, nz, mode = values[:4]
    start, sampling, cell_A, axes = values[4:7], values[7:10], values[10:13], values[16:19]
    ispg, nsymbt, imod_stamp, imod_flags = values[22:26]
    origin_A = values[26:29]
    kind = MODES[mode]
    if mode == 0 and imod_stamp == _IMOD_STAMP and not imod_flags & 1:
        kind = "u1"
    pixel_size_A = _triple(_pixel_A(length, count) for length, count in zip(cell_A, sampling, strict=True))
    if not all(map(np.isfinite, origin_A)) or not any(origin_A):
        along = dict(zip(axes if sorted(axes) == [1, 2, 3] else (1, 2, 3), start, strict=True))
        origin_A = tuple(along[i + 1] * a if a == a else 0.0 for i, a in enumerate(pixel_size_A))
    mz = sampling[2]
    return Header(
        path=name,
        shape=(nz, ny, nx),
        dtype=np.dtype(order + kind),
        packed=mode == _PACKED_MODE,
        offset=HEADER_BYTES + nsymbt,
        pixel_size_A=pixel_size_A,
        cell_angle_deg=_triple(values[13:16]),
        axes=axes,
        ispg=ispg,
        volumes=nz // mz if 401 <= ispg <= 630 and 0 < mz < nz and nz % mz == 0 else 1,
        origin_A=_triple(origin_A),
    )


def _pixel_A(length_A: float, count: int) -> float:
    """Return the length of one of `count` pixels; NaN where the header does not say."""
    if count <= 0 or not 0 < length_A < np.inf:
        return np.nan
    # 7 digits are what a float32 holds: 13.1 comes back as 13.1, not as 13.100000381
    return float(f"{length_A / count:.7g}")


def _triple(values: Any) -> tuple[float, float, float]:
    x, y, z = values
    return float(x), float(y), float(z)
