"""Which history has had its time. Pure: what there is, is passed in, without the values.

Of each key of a node stay the newest versions, and the newest one stored before the horizon: what the key
held then. Of a node that was forgotten before the horizon nothing stays from before that. Oldest first, so
that whatever is left at any moment tells the truth of every time since its oldest entry.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A history document without its value. ``key`` None: the node was forgotten. ``rev``: CouchDB's."""

    id: str
    node: str
    key: str | None
    stored_at: str
    seq: int
    late: bool
    rev: str | None = None


def doomed(entries: Iterable[Entry], before: str, keep: int) -> Iterator[Entry]:
    """Those of one node's entries, given in any order, that have had their time; oldest first."""
    old, keys = [], defaultdict(list)
    for entry in sorted(entries, key=_age, reverse=True):
        keys[entry.key].append(entry)
    forgotten = [entry for entry in keys.pop(None, []) if entry.stored_at < before]
    forgotten_at = forgotten[0].stored_at if forgotten else ""
    old += forgotten  # everything older than the last of them goes before it
    for newest_first in keys.values():
        old += _doomed_of_key(newest_first, before, keep, forgotten_at)
    return iter(sorted(old, key=_age))


def _doomed_of_key(newest_first: list[Entry], before: str, keep: int, forgotten_at: str) -> Iterator[Entry]:
    is_anchored = False
    for position, entry in enumerate(newest_first):
        if entry.stored_at >= before:
            continue
        is_anchor = not is_anchored and not entry.late
        is_anchored = is_anchored or is_anchor
        if entry.stored_at < forgotten_at or not (is_anchor or position < keep):
            yield entry


def _age(entry: Entry) -> tuple[str, int, str]:
    return entry.stored_at, entry.seq, entry.id
