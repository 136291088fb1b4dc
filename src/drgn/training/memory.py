"""How the C library keeps memory."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of mallopt's parameters, <malloc.h>
_LARGEST_KEPT = 32 << 20  # bytes; more is not allowed
_MOST_KEPT = 1 << 30


def keep_freed() -> bool:
    """Let this process keep what it frees for its next tensors, up to 1 GiB.

    glibc gives every tensor above a few MB back to the kernel; the next step then waits for the same pages to
    be cleared and mapped again. Returns whether the C library is glibc and agrees.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_TRIM_THRESHOLD, _MOST_KEPT))
