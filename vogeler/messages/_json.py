"""JSON: the one text of a value, its digest, and reading without what only Python takes for JSON."""

from __future__ import annotations

import json
import math
import re
from typing import Any

# So many digits may be more than a double holds: CouchDB answers 500 to that, for every document beside it, too.
_HUGE = re.compile(rb"[0-9]{309}")
_STRIDE = 30
_MANY_DIGITS = re.compile(rb"[0-9]{10}")  # in a row in every 30th byte, where 309 are in the whole
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no white space. Raises ValueError for NaN."""
    return _CANONICAL.encode(value)


def digest_of(value: object) -> str:
    """``sha256:`` and the hex digest of the canonical JSON: equal facts, equal digest."""
    return "sha256:" + sha256(canonical_json(value).encode()).hex()


def sha256(text: bytes) -> bytes:
    """The digest, as bytes."""
    import hashlib  # brings OpenSSL along, and many commands digest nothing

    return hashlib.sha256(text).digest()


def parse(text: bytes) -> Any:
    """The value. Raises ValueError for what is not JSON in UTF-8, or no double holds, and RecursionError."""
    # A hook for every integer would cost more than all the rest.
    huge = _MANY_DIGITS.search(text[::_STRIDE]) and _HUGE.search(text)
    return (_CAREFUL if huge else _DECODER).decode(text.decode("utf-8"))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _within_double(text: str) -> int:
    number = int(text)
    try:
        float(number)
    except OverflowError:
        raise ValueError(f"the number {text[:40]}… is beyond what a double holds") from None
    return number


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is beyond what a double holds")
    return number


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
_CAREFUL = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, parse_int=_within_double)
