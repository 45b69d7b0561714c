"""The database ``<name>_audit``: a document per entry, whose id begins with the time. No view is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from vogeler.errors import StoreError
from vogeler.persistence import Document
from vogeler.persistence._couch_database import Database

_PAGE = 100
_LAST = "_"  # behind every time, and before the design documents


def add(database: Database, entries: Sequence[Document]) -> None:
    """Write entries; those that are there are the same."""
    rows = database.write(list(entries)) if entries else None
    for reason in rows.refused.values() if rows is not None else ():
        raise StoreError(reason, "check what this login may do in the database")


def newest_first(database: Database, since: str, until: str | None) -> Iterator[Document]:
    """The entries of a period, read in pages."""
    place: dict[str, Any] = {"startkey": until or _LAST, "endkey": since}
    for row in database.pages(_PAGE, "_all_docs", descending=True, include_docs=True, **place):
        if row["doc"] is not None and isinstance(row["doc"].get("nodes"), dict):  # None: pruned meanwhile
            yield {name: value for name, value in row["doc"].items() if name != "_rev"}


def prune(database: Database, before: str, limit: int) -> Iterator[int]:
    """Remove the oldest first."""
    while True:
        rows = list(islice(database.pages(limit, "_all_docs", endkey=before), limit))
        if not rows:
            return
        yield len(rows) - len(database.delete((row["id"], row["value"]["rev"]) for row in rows))
