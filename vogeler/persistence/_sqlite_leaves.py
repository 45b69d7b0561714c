"""The leaves of all records in SQLite: which node has which value at which path. An inverted index.

Written in the transaction that writes the record, and only where old and new record differ.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from vogeler.leaves import record_leaves
from vogeler.persistence import Document

Leaf = tuple[str, str]  # path, and value as JSON text
_NOTHING: Document = {}

_ADD_PATH = "INSERT OR IGNORE INTO leaf_paths (path) VALUES (?)"
_ADD = "INSERT OR IGNORE INTO leaf SELECT id, ?, ? FROM leaf_paths WHERE path = ?"
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
    old, new = old or _NOTHING, new or _NOTHING
    # Merging keeps the very objects of what did not change.
    keys = [key for key in {**old, **new} if old.get(key, _NOTHING) is not new.get(key, _NOTHING)]
    before, after = (_leaves({key: record[key] for key in keys if key in record}) for record in (old, new))
    if before == after:
        return
    connection.execute("INSERT OR IGNORE INTO leaf_nodes (node) VALUES (?)", (node,))
    (number,) = connection.execute("SELECT id FROM leaf_nodes WHERE node = ?", (node,)).fetchone()
    gone, come = sorted(before - after), sorted(after - before)
    connection.executemany(_REMOVE, [(number, value, path) for path, value in gone])
    connection.executemany(_ADD_PATH, [(path,) for path in sorted({path for path, _ in come})])
    connection.executemany(_ADD, [(number, value, path) for path, value in come])
    connection.executemany(_REMOVE_PATH, [(path,) for path in sorted({path for path, _ in gone})])
    if not new:
        connection.execute("DELETE FROM leaf_nodes WHERE id = ?", (number,))


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


def _leaves(record: Mapping[str, Any]) -> set[Leaf]:
    # Half a surrogate pair, which JSON can hold and SQLite's text can't, is a question mark in a path.
    return {(path.encode("utf-8", "replace").decode(), json.dumps(value)) for path, value in record_leaves(record)}
