"""One HTML file with everything an analysis found: pictures inside, no other file, no network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import quote

from drgn.formats.atomic import replacing


@dataclass(frozen=True)
class Picture:
    """A PNG or GIF and the sentence or two that say what to see in it."""

    path: Path
    caption: str
    width_percent: int = 100


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; numbers are formatted by the one who makes the table.

    A cell that is a Path, relative to the folder of the report, becomes a link to that file.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | Path]]


@dataclass(frozen=True)
class Section:
    """A heading, plain words, and what they speak of.

    Attributes
    ----------
    title
        Heading, also in the table of contents.
    text
        Paragraphs.
    pictures, tables
        Shown below the text, pictures first.
    commands
        What for, and the line to paste into a terminal; last.
    """

    title: str
    text: Sequence[str]
    pictures: Sequence[Picture] = field(default=())
    tables: Sequence[Table] = field(default=())
    commands: Sequence[tuple[str, str]] = field(default=())


_CSS = """
:root { --ink: #1f2933; --quiet: #5f6c7b; --line: #dde3ea; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 16px/1.55 system-ui, sans-serif; }
nav { position: fixed; top: 0; bottom: 0; left: 0; width: 220px; padding: 28px 20px; overflow: auto;
      border-right: 1px solid var(--line); background: #f7f9fb; font-size: 14px; }
nav b { display: block; margin-bottom: 12px; font-size: 15px; overflow-wrap: anywhere; }
nav a { display: block; padding: 4px 0; color: var(--ink); text-decoration: none; }
nav a:hover { color: var(--accent); }
main { max-width: 1010px; margin-left: 220px; padding: 28px 36px 60px; }
h1 { margin: 0 0 4px; font-size: 27px; }
h2 { margin: 42px 0 8px; padding-top: 14px; border-top: 1px solid var(--line); font-size: 21px; }
p { max-width: 76ch; margin: 8px 0; }
.quiet, figcaption { color: var(--quiet); }
figure { margin: 18px 0; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { max-width: 82ch; margin-top: 6px; font-size: 14px; }
table { margin: 14px 0; border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); text-align: left; }
th { font-weight: 600; }
section > div { overflow-x: auto; }
td { overflow-wrap: anywhere; }
td a { color: var(--accent); overflow-wrap: normal; }
pre { margin: 4px 0 14px; padding: 9px 12px; background: #f2f5f8; border-radius: 4px; font-size: 14px;
      white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; }
h1, .quiet { overflow-wrap: anywhere; }
@media (max-width: 800px) { nav { position: static; width: auto; } main { margin-left: 0; padding: 20px; } }
@media print { nav { display: none; } main { margin: 0; } figure { break-inside: avoid; } }
"""


def write_report(path: Path, title: str, subtitle: str, sections: Sequence[Section]) -> Path:
    """Write the report.

    Parameters
    ----------
    path
        The .html to write.
    title, subtitle
        Its heading and the line below it.
    sections
        In reading order; the table of contents is made from their titles.
    """
    contents = "".join(f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(sections))
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body>"
        f"<nav><b>{escape(title)}</b>{contents}</nav>"
        f'<main><h1>{escape(title)}</h1><p class="quiet">{escape(subtitle)}</p>{body}</main></body></html>\n'
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _section(number: int, section: Section) -> str:
    parts = [f'<section id="s{number}"><h2>{escape(section.title)}</h2>']
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.text]
    parts += [_picture(picture) for picture in section.pictures]
    parts += [_table(table) for table in section.tables]
    parts += [f"<p>{escape(what)}</p><pre>{escape(line)}</pre>" for what, line in section.commands]
    return "".join(parts) + "</section>"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    caption = escape(picture.caption)
    return (
        f'<figure><img style="width:{picture.width_percent}%" alt="{caption}" '
        f'src="data:image/{picture.path.suffix[1:]};base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    def row(tag: str, cells: Sequence[str | Path]) -> str:
        return "<tr>" + "".join(f"<{tag}>{_cell(cell)}</{tag}>" for cell in cells) + "</tr>"

    head = row("th", table.header) if any(table.header) else ""
    return f"<div><table>{head}{''.join(row('td', cells) for cells in table.rows)}</table></div>"


def _cell(cell: str | Path) -> str:
    if isinstance(cell, Path):
        return f'<a href="{quote(cell.as_posix())}">{escape(cell.as_posix())}</a>'
    return escape(cell)
