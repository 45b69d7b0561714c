"""Moments as people write them on a command line."""

from __future__ import annotations

import argparse
import re
import time
from datetime import datetime, timedelta, timezone

from vogeler.units import parse_duration, to_timestamp

_ALLOWED = (
    "a time such as 2026-01-31T08:00:00Z, 2026-01-31 08:00 or 2026-01-31 (local time without Z or +01:00), "
    "now, today, yesterday, or a duration ago such as 90m, 2h or 1d"
)
_TIMESTAMP = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:[T ](?P<minute>\d\d:\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d{1,6})\d*)?)?(?P<zone>Z|[+-]\d\d:?\d\d)?)?",
    re.IGNORECASE,
)


def moment(text: str) -> str:
    """The type of an argument that is a moment: as a UTC timestamp, in milliseconds.

    Raises ArgumentTypeError, whose text says what is allowed.
    """
    try:
        return to_timestamp(parse_moment(text, time.time()))
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(f"{text!r} is not {_ALLOWED}") from None


def parse_moment(text: str, now_s: float) -> float:
    """Seconds since the epoch. ``now_s`` is what ``now`` means, and what durations are counted from.

    Without a time zone it is the local one; a day begins at its midnight. Raises ValueError for what is
    no moment or before 1970, and OverflowError or OSError for years beyond what the system can tell.
    """
    word = text.strip()
    if word == "now":
        return now_s
    if word in ("today", "yesterday"):
        day = datetime.fromtimestamp(now_s).date() - timedelta(days=word == "yesterday")
        epoch_s = datetime(day.year, day.month, day.day).timestamp()
    elif word[-1:].isalpha() and "-" not in word:  # a bare number is rather a mistyped date than seconds
        epoch_s = now_s - parse_duration(word)
    else:
        epoch_s = _timestamp(word)
    if epoch_s < 0:
        raise ValueError(f"{text!r} is before 1970")
    return epoch_s


def _timestamp(word: str) -> float:
    match = _TIMESTAMP.fullmatch(word)
    if match is None:
        raise ValueError(f"{word!r} is not a timestamp")
    clock = f"{match['minute'] or '00:00'}:{match['second'] or '00'}.{(match['fraction'] or '0').ljust(6, '0')}"
    local = datetime.strptime(f"{match['date']} {clock}", "%Y-%m-%d %H:%M:%S.%f")
    zone = match["zone"]
    if zone is None:
        return local.timestamp()
    return local.replace(tzinfo=_zone(zone)).timestamp()


def _zone(text: str) -> timezone:
    if text in "Zz":
        return timezone.utc
    distance = timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    return timezone(-distance if text[0] == "-" else distance)
