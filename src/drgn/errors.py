"""The one exception that means "the input is at fault, not the program", and how it is told."""

import re
from typing import Any

# what a terminal or a page may obey instead of showing it: C0, DEL, C1, line ends of Unicode, changes of
# direction, and halves of pairs that no encoding knows
_OBEYED = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff\\ud800-\\udfff]"
)
_LONGEST = 2000  # characters of a sentence


def visible(text: object) -> str:
    r"""Write control characters as escapes (\x1b), so that a name from a file cannot steer a terminal."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


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
        text = visible(message)
        super().__init__(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} [...]")
