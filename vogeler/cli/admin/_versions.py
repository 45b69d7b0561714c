"""Changes on the screen: what ``history``, ``changes`` and ``diff`` share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vogeler.cli._output import as_text, printable, write_rows
from vogeler.cli._time import moment
from vogeler.history import FORGOTTEN, RETURNED, Difference, Document, Version, stored_at, version
from vogeler.sealed import is_sealed
from vogeler.units import parse_timestamp

# The columns of data; a table shows a few of them.
COLUMNS = (
    "stored_at", "node", "key", "requested_by", "what", "event", "changed_at", "run", "late",
    "added", "removed", "changed", "reordered", "patch",
)  # fmt: skip
CSV_COLUMNS = COLUMNS[:9]
_LINES = "lines"  # of a row: the details, for a table
_MUCH_S = 60.0
_LONGEST_VALUE = 100
_LONGEST_IN_WORDS = 40
_MOST_IN_WORDS = 3
_OF_NO_KEY = {FORGOTTEN: "the node was forgotten", RETURNED: "the node returned"}


def add_period(parser: argparse.ArgumentParser, since: str | None = None) -> None:
    """``--since`` and ``--until``."""
    default = f" (default: {since})" if since else ""
    parser.add_argument(
        "--since", type=moment, metavar="TIME", default=since, help=f"from when on, such as 1d (ago){default}"
    )
    parser.add_argument("--until", type=moment, metavar="TIME", help="until when, which is excluded")
    parser.add_argument("--limit", type=_count, metavar="N", help="at most so many, the newest")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def row(entry: Document, previous: Document | None, format: str) -> dict[str, Any]:
    """A change beside the one before it, for ``write``."""
    data = format == "json"
    this = version(entry, previous, patches=data)
    found = {
        **this.entry,
        "stored_at": stored_at(entry),
        "requested_by": entry.get("requested_by") or (None if entry["event"] == RETURNED else "schedule"),
        "late": bool(entry.get("late")),
        "patch": this.patch,
    }
    if this.difference is None:
        return {**found, "what": _OF_NO_KEY.get(entry["event"], "came late: in the history only")}
    if data:
        found.update(as_data(this.difference))
    elif not this.first:
        found[_LINES] = list(lines(this.difference))
    return {**found, "what": _in_words(this, holds(entry["value"]))}


def _in_words(this: Version, value: str) -> str:
    if this.first:
        return f"{value}; what was before is not kept" if this.entry.get("previous") else f"first time: {value}"
    return described(this.difference) if this.difference else "the same as before, stored anew"


def write(rows: Iterable[dict[str, Any]], columns: Sequence[str], format: str, details: bool) -> int:
    """Write the rows; as a table with these columns, or with ``details`` in blocks. Returns how many."""
    count = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal count
        for one in rows:
            count += 1
            yield one

    if format != "table":
        write_rows(counted(), COLUMNS if format == "json" else CSV_COLUMNS, format)
    elif details:
        for one in counted():
            _write_block(one, columns)
    else:
        shown = [{**one, _LINES: None, "changed_at": collected(one)} for one in counted()]
        used = [name for name in columns if name != "changed_at" or any(one["changed_at"] for one in shown)]
        write_rows(shown, used, format)
    return count


def collected(one: dict[str, Any]) -> str | None:
    """When the node collected it, if that is much before or after the server stored it."""
    distance_s = parse_timestamp(one["stored_at"]) - parse_timestamp(one["changed_at"])
    return str(one["changed_at"]) if abs(distance_s) >= _MUCH_S else None


def _write_block(one: dict[str, Any], columns: Sequence[str]) -> None:
    values = {**one, "changed_at": collected(one)}
    words = {"run": "run ", "changed_at": "collected "}
    shown = [words.get(name, "") + as_text(values.get(name)) for name in columns if values.get(name) is not None]
    print("  ".join(map(printable, shown)))
    for line in one.get(_LINES) or ():
        print(f"    {line}")
    sys.stdout.flush()


def described(found: Difference) -> str:
    """A small difference in full: ``+telnetd 0.17, openssl 3.0.11 → 3.0.13``; a large one in numbers."""
    parts = [f"+{_named(*pair)}" for pair in found.added]
    parts += [f"-{_named(*pair)}" for pair in found.removed]
    parts += [f"{_named(name, old)} → {_short(new)}" for name, old, new in found.changed]
    parts += [f"{name or 'all'} reordered" for name in found.reordered]
    return ", ".join(parts) if len(parts) <= _MOST_IN_WORDS else str(found)


def _named(name: str, value: Any) -> str:
    return " ".join(filter(None, (name, _short(value))))


def _short(value: Any) -> str:
    whole = "null" if value is None else as_text(value)
    return whole if len(whole) <= _LONGEST_IN_WORDS else whole[: _LONGEST_IN_WORDS - 1] + "…"


def lines(found: Difference) -> Iterator[str]:
    """``+ name value``, ``- name value``, ``~ name old → new``; by name."""
    order = [(name, 1, _line("-", name, value)) for name, value in found.removed]
    order += [(name, 2, _line("+", name, value)) for name, value in found.added]
    order += [(name, 0, f"{_line('~', name, old)} → {text(new)}") for name, old, new in found.changed]
    order += [(name, 0, f"~ {printable(name)}{' ' if name else ''}in another order") for name in found.reordered]
    yield from (line for _, _, line in sorted(order, key=lambda one: one[:2]))


def _line(sign: str, name: str, value: Any) -> str:
    return " ".join(filter(None, (sign, printable(name), text(value))))


def text(value: Any) -> str:
    """A value on one line of a table: cut when it is long, and then of a list or mapping how much it holds."""
    whole = printable("null" if value is None else as_text(value))
    if len(whole) <= _LONGEST_VALUE:
        return whole
    return f"({holds(value)})" if isinstance(value, (dict, list)) else whole[: _LONGEST_VALUE - 1] + "…"


def holds(value: Any) -> str:
    """A value in two words: ``900 entries``, ``12 lines``, or itself when it is short."""
    if is_sealed(value):
        return "sealed"
    if isinstance(value, (dict, list)):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    whole = "" if value is None else str(value)
    return whole if len(whole) <= 20 else f"{len(whole)} characters"


def as_data(found: Difference) -> dict[str, Any]:
    """A difference as JSON."""
    return {
        "added": [{"name": name, "value": value} for name, value in found.added],
        "removed": [{"name": name, "value": value} for name, value in found.removed],
        "changed": [{"name": name, "old": old, "new": new} for name, old, new in found.changed],
        "reordered": list(found.reordered),
    }
