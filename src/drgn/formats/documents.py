"""YAML and JSON that others wrote: plain values, of a bounded size, told in a sentence where they are not.

YAML lets a value name another, so that nine lists of nine lists of nine ... become a thousand million; JSON
and YAML may be nested deeper than Python's stack. Neither is found in a file of parameters.
"""

import json
import os
from typing import Any

import yaml

from drgn.errors import InputError

StrPath = str | os.PathLike[str]

_LARGEST_BYTES = 1 << 18  # of YAML; the configuration of a run has some four thousand
_LARGEST_JSON = 1 << 26  # what is known of a prepared stack of a million images with its sources
_MOST_VALUES = 20_000
_DEEPEST = 32


def read_yaml(path: StrPath, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Read a YAML file with a loader that makes plain values only.

    Raises
    ------
    InputError
        It cannot be read, is not YAML, or is larger or deeper than a file of parameters.
    """
    name = os.fspath(path)
    text = _read(name, _LARGEST_BYTES)
    try:
        parser = loader(text)
        try:
            node = parser.get_single_node()
            if node is None:
                return None
            _measure(node, {}, 0)
            return parser.construct_document(node)
        finally:
            parser.dispose()
    except Exception as error:  # yaml raises several kinds, and more for odd numbers and dates
        reason = (str(error).splitlines() or ["?"])[0]
        raise InputError(f"{name} is not YAML that can be read ({reason}).") from error


def read_json(path: StrPath) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises
    ------
    InputError
        It cannot be read, or holds something else.
    """
    name = os.fspath(path)
    try:
        content = json.loads(_read(name, _LARGEST_JSON))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON that can be read ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{name} holds a {type(content).__name__}, where a JSON object is expected.")
    return content


def _read(name: str, most: int) -> bytes:
    try:
        with open(name, "rb") as file:
            text = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}).") from error
    if len(text) > most:
        raise InputError(f"{name} is larger than any file of its kind ({most} bytes).")
    return text


def _measure(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Return how many values a node is, written out; raises ValueError where these are too many."""
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError("a value that contains itself")
        return known[id(node)]
    if depth > _DEEPEST:
        raise ValueError("values nested too deeply")
    known[id(node)] = 0  # open
    size = 1
    if isinstance(node, yaml.SequenceNode):
        size += sum(_measure(part, known, depth + 1) for part in node.value)
    elif isinstance(node, yaml.MappingNode):
        size += sum(_measure(part, known, depth + 1) for pair in node.value for part in pair)
    if size > _MOST_VALUES:
        raise ValueError("too many values")
    known[id(node)] = size
    return size
