"""``couch://`` and ``couchs://user:password@host:5984/system_records``: the store in CouchDB.

Three databases: ``<name>`` with a record per node, ``<name>_status`` with a small document per node,
``<name>_history`` with one per change. Several servers may write at once: a document that somebody else
wrote since it was read is a conflict (its ``_rev``), and is read and merged again.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vogeler.errors import StoreError, StoreUnavailable, UsageError
from vogeler.persistence import Document, NodeSummary, Outcome, Storable, _couch_design, _merge
from vogeler.persistence._couch_http import Couch, Refusal
from vogeler.urls import Url

DEFAULT_DATABASE = "system_records"
# docs.couchdb.org/en/stable/api/database/common.html#put--db
_DATABASE_NAME = re.compile(r"[a-z][a-z0-9_$()+-]*")
_PAGE = 500
_TRIES = 30
_CONFLICT_PAUSE_S = 0.02
# Errors of one row of _bulk_docs that may be gone the next time; any other is a no for good.
_ROW_TRANSIENT = frozenset({"internal_server_error", "unknown_error", "timeout", "error", "service_unavailable"})
# Of a whole _bulk_docs request: some document in it is not JSON to CouchDB, or too large.
_BODY_REFUSED = (400, 413)
_NOT_FOUND, _CONFLICT, _EXISTS = 404, 409, 412


def connect(url: Url, timeout_s: float) -> CouchStore:
    """A store that connects on first use. ``timeout_s`` is for each wait on the network."""
    path, _, database = url.path.rpartition("/")
    database = database or DEFAULT_DATABASE
    if not _DATABASE_NAME.fullmatch(database):
        raise UsageError(
            f"{database!r} in the URL {url} is not the name of a CouchDB database",
            "small letters, digits and _$()+-, beginning with a letter",
        )
    return CouchStore(Couch(url, path, timeout_s), database, str(url))


class CouchStore:
    """A connection to CouchDB. A batch is five requests, or three where nothing changed."""

    def __init__(self, couch: Couch, database: str, where: str) -> None:
        self._couch = couch
        self._where = where
        self._records = database
        self._status = f"{database}_status"
        self._history = f"{database}_history"

    def setup(self, designs: Path | None = None) -> list[str]:
        """Create the databases and load the design documents of a folder (None: where they are installed)."""
        folder = designs or _couch_design.find_folder()
        done = [f"created database {name}" for name in self._databases() if self._create(name)]
        for part, database in zip(_couch_design.DATABASES, self._databases()):
            for design in _couch_design.load(folder, part):
                if self._load(database, design):
                    name, views = design["_id"].partition("/")[2], len(design["views"])
                    plural = "" if views == 1 else "s"
                    done.append(f"loaded design document {name} into {database} ({views} view{plural})")
        return done

    def ping(self) -> str:
        """The server's name and version, after asking for each database."""
        welcome = self._couch.call("get")
        if not isinstance(welcome, dict) or "version" not in welcome:
            raise StoreUnavailable(f"what answers at {self._where} is not CouchDB: it tells no version")
        for database in self._databases():
            self._couch.call("get", database)
        product = "CouchDB" if "couchdb" in welcome else "a server with CouchDB's API,"
        return f"{product} {welcome['version']}"

    def apply(self, batch: Sequence[Storable], received_at: str) -> list[Outcome]:
        """Each document that was changed meanwhile by somebody else is read, merged and written again."""
        outcomes: dict[int, Outcome] = {}
        waiting = _merge.by_node(batch)
        for attempt in range(_TRIES):
            _pause(attempt)
            todo = {node: [batch[position] for position in positions] for node, positions in waiting.items()}
            tried = self._try(todo, received_at)
            for node in tried.written():
                outcomes.update(zip(waiting[node], tried.merged[node].outcomes))
            for node, reason in tried.refused.items():
                outcomes.update(zip(waiting[node], self._one_by_one(todo[node], reason, received_at)))
            waiting = {node: waiting[node] for node in tried.conflicts}
            if not waiting:
                return [outcomes[position] for position in range(len(batch))]
        raise self._contended(waiting)

    def record(self, node: str) -> Document | None:
        """The node's document, with CouchDB's ``_rev``, or None."""
        return self._read(self._records, [node]).get(node)

    def status(self, node: str) -> Document | None:
        """The node's status document, with CouchDB's ``_rev``, or None."""
        return self._read(self._status, [node]).get(node)

    def nodes(self) -> Iterator[NodeSummary]:
        """Every node, in CouchDB's order of names, read in pages."""
        for row in self._pages(self._status, "_design", "vogeler", "_view", "nodes"):
            values = {**row["value"], "node": row["key"]}
            yield NodeSummary(**{**values, "groups": tuple(values["groups"]), "problems": tuple(values["problems"])})

    def history(self, node: str, key: str | None = None) -> Iterator[Document]:
        """Newest first: of one key by the node's own order, of all keys by the node's clock."""
        if key is None:
            view: tuple[str, ...] = ("_design", "vogeler", "_view", "by_node")
            rows = self._pages(
                self._history, *view, descending=True, startkey=[node, {}], endkey=[node], include_docs=True
            )
        else:  # the ids sort by it; ';' comes right after ':'
            first = _merge.history_prefix(node, key)
            rows = self._pages(
                self._history, "_all_docs", descending=True, startkey=first[:-1] + ";", endkey=first, include_docs=True
            )
        for row in rows:
            yield {name: value for name, value in row["doc"].items() if name != "_rev"}

    def forget(self, node: str, requested_by: str, at: str) -> bool:
        """The entry in the history comes first, so that nothing goes without one."""
        known = False
        for attempt in range(_TRIES):
            _pause(attempt)
            found = [(database, self._read(database, [node])) for database in (self._records, self._status)]
            doomed = [(database, documents[node]) for database, documents in found if documents]
            if not doomed:
                return known
            known = True
            self._write(self._history, [_merge.forgotten(node, requested_by, at)])
            still_there = [self._delete(database, document) for database, document in doomed]
            if not any(still_there):
                return True
        raise self._contended([node])

    def close(self) -> None:
        """May be called twice."""
        self._couch.close()

    # --- one try at a batch -----------------------------------------------------------------------

    def _try(self, todo: dict[str, list[Storable]], received_at: str) -> _Tried:
        """Read, merge, write: history before record before status."""
        records, statuses = (self._read(database, list(todo)) for database in (self._records, self._status))
        merged = {
            node: _merge.merge(node, records.get(node), statuses.get(node), messages, received_at)
            for node, messages in todo.items()
        }
        tried = _Tried(merged)
        changes = {change["_id"]: change for work in merged.values() for change in work.history}
        rows = self._write(self._history, list(changes.values()))  # a conflict: it is there already
        tried.note(_Rows(refused={changes[name]["node"]: reason for name, reason in rows.refused.items()}))
        tried.note(self._write(self._records, [work.record for work in tried.left() if work.record is not None]))
        tried.note(self._write(self._status, [work.status for work in tried.left() if work.status is not None]))
        return tried

    def _one_by_one(self, messages: list[Storable], reason: str, received_at: str) -> list[Outcome]:
        """Of a node whose document was refused: the message that is to blame, apart from the others."""
        if len(messages) == 1:
            return [_merge.refused(reason)]
        return [self.apply([message], received_at)[0] for message in messages]

    # --- documents --------------------------------------------------------------------------------

    def _read(self, database: str, nodes: list[str]) -> dict[str, Document]:
        """The documents that there are, by id, in one request.

        Asked for by key, ``_all_docs`` reads every document from a quorum of a cluster's copies, as a GET
        does; asked for a range, and in views, one copy is enough for it (fabric_view_all_docs in its sources).
        """
        answer = self._couch.call("post", database, "_all_docs", body={"keys": nodes}, include_docs=True)
        rows = self._rows(answer)
        if len(rows) != len(nodes):
            raise StoreUnavailable(f"the store at {self._where} answered for {len(rows)} of {len(nodes)} documents")
        return {row["id"]: row["doc"] for row in rows if row.get("doc")}

    def _write(self, database: str, documents: list[Document]) -> _Rows:
        """Write documents in one request, or in as few as the server takes them in. Each has a row of its own."""
        rows = _Rows()
        texts: list[tuple[str, bytes]] = []
        for document in documents:
            try:
                texts.append((document["_id"], _merge.to_json(document).encode()))
            except (ValueError, RecursionError) as error:
                rows.refused[document["_id"]] = f"not JSON: {error}"
        self._bulk(database, texts, rows)
        return rows

    def _bulk(self, database: str, texts: list[tuple[str, bytes]], rows: _Rows) -> None:
        """Halve what the server refuses as a whole, until it is known which document it refuses."""
        if not texts:
            return
        body = b'{"docs":[' + b",".join(text for _, text in texts) + b"]}"
        try:
            answer = self._couch.call("post", database, "_bulk_docs", body=body)
        except Refusal as error:
            if error.status not in _BODY_REFUSED:
                raise
            if len(texts) == 1:
                rows.refused[texts[0][0]] = error.message
                return
            middle = len(texts) // 2
            self._bulk(database, texts[:middle], rows)
            self._bulk(database, texts[middle:], rows)
        else:
            self._note_rows(self._rows({"rows": answer}), [name for name, _ in texts], rows)

    def _note_rows(self, answers: list[Document], sent: list[str], rows: _Rows) -> None:
        if sorted(str(row.get("id")) for row in answers) != sorted(sent):
            raise StoreUnavailable(f"the store at {self._where} answered for {len(answers)} of {len(sent)} documents")
        for row in answers:
            error = row.get("error")
            if error == "conflict":
                rows.conflicts.add(row["id"])
            elif error in _ROW_TRANSIENT:
                raise StoreUnavailable(f"the store at {self._where} could not write {row['id']}: {_said(row)}")
            elif error is not None:
                rows.refused[row["id"]] = f"the store at {self._where} refuses {row['id']}: {_said(row)}"

    def _delete(self, database: str, document: Document) -> bool:
        """Whether somebody else wrote the document meanwhile, so that it is still there."""
        rows = self._write(database, [{"_id": document["_id"], "_rev": document["_rev"], "_deleted": True}])
        for reason in rows.refused.values():
            raise StoreError(reason, "check what this login may do in the database")
        return bool(rows.conflicts)

    def _pages(self, database: str, *path: str, **query: object) -> Iterator[Document]:
        """The rows of a view whose keys are all different, a page at a time."""
        skip = 0
        while True:
            answer = self._couch.call("get", database, *path, limit=_PAGE, skip=skip, **query)
            rows = self._rows(answer)
            yield from rows
            if len(rows) < _PAGE:
                return
            query["startkey"], skip = rows[-1]["key"], 1

    def _rows(self, answer: Any) -> list[Document]:
        """The rows of an answer. Raises StoreUnavailable for one that CouchDB would not give."""
        rows = answer.get("rows") if isinstance(answer, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise StoreUnavailable(f"what answers at {self._where} is not CouchDB: an answer without rows")
        return rows

    def _contended(self, nodes: Iterable[str]) -> StoreUnavailable:
        return StoreUnavailable(
            f"the store at {self._where}: {', '.join(sorted(nodes))} changed under us {_TRIES} times in a row"
        )

    # --- databases and design documents -----------------------------------------------------------

    def _databases(self) -> tuple[str, str, str]:
        return self._records, self._status, self._history

    def _create(self, database: str) -> bool:
        """Whether the database had to be made. Asks first: only an administrator may try to make one."""
        try:
            self._couch.call("get", database)
        except Refusal as error:
            if error.status != _NOT_FOUND:
                raise
        else:
            return False
        try:
            self._couch.call("put", database)
        except Refusal as error:
            if error.status != _EXISTS:
                raise
            return False
        return True

    def _load(self, database: str, design: Document) -> bool:
        """Whether the design document had to be written. What else somebody put into it stays."""
        path = (database, *design["_id"].split("/"))
        for attempt in range(_TRIES):
            _pause(attempt)
            there = self._design(path)
            if all(there.get(name) == value for name, value in design.items()):
                return False
            try:
                self._couch.call("put", *path, body={**there, **design})
            except Refusal as error:
                if error.status != _CONFLICT:
                    raise
            else:
                return True
        raise self._contended([design["_id"]])

    def _design(self, path: tuple[str, ...]) -> Document:
        try:
            document: Document = self._couch.call("get", *path)
        except Refusal as error:
            if error.status != _NOT_FOUND:
                raise
            return {}
        return document


@dataclass
class _Rows:
    """What was not written: the ids that somebody else wrote meanwhile, and those refused, with the reason."""

    conflicts: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass
class _Tried:
    """One try at a batch: per node what was merged, and which nodes did not get through, and why."""

    merged: dict[str, _merge.Merged]
    conflicts: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)

    def note(self, rows: _Rows) -> None:
        """Take out the nodes whose documents were not written."""
        self.conflicts |= rows.conflicts
        self.refused.update(rows.refused)

    def left(self) -> list[_merge.Merged]:
        """The work of the nodes that got through so far."""
        return [self.merged[node] for node in self.written()]

    def written(self) -> list[str]:
        """The nodes that got through so far."""
        return [node for node in self.merged if node not in self.conflicts and node not in self.refused]


def _pause(attempt: int) -> None:
    """Before another try: others are writing the same document, and one of us must be first."""
    if attempt:
        time.sleep(random.uniform(0, _CONFLICT_PAUSE_S * attempt))  # noqa: S311  # jitter, no secret


def _said(row: Document) -> str:
    return f"{row.get('error')}, {row.get('reason')}"
