"""The one exception that means "the input is at fault, not the program"."""


class InputError(ValueError):
    """What a person gave cannot be used.

    The message is one clear sentence that names the file, the row or the field, what was expected, and what
    to do. Commands print it without a traceback and exit with code 2.
    """
