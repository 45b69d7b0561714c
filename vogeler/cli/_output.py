"""Rows and values on stdout: as a table for people, as JSON or CSV for programs.

A command that shows its help has nothing to write: what writes is imported where it does so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FORMATS = ("table", "json", "csv")
Row = Mapping[str, Any]


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
    import json

    separator = "["
    for row in rows:
        print(separator + json.dumps({name: row.get(name) for name in columns}, ensure_ascii=False))
        separator = ","
    print("]" if separator == "," else "[]")


def _write_csv(rows: Iterable[Row], columns: Sequence[str]) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([as_text(row.get(name)) for name in columns])


def _write_table(rows: Iterable[Row], columns: Sequence[str]) -> None:
    cells = [[printable(as_text(row.get(name))) for name in columns] for row in rows]
    if not cells:
        return
    heads = [name.upper().replace("_", " ") for name in columns]
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
    for line in [heads, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def write_value(value: Any, format: str) -> None:
    """One value of a record: JSON; or the lines of a list, the pairs of a mapping."""
    import json

    if format == "json" or not isinstance(value, (dict, list)):
        print(json.dumps(value, ensure_ascii=False, indent=2) if format == "json" else printable_lines(as_text(value)))
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
    """A value in one cell: text as it is, lists and objects as JSON, null as nothing."""
    if value is None:
        return ""
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def printable(text: str) -> str:
    """The text on one line, without anything that a terminal would obey: what nodes report is not to be trusted."""
    text = " ".join(text.split("\n"))
    if text.isprintable():
        return text
    import unicodedata

    return "".join(c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """As ``printable``, keeping line breaks."""
    return "\n".join(printable(line) for line in text.split("\n"))
