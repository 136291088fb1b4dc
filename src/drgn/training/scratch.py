"""Arrays of all images that lie in a file, so that the memory of a process does not grow with the images."""

import mmap
import os
from pathlib import Path
from tempfile import TemporaryFile

import torch
from torch import Tensor

_IN_MEMORY_B = 1 << 23  # an array no larger than this is no file


def zeros(n: int, width: int, folder: Path) -> Tensor:
    """Zeros (N, W), float32, in a file without a name where they are many.

    The file is in the page cache while there is room; the system writes it to the disk when memory is short.
    It goes when the array does, and when the process ends in any way. Where the folder cannot take it (a disk
    that is full or read-only, another operating system) the array is in memory.

    Parameters
    ----------
    n, width
        N and W.
    folder
        Where the file is.
    """
    size = 4 * n * width
    if size <= _IN_MEMORY_B:
        return torch.zeros(n, width)
    try:
        with TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk shows here, not when a page is written
            mapped = mmap.mmap(file.fileno(), size)
    except (OSError, AttributeError):
        return torch.zeros(n, width)
    return torch.frombuffer(mapped, dtype=torch.float32).view(n, width)
