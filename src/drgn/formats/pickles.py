"""Pickles read without running anything that they name: numpy arrays and plain containers, nothing else.

numpy's own way back from a pickle believes what the file says: an array of Python objects over bytes, or a
dtype with a hidden object in it, is a pointer to anywhere. So arrays are rebuilt here, of numbers and text
alone, and none of the functions that a pickle may name is the real one. Nothing becomes larger than the file:
what could grow (a list of lists of the same list, a place 2^31 in the memo, bytes encoded again and again) is
refused.
"""

import io
import math
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from drgn.errors import InputError
from drgn.formats.npz import require_text

StrPath = str | os.PathLike[str]

_DTYPE = re.compile(r"[biufc]\d{1,2}|[SU]\d{1,9}")
_SCALARS = (str, bytes, int, float, complex, bool, type(None), np.generic)
_DEEPEST = 32  # containers in containers
_ROOM = 1 << 12  # bytes by which a small result may exceed its file


def load_pickle(path: StrPath) -> Any:
    """Load numpy arrays and plain containers from a pickle.

    Raises
    ------
    InputError
        When the file is no pickle, or names anything else to be imported (which could run code).
    """
    return load_pickles(path, most=1)[0]


def load_pickles(path: StrPath, most: int | None = None) -> list[Any]:
    """Load the pickles that stand one after the other in a file (z.N.pkl): one at least, `most` at most."""
    name = os.fspath(path)
    try:
        content = Path(name).read_bytes()
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}).") from error
    stream = io.BytesIO(content)
    loaded: list[Any] = []
    try:
        while not loaded or (stream.tell() < len(content) and len(loaded) != most):
            loaded.append(_ArrayUnpickler(stream, name, len(content)).load())
            _check_tree(loaded[-1], len(content) + _ROOM)
        return loaded
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(f"{name} is not a pickle that can be read ({error}).") from error


class _Dtype:
    """What a pickle says of a dtype: a name and an order of bytes."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not _DTYPE.fullmatch(name):
            raise ValueError("an array that is not of numbers or text")
        self.name, self.order = name, "="

    def set_state(self, state: Any) -> None:
        """Take the order of bytes; numbers and text have nothing else."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a dtype in an unknown form")
        if any(part is not None for part in state[2:5]):
            raise ValueError("an array that is not of numbers or text")
        self.order = state[1]

    @property
    def real(self) -> np.dtype[Any]:
        """The dtype."""
        return np.dtype(self.order.replace("|", "=") + self.name)


class _Names:
    """Stands for the class numpy.ndarray, which is only handed on to `_reconstruct`."""


class _ArrayUnpickler(pickle._Unpickler):
    """The unpickler in Python, whose memo is a dictionary and whose steps can be replaced.

    Parameters
    ----------
    file
        The pickles.
    path
        Their file, for messages.
    size
        Bytes of the file.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    read: Any  # of the class above, as are the next two
    append: Any
    pop_mark: Any

    def __init__(self, file: io.BytesIO, path: str, size: int) -> None:
        super().__init__(file)
        # what is encoded and then made an array counts twice
        self._path, self._size, self._left = path, size, 2 * size + _ROOM
        self._unfilled: dict[int, np.ndarray[Any, Any]] = {}  # arrays by their identity
        self.stack: list[Any] = []

    def find_class(self, module: str, name: str) -> Any:
        found = self._admitted(module, name)
        if found is None:
            raise InputError(
                f"{self._path} was not loaded: the pickle asks for {module}.{name}, and only numpy arrays "
                "are admitted, since anything else could run code; give the arrays as .npz."
            )
        return found

    def _admitted(self, module: str, name: str) -> Any:
        core = re.fullmatch(r"numpy\.(?:_core|core)\.(multiarray|numeric)", module)
        table: dict[tuple[str, str], Callable[..., Any] | type] = {
            ("numpy", "ndarray"): _Names,
            ("numpy", "dtype"): _Dtype,
            ("multiarray", "_reconstruct"): self._reconstruct,
            ("multiarray", "scalar"): self._scalar,
            ("numeric", "_frombuffer"): self._frombuffer,
            ("_codecs", "encode"): self._encode,  # array bytes in pickles of protocol 2
            ("builtins", "bytes"): lambda: b"",
            ("builtins", "bytearray"): self._bytearray,
            ("builtins", "list"): lambda items=(): list(self._items(items)),
            ("builtins", "tuple"): lambda items=(): tuple(self._items(items)),
            ("builtins", "dict"): lambda: {},
            ("builtins", "set"): lambda items=(): set(self._keys(items)),
            ("builtins", "frozenset"): lambda items=(): frozenset(self._keys(items)),
        }
        # the module is that of Python 3 where it was written by Python 2
        module = "builtins" if module == "__builtin__" else module
        return table.get((core[1] if core else module, name))

    def _spend(self, n: int) -> None:
        self._left -= n
        if self._left < 0:
            raise ValueError("it would become larger than its file")

    def _bytes(self, content: Any) -> bytes | bytearray:
        if not isinstance(content, bytes | bytearray):
            raise ValueError("bytes are expected")
        self._spend(len(content))
        return content

    def _items(self, items: Any) -> Any:
        if not isinstance(items, list | tuple | set | frozenset):
            raise ValueError("a list is expected")
        self._spend(len(items))
        return items

    def _keys(self, items: Any) -> Any:
        if not all(isinstance(item, _SCALARS) for item in self._items(items)):
            raise ValueError("names or numbers are expected")
        return items

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "iso-8859-1"):
            raise ValueError("text to be encoded as latin1 is expected")
        self._spend(len(text))
        return text.encode("latin1")

    def _bytearray(self, content: Any = b"", encoding: Any = None) -> bytearray:
        return bytearray(self._encode(content, encoding) if encoding is not None else self._bytes(content))

    def _scalar(self, dtype: Any, content: Any) -> Any:
        array = np.frombuffer(self._bytes(content), dtype.real, 1)
        require_text(array)
        return array[0]

    def _frombuffer(self, content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
        array: np.ndarray[Any, Any] = np.empty(0)
        array.__setstate__(self._array(content, dtype, shape, order == "F"))
        return array if order != "K" or axes is None else array.transpose(axes)

    def _array(self, content: Any, dtype: Any, shape: Any, fortran: bool) -> tuple[Any, ...]:
        """Return what numpy wants as the state of an array, once its parts fit each other."""
        real = dtype.real
        if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("an array without a shape")
        if not real.itemsize or math.prod(shape) * real.itemsize != len(self._bytes(content)):
            raise ValueError("an array of another size than its shape says")
        require_text(np.frombuffer(content, real) if len(content) else np.empty(0))
        return 1, shape, real, fortran, bytes(content)

    def _reconstruct(self, kind: Any, shape: Any, _: Any) -> np.ndarray[Any, Any]:
        if kind is not _Names or shape != (0,):
            raise ValueError("an array in an unknown form")
        array: np.ndarray[Any, Any] = np.empty(0)
        self._unfilled[id(array)] = array
        return array

    def _build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, _Dtype):
            made.set_state(state)
        elif self._unfilled.pop(id(made), None) is not None and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, content = state
            content = content.encode("latin1") if isinstance(content, str) else content  # of Python 2
            made.__setstate__(
                self._array(content, dtype, shape, bool(fortran))
            )  # in place: it has a name already
        else:
            raise ValueError("an object that is neither an array nor plain")

    dispatch[pickle.BUILD[0]] = _build

    def _bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        if size > self._size:
            raise pickle.UnpicklingError("pickle data was truncated")
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BYTEARRAY8[0]] = _bytearray8

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        if not isinstance(key, _SCALARS):  # the hash of a deep tuple overflows the stack of C
            raise ValueError("a name or number is expected as a key")
        self.stack[-1][key] = value

    dispatch[pickle.SETITEM[0]] = _set_item

    def _set_items(self) -> None:
        items = self.pop_mark()
        pairs = dict(zip(self._keys(items[::2]), items[1::2], strict=True))
        self.stack[-1].update(pairs)

    dispatch[pickle.SETITEMS[0]] = _set_items

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append(dict(zip(self._keys(items[::2]), items[1::2], strict=True)))

    dispatch[pickle.DICT[0]] = _dict

    def _add_items(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(self._keys(items))

    dispatch[pickle.ADDITEMS[0]] = _add_items

    def _frozenset(self) -> None:
        items = self.pop_mark()  # which puts another list in the place of `self.append`'s
        self.append(frozenset(self._keys(items)))

    dispatch[pickle.FROZENSET[0]] = _frozenset


def _check_tree(value: Any, most: int) -> None:
    """Refuse containers that are deep, contain themselves, or would be larger than `most` written out.

    A list that contains a list ten times, which contains a list ten times, and so on, is small in memory and
    endless for all that walks through it.
    """
    sizes: dict[int, int] = {}  # of the containers that are done; 0 of those that are open
    deep: dict[int, int] = {}
    open_ = [(value, False)]
    while open_:
        item, done = open_.pop()
        parts = [*item.keys(), *item.values()] if isinstance(item, dict) else item
        inner = [part for part in parts if isinstance(part, list | tuple | dict)] if _contains(item) else []
        if not done and _contains(item):
            if sizes.get(id(item)) == 0:
                raise ValueError("a list that contains itself")
            if id(item) not in sizes:
                sizes[id(item)] = 0
                open_.append((item, True))
                open_ += [(part, False) for part in inner]
        elif done:
            sizes[id(item)] = 1 + len(parts) + sum(sizes[id(part)] for part in inner)
            deep[id(item)] = 1 + max((deep[id(part)] for part in inner), default=0)
            if sizes[id(item)] > most or deep[id(item)] > _DEEPEST:
                raise ValueError("lists of lists that are too deep or repeat each other")


def _contains(value: Any) -> bool:
    return isinstance(value, list | tuple | dict)
