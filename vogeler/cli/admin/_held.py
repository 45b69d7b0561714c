"""What nodes held at a time, and what to say of nodes and keys that the store does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vogeler.errors import NotFoundError
from vogeler.history import record_at, stored_at, value_at
from vogeler.messages import RESERVED_KEYS
from vogeler.registry import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vogeler.persistence import Document, Store

_MOST_SUGGESTED = 50


def facts(record: Document) -> dict[str, Any]:
    """What plugins put into a record, by key."""
    return {key: value for key, value in record.items() if key not in RESERVED_KEYS and key[:1] != "_"}


def held_at(store: Store, node: str, at: str, key: str | None = None) -> dict[str, Document]:
    """By key (of this one alone), the changes whose values the node's record held at a time.

    As long as the record is the one that there was then, each key is looked up by itself; otherwise the whole
    history is read, which says when the node was forgotten.
    """
    record = store.record(node) or {}
    begun_at = record.get("created_at") or "~"
    if key is not None or begun_at <= at:
        keys = facts(record) if key is None else [key]
        found = {one: value_at(store.history(node, one), at) for one in sorted(keys)}
        held = {one: change for one, change in found.items() if change is not None}
        if all(begun_at <= stored_at(change) for change in held.values()):
            return held
    held = record_at(store.history(node), at)
    return held if key is None else {one: change for one, change in held.items() if one == key}


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
    known = [one.node for one in store.nodes()]
    return NotFoundError(f"the store knows no node {node!r}", did_you_mean(node, known[:_MOST_SUGGESTED]))
