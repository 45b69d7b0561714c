"""What a plugin printed, as a JSON value. One module per ``result_format``, each with::

    def parse(text: str) -> Any        # a JSON value, or FormatError that says where and why

A module added to this package is a format that a plugin file may name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from vogeler import registry
from vogeler.errors import FormatError

MAX_DEPTH = 200
MAX_DIGITS = 308  # of an integer: as many are within a double, whatever they are
_SURROGATE_ESCAPE = re.compile(r"\\(?:u|U0000)[dD][89a-fA-F]")


def names() -> list[str]:
    """Every result_format there is, sorted. Imports none of them."""
    return registry.names(__name__)


def parse(name: str, output: bytes) -> Any:
    """The JSON value in ``output``, read as the format ``name``. Any thread, any number of times.

    The value encodes as JSON and as UTF-8 without further checks, and is at most MAX_DEPTH deep.
    Raises FormatError for output that is not in the format, UsageError for an unknown format.
    """
    return registry.load(__name__, name, "result_format").parse(_decoded(output))


def _decoded(output: bytes) -> str:
    try:
        return output.decode("utf-8")
    except UnicodeDecodeError as error:
        line = output.count(b"\n", 0, error.start) + 1
        raise FormatError(
            f"not UTF-8: byte 0x{output[error.start]:02x} at offset {error.start}, in line {line}",
            "let the command print UTF-8: set env.LC_ALL in the .cfg, or pass its output through iconv",
        ) from None


def too_deep() -> FormatError:
    """What is said of lists in lists in lists."""
    return FormatError(f"nested more than {MAX_DEPTH} deep", "print flatter data")


def repeated(names: Iterable[str]) -> str | None:
    """The first name that was there before, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def check_encodable(text: str, value: object) -> None:
    """Refuse half a surrogate pair, which an escape in ``text`` can bring in and UTF-8 can't hold."""
    if not _SURROGATE_ESCAPE.search(text):
        return
    level: list[Any] = [value]
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
        level = below


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise FormatError(
            f"{half} is half a surrogate pair, which is no character",
            "write characters beyond U+FFFF as themselves, or as both halves",
        ) from None
