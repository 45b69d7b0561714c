"""What differs between two values of a key, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vogeler.messages import canonical_json


@dataclass(frozen=True)
class Difference:
    """What has to be added, removed and changed to come from the old value to the new one.

    Mappings are compared by key, lists as sets of entries; anything else has changed or has not.
    Names are keys, entries, or empty for the value itself.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[tuple[str, Any, Any], ...] = ()  # name, old, new

    def __str__(self) -> str:
        counts = (("added", self.added), ("removed", self.removed), ("changed", self.changed))
        return ", ".join(f"{len(found)} {word}" for word, found in counts if found) or "nothing"


def difference(old: Any, new: Any) -> Difference:
    """From ``old`` to ``new``; either may be any JSON value."""
    if isinstance(old, dict) and isinstance(new, dict):
        changed = tuple((name, old[name], new[name]) for name in old if name in new and old[name] != new[name])
        return Difference(tuple(k for k in new if k not in old), tuple(k for k in old if k not in new), changed)
    if isinstance(old, list) and isinstance(new, list):
        before, after = set(_entries(old)), set(_entries(new))
        return Difference(
            tuple(entry for entry in _entries(new) if entry not in before),
            tuple(entry for entry in _entries(old) if entry not in after),
        )
    return Difference() if old == new else Difference(changed=(("", old, new),))


def _entries(items: list[Any]) -> Iterator[str]:
    for item in items:
        yield item if isinstance(item, str) else canonical_json(item)
