"""``keyvalue``: lines of ``key: value`` or ``key=value``, as an object of texts."""

from __future__ import annotations

from vogeler.errors import FormatError
from vogeler.formats import output


def parse(text: str) -> dict[str, str]:
    """Whichever of ``:`` and ``=`` comes first in a line divides it; blank and ``#`` lines are skipped."""
    values: dict[str, str] = {}
    for number, line in enumerate(output.parse(text), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, value = _divided(line, number)
        if key in values:
            raise FormatError(f"line {number}: the key {key!r} for the second time", "print every key once")
        values[key] = value
    return values


def _divided(line: str, number: int) -> tuple[str, str]:
    at = min((i for i in (line.find(":"), line.find("=")) if i >= 0), default=0)
    key = line[:at].strip()
    if not key:
        raise FormatError(
            f"line {number}: {line[:60]!r} is neither 'key: value' nor 'key=value'",
            "print one pair a line, and anything else to stderr",
        )
    return key, line[at + 1 :].strip()
