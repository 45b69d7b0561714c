"""``table``: a header line and rows, divided by white space, as a list of objects of texts."""

from __future__ import annotations

from vogeler.errors import FormatError
from vogeler.formats import output, repeated


def parse(text: str) -> list[dict[str, str]]:
    """One object per row, under the header's words; the last column takes the rest of the row.

    A row with too few columns is refused: every value behind the gap would be under a wrong name.
    """
    rows = [(number, line) for number, line in enumerate(output.parse(text), start=1) if line.strip()]
    if not rows:
        return []
    header = _header(*rows[0])
    return [_row(header, number, line) for number, line in rows[1:]]


def _header(number: int, line: str) -> list[str]:
    columns = line.split()
    twice = repeated(columns)
    if twice is not None:
        raise FormatError(
            f"line {number}: two columns are headed {twice!r}",
            "head every column with a word of its own, without spaces",
        )
    return columns


def _row(header: list[str], number: int, line: str) -> dict[str, str]:
    cells = line.strip().split(None, len(header) - 1)
    if len(cells) < len(header):
        raise FormatError(
            f"line {number}: {len(cells)} columns, and the header has {len(header)}",
            "print something, such as '-', for an empty cell",
        )
    return dict(zip(header, cells))
