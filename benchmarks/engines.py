"""The broker and the store of a benchmark: those of the environment, else private ones that are gone after it.

The store is the one that VOGELER_DBHOST names, else databases of its own on the Apache CouchDB of
VOGELER_TEST_COUCHDB_URL, else on the small server from npm. The broker is that of VOGELER_QHOST, else a private one.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.servers.couchdb import VARIABLE, CouchServer, private_server
from tests.servers.rabbitmq import RabbitMQ, server_script
from vogeler import persistence, urls


@dataclass(frozen=True)
class Engines:
    """URLs, the processes where they are on this machine, and what they are."""

    qhost: str
    dbhost: str
    broker_pid: int | None
    store_pid: int | None
    about: str


@contextmanager
def local(folder: Path) -> Iterator[Engines]:
    """Those of one machine: nobody's processes but Vogeler's."""
    yield Engines(f"local://{folder}/bus.db", f"sqlite://{folder}/vogeler.db", None, None, "local and SQLite")


@contextmanager
def fleet(broker_lines: str = "") -> Iterator[Engines]:
    """RabbitMQ and CouchDB. ``broker_lines``: more configuration for a private RabbitMQ."""
    with ExitStack() as stack:
        qhost = os.environ.get("VOGELER_QHOST") or stack.enter_context(_rabbitmq(broker_lines))
        dbhost = os.environ.get("VOGELER_DBHOST") or stack.enter_context(couchdb())
        with closing(persistence.connect(dbhost)) as store:
            store.setup()
            about = store.ping()
        yield Engines(qhost, dbhost, listening(qhost, 5672), listening(dbhost, 5984), f"RabbitMQ and {about}")


@contextmanager
def _rabbitmq(lines: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="vogeler-rabbitmq-") as folder:
        broker = RabbitMQ(server_script(), Path(folder))
        broker.configure(lines)
        try:
            broker.start()
            broker.create_vhost("benchmark")
            yield broker.url("benchmark")
        finally:
            broker.end()


@contextmanager
def couchdb() -> Iterator[str]:
    """The URL of a store that is gone after it: databases of its own, which are to be made."""
    with ExitStack() as stack:
        if os.environ.get(VARIABLE):
            server = CouchServer(os.environ[VARIABLE])
        else:
            server = stack.enter_context(private_server(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        database = f"benchmark_{secrets.token_hex(6)}"
        stack.callback(server.delete, database)
        yield server.url(database)


def listening(url: str, port: int) -> int | None:
    """The process on this machine that listens where the URL leads, or None."""
    there = urls.parse_many(url)[0]
    if there.host not in ("127.0.0.1", "localhost"):
        return None
    listening = (c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr)
    return next((c.pid for c in listening if c.laddr[1] == (there.port or port)), None)
