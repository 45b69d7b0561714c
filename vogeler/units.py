"""Durations, sizes and timestamps as people write them, and as the programs count them."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from datetime import datetime, timezone

_DURATION_S = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_LONGEST_S = 10 * 366 * 86400.0
_SIZE_BYTES = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_NUMBER_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_duration(text: str) -> float:
    """``90s``, ``5m``, ``250ms``, ``1.5h``, ``7d``; a bare number is seconds. In seconds.

    Raises ValueError, whose text says what is allowed.
    """
    seconds = _parse(text, _DURATION_S, "a duration such as 250ms, 90s, 5m, 2h or 7d")
    if seconds > _LONGEST_S:
        raise ValueError(f"{text!r} is longer than ten years")
    return seconds


def parse_size(text: str) -> int:
    """``10MB`` (10^7), ``10MiB`` (10 × 2^20), ``512kB``; a bare number is bytes. In bytes.

    Raises ValueError, whose text says what is allowed.
    """
    return int(_parse(text, {k: float(v) for k, v in _SIZE_BYTES.items()}, "a size such as 512kB, 10MB or 4MiB"))


def parse_memory(text: str) -> int:
    """A size of memory, in bytes, as ``parse_size`` reads it: more than none, and no more than the kernel can count."""
    size_bytes = parse_size(text)
    if not 0 < size_bytes < 2**62:
        raise ValueError(f"{text!r} is no amount of memory")
    return size_bytes


def _parse(text: str, units: dict[str, float], expected: str) -> float:
    match = _NUMBER_UNIT.fullmatch(text)
    factor = units.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not {expected}")
    number = float(match.group(1)) * factor
    if math.isinf(number):
        raise ValueError(f"{text!r} is more than can be counted")
    return number


def format_duration(seconds: float) -> str:
    """A duration for people: ``0.4s``, ``12s``, ``5m``, ``3h``, ``2d``. Rounds down, never up to a unit."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f}s"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def format_size(size_bytes: float) -> str:
    """A size for people, in binary units: ``812 B``, ``4.0 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def to_timestamp(epoch_s: float) -> str:
    """Seconds since the epoch as UTC ISO 8601 with milliseconds: ``2026-01-31T08:00:00.000Z``.

    Fixed width, so that timestamps sort as text.
    """
    moment = datetime.fromtimestamp(epoch_s, timezone.utc)
    return moment.isoformat(timespec="milliseconds")[: -len("+00:00")] + "Z"


_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?Z", re.ASCII)


def parse_timestamp(text: str) -> float:
    """Seconds since the epoch of a UTC timestamp with Z. Raises ValueError."""
    match = _TIMESTAMP.fullmatch(text)
    if match is not None:
        with suppress(ValueError):
            return datetime.fromisoformat(match[1] + "+00:00").timestamp() + float(match[2] or 0)
    raise ValueError(f"{text!r} is not a UTC timestamp such as 2026-01-31T08:00:00.000Z")
