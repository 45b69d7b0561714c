"""What a store holds, read without Vogeler: SQLite's tables, CouchDB's documents."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.couchdb import CouchServer

Document = dict[str, Any]


@dataclass(frozen=True)
class Stored:
    """All documents of a store: records and status by node, the changes of the history in any order."""

    records: dict[str, Document]
    status: dict[str, Document]
    history: list[Document]


def read(dbhost: str) -> Stored:
    """Read the store that a URL names. Raises OSError or sqlite3.Error where it can't be read."""
    scheme, _, rest = dbhost.partition("://")
    return _read_sqlite(Path(rest)) if scheme == "sqlite" else _read_couch(rest)


def _read_sqlite(path: Path) -> Stored:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30, isolation_level=None)) as db:
        db.execute("BEGIN")  # the three tables as they were at one time
        records, status = (dict(db.execute(f"SELECT node, body FROM {table}")) for table in ("records", "status"))
        history = [json.loads(body) for (body,) in db.execute("SELECT body FROM history")]
    return Stored(
        {node: json.loads(body) for node, body in records.items()},
        {node: json.loads(body) for node, body in status.items()},
        history,
    )


def _read_couch(rest: str) -> Stored:
    address, _, database = rest.rpartition("/")
    server = CouchServer(f"http://{address}")
    records, status, history = (list(_documents(server, database + part)) for part in ("", "_status", "_history"))
    return Stored({d["_id"]: d for d in records}, {d["_id"]: d for d in status}, history)


def _documents(server: CouchServer, database: str) -> Iterator[Document]:
    for row in server.api("GET", f"/{database}/_all_docs?include_docs=true")["rows"]:
        if not row["id"].startswith("_design/"):
            yield row["doc"]
