"""Give back to the system what was freed.

Reading a table takes several times the memory of the table for a moment. What is freed of it stays with the
process, under whatever comes later, unless it is asked for.
"""

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Return freed memory to the system; without effect on a system without glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
