"""The values of a star file: words to columns of numbers or text, and columns to words.

A word is a run of characters without blanks, or anything between quotation marks: one opens where a word
starts and closes before a blank or the end of the line. `#` where a word starts opens a comment.
A column is of integers or of floats when all its words are; words in quotation marks are text, and so are
integers that a number would not give back (leading zeros, more than 64 bits).
"""

import re
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from drgn.errors import InputError

# a word that was in quotation marks begins with MARK, and its blanks are replaced, until it is a value
MARK, _BLANK, _TAB = b"\x01", b"\x02", b"\x03"
_SPECIAL = re.compile(
    rb"""
    "(?<!\S["]).*?"(?=\s|$) | '(?<!\S[']).*?'(?=\s|$)  # in quotation marks
    | ["'](?<!\S["'])                                   # one without its partner
    | \#(?<!\S[#]).*                                    # a comment
    """,
    re.VERBOSE,
)
MISSING = "<NA>"  # what starfile writes for a missing number


def words_of(line: bytes) -> list[bytes]:
    """Return the words of a line without its comment; words in quotation marks begin with `MARK`.

    Raises
    ------
    ValueError
        When a quotation mark has no partner.
    """
    return _SPECIAL.sub(_encode, line).split()


def _encode(match: re.Match[bytes]) -> bytes:
    word = match[0]
    if word.startswith(b"#"):
        return b""
    if len(word) == 1:
        raise ValueError("a quotation mark has no partner")
    return MARK + word[1:-1].replace(b" ", _BLANK).replace(b"\t", _TAB)


def column_of(words: pa.ChunkedArray, is_text: bool) -> "pd.Series[Any]":
    """Return the column of int64, uint64, float64 or text that `words` are."""
    values = words if is_text else _typed(words)
    if not pa.types.is_string(values.type):
        return pd.Series(values.to_numpy())
    if pc.any(pc.starts_with(values, MARK.decode())).as_py():
        values = pc.replace_substring_regex(values, f"^{MARK.decode()}", "")
        values = pc.replace_substring(values, _BLANK.decode(), " ")
        values = pc.replace_substring(values, _TAB.decode(), "\t")
    return pd.Series(values.combine_chunks().to_pandas(), dtype="str")


def _typed(words: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return `words` as int64, uint64 or float64 where no digit gets lost by it, else as they are."""
    if not len(words):
        return words
    for kind in (pa.int64(), pa.uint64()):
        numbers = _cast(words, kind)
        if numbers is None:
            continue
        if numbers.cast(words.type).equals(words):
            return numbers
        if pc.any(pc.match_substring_regex(words, "^-?0[0-9a-zA-Z]")).as_py():
            return words
        break
    numbers = _cast(words, pa.float64())
    if numbers is None:
        missing = pc.equal(words, MISSING)
        if not pc.any(missing).as_py() or pc.all(missing).as_py():
            return words
        numbers = _cast(pc.if_else(missing, "nan", words), pa.float64())
        if numbers is None:
            return words
    beyond = pc.any(pc.greater_equal(pc.abs(numbers), 2.0**53)).as_py()
    if beyond and pc.all(pc.match_substring_regex(words, "^[+-]?[0-9]+$")).as_py():
        return words
    return numbers


def _cast(words: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    try:
        return words.cast(kind)
    except pa.ArrowInvalid:
        return None


def numbers_of(column: "pd.Series[Any]") -> NDArray[np.float64]:
    """Return a column of numbers, or of text that holds some, as float64; NaN where there is no number."""
    if pd.api.types.is_numeric_dtype(column):
        return np.asarray(column, dtype=np.float64)

    def number(value: Any) -> float:
        try:
            return np.nan if "_" in str(value) else float(value)
        except (TypeError, ValueError):
            return np.nan

    return np.array([number(value) for value in column], dtype=np.float64)


def words_from(column: "pd.Series[Any]", *, is_text: bool, is_first: bool) -> pa.Array:
    """Return the words that give `column` back when they are read.

    Parameters
    ----------
    is_text : the reader takes the column as text whatever its words look like
    is_first : the column is the first of a loop, where a word may not look like a keyword

    Raises
    ------
    InputError
        When a text holds a line break or another control character, or cannot be put in quotation marks.
    """
    if pd.api.types.is_bool_dtype(column):
        column = column.astype("int64")
    if pd.api.types.is_integer_dtype(column) and not column.hasnans:
        return _array(pa.array(column.to_numpy()).cast(pa.string()))
    if pd.api.types.is_numeric_dtype(column):
        single = column.dtype == np.float32
        return _floats(np.asarray(column, dtype=np.float32 if single else np.float64))
    return _texts(column, is_text, is_first)


def _array(values: Any) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _floats(values: NDArray[Any]) -> pa.Array:
    """Return the shortest words that give `values` back, not all of which look like integers."""
    words = pa.array(values).cast(pa.string())
    if len(values) and np.isfinite(values).all() and (values == np.trunc(values)).all():
        integer = pc.invert(pc.match_substring(words, "e"))
        words = pc.if_else(integer, pc.binary_join_element_wise(words, ".0", ""), words)
    return _array(words)


def _texts(column: "pd.Series[Any]", is_text: bool, is_first: bool) -> pa.Array:
    name = str(column.name)
    values = column.astype("object").where(column.notna(), "None") if column.hasnans else column
    words = _array(pa.array(values.astype("str"), type=pa.string()))
    bad = np.flatnonzero(pc.match_substring_regex(words, "[\\x00-\\x08\\x0a-\\x1f\\x7f]"))
    if len(bad):
        raise InputError(
            f"row {bad[0] + 1} of column {name} is {words[int(bad[0])].as_py()!r}, but a star file cannot "
            "hold a line break or control character; replace it."
        )
    if not is_text and pa.types.is_string(_typed(pa.chunked_array([words])).type) is False:
        quote = pa.scalar(True)
    else:
        keyword = "|^(?i:_|data_|loop_)" if is_first else ""
        quote = pc.match_substring_regex(words, f"^$|[ \\t]|^[\"'#]{keyword}")
        if not pc.any(quote).as_py():
            return words
    double = pc.match_substring_regex(words, '"[ \\t]')
    both = np.flatnonzero(pc.and_(double, pc.match_substring_regex(words, "'[ \\t]")))
    if len(both):
        raise InputError(
            f"row {both[0] + 1} of column {name} is {words[int(both[0])].as_py()!r}, but a star file cannot "
            "hold a text with both kinds of quotation marks before blanks; replace one."
        )
    mark = pc.if_else(double, "'", '"')
    return _array(pc.if_else(quote, pc.binary_join_element_wise(mark, words, mark, ""), words))
