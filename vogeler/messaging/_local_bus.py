"""The file behind ``local://``: queues, bindings, consumers and messages in SQLite.

Every change is one transaction that holds SQLite's write lock from its beginning, so that processes that die at
any point leave the file whole. A message that is handed out belongs to a consumer; a consumer has a bell (a FIFO in
``<file>.d``) as long as its process lives. Whoever finds a bell that nobody listens to gives back what its owner held.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Optional

from vogeler.errors import TransportError, TransportUnavailable
from vogeler.messages import Envelope
from vogeler.messaging._local_bell import Bell, is_heard, ring

SCHEMA_VERSION = 2
_APPLICATION_ID = 0x566F4275  # "VoBu": tells our file from another program's
_SCHEMA = """
CREATE TABLE queues (
    name TEXT PRIMARY KEY,
    temporary INTEGER NOT NULL DEFAULT 0,  -- goes with its consumer
    expires_s REAL,                        -- goes when nobody consumed it for so long
    used_at REAL NOT NULL                  -- when its last consumer left
) WITHOUT ROWID;
CREATE TABLE bindings (
    key TEXT NOT NULL,
    queue TEXT NOT NULL,
    PRIMARY KEY (key, queue)
) WITHOUT ROWID;
CREATE TABLE consumers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    pid INTEGER NOT NULL
);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in the queue
    queue TEXT NOT NULL,
    consumer INTEGER,                      -- who holds it, unacked
    redelivered INTEGER NOT NULL DEFAULT 0,
    expires_at REAL,
    body BLOB NOT NULL,
    content_encoding TEXT,
    message_id TEXT NOT NULL,
    type TEXT NOT NULL,
    reason TEXT,
    source TEXT,
    signature TEXT
);
CREATE INDEX messages_by_queue ON messages (queue, consumer);
CREATE INDEX messages_by_expiry ON messages (expires_at) WHERE expires_at IS NOT NULL;
"""
_MIGRATIONS = {1: "ALTER TABLE messages ADD COLUMN signature TEXT"}  # from each version to the next
_LOG_BYTES = 16 * 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)
# What SQLite says, in the order to look for it (Python 3.9 has no error codes).
_UNAVAILABLE = {
    "locked": "another process holds it for too long",
    "busy": "another process holds it for too long",
    "full": "the disk is full",
    "disk I/O error": "the disk reports an error",
    "closed database": "it is closed",
}
_REFUSED = {
    "not a database": ("it is not a message bus", "choose another path, or move that file away"),
    "malformed": ("it is damaged", "move it away: a new one is made, and runs can be repeated"),
    "readonly": ("it can't be written", "give this user the right to write the file and its directory"),
    "unable to open": ("it can't be opened", "give this user the right to write the file and its directory"),
}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise our errors for what SQLite and the file system refuse inside."""
    try:
        yield
    except sqlite3.Error as error:
        for words, why in _UNAVAILABLE.items():
            if words in str(error):
                raise TransportUnavailable(f"broker unavailable at local://{path}: {why}") from error
        for words, (why, remedy) in _REFUSED.items():
            if words in str(error):
                raise TransportError(f"broker unusable at local://{path}: {why}", remedy) from error
        raise
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        if error.errno in _FULL:
            raise TransportUnavailable(f"broker unavailable at local://{path}: {why}") from error
        raise TransportError(
            f"broker unusable at local://{path}: {why}", "choose a path that this user may write to"
        ) from error


class Bus:
    """One open bus file. Belongs to the thread that opened it."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.path = path
        self.bells = path.with_name(path.name + ".d")
        self._rung: set[str] = set()  # queues to ring for, and bells made, in this transaction
        self._bells_made: list[Bell] = []
        with translated(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            _make_directories(path.parent)
            self.bells.mkdir(mode=0o700, exist_ok=True)
            _refuse_others(path, self.bells)
            _make_private(path)
            self._db = sqlite3.connect(str(path), timeout=timeout_s, isolation_level=None)
        try:
            with translated(path):
                self._prepare(time.monotonic() + timeout_s)
                self._file = path.stat().st_ino
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, deadline: float) -> None:
        self._refuse_foreign()
        _enter_wal(self._db, deadline)
        self._db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        self._db.execute("BEGIN IMMEDIATE")
        if self._value("PRAGMA application_id") == 0:  # nobody else made it meanwhile
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        for version in range(self._value("PRAGMA user_version"), SCHEMA_VERSION):
            self._db.execute(_MIGRATIONS[version])
            self._db.execute(f"PRAGMA user_version = {version + 1}")
        self.expire_messages(self._db)  # also finds out now, not at the first message, whether we may write
        self._db.execute("COMMIT")

    def _refuse_foreign(self) -> None:
        """Before anything is written to it."""
        self._db.execute("BEGIN")  # one look at it: another process may be making it at this moment
        application, version = (self._value(f"PRAGMA {name}") for name in ("application_id", "user_version"))
        is_empty = self._value("SELECT count(*) FROM sqlite_master") == 0
        self._db.execute("COMMIT")
        if application == 0 and is_empty:
            return
        if application != _APPLICATION_ID:
            why, remedy = "it is the database of another program", "choose another path"
        elif version > SCHEMA_VERSION:
            why = f"made by a later Vogeler (schema {version}, here it is {SCHEMA_VERSION})"
            remedy = "upgrade this Vogeler, or choose another path"
        else:
            return
        raise TransportError(f"broker unusable at local://{self.path}: {why}", remedy)

    def _value(self, statement: str, *values: object) -> Any:
        row = self._db.execute(statement, values).fetchone()
        return None if row is None else row[0]

    # --- reading and writing -------------------------------------------------------------------

    def read(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of one SELECT."""
        with translated(self.path):
            self._check_still_there()
            return self._db.execute(statement, values).fetchall()

    @contextmanager
    def writing(self, safe: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction, and afterwards the bells of the queues that got something.

        What is committed survives the death of any process. ``safe`` waits for the disk, so that it survives a power
        cut; without, a power cut may undo it: fit for handing out and acking, after which messages come again.
        """
        with translated(self.path):
            self._check_still_there()
            self._db.execute(f"PRAGMA synchronous = {'FULL' if safe else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._undo()
                raise
        self._bells_made.clear()
        with suppress(TransportError):  # it is committed: those who wait find it at their next poll
            self._ring()

    def _undo(self) -> None:
        self._rung.clear()
        while self._bells_made:
            self._bells_made.pop().close()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _check_still_there(self) -> None:
        """A file that was deleted or replaced lives on for those who have it open, and for them alone."""
        try:
            same = self.path.stat().st_ino == self._file
        except OSError:
            same = False
        if not same:
            raise TransportUnavailable(f"broker lost at local://{self.path}: the file was removed or replaced")

    def _ring(self) -> None:
        queues, self._rung = self._rung, set()
        rows = [row for queue in queues for row in self.read("SELECT id FROM consumers WHERE queue = ?", queue)]
        heard = {ring(self.bell_path(consumer)) for (consumer,) in rows}
        if False in heard:
            with self.writing() as db:
                self.bury(db)

    def bell_path(self, consumer: int) -> Path:
        """The FIFO of a consumer."""
        return self.bells / f"{consumer}.bell"

    # --- inside a transaction ------------------------------------------------------------------

    def put(
        self,
        db: sqlite3.Connection,
        queues: Iterable[str],
        envelope: Envelope,
        expires_at: Optional[float] = None,
        reason: Optional[str] = None,
        source: Optional[str] = None,
    ) -> None:
        """Append a message to queues."""
        content = (envelope.body, envelope.content_encoding, envelope.message_id, envelope.type, envelope.signature)
        names = list(queues)
        db.executemany(
            "INSERT INTO messages"
            " (queue, expires_at, reason, source, body, content_encoding, message_id, type, signature)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(queue, expires_at, reason, source, *content) for queue in names],
        )
        self._rung.update(names)

    def enlist(self, db: sqlite3.Connection, queue: str) -> tuple[int, Bell]:
        """A new consumer of a queue. The bell is made under the write lock: no one takes it for a stale one."""
        consumer = int(
            db.execute("INSERT INTO consumers (queue, pid) VALUES (?, ?)", (queue, os.getpid())).lastrowid or 0
        )
        with suppress(FileNotFoundError):  # left by a process that died in here
            self.bell_path(consumer).unlink()
        self._bells_made.append(Bell(self.bell_path(consumer)))
        return consumer, self._bells_made[-1]

    def discharge(self, db: sqlite3.Connection, consumer: int, queue: str) -> None:
        """A consumer has left: what it held goes back to its place, a temporary queue goes with it."""
        db.execute("DELETE FROM consumers WHERE id = ?", (consumer,))
        db.execute(
            "UPDATE messages SET consumer = NULL, redelivered = 1 WHERE queue = ? AND consumer = ?", (queue, consumer)
        )
        db.execute("UPDATE queues SET used_at = ? WHERE name = ?", (time.time(), queue))
        if db.execute("SELECT 1 FROM queues WHERE name = ? AND temporary", (queue,)).fetchone():
            _drop(db, queue)
        else:
            self._rung.add(queue)

    def bury(self, db: sqlite3.Connection) -> None:
        """Discharge the dead, and remove the bells that they left."""
        listed = db.execute("SELECT id, queue FROM consumers").fetchall()
        living = {consumer for consumer, _ in listed if is_heard(self.bell_path(consumer))}
        for consumer, queue in listed:
            if consumer not in living:
                self.discharge(db, consumer, queue)
        for stale in set(self.bells.glob("*.bell")) - {self.bell_path(consumer) for consumer in living}:
            with suppress(OSError):
                stale.unlink()

    def expire_messages(self, db: sqlite3.Connection) -> None:
        """Remove the messages whose time is over."""
        db.execute("DELETE FROM messages WHERE expires_at <= ? AND consumer IS NULL", (time.time(),))

    def expire_queues(self, db: sqlite3.Connection) -> None:
        """Remove the queues that nobody came back to, with their messages."""
        idle = db.execute(
            "SELECT name FROM queues WHERE used_at + expires_s < ? AND name NOT IN (SELECT queue FROM consumers)",
            (time.time(),),
        )
        for (queue,) in idle.fetchall():
            _drop(db, queue)

    def close(self) -> None:
        """Close the file. Never raises."""
        with suppress(sqlite3.Error):
            self._db.close()


def _drop(db: sqlite3.Connection, queue: str) -> None:
    db.execute("DELETE FROM messages WHERE queue = ?", (queue,))
    db.execute("DELETE FROM bindings WHERE queue = ?", (queue,))
    db.execute("DELETE FROM queues WHERE name = ?", (queue,))


def _refuse_others(*paths: Path) -> None:
    """What another user has put into our folder for us to write to, or a link to elsewhere. Raises OSError."""
    for path in paths:
        with suppress(FileNotFoundError):
            found = path.lstat()
            if found.st_uid not in (0, os.geteuid(), path.parent.stat().st_uid):
                raise PermissionError(errno.EPERM, f"{path.name} belongs to another user, number {found.st_uid}")


def _make_private(path: Path) -> None:
    """Results are nobody else's business. What SQLite makes beside it has the same mode."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def _make_directories(folder: Path) -> None:
    """With the missing parents, for this user alone: facts about machines are nobody else's business."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def _enter_wal(db: sqlite3.Connection, deadline: float) -> None:
    """Write-ahead logging: readers and the writer don't wait for each other.

    The switch needs the file for itself and, unlike all else, does not wait for it (sqlite.org/wal.html): two
    processes that make the file at once would collide.
    """
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
