"""Rows and values on stdout: as a table for people, as JSON or CSV for programs.

What nodes report is not to be trusted: whatever the format, nothing gets through that a terminal would obey, or
that a spreadsheet would take for a formula.

A command that shows its help has nothing to write: what writes is imported where it does so.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vogeler.sealed import brief

FORMATS = ("table", "json", "csv")
Row = Mapping[str, Any]

# In JSON text: DEL and C1, which terminals obey; what has no width, or turns the direction of what follows; line ends.
_UNSEEN = "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
# OWASP, "CSV Injection"; the wide forms are read as the narrow ones where people write with them.
_FORMULA = r"[\t\r]|\s*[=+\-@\uff1d\uff0b\uff0d\uff20]"
_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"


def add_format(parser: argparse.ArgumentParser) -> None:
    """The ``--format`` flag that every listing takes."""
    parser.add_argument("--format", choices=FORMATS, default="table", help="how stdout is written (default: table)")


def write_rows(rows: Iterable[Row], columns: Sequence[str], format: str) -> None:
    """Write rows with these columns; a value that is not there is null, or empty."""
    writers = {"table": _write_table, "json": _write_json, "csv": _write_csv}
    writers[format](rows, columns)
    sys.stdout.flush()


def _write_json(rows: Iterable[Row], columns: Sequence[str]) -> None:
    """One JSON array, a row a line: streamed."""
    separator = "["
    for row in rows:
        print(separator + as_json({name: row.get(name) for name in columns}))
        separator = ","
    print("]" if separator == "," else "[]")


def _write_csv(rows: Iterable[Row], columns: Sequence[str]) -> None:
    print(csv_line(columns))
    for row in rows:
        print(csv_line([row.get(name) for name in columns]))


def csv_line(cells: Sequence[Any]) -> str:
    """One line of CSV (RFC 4180). Texts that would be a formula get an apostrophe before them; numbers are left alone.

    A semicolon or tab is quoted as a comma is: where a comma is in numbers, spreadsheets divide cells there.
    """
    line = ",".join(map(_csv_cell, cells))
    return line or '""'


def _csv_cell(value: Any) -> str:
    text = as_text(value)
    if isinstance(value, str) and re.match(_FORMULA, text) and not re.fullmatch(_NUMBER, text, re.ASCII):
        text = "'" + text
    divides = re.search(r'[",;\t\r\n]', text)
    text = "\t".join(map(printable_lines, text.split("\t")))
    return '"' + text.replace('"', '""') + '"' if divides else text


def _write_table(rows: Iterable[Row], columns: Sequence[str]) -> None:
    cells = [[printable(as_text(row.get(name))) for name in columns] for row in rows]
    if not cells:
        return
    heads = [printable(name.upper().replace("_", " ")) for name in columns]
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
    for line in [heads, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def write_value(value: Any, format: str) -> None:
    """One value of a record: JSON; or the lines of a list, the pairs of a mapping, with sealed values in brief."""
    value = value if format == "json" else brief(value)
    if format == "json" or not isinstance(value, (dict, list)):
        print(as_json(value, indent=2) if format == "json" else printable_lines(as_text(value)))
    elif isinstance(value, dict):
        write_rows(({"name": name, "value": item} for name, item in value.items()), ("name", "value"), format)
    elif value and all(isinstance(item, dict) for item in value):
        columns = list(dict.fromkeys(name for item in value for name in item))
        write_rows(value, columns, format)
    elif format == "csv":
        write_rows(({"value": item} for item in value), ("value",), format)
    else:
        for item in value:
            print(printable(as_text(item)))
    sys.stdout.flush()


def as_text(value: Any) -> str:
    """A value in one cell: text as it is, lists and objects as JSON, sealed values in brief, null as nothing."""
    if value is None:
        return ""
    value = brief(value)
    return value if isinstance(value, str) else as_json(value)


def as_json(value: Any, indent: int | None = None) -> str:
    """The JSON text, in which characters that are not seen are written as their number: the same value, then."""
    import json

    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return re.sub(_UNSEEN, lambda found: json.dumps(found.group())[1:-1], text)


def printable(text: str) -> str:
    """The text on one line, without anything that a terminal would obey: ``\\x1b`` in place of an escape."""
    text = " ".join(text.split("\n"))
    if text.isprintable():
        return text
    import unicodedata

    seen = (c.isprintable() or unicodedata.category(c) == "Zs" for c in text)  # a space of any width
    return "".join(c if shown else c.encode("unicode_escape").decode() for c, shown in zip(text, seen))


def printable_lines(text: str) -> str:
    """As ``printable``, keeping line breaks."""
    return "\n".join(printable(line) for line in text.split("\n"))
