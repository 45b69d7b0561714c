"""``sqlite:///path/vogeler.db``: records, status and history in one SQLite file, for one machine.

The file is made on first use. The tables hold the same JSON documents as a CouchDB would; the SQL views
``by_name``, ``packages_by_node``, ``nodes_by_package``, ``nodes_by_value`` and ``leaves`` answer what its
views of these names answer, for people at the ``sqlite3`` shell.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vogeler.errors import StoreError, StoreUnavailable, UsageError
from vogeler.leaves import Scalar
from vogeler.persistence import Document, NodeSummary, Outcome, Storable, _merge, _pages, _prune, _sqlite_leaves
from vogeler.persistence._sqlite_schema import APPLICATION_ID, MIGRATIONS, SCHEMA, VERSION
from vogeler.persistence._texts import to_json
from vogeler.urls import Url

WRITERS = 1  # there is one lock
_PAGE = 500
_DOCUMENTS_PAGE = 50  # of whole records and changes, which may be large
_POLL_S = 0.2
_QUIET_S = 1.0
_ENDLESS = "~"  # later than any time, as text
_RECORDS = "SELECT node, body FROM records WHERE node > ? ORDER BY node LIMIT ?"
_HISTORY = """
SELECT stored_at, seq, id, body FROM history
WHERE {condition} AND (stored_at, seq, id) < (:last, :seq, :id)
ORDER BY stored_at DESC, seq DESC, id DESC LIMIT :page
"""
_NAMED = "SELECT id, body FROM history WHERE id IN (SELECT value FROM json_each(?))"
_NEW_HISTORY = "SELECT number, body FROM history WHERE number > ? ORDER BY number LIMIT ?"
_LAST_HISTORY = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'history'"
_ENTRIES = "SELECT id, node, key, stored_at, seq, late FROM history WHERE node = ?"
_AUDIT = "SELECT id, body FROM audit WHERE id >= :since AND id < :until ORDER BY id DESC LIMIT :page"
_OLD_AUDIT = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE id < ? ORDER BY id LIMIT ?)"
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
        self._timeout_s = timeout_s
        self._open()

    def _open(self) -> None:
        with self._translated():
            _make_private(self._path)
            self._connection = sqlite3.connect(self._path, timeout=self._timeout_s, isolation_level=None)
            try:
                _use_wal(self._connection, self._timeout_s)
                self._done = self._make_tables()
                self._file = self._path.stat().st_ino
            except BaseException:
                self._connection.close()
                raise

    def setup(self, designs: Path | None = None) -> list[str]:
        """The tables and views were made when the file was opened; this tells of it, once."""
        del designs  # the views are SQL
        done, self._done = self._done, []
        return done

    def ping(self) -> str:
        """The version of SQLite, after reading from the file."""
        with self._translated():
            self._connection.execute("SELECT count(*) FROM (SELECT 1 FROM status LIMIT 1)").fetchone()
        return f"SQLite {sqlite3.sqlite_version}"

    def apply(self, batch: Sequence[Storable], received_at: str, again: bool = False) -> list[Outcome]:
        """The batch in one transaction: what was begun before has left nothing."""
        del again
        outcomes: dict[int, Outcome] = {}
        self._check_still_there()
        with self._translated(), self._transaction():
            for node, positions in _merge.by_node(batch).items():
                messages = [batch[position] for position in positions]
                outcomes.update(zip(positions, self._apply_node(node, messages, received_at)))
        return [outcomes[position] for position in range(len(batch))]

    def refresh(self) -> None:
        """Nothing to do: a batch and its index are one transaction."""

    def record(self, node: str) -> Document | None:
        """The node's document, or None."""
        with self._translated():
            return self._read("SELECT body FROM records WHERE node = ?", node)

    def status(self, node: str) -> Document | None:
        """The node's status document, or None."""
        with self._translated():
            return self._read("SELECT body FROM status WHERE node = ?", node)

    def statuses(self, nodes: Collection[str]) -> Iterator[Document]:
        """The status documents, one after the other."""
        return filter(None, map(self.status, sorted(set(nodes))))

    def leaves_within(self, path: str) -> Iterator[tuple[str, str, Scalar]]:
        """First what is at it."""
        yield from self.leaves(path, exact=True)
        yield from self.leaves(f"{path}.")

    def names(self) -> Iterator[str]:
        """Every node, by name."""
        with self._translated():
            rows = self._connection.execute("SELECT node FROM status ORDER BY node").fetchall()
        return (node for (node,) in rows)

    def nodes(self) -> Iterator[NodeSummary]:
        """Every node, by name, read in pages."""
        last = ""
        while True:
            with self._translated():
                query = "SELECT node, body FROM status WHERE node > ? ORDER BY node LIMIT ?"
                rows = self._connection.execute(query, (last, _PAGE)).fetchall()
            for node, body in rows:
                yield NodeSummary.of(_document(node, body))
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def records(self, nodes: Collection[str] | None = None) -> Iterator[Document]:
        """The records, by name, read in pages."""
        if nodes is not None:
            for node in sorted(set(nodes)):
                record = self.record(node)
                if record is not None:
                    yield record
            return
        last = ""
        while True:
            with self._translated():
                rows = self._connection.execute(_RECORDS, (last, _DOCUMENTS_PAGE)).fetchall()
            for node, body in rows:
                yield _document(node, body)
            if len(rows) < _DOCUMENTS_PAGE:
                return
            last = rows[-1][0]

    def leaves(self, prefix: str, exact: bool = False) -> Iterator[tuple[str, str, Scalar]]:
        """From the index, by path; at each path node by node, read in pages."""
        last = None
        while True:
            with self._translated():
                found = _sqlite_leaves.paths(self._connection, prefix, last, _PAGE, exact)
            for number, path in found:
                yield from self._leaves_at(number, path)
            if exact or not found:
                return
            last = found[-1][1]

    def _leaves_at(self, number: int, path: str) -> Iterator[tuple[str, str, Scalar]]:
        last = (0, "")
        while True:
            with self._translated():
                rows = _sqlite_leaves.rows(self._connection, number, last, _PAGE)
            for _, value, node in rows:
                yield path, node, json.loads(value)
            if len(rows) < _PAGE:
                return
            last = rows[-1][:2]

    def history(self, node: str, key: str | None = None) -> Iterator[Document]:
        """Newest first, by the server's clock; what is of one time by the node's own order."""
        condition = "node = :node" if key is None else "node = :node AND key = :key"
        return self._newest_first(condition, _ENDLESS, node=node, key=key)

    def changes_named(self, names: Collection[str]) -> dict[str, Document]:
        """In one query."""
        with self._translated():
            rows = self._connection.execute(_NAMED, (json.dumps(list(names)),)).fetchall()
        return {name: json.loads(body) for name, body in rows}

    def absences(self, node: str) -> Iterator[Document]:
        """Newest first, by the server's clock."""
        return self._newest_first("node = :node AND key IS NULL", _ENDLESS, node=node)

    def changes(self, since: str, until: str | None = None) -> Iterator[Document]:
        """Newest first, by the server's clock."""
        return self._newest_first("stored_at >= :since", until or _ENDLESS, since=since)

    def _newest_first(self, condition: str, until: str, **values: str | None) -> Iterator[Document]:
        query = _HISTORY.format(condition=condition)
        last: tuple[str, int, str] = (until, -1, "")
        for page in _pages.growing(_DOCUMENTS_PAGE):
            with self._translated():
                place = dict(zip(("last", "seq", "id"), last))
                rows = self._connection.execute(query, {**values, **place, "page": page}).fetchall()
            for *_, body in rows:
                yield json.loads(body)
            if len(rows) < page:
                return
            last = rows[-1][:3]

    def follow(self, position: str | None = None) -> Iterator[tuple[str, Document | None]]:
        """Asks every 0.2 s. A position is the number of an entry."""
        if not self._is_still_there() and self._path.exists():
            self.close()
            self._open()
        self._check_still_there()
        with self._translated():
            (last,) = self._connection.execute(_LAST_HISTORY).fetchone()
        number = last if position is None else int(position)
        return self._follow(number if number <= last else 0)

    def _follow(self, last: int) -> Iterator[tuple[str, Document | None]]:
        yield str(last), None
        quiet_since_s = time.monotonic()
        while True:
            self._check_still_there()
            with self._translated():
                rows = self._connection.execute(_NEW_HISTORY, (last, _PAGE)).fetchall()
            for number, body in rows:
                last = number
                yield str(last), json.loads(body)
            if rows:
                quiet_since_s = time.monotonic()
            elif time.monotonic() - quiet_since_s >= _QUIET_S:
                yield str(last), None
                quiet_since_s = time.monotonic()
            else:
                time.sleep(_POLL_S)

    def prune(self, before: str, keep: int, limit: int) -> Iterator[int]:
        """Looks at the nodes in turn."""
        for entries in _prune.in_steps(self._entries_by_node(), before, keep, limit):
            with self._translated():
                removed = self._remove_history([entry.id for entry in entries])
            yield removed

    def _entries_by_node(self) -> Iterator[list[_prune.Entry]]:
        """The history of every node, without its values."""
        node = ""
        while True:
            with self._translated():
                (node,) = self._connection.execute("SELECT min(node) FROM history WHERE node > ?", (node,)).fetchone()
                if node is None:
                    return
                entries = [_prune.Entry(*row) for row in self._connection.execute(_ENTRIES, (node,))]
            yield entries

    def _remove_history(self, names: list[str]) -> int:
        removed = 0
        with self._transaction():
            for name in names:
                removed += self._connection.execute("DELETE FROM history WHERE id = ?", (name,)).rowcount
        return removed

    def add_audit(self, entries: Sequence[Document]) -> None:
        """In one transaction."""
        if entries:
            rows = [(entry["_id"], to_json(entry)) for entry in entries]
            with self._translated(), self._transaction():
                self._connection.executemany("INSERT OR IGNORE INTO audit VALUES (?, ?)", rows)

    def audit(self, since: str, until: str | None = None) -> Iterator[Document]:
        """By id, which begins with the time, read in pages."""
        last = until or _ENDLESS
        for page in _pages.growing(_PAGE):
            with self._translated():
                rows = self._connection.execute(_AUDIT, {"since": since, "until": last, "page": page}).fetchall()
            yield from (json.loads(body) for _, body in rows)
            if len(rows) < page:
                return
            last = rows[-1][0]

    def prune_audit(self, before: str, limit: int) -> Iterator[int]:
        """The oldest first."""
        removed = limit
        while removed == limit:
            with self._translated(), self._transaction():
                removed = self._connection.execute(_OLD_AUDIT, (before, limit)).rowcount
            if removed:
                yield removed

    def forget(self, node: str, requested_by: str, at: str) -> bool:
        """Remove record and status, and note in the history who did it."""
        with self._translated(), self._transaction():
            record = self._read("SELECT body FROM records WHERE node = ?", node)
            records = self._connection.execute("DELETE FROM records WHERE node = ?", (node,))
            status = self._connection.execute("DELETE FROM status WHERE node = ?", (node,))
            if not records.rowcount + status.rowcount:
                return False
            _sqlite_leaves.update(self._connection, node, record, None)
            self._add_history(_merge.forgotten(node, record, requested_by, at))
            return True

    def close(self) -> None:
        """May be called twice."""
        self._connection.close()

    def _check_still_there(self) -> None:
        """A file that was deleted or replaced lives on for those who have it open, and for them alone."""
        if not self._is_still_there():
            raise StoreUnavailable(f"the store {self._path} was removed or replaced while it was open")

    def _is_still_there(self) -> bool:
        try:
            return self._path.stat().st_ino == self._file
        except OSError:
            return False

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
        forgotten_at = self._forgotten_at(node) if record is None else None
        merged = _merge.merge(node, record, status, messages, received_at, forgotten_at)
        for change in merged.history:
            self._add_history(change)
        if merged.record is not None:
            self._connection.execute("REPLACE INTO records VALUES (?, ?)", (node, to_json(merged.record)))
            _sqlite_leaves.update(self._connection, node, record, merged.record)
        if merged.status is not None:
            self._connection.execute("REPLACE INTO status VALUES (?, ?)", (node, to_json(merged.status)))
        return merged.outcomes

    def _forgotten_at(self, node: str) -> str | None:
        first = _merge.id_prefix(node, _merge.FORGOTTEN)
        query = "SELECT max(stored_at) FROM history WHERE id > ? AND id < ?"
        forgotten_at: str | None = self._connection.execute(query, (first, first + _ENDLESS)).fetchone()[0]
        return forgotten_at

    def _add_history(self, change: Document) -> None:
        names = ("_id", "node", "key", "seq", "stored_at", "changed_at")
        values = [*(change[name] for name in names), "late" in change, to_json(change)]
        self._connection.execute(
            "INSERT OR IGNORE INTO history (id, node, key, seq, stored_at, changed_at, late, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )

    def _read(self, query: str, node: str) -> Document | None:
        row = self._connection.execute(query, (node,)).fetchone()
        return _document(node, row[0]) if row else None

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

    def _make_tables(self) -> list[str]:
        """What was done: nothing, mostly. Two processes at once do it once."""
        if self._version() == VERSION:
            return []
        with self._transaction():
            version = self._version()
            if version == VERSION:
                return []
            for statement in _migration(version) if version else SCHEMA:
                self._connection.execute(statement)
            if version:
                _sqlite_leaves.rebuild(self._connection)
        return [
            f"converted database {self._path} from version {version}" if version else f"created database {self._path}"
        ]

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


def _document(node: str, body: str) -> Document:
    """A record or status. What somebody wrote there by hand and is no JSON object is an empty one."""
    try:
        found = json.loads(body)
    except ValueError:
        found = {}
    return {**found, "_id": node} if isinstance(found, dict) else {"_id": node}


def _migration(version: int) -> list[str]:
    """The statements that lead from a version to ours."""
    steps = [statement for step in range(version, VERSION) for statement in MIGRATIONS[step]]
    return [*steps, f"PRAGMA user_version = {VERSION}"]


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
