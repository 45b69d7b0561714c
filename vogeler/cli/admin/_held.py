"""What nodes held at a time, and what to say of nodes and keys that the store does not know."""

from __future__ import annotations

from itertools import count, islice
from typing import TYPE_CHECKING, Any

from vogeler.errors import NotFoundError
from vogeler.history import newest_first, record_at, stored_at, value_at
from vogeler.messages import RESERVED_KEYS
from vogeler.registry import did_you_mean
from vogeler.units import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vogeler.persistence import Document, Store

_MOST_SUGGESTED = 50
_MOST_AT_ONCE = 50


def facts(record: Document) -> dict[str, Any]:
    """What plugins put into a record, by key."""
    return {key: value for key, value in record.items() if key not in RESERVED_KEYS and key[:1] != "_"}


def history_of(store: Store, node: str, key: str) -> Iterator[Document]:
    """The changes of a key, and that the node was forgotten and returned, newest first."""
    return newest_first(store.history(node, key), store.absences(node))


def beside_previous(store: Store, changes: Iterable[Document]) -> Iterator[tuple[Document, Document | None]]:
    """Each change with the one before it of the same key; None where there is none, or none any more."""
    waiting = iter(changes)
    for size in count(1):
        page = list(islice(waiting, min(2**size, _MOST_AT_ONCE)))
        if not page:
            return
        names = {change["previous"] for change in page if change.get("previous")}
        known = {change["_id"]: change for change in page}
        known.update(store.changes_named(names - known.keys()))
        yield from ((change, _held_before(store, change, known)) for change in page)


def _held_before(store: Store, change: Document, known: dict[str, Document]) -> Document | None:
    """One that never was in the record, as its server died over it, is passed over."""
    found = known.get(change.get("previous", ""))
    while found is not None and found.get("late"):
        found = store.changes_named([found["previous"]]).get(found["previous"]) if found.get("previous") else None
    return found


def held_at(store: Store, node: str, at: str, key: str | None = None) -> dict[str, Document]:
    """By key (of this one alone), the changes whose values the node's record held at a time.

    As long as the record is the one that there was then, each key is looked up by itself; otherwise the whole
    history is read, which says when the node was forgotten.
    """
    if key is not None:
        change = value_at(history_of(store, node, key), at)
        return {} if change is None else {key: change}
    record = store.record(node) or {}
    begun_at = _begun_at(record)
    if begun_at <= at:
        found = {one: value_at(store.history(node, one), at) for one in sorted(facts(record))}
        held = {one: change for one, change in found.items() if change is not None}
        if held and all(begun_at <= stored_at(change) for change in held.values()):
            return held
    return record_at(store.history(node), at)


def _begun_at(record: Document) -> str:
    """Since when there is this record; later than any time if somebody wrote something else there."""
    try:
        parse_timestamp(str(record.get("created_at")))
    except ValueError:
        return "~"
    return str(record["created_at"])


def require_history(store: Store, node: str, key: str | None = None) -> None:
    """Raises NotFoundError, with what there is instead, for a node or a key that never held anything."""
    if next(store.history(node, key), None) is not None:
        return
    if key is not None and next(store.history(node), None) is not None:
        raise no_key(f"{node} never had a key {key!r}", key, facts(store.record(node) or {}))
    if store.status(node) is None:
        raise no_node(store, node)
    raise NotFoundError(f"{node} has no history yet: it has reported no facts", "ask it with vogeler-runner")


def no_key(message: str, key: str, known: Iterable[str]) -> NotFoundError:
    """The error for a key that is not there, with the one that was perhaps meant."""
    return NotFoundError(message, did_you_mean(key, known))


def no_node(store: Store, node: str) -> NotFoundError:
    """The error for a node that is not there: was it forgotten, or is another one meant?"""
    if next(store.history(node), None) is not None:
        return NotFoundError(
            f"the store holds no record of {node} now",
            f"its history is there: vogeler-admin history {node}, vogeler-admin show {node} --at TIME",
        )
    known = list(islice(store.names(), _MOST_SUGGESTED))
    return NotFoundError(f"the store knows no node {node!r}", did_you_mean(node, known))
