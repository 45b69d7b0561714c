"""Which history has had its time, in steps. What there is, is passed in, without the values.

Of each key of a node stay the newest versions, and the newest one stored before the horizon: what the key
held then. Of a node that was forgotten before the horizon nothing stays from before that. Oldest first, so
that whatever is left at any moment tells the truth of every time since its oldest entry.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vogeler.persistence import _merge

_STEP_S = 0.5  # what results may have to wait for


@dataclass(frozen=True)
class Entry:
    """A history document without its value. ``key`` None: the node was forgotten, or returned. ``rev``: CouchDB's."""

    id: str
    node: str
    key: str | None
    stored_at: str
    seq: int
    late: bool
    rev: str | None = None


def in_steps(nodes: Iterable[Iterable[Entry]], before: str, keep: int, limit: int) -> Iterator[list[Entry]]:
    """What has had its time, at most ``limit`` at once; every half second what was found by then, if only nothing.

    ``nodes``: the entries of one node after the other, as they are read.
    """
    found: list[Entry] = []
    ends_at_s = time.monotonic() + _STEP_S
    for entries in nodes:
        found += doomed(entries, before, keep)
        is_late = time.monotonic() >= ends_at_s
        while len(found) > limit or is_late:
            yield found[:limit]
            found, is_late = found[limit:], False
            ends_at_s = time.monotonic() + _STEP_S
    yield found


def doomed(entries: Iterable[Entry], before: str, keep: int) -> Iterator[Entry]:
    """Those of one node's entries, given in any order, that have had their time; oldest first."""
    old, keys = [], defaultdict(list)
    for entry in sorted(entries, key=_age, reverse=True):
        keys[entry.key].append(entry)
    of_no_key = [entry for entry in keys.pop(None, []) if entry.stored_at < before]
    forgotten_at = next((entry.stored_at for entry in of_no_key if _is_forgotten(entry)), "")
    old += of_no_key  # everything older than the last time it was forgotten goes before that
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


def _is_forgotten(entry: Entry) -> bool:
    return entry.id.startswith(_merge.id_prefix(entry.node, _merge.FORGOTTEN))
