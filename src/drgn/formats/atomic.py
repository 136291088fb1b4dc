"""Write a file under a temporary name in the same folder; give it its name only when it is complete."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from drgn.errors import REFUSALS

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` on success and removed on failure.

    The folder of `path` is created when it does not exist. What a disk answers tells `path`, see `naming`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # a name for each call, since threads may write one file at a time; the suffix stays last, because some
    # writers (numpy) add theirs when it is not there
    part = f".{secrets.token_hex(4)}.{os.getpid()}.part"
    temporary = target.with_name(f".{target.stem}{part}{target.suffix}")
    try:
        with naming(target):
            yield temporary
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let what a disk answers tell what is written, where it names no file, or a temporary one."""
    try:
        yield
    except OSError as error:
        part = f".{os.getpid()}.part"
        if error.errno in REFUSALS and (error.filename is None or part in str(error.filename)):
            error.filename = str(path)
        raise


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a .csv of six digits."""
    with replacing(path) as temporary:
        for_spreadsheets(table).to_csv(temporary, index=False, float_format="%.6g")


def for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a quote before each text that a spreadsheet would carry out as a formula."""

    def quoted(value: object) -> object:
        return (
            f"'{value}"
            if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
            else value
        )

    texts = {str(name): table[name].map(quoted) for name in table if table[name].dtype.kind not in "biufcmM"}
    return table.assign(**texts).rename(columns=quoted)
