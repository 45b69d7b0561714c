"""The leaves of all records in SQLite: which node has which value at which path. An inverted index.

Written in the transaction that writes the record, and only where old and new record differ.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii
from typing import Any

from vogeler.leaves import Scalar, plain, record_leaves
from vogeler.messages import RESERVED_KEYS
from vogeler.persistence import Document

Leaf = tuple[str, str]  # path, and value as JSON text
_NOTHING: Document = {}

_NUMBERS = "SELECT path, id FROM leaf_paths WHERE path IN (SELECT value FROM json_each(?))"
_ADD_PATH = "INSERT INTO leaf_paths (path) VALUES (?)"
_ADD = "INSERT OR IGNORE INTO leaf VALUES (?, ?, ?)"
_REMOVE = "DELETE FROM leaf WHERE node = ? AND value = ? AND path = (SELECT id FROM leaf_paths WHERE path = ?)"
_REMOVE_PATH = """
DELETE FROM leaf_paths WHERE path = ? AND NOT EXISTS (SELECT 1 FROM leaf WHERE leaf.path = leaf_paths.id)
"""
_PATHS = "SELECT id, path FROM leaf_paths WHERE path > ? ORDER BY path LIMIT ?"
_ROWS = """
SELECT leaf.node, leaf.value, leaf_nodes.node FROM leaf JOIN leaf_nodes ON leaf_nodes.id = leaf.node
WHERE path = ? AND (leaf.node, value) > (?, ?) ORDER BY leaf.node, value LIMIT ?
"""


def update(connection: sqlite3.Connection, node: str, old: Document | None, new: Document | None) -> None:
    """Make the index of a node's record that of ``new``; None: there is none. Part of a transaction."""
    before, after = _differing_leaves(old or _NOTHING, new or _NOTHING)
    if before == after:
        return
    connection.execute("INSERT OR IGNORE INTO leaf_nodes (node) VALUES (?)", (node,))
    (number,) = connection.execute("SELECT id FROM leaf_nodes WHERE node = ?", (node,)).fetchone()
    _remove(connection, number, before - after)
    _add(connection, number, after - before)
    if not new:
        connection.execute("DELETE FROM leaf_nodes WHERE id = ?", (number,))


def _differing_leaves(old: Document, new: Document) -> tuple[set[Leaf], set[Leaf]]:
    """The leaves of both records, as few as possible of those that are in both."""
    keys = {**old, **new}.keys() - RESERVED_KEYS
    # Merging keeps the very objects of what did not change.
    changed = {key for key in keys if old.get(key, _NOTHING) is not new.get(key, _NOTHING)}
    before: set[Leaf] = set()
    after: set[Leaf] = set()
    for key in changed:
        kin = {other for other in keys if other.startswith(f"{key}.") or key.startswith(f"{other}.")}
        one, two = old.get(key), new.get(key)
        if _is_flat(one) and _is_flat(two) and not kin:
            before |= _pairs((f"{key}.{name}", plain(value)) for name, value in _only(one, two))
            after |= _pairs((f"{key}.{name}", plain(value)) for name, value in _only(two, one))
        else:  # one path can be that of several values
            before |= _pairs(record_leaves({name: old[name] for name in {key, *kin} if name in old}))
            after |= _pairs(record_leaves({name: new[name] for name in {key, *kin} if name in new}))
    return before, after


def _is_flat(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and not any(isinstance(i, (dict, list)) for i in value.values())


def _only(one: Any, other: Any) -> list[tuple[str, Scalar]]:
    """What the other has not, or not so. In Python ``1 == True``."""
    return [
        (name, value)
        for name, value in one.items()
        if name not in other or other[name] != value or type(other[name]) is not type(value)
    ]


def _pairs(found: Iterable[tuple[str, Scalar]]) -> set[Leaf]:
    # Half a surrogate pair, which JSON can hold and SQLite's text can't, is a question mark in a path.
    return {
        (path if path.isascii() else path.encode("utf-8", "replace").decode(), _json(value)) for path, value in found
    }


def _json(value: Scalar) -> str:
    return encode_basestring_ascii(value) if isinstance(value, str) else json.dumps(value)


def _remove(connection: sqlite3.Connection, node: int, gone: set[Leaf]) -> None:
    connection.executemany(_REMOVE, [(node, value, path) for path, value in gone])
    connection.executemany(_REMOVE_PATH, [(path,) for path in {path for path, _ in gone}])


def _add(connection: sqlite3.Connection, node: int, come: set[Leaf]) -> None:
    wanted = {path for path, _ in come}
    numbers = dict(connection.execute(_NUMBERS, (json.dumps(list(wanted)),)))
    for path in sorted(wanted - numbers.keys()):
        numbers[path] = connection.execute(_ADD_PATH, (path,)).lastrowid
    connection.executemany(_ADD, sorted((numbers[path], node, value) for path, value in come))


def rebuild(connection: sqlite3.Connection) -> None:
    """Make the index anew from all records. Part of a transaction."""
    for table in ("leaf", "leaf_paths", "leaf_nodes"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
    for node, body in connection.execute("SELECT node, body FROM records ORDER BY node"):
        update(connection, node, None, json.loads(body))


def paths(
    connection: sqlite3.Connection, prefix: str, last: str | None, page: int, exact: bool
) -> list[tuple[int, str]]:
    """The paths that begin with the prefix, after ``last``, by code points; the one that is it comes first."""
    found: list[tuple[int, str]] = []
    if last is None:
        found = connection.execute("SELECT id, path FROM leaf_paths WHERE path = ?", (prefix,)).fetchall()
    if not exact:
        found += connection.execute(_PATHS, (last or prefix, page)).fetchall()
    return [row for row in found if row[1].startswith(prefix)]


def rows(connection: sqlite3.Connection, path: int, last: tuple[int, str], page: int) -> list[tuple[int, str, str]]:
    """The next leaves of a path after ``last``: number of the node, value as JSON, node."""
    return connection.execute(_ROWS, (path, *last, page)).fetchall()
