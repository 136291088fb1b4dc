"""The SHA-256 of each file of a prepared stack, and whether the files are still what they were."""

import hashlib
import json
from pathlib import Path

from drgn.data.building import write_json

FILE = "sha256.json"
_PARTS = ("meta.json", "particles.parquet", "images.f16")


def record(folder: Path) -> None:
    """Write the sums of a prepared stack, with the sizes and dates of its files."""
    write_json(folder / FILE, {name: [_sum(folder / name), *_stamp(folder / name)] for name in _PARTS})


def damage(folder: Path) -> str | None:
    """Say what is wrong with a prepared stack; None where it is whole, or has no sums.

    A file is read where its size or date is another than when its sum was taken.
    """
    if not (folder / FILE).is_file():
        return None
    try:
        sums = json.loads((folder / FILE).read_text())
        for name in _PARTS:
            digest, *stamp = sums[name]
            if stamp != _stamp(folder / name) and digest != _sum(folder / name):
                return f"the SHA-256 of its {name} is another than when it was made"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (ValueError, KeyError):
        return f"its {FILE} cannot be read"
    return None


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
