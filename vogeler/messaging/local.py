"""One machine, no broker: a message bus in an SQLite file, ``local:///path/bus.db``.

The same guarantees among the processes of one machine. Any process may be killed at any time; nothing that was
confirmed is lost, and what was not acked comes again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from vogeler import topology
from vogeler.errors import NodeNameTaken, UsageError
from vogeler.messages import Envelope
from vogeler.messaging import COMMANDS_PREFETCH, DEAD_PREFETCH, NODE_QUEUE_EXPIRES_S, QueueDepth
from vogeler.messaging._local_bus import Bus
from vogeler.messaging._local_consumer import LocalConsumer
from vogeler.urls import Url

_QUEUES = (topology.RESULTS_QUEUE, topology.DEAD_QUEUE)
_RECEIPTS_PREFETCH = 1000
_KEYS_A_QUERY = 500  # SQLite before 3.32 takes 999 parameters


def connect(cluster: tuple[Url, ...], timeout_s: float, name: str) -> LocalTransport:
    """Open the file, and make it when there is none. Waits ``timeout_s`` for a lock at most."""
    del name  # there is no list of connections to show it in
    url = cluster[0]
    if len(cluster) > 1 or url.host or url.options or not url.path.strip("/"):
        raise UsageError(
            f"{', '.join(map(str, cluster))} does not name one file",
            "write local:///path/to/bus.db, with three slashes, once",
        )
    return LocalTransport(Bus(Path(url.path), timeout_s))


class LocalTransport:
    """The Transport contract over one bus file."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._consumers: list[LocalConsumer] = []
        try:
            self._made = self._make_queues()
        except BaseException:
            bus.close()
            raise

    def _make_queues(self) -> list[str]:
        """On opening: this engine is the default, and needs nobody to set it up."""
        if len(self.depths()) == len(_QUEUES):
            return []
        with self._bus.writing(safe=True) as db:
            return [f"created queue {queue}" for queue in _QUEUES if _make_queue(db, queue)]

    def setup(self) -> list[str]:
        """The queues were made when the file was opened; this tells of it, once, and tidies up."""
        with self._bus.writing(safe=True) as db:
            self._bus.bury(db)
            self._bus.expire_messages(db)
            self._bus.expire_queues(db)
        made, self._made = self._made, []
        return made

    def spread_results(self, queues: int) -> list[str]:
        """One machine has one queue."""
        if queues > 1:
            raise UsageError(
                "the local engine has one queue of results", "results are spread over several in RabbitMQ: qhost"
            )
        return []

    def depths(self) -> Mapping[str, QueueDepth]:
        """What waits in the queues of results and dead letters; what is handed out and unacked is not counted."""
        rows = self._bus.read(
            "SELECT name, (SELECT count(*) FROM messages WHERE queue = name AND consumer IS NULL),"
            " (SELECT count(*) FROM consumers WHERE queue = name) FROM queues WHERE name IN (?, ?)",
            *_QUEUES,
        )
        return {name: QueueDepth(messages, consumers) for name, messages, consumers in rows}

    # --- consuming -----------------------------------------------------------------------------

    def consume_commands(self, node: str, groups: tuple[str, ...]) -> LocalConsumer:
        """Make the node's queue, bind it to these groups and no other, and take it alone."""
        queue = topology.node_queue(node)
        with self._bus.writing() as db:
            self._bus.bury(db)
            _refuse_second(db, node, queue)
            self._bus.expire_queues(db)
            _make_queue(db, queue, expires_s=NODE_QUEUE_EXPIRES_S)
            db.execute("DELETE FROM bindings WHERE queue = ?", (queue,))
            _bind(db, queue, topology.client_bindings(node, groups))
            consumer, bell = self._bus.enlist(db, queue)
        return self._opened(LocalConsumer(self._bus, queue, consumer, bell, COMMANDS_PREFETCH, shared=False))

    def consume_results(self, prefetch: int) -> LocalConsumer:
        """Results and heartbeats, shared with every other server."""
        return self._shared(topology.RESULTS_QUEUE, prefetch)

    def consume_dead(self) -> LocalConsumer:
        """The dead letters: all of them are held by whoever looks, until it closes."""
        return self._shared(topology.DEAD_QUEUE, DEAD_PREFETCH)

    def _shared(self, queue: str, prefetch: int) -> LocalConsumer:
        with self._bus.writing() as db:
            self._bus.bury(db)
            consumer, bell = self._bus.enlist(db, queue)
        return self._opened(LocalConsumer(self._bus, queue, consumer, bell, prefetch, shared=True))

    def consume_receipts(self, run: str) -> LocalConsumer:
        """A queue that goes when the consumer closes or dies."""
        queue = topology.receipts_queue(run)
        with self._bus.writing() as db:
            self._bus.bury(db)
            _make_queue(db, queue, temporary=True)
            consumer, bell = self._bus.enlist(db, queue)
        return self._opened(
            LocalConsumer(self._bus, queue, consumer, bell, _RECEIPTS_PREFETCH, auto_ack=True, shared=False)
        )

    def _opened(self, consumer: LocalConsumer) -> LocalConsumer:
        self._consumers.append(consumer)
        return consumer

    # --- publishing ----------------------------------------------------------------------------

    def publish_command(self, envelope: Envelope, keys: Sequence[str], ttl_s: float) -> bool:
        """One row for each queue that is bound to any of the keys, in one transaction."""
        with self._bus.writing(safe=True) as db:
            self._bus.expire_messages(db)  # the queues of nodes that are away would grow otherwise
            queues = _bound(db, keys)
            self._bus.put(db, queues, envelope, expires_at=time.time() + ttl_s)
        return bool(queues)

    def publish_result(self, envelope: Envelope, node: str) -> None:
        """Returns when it is on the disk."""
        del node  # one queue takes them all
        with self._bus.writing(safe=True) as db:
            self._bus.put(db, [topology.RESULTS_QUEUE], envelope)

    def publish_receipts(self, receipts: Sequence[tuple[str, Envelope]]) -> None:
        """To the runs that somebody watches; all in one transaction."""
        if not receipts:
            return
        with self._bus.writing() as db:
            for run, envelope in receipts:
                queue = topology.receipts_queue(run)
                if _is_there(db, queue):
                    self._bus.put(db, [queue], envelope)

    def close(self) -> None:
        """Give back what was not acked, and close the file."""
        consumers, self._consumers = self._consumers, []
        for consumer in consumers:
            consumer.close()
        self._bus.close()


def _is_there(db: sqlite3.Connection, queue: str) -> bool:
    return db.execute("SELECT 1 FROM queues WHERE name = ?", (queue,)).fetchone() is not None


def _make_queue(db: sqlite3.Connection, queue: str, temporary: bool = False, expires_s: float | None = None) -> bool:
    """Whether it was missing."""
    cursor = db.execute(
        "INSERT OR IGNORE INTO queues (name, temporary, expires_s, used_at) VALUES (?, ?, ?, ?)",
        (queue, temporary, expires_s, time.time()),
    )
    return cursor.rowcount > 0


def _bind(db: sqlite3.Connection, queue: str, keys: Sequence[str]) -> None:
    db.executemany("INSERT OR IGNORE INTO bindings (key, queue) VALUES (?, ?)", [(key, queue) for key in keys])


def _bound(db: sqlite3.Connection, keys: Sequence[str]) -> set[str]:
    """The queues bound to any of the broadcast keys."""
    found: set[str] = set()
    for start in range(0, len(keys), _KEYS_A_QUERY):
        portion = keys[start : start + _KEYS_A_QUERY]
        marks = ", ".join("?" * len(portion))
        rows = db.execute(f"SELECT queue FROM bindings WHERE key IN ({marks})", portion)  # noqa: S608 - question marks
        found.update(queue for (queue,) in rows)
    return found


def _refuse_second(db: sqlite3.Connection, node: str, queue: str) -> None:
    row = db.execute("SELECT pid FROM consumers WHERE queue = ?", (queue,)).fetchone()
    if row is not None:
        raise NodeNameTaken(
            f"another client, process {row[0]}, runs as node {node!r} on this machine",
            "stop the other one, or choose another name with --node",
        )
