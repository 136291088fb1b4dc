"""The one exception that means "the input is at fault, not the program", and how it is told."""

import errno
from typing import Any

# what a disk answers, which is no defect: full, over a quota or a largest size, read-only, not permitted
REFUSALS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
}
_LONGEST = 2000  # characters of a sentence


def visible(text: object) -> str:
    r"""Write what cannot be printed as escapes (\x1b), so that a name from a file cannot steer a terminal."""
    written = str(text)
    if written.isprintable():
        return written
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in written)


def say(*values: object, **how: Any) -> None:
    """Print, with control characters made visible: names from files stand in what is said."""
    print(*("\n".join(map(visible, str(value).split("\n"))) for value in values), **how)


class InputError(ValueError):
    """What a person gave cannot be used.

    The message is one clear sentence that names the file, the row or the field, what was expected, and what
    to do. Commands print it without a traceback and exit with code 2. Names from files stand in it, so
    control characters are made visible and a flood is cut.
    """

    def __init__(self, message: object) -> None:
        text = visible(_original(str(message)))
        super().__init__(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} [...]")


def _original(text: str) -> str:
    """What an InputError of a process that reads batches said, before torch put a traceback around it."""
    if text.startswith("Caught InputError in DataLoader worker"):
        return text.rpartition("InputError: ")[2].strip()
    return text
