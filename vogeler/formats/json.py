"""``json``: one JSON text (RFC 8259), strictly: no NaN, no key twice, no half characters."""

from __future__ import annotations

import json
import math
from typing import Any

from vogeler.errors import FormatError
from vogeler.formats import MAX_DEPTH, MAX_DIGITS, check_encodable, repeated, too_deep


def parse(text: str) -> Any:
    """The value. Raises FormatError with line and column where the syntax breaks."""
    if not text.strip():
        raise FormatError("the command printed nothing, and nothing is not JSON", "print null, {} or []")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_integer,
        )
    except json.JSONDecodeError as error:
        raise FormatError(
            f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}",
            "print one JSON text to stdout, and everything else to stderr",
        ) from None
    except RecursionError:
        raise too_deep() from None
    _check_depth(value)
    check_encodable(text, value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = repeated(name for name, _ in pairs)
        raise FormatError(f"the key {twice!r} twice in one object", "print every key once")
    return value


def _constant(name: str) -> None:
    raise FormatError(f"{name} is not JSON", "print null or a text instead")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise FormatError(f"the number {text[:40]} is beyond what a double holds", "print it as a text")
    return number


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise FormatError(f"a number of {len(text)} digits; at most {MAX_DIGITS}", "print it as a text")
    return int(text)


def _check_depth(value: object) -> None:
    depth, level = 0, [value]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise too_deep()
        level = [child for item in level for child in _children(item)]


def _children(item: object) -> list[Any]:
    if isinstance(item, dict):
        return [child for child in item.values() if isinstance(child, (dict, list))]
    if isinstance(item, list):
        return [child for child in item if isinstance(child, (dict, list))]
    return []
