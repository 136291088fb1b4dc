"""STAR files as blocks of columns, at any size.

What is a block
    `data_NAME`, then either `loop_` with column names, one a line, and rows of as many words; or lines of a
    name and its value. Blank lines and comments may stand anywhere; column names may be followed by `#n`.
    Words are as in `star_values`. A header that is repeated within its block, and a block that is repeated
    with the same values, count once; any other repetition is refused.
The folder of the images
    A selection keeps the names of its source, which are found from there. A comment before the first block,
    which other programs pass over, says from which folder.
"""

import os
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO, NoReturn
from urllib.parse import quote, unquote_to_bytes

import pandas as pd
import pyarrow as pa
import pyarrow.csv

from drgn import __version__
from drgn.errors import InputError
from drgn.formats.atomic import replacing
from drgn.formats.memory import give_back
from drgn.formats.star_values import MARK, column_of, words_from, words_of

# columns that stay text even where all their values look like numbers
TEXT_COLUMNS = frozenset(
    {
        "rlnImageName",
        "rlnImageOriginalName",
        "rlnReconstructImageName",
        "rlnMicrographName",
        "rlnMicrographNameNoDW",
        "rlnMicrographMovieName",
        "rlnMovieName",
        "rlnGroupName",
        "rlnOpticsGroupName",
        "rlnTomoName",
        "rlnTomoParticleName",
        "rlnMtfFileName",
        "rlnDefectFile",
        "rlnBodyMaskName",
        "rlnParticleName",
    }
)
_ROWS_AT_A_TIME = 1 << 16  # written
_ROWS_CUT = 1 << 13  # read as bytes before they are cut into columns
_TEXT_BYTES = bytes({*range(0x20, 0x100)} - {0x7F}) + b"\t\n\r"
_BOM = b"\xef\xbb\xbf"
_NAMED_FROM = b"# Images are named from "
_COMMENTS = 8  # lines that are looked at for it
_MOST_COLUMNS = 5000  # of a block; RELION's have a hundred at most
_MOST_BLOCKS = 100_000  # of a file; a model.star has some for each class and group


def read_blocks(path: str | os.PathLike[str]) -> dict[str, pd.DataFrame]:
    """Return every block of a star file by name (without `data_`), in the order of the file.

    A block without `loop_` becomes a frame of one row whose `attrs["loop"]` is False.

    Raises
    ------
    InputError
        When the file cannot be read, or a line does not fit its block (with the number of the line).
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise InputError(f"{name} does not exist; give the path of a star file.")
    try:
        _check_text(name)
        blocks: dict[str, pd.DataFrame] = {}
        for block in _parse(name):
            frame = block.frame()
            if block.name in blocks and not blocks[block.name].equals(frame):
                block.fail(
                    f"a second block data_{block.name}, with other values; name it otherwise or remove it"
                )
            blocks.setdefault(block.name, frame)
            del block, frame
        give_back()  # the words
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error}).") from error
    return blocks


def named_from(path: str | os.PathLike[str]) -> str | None:
    """Return the folder from which the images of a star file are named, where a comment of ours says it."""
    with open(path, "rb") as file:
        for line in islice(file, _COMMENTS):
            if line.startswith(_NAMED_FROM):
                return os.fsdecode(unquote_to_bytes(line.removeprefix(_NAMED_FROM).strip()))
    return None


def write_blocks(
    path: str | os.PathLike[str], blocks: dict[str, pd.DataFrame], named_from: str | None = None
) -> None:
    """Write blocks in order; numbers with the digits that give them back, text in quotation marks if needed.

    Parameters
    ----------
    path : file
    blocks : by name
    named_from : see the function of this name

    Raises
    ------
    InputError
        When a name or a text holds what a star file cannot.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(f"# Created by drgn {__version__}\n".encode())
        if named_from is not None:
            quoted = quote(os.fsencode(named_from)).replace(
                "data_", "data%5F"
            )  # which RELION takes for a block
            file.write(_NAMED_FROM + quoted.encode() + b"\n")
        for name, frame in blocks.items():
            _check_names(name, frame)
            file.write(f"\ndata_{name}\n\n".encode())
            if len(frame) == 1 and not frame.attrs.get("loop", True):
                for column in frame:
                    word = words_from(frame[column], is_text=column in TEXT_COLUMNS, is_first=False)[0]
                    file.write(f"_{column} {word}\n".encode())
            elif len(frame.columns):
                header = "".join(f"_{column} #{n}\n" for n, column in enumerate(frame, 1))
                file.write(f"loop_\n{header}".encode())
                file.writelines(_rows(frame))


def _rows(frame: pd.DataFrame) -> Iterator[bytes | pa.Buffer]:
    """Yield the rows as bytes, some thousands at a time."""
    columns = [
        words_from(frame[column], is_text=column in TEXT_COLUMNS, is_first=place == 0)
        for place, column in enumerate(frame)
    ]
    for start in range(0, len(frame), _ROWS_AT_A_TIME):
        parts = [column.slice(start, _ROWS_AT_A_TIME) for column in columns]
        parts[-1] = pa.compute.binary_join_element_wise(parts[-1], "", "\n")
        rows = pa.compute.binary_join_element_wise(*parts, "\t")
        yield rows.buffers()[2]  # the texts one after another


def _check_names(block: str, frame: pd.DataFrame) -> None:
    for name in (block or "_", *map(str, frame)):
        if not name or len(name.split()) != 1 or name.startswith(("#", '"', "'")) or not name.isprintable():
            raise InputError(f"{name!r} cannot be a name in a star file: no blanks, quotation marks or #.")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InputError(f"block data_{block} has two columns {twice}; rename one.")


def _check_text(path: str) -> None:
    """Raise an InputError naming the first line that is not UTF-8 text."""
    with open(path, "rb") as file:
        while lines := file.readlines(1 << 20):
            text = b"".join(lines)
            if text.translate(None, _TEXT_BYTES) or not (text.isascii() or _is_utf8(text)):
                break
        else:
            return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if control := line.translate(None, _TEXT_BYTES):
                raise InputError(
                    f"{path}, line {number}: the control character 0x{control[0]:02x}, where text is "
                    "expected; is it a star file?"
                )
            if not _is_utf8(line):
                raise InputError(f"{path}, line {number}: not text in UTF-8; convert it (iconv -t UTF-8).")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Block:
    """A block while it is read."""

    def __init__(self, path: str, name: str, line: int) -> None:
        self.path, self.name, self.line = path, name, line
        self.loop = False
        self.columns: list[str] = []
        self._values: list[bytes] = []  # of a block without loop_
        self._again: list[str] | None = None  # a header that is repeated
        self._rows: list[bytes] = []
        self._tables: list[pa.Table] = []

    def fail(self, what: str, line: int | None = None) -> NoReturn:
        raise InputError(f"{self.path}, line {line or self.line}: {what}.")

    def add(self, words: list[bytes], line: int) -> None:
        """Take in a line that is not `data_`."""
        if self.loop and len(words) > 1:
            self._add_row(words, line)
        elif words[0].lower() == b"loop_" and len(words) == 1:
            if self.columns and not self.loop:
                self.fail(f"loop_ after values without it; give it a block other than data_{self.name}", line)
            self._check_header(line)
            self._again = [] if self.loop and self.columns else None
            self.loop = True
        elif words[0].startswith(b"_"):
            self._add_name(words, line)
        elif self.loop:
            self._add_row(words, line)
        else:
            self.fail(
                f"values without a column in block data_{self.name}, where loop_ or _name is expected", line
            )

    def _add_name(self, words: list[bytes], line: int) -> None:
        name = words[0][1:].decode()
        if self._again is None and (self._rows or self._tables):
            self._again = []
        header = self.columns if self._again is None else self._again
        if not name:
            self.fail(f"a column without a name in block data_{self.name}; name or remove it", line)
        if len(header) == _MOST_COLUMNS:
            self.fail(
                f"more than {_MOST_COLUMNS} columns in block data_{self.name}; is it a star file?", line
            )
        if name in header:
            self.fail(f"a second column _{name} in block data_{self.name}; remove or rename it", line)
        header.append(name)
        if not self.loop:
            if len(words) > 2:
                self.fail(f"{len(words) - 1} values of _{name}; put a text with blanks in quotes", line)
            self._values.append(words[1] if len(words) == 2 else MARK)

    def _add_row(self, words: list[bytes], line: int) -> None:
        if self._again is not None:
            self._check_header(line)
        if len(words) != len(self.columns):
            self.fail(
                f"{len(words)} values where block data_{self.name} has {len(self.columns)} columns; the line "
                "is incomplete or holds an unquoted blank",
                line,
            )
        self._rows.append(b"\t".join(words))
        if len(self._rows) == _ROWS_CUT:
            self._flush()

    def _check_header(self, line: int) -> None:
        """Raise an InputError when a header that was repeated has other columns; forget it."""
        if self._again is not None and self._again != self.columns:
            self.fail(
                f"before this line, block data_{self.name} has a second header with other columns; give it "
                "a block of its own",
                line,
            )
        self._again = None

    def _flush(self) -> None:
        """Cut the rows that are waiting into columns of words."""
        names = [str(number) for number in range(len(self.columns))]
        longest = max(map(len, self._rows))
        text = b"\n".join([b"", *self._rows, b""])  # a byte order mark at the very start would be skipped
        self._rows = []
        self._tables.append(
            pa.csv.read_csv(
                pa.BufferReader(text),
                pa.csv.ReadOptions(column_names=names, block_size=max(1 << 22, 2 * longest + 4)),
                pa.csv.ParseOptions(delimiter="\t", quote_char=False, double_quote=False),
                pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), check_utf8=False),
            )
        )
        give_back()  # the reader takes twice the memory of the words

    def frame(self) -> pd.DataFrame:
        """Return the columns with their values; call it once."""
        self._check_header(self.line)
        if self._rows:
            self._flush()
        words = [pa.chunked_array([pa.array([value.decode()])]) for value in self._values]
        if self.loop:
            empty = pa.chunked_array([], type=pa.string())
            words = pa.concat_tables(self._tables).columns if self._tables else [empty for _ in self.columns]
            self._tables = []
        columns = {}
        for name in self.columns:
            columns[name] = column_of(words.pop(0), is_text=name in TEXT_COLUMNS)
        frame = pd.DataFrame(columns, copy=False)
        if not self.loop:
            frame.attrs["loop"] = False
        return frame


def _parse(path: str) -> Iterator[_Block]:
    """Yield the blocks of a file, each when it is complete."""
    block: _Block | None = None
    n_blocks = 0
    with open(path, "rb") as file:
        for number, line in enumerate(_lines(file), 1):
            if b"#" in line or b'"' in line or b"'" in line:
                try:
                    words = words_of(line)
                except ValueError as error:
                    raise InputError(f"{path}, line {number}: {error}; add it or remove this one.") from error
            else:
                words = line.split()
            if not words:
                continue
            if words[0][:5].lower() == b"data_" and (len(words) == 1 or block is None or not block.loop):
                if len(words) > 1:
                    raise InputError(f"{path}, line {number}: a name of a block with blanks; remove them.")
                if block is not None:
                    yield block
                n_blocks += 1
                if n_blocks > _MOST_BLOCKS:
                    raise InputError(
                        f"{path}, line {number}: more than {_MOST_BLOCKS} blocks; is it a star file?"
                    )
                block = _Block(path, words[0][5:].decode(), number)
            elif block is None:
                raise InputError(
                    f"{path}, line {number}: values before the first block, where data_NAME is expected; is "
                    "it a star file?"
                )
            else:
                block.add(words, number)
    if block is not None:
        yield block


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file with line ends of any system, without a byte order mark."""
    first = file.readline()
    yield from first.removeprefix(_BOM).splitlines()
    for line in file:
        if b"\r" in line:
            yield from line.splitlines()
        else:
            yield line
