"""``sqlite:///path/vogeler.db``: records, status and history in one SQLite file, for one machine.

The file is made on first use. The tables hold the same JSON documents as a CouchDB would; the SQL views
``by_name``, ``packages_by_node``, ``nodes_by_package`` and ``nodes_by_value`` answer what its views of
these names answer, for people at the ``sqlite3`` shell.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vogeler.errors import StoreError, StoreUnavailable, UsageError
from vogeler.persistence import Document, NodeSummary, Outcome, Storable, _merge
from vogeler.persistence._sqlite_schema import APPLICATION_ID, SCHEMA, VERSION
from vogeler.urls import Url

_PAGE = 500
_HISTORY_OF_NODE = """
SELECT changed_at, id, body FROM history
WHERE node = :node AND (:last IS NULL OR (changed_at, id) < (:last, :id))
ORDER BY changed_at DESC, id DESC LIMIT :page
"""
_HISTORY_OF_KEY = """
SELECT seq, id, body FROM history
WHERE node = :node AND key = :key AND (:last IS NULL OR (seq, id) < (:last, :id))
ORDER BY seq DESC, id DESC LIMIT :page
"""
_LATER = ("locked", "busy", "full", "no space", "disk i/o error")
_REMEDIES = {
    "not a database": "name another file, or move this one away",
    "malformed": "restore it from a copy, or move it away and collect again",
    "readonly": "run as the user who owns the file, or make it and its folder writable",
    "unable to open": "check that it is a file in a folder that this user may write",
}


def connect(url: Url, timeout_s: float) -> SqliteStore:
    """Open the file, or make it. ``timeout_s``: how long to wait for another process's lock."""
    if url.host or len(url.path) < 2:
        raise UsageError(f"the URL {url} names no file", "write sqlite:///path/to/vogeler.db, with three slashes")
    return SqliteStore(Path(url.path), timeout_s)


class SqliteStore:
    """A connection to the file. A batch is one transaction."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = path
        with self._translated():
            _make_private(path)
            self._connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None)
            try:
                _use_wal(self._connection, timeout_s)
                self._created = self._make_tables()
            except BaseException:
                self._connection.close()
                raise

    def setup(self, designs: Path | None = None) -> list[str]:
        """The tables and views were made when the file was opened; this tells of it, once."""
        del designs  # the views are SQL
        created, self._created = self._created, False
        return [f"created database {self._path}"] if created else []

    def ping(self) -> str:
        """The version of SQLite, after reading from the file."""
        with self._translated():
            self._connection.execute("SELECT count(*) FROM (SELECT 1 FROM status LIMIT 1)").fetchone()
        return f"SQLite {sqlite3.sqlite_version}"

    def apply(self, batch: Sequence[Storable], received_at: str) -> list[Outcome]:
        """The batch in one transaction."""
        outcomes: dict[int, Outcome] = {}
        with self._translated(), self._transaction():
            for node, positions in _merge.by_node(batch).items():
                messages = [batch[position] for position in positions]
                outcomes.update(zip(positions, self._apply_node(node, messages, received_at)))
        return [outcomes[position] for position in range(len(batch))]

    def record(self, node: str) -> Document | None:
        """The node's document, or None."""
        with self._translated():
            return self._read("SELECT body FROM records WHERE node = ?", node)

    def status(self, node: str) -> Document | None:
        """The node's status document, or None."""
        with self._translated():
            return self._read("SELECT body FROM status WHERE node = ?", node)

    def nodes(self) -> Iterator[NodeSummary]:
        """Every node, by name, read in pages."""
        last = ""
        while True:
            with self._translated():
                query = "SELECT node, body FROM status WHERE node > ? ORDER BY node LIMIT ?"
                rows = self._connection.execute(query, (last, _PAGE)).fetchall()
            for _, body in rows:
                yield _merge.summary(json.loads(body))
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def history(self, node: str, key: str | None = None) -> Iterator[Document]:
        """Newest first: of one key by the node's own order, of all keys by the node's clock."""
        query = _HISTORY_OF_NODE if key is None else _HISTORY_OF_KEY
        last, identity = None, None
        while True:
            with self._translated():
                values = {"node": node, "key": key, "last": last, "id": identity, "page": _PAGE}
                rows = self._connection.execute(query, values).fetchall()
            for _, _, body in rows:
                yield json.loads(body)
            if len(rows) < _PAGE:
                return
            last, identity, _ = rows[-1]

    def forget(self, node: str, requested_by: str, at: str) -> bool:
        """Remove record and status, and note in the history who did it."""
        with self._translated(), self._transaction():
            records = self._connection.execute("DELETE FROM records WHERE node = ?", (node,))
            status = self._connection.execute("DELETE FROM status WHERE node = ?", (node,))
            if not records.rowcount + status.rowcount:
                return False
            self._add_history(_merge.forgotten(node, requested_by, at))
            return True

    def close(self) -> None:
        """May be called twice."""
        self._connection.close()

    # --- inside a transaction ---------------------------------------------------------------------

    def _apply_node(self, node: str, messages: list[Storable], received_at: str) -> list[Outcome]:
        """One node's part of a batch. What SQLite refuses is found by trying the messages one by one."""
        self._connection.execute("SAVEPOINT node")
        try:
            outcomes = self._merge_node(node, messages, received_at)
        except (sqlite3.DataError, ValueError, RecursionError) as error:
            self._connection.execute("ROLLBACK TO node")
            if len(messages) == 1:
                outcomes = [_merge.refused(f"{self._path}: {error}")]
            else:
                outcomes = [self._apply_node(node, [message], received_at)[0] for message in messages]
        self._connection.execute("RELEASE node")
        return outcomes

    def _merge_node(self, node: str, messages: list[Storable], received_at: str) -> list[Outcome]:
        record = self._read("SELECT body FROM records WHERE node = ?", node)
        status = self._read("SELECT body FROM status WHERE node = ?", node)
        merged = _merge.merge(node, record, status, messages, received_at)
        for change in merged.history:
            self._add_history(change)
        if merged.record is not None:
            self._connection.execute("REPLACE INTO records VALUES (?, ?)", (node, _merge.to_json(merged.record)))
        if merged.status is not None:
            self._connection.execute("REPLACE INTO status VALUES (?, ?)", (node, _merge.to_json(merged.status)))
        return merged.outcomes

    def _add_history(self, change: Document) -> None:
        self._connection.execute(
            "INSERT OR IGNORE INTO history VALUES (?, ?, ?, ?, ?, ?)",
            (change["_id"], change["node"], change["key"], change["seq"], change["changed_at"], _merge.to_json(change)),
        )

    def _read(self, query: str, node: str) -> Document | None:
        row = self._connection.execute(query, (node,)).fetchone()
        document: Document | None = json.loads(row[0]) if row else None
        return document

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it or none of it. Takes the write lock at once: two servers wait for each other."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # not after a full disk: SQLite has rolled back by itself
                self._connection.execute("ROLLBACK")
            raise

    # --- opening ----------------------------------------------------------------------------------

    def _make_tables(self) -> bool:
        """Whether the tables had to be made. Two processes at once make them once."""
        if self._version() == VERSION:
            return False
        with self._transaction():
            if self._version() == VERSION:
                return False
            for statement in SCHEMA:
                self._connection.execute(statement)
        return True

    def _version(self) -> int:
        """The version of our schema, 0 in an empty file. Raises StoreError for anybody else's file."""
        # In this order: a file that another process fills meanwhile is empty, or ours.
        empty = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        version: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        owner: int = self._connection.execute("PRAGMA application_id").fetchone()[0]
        if owner != APPLICATION_ID and not empty:
            raise StoreError(f"{self._path} is the database of another program", "name another file")
        if version > VERSION:
            raise StoreError(
                f"{self._path} was written by a later Vogeler: its schema is {version}, known here is {VERSION}",
                "use a Vogeler at least as new as the one that wrote it",
            )
        return version

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """SQLite's errors, and those of making the file, as ours."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a mistake of ours: a wrong thread, a closed connection
        except (sqlite3.Error, OSError) as error:
            text = str(getattr(error, "strerror", None) or error).lower()  # without the path, which may hold any word
            if any(word in text for word in _LATER):
                raise StoreUnavailable(f"the store {self._path} can't be used now: {error}") from error
            remedy = next((remedy for words, remedy in _REMEDIES.items() if words in text), _REMEDIES["unable to open"])
            raise StoreError(f"the store {self._path} can't be used: {error}", remedy) from error


def _make_private(path: Path) -> None:
    """Make the file and the folders above it for this user only: what is collected may be secret."""
    for folder in reversed(path.parents):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))


def _use_wal(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Readers don't wait for writers (sqlite.org/wal.html). A commit is on the disk when it returns.

    SQLite does not wait for a lock while it changes the journal's mode, so we do.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous = FULL")
