"""The same rows with nothing of ours between: by SQL or by HTTP, as a program without Vogeler would read them."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import sys
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vogeler import urls
from vogeler.persistence import _couch_leaves


def leaves(url: str, prefix: str, exact: bool = False) -> int:
    """The rows of the index, by SQL or by HTTP."""
    if url.startswith("sqlite:"):
        return select(url, RAW_SQL["leaves"], (prefix, prefix if exact else prefix + "\U0010ffff"))
    groups = _couch_leaves.ranges(prefix, exact)
    return sum(get(url, "", RAW_VIEWS["leaves"], startkey=first, endkey=last) for first, last in groups)


def changes(url: str, since: str) -> int:
    """The documents of the history since then."""
    if url.startswith("sqlite:"):
        return select(url, RAW_SQL["changes"], (since,))
    return get(url, "_history", RAW_VIEWS["changes"], startkey=[since], include_docs=True)


def history(url: str, node: str, key: str) -> int:
    """The documents of the history of a key."""
    if url.startswith("sqlite:"):
        return select(url, RAW_SQL["history"], (node, key))
    return get(url, "_history", "_all_docs", startkey=f"{node}:{key}:", endkey=f"{node}:{key};", include_docs=True)


def records(url: str) -> int:
    """Every record, decoded."""
    if url.startswith("sqlite:"):
        return select(url, "SELECT body FROM records", ())
    total, last = 0, None
    while True:
        query: dict[str, Any] = {"limit": 500, "include_docs": True}
        rows = get_rows(url, "", "_all_docs", **query, **({} if last is None else {"startkey": last, "skip": 1}))
        total += len(rows)
        if len(rows) < 500:
            return total
        last = rows[-1]["key"]


RAW_SQL = {
    "leaves": "SELECT path, node, value FROM leaves WHERE path BETWEEN ? AND ?",
    "changes": "SELECT body FROM history WHERE stored_at >= ?",
    "history": "SELECT body FROM history WHERE node = ? AND key = ?",
}
RAW_VIEWS = {"leaves": "_design/leaves/_view/groups", "changes": "_design/vogeler/_view/by_time"}


def select(url: str, statement: str, values: tuple[object, ...]) -> int:
    """How many rows; what is JSON in them is decoded."""
    path = Path(urls.parse(url).path).resolve()
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        found = 0
        for row in connection.execute(statement, values):
            if statement.startswith("SELECT body"):
                json.loads(row[0])
            found += 1
        return found


def get(url: str, database: str, path: str, **options: object) -> int:
    """How many rows CouchDB answers with."""
    return len(get_rows(url, database, path, **options))


def get_rows(url: str, database: str, path: str, **options: object) -> list[dict[str, Any]]:
    """The rows of one answer, which is decoded as a whole."""
    there = urls.parse(url).with_password(os.environ.get("VOGELER_DBPASSWORD"))
    words = "&".join(f"{name}={quote(json.dumps(value))}" for name, value in options.items())
    login = base64.b64encode(f"{there.user}:{there.password}".encode()).decode()
    with closing(HTTPConnection(there.host or "localhost", there.port or 5984, timeout=3600)) as connection:
        connection.request("GET", f"{there.path}{database}/{path}?{words}", headers={"Authorization": f"Basic {login}"})
        answer = connection.getresponse()
        content = json.loads(answer.read())
    if answer.status != 200:
        sys.exit(f"{path}: {content}")
    rows: list[dict[str, Any]] = content["rows"]
    return rows
