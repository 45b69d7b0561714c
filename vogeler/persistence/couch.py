"""``couch://`` and ``couchs://user:password@host:5984/system_records``: the store in CouchDB.

Four databases: ``<name>`` with a record per node, ``<name>_status`` with a small document per node,
``<name>_history`` with one per change, ``<name>_audit`` with who asked for what. Several servers may write at
once: a document that somebody else wrote since it was read is a conflict (its ``_rev``), and is read and merged
again.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from vogeler.errors import StoreUnavailable, UsageError
from vogeler.leaves import Scalar
from vogeler.persistence import (
    Document,
    NodeSummary,
    Outcome,
    Storable,
    _couch_audit,
    _couch_design,
    _couch_leaves,
    _merge,
    _prune,
)
from vogeler.persistence._couch_access import Access
from vogeler.persistence._couch_copies import CopiedDatabase
from vogeler.persistence._couch_database import Database, Found, Rows
from vogeler.persistence._couch_http import Couch, Refusal
from vogeler.persistence._texts import Texts, is_whole, with_value
from vogeler.urls import Url

DEFAULT_DATABASE = "system_records"
WRITERS = 2  # while one has to merge and encode, CouchDB writes for the other
# docs.couchdb.org/en/stable/api/database/common.html#put--db
_DATABASE_NAME = re.compile(r"[a-z][a-z0-9_$()+-]*")
_PAGE = 500
_DOCUMENTS_PAGE = 50  # of whole records and changes, which may be large
_ROWS_PAGE = 5000  # of rows without documents
_GROUPS_PAGE = 2000  # of rows of the index: mostly some hundred bytes, but they may have a thousand times as many
_COPIES_BYTES = 32_000_000  # of records, of each connection; half of that of status documents
_HISTORY_VIEW = ("_design", "vogeler", "_view", "by_key")  # and those beside it
_POLL_S = 0.5
_QUIET_S = 1.0
_TRIES = 30
_CONFLICT_PAUSE_S = 0.02
_OTHERS_STAY_S = 3600.0  # another server that has written is believed to go on for so long
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
    """A connection to CouchDB. A batch is five requests, or three where nothing changed; more after a conflict."""

    def __init__(self, couch: Couch, database: str, where: str) -> None:
        self._couch = couch
        self._where = where
        self._records = CopiedDatabase(Database(couch, database, where), _COPIES_BYTES, in_part=True)
        self._status = CopiedDatabase(Database(couch, f"{database}_status", where), _COPIES_BYTES // 2, in_part=False)
        self._history = Database(couch, f"{database}_history", where)
        self._audit = Database(couch, f"{database}_audit", where)
        self._alone_from_s = 0.0  # until then others are believed to write status documents of the same nodes

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

    def access(self) -> Access:
        """Who may read and write here."""
        return Access(self._couch, self._databases(), self._load)

    def ping(self) -> str:
        """The server's name and version, after asking for each database."""
        welcome = self._couch.call("get")
        if not isinstance(welcome, dict) or "version" not in welcome:
            raise StoreUnavailable(f"what answers at {self._where} is not CouchDB: it tells no version")
        for database in self._databases():
            self._couch.call("get", database)
        product = "CouchDB" if "couchdb" in welcome else "a server with CouchDB's API,"
        return f"{product} {welcome['version']}"

    def apply(self, batch: Sequence[Storable], received_at: str, again: bool = False) -> list[Outcome]:
        """Each document that was changed meanwhile by somebody else is read, merged and written again."""
        outcomes: dict[int, Outcome] = {}
        waiting = _merge.by_node(batch)
        former: dict[str, Document] = {}
        for attempt in range(_TRIES):
            _pause(attempt)
            todo = {node: [batch[position] for position in positions] for node, positions in waiting.items()}
            tried = self._try(todo, received_at, again or attempt > 0, former)
            for node in tried.written():
                outcomes.update(zip(waiting[node], tried.merged[node].outcomes))
            for node, reason in tried.refused.items():
                outcomes.update(zip(waiting[node], self._one_by_one(todo[node], reason, received_at, again)))
            waiting = {node: waiting[node] for node in tried.conflicts}
            former.update(tried.overwritten)
            if not waiting:
                return [outcomes[position] for position in range(len(batch))]
        raise self._contended(waiting)

    def refresh(self) -> None:
        """CouchDB brings views up to date once it has answered (``update=lazy``)."""
        for database, view in ((self._records.database, _couch_leaves.VIEW), (self._history, _HISTORY_VIEW)):
            with suppress(Refusal):  # somebody's own design documents may be without it
                self._couch.call("get", database.name, *view, limit=0, options={"update": "lazy"})

    def record(self, node: str) -> Document | None:
        """The node's document, with CouchDB's ``_rev``, or None."""
        return self._records.database.read([node]).documents.get(node)

    def status(self, node: str) -> Document | None:
        """The node's status document, with CouchDB's ``_rev``, or None."""
        return self._status.database.read([node]).documents.get(node)

    def statuses(self, nodes: Collection[str]) -> Iterator[Document]:
        """The status documents, with CouchDB's ``_rev``, read in pages."""
        return _read(self._status.database, nodes)

    def records(self, nodes: Collection[str] | None = None) -> Iterator[Document]:
        """The records, with CouchDB's ``_rev``, by name, read in pages."""
        if nodes is None:
            rows = self._records.database.pages(_DOCUMENTS_PAGE, "_all_docs", include_docs=True)
            yield from (row["doc"] for row in rows if not row["id"].startswith("_"))
            return
        yield from _read(self._records.database, nodes)

    def leaves(self, prefix: str, exact: bool = False) -> Iterator[tuple[str, str, Scalar]]:
        """From the view, read in pages."""
        return _couch_leaves.leaves(self._records.database, prefix, exact, _GROUPS_PAGE)

    def leaves_within(self, path: str) -> Iterator[tuple[str, str, Scalar]]:
        """In one pass where both are in one group."""
        return _couch_leaves.leaves_within(self._records.database, path, _GROUPS_PAGE)

    def names(self) -> Iterator[str]:
        """Read in pages."""
        return (row["id"] for row in self._status_rows(_ROWS_PAGE))

    def nodes(self) -> Iterator[NodeSummary]:
        """Read in pages. All of them change all the time: to bring a view up to date would take longer than to read."""
        rows = self._status_rows(_PAGE, include_docs=True)
        return (NodeSummary.of(row["doc"]) for row in rows if row["doc"] is not None)  # None: forgotten meanwhile

    def _status_rows(self, page: int, **query: Any) -> Iterator[Document]:
        rows = self._status.database.pages(page, "_all_docs", first=page, **query)  # whoever asks needs all
        return (row for row in rows if not row["id"].startswith("_"))

    def history(self, node: str, key: str | None = None) -> Iterator[Document]:
        """Newest first, by the server's clock; what is of one time by the node's own order."""
        view, place = ("by_node", [node]) if key is None else ("by_key", [node, key])
        for change in self._newest_first(view, startkey=[*place, {}], endkey=place):
            if change["node"] == node and key in (None, change["key"]):  # not only equal to CouchDB
                yield change

    def changes_named(self, names: Collection[str]) -> dict[str, Document]:
        """In one request."""
        found = self._history.read(names).documents if names else {}
        return {name: _change(document) for name, document in found.items()}

    def absences(self, node: str) -> Iterator[Document]:
        """Newest first, by the server's clock."""
        for entry in self._newest_first("by_key", startkey=[node, None, {}], endkey=[node, None]):
            if entry["node"] == node:  # not only equal to CouchDB
                yield entry

    def changes(self, since: str, until: str | None = None) -> Iterator[Document]:
        """Newest first, by the server's clock."""
        return self._newest_first("by_time", startkey=[until or {}], endkey=[since])

    def _newest_first(self, view: str, **query: Any) -> Iterator[Document]:
        path = ("_design", "vogeler", "_view", view)
        for row in self._history.pages(_DOCUMENTS_PAGE, *path, descending=True, include_docs=True, **query):
            if row["doc"] is not None and _is_history(row["doc"]):  # None: pruned since it was in the view
                yield _change(row["doc"])

    def follow(self, position: str | None = None) -> Iterator[tuple[str, Document | None]]:
        """Asks CouchDB's feed of changes every 0.5 s."""
        now = self._history.last_change()
        return self._follow(now if position is None else position)

    def _follow(self, position: str) -> Iterator[tuple[str, Document | None]]:
        yield position, None
        quiet_since_s = time.monotonic()
        while True:
            position, found = self._history.changes(position, _PAGE)
            yield from ((place, _change(document)) for place, document in found if _is_history(document))
            if found:
                quiet_since_s = time.monotonic()
            elif time.monotonic() - quiet_since_s >= _QUIET_S:
                yield position, None
                quiet_since_s = time.monotonic()
            else:
                time.sleep(_POLL_S)

    def prune(self, before: str, keep: int, limit: int) -> Iterator[int]:
        """Looks at the nodes in turn."""
        for entries in _prune.in_steps(self._entries_by_node(), before, keep, limit):
            pages = (entries[start : start + _PAGE] for start in range(0, len(entries), _PAGE))
            left = [self._history.delete((entry.id, str(entry.rev)) for entry in page) for page in pages]
            yield len(entries) - sum(map(len, left))

    def _entries_by_node(self) -> Iterator[Iterator[_prune.Entry]]:
        """The history of every node, without its values. Who stores results, and prunes besides, waits for no view."""
        rows = self._history.pages(_ROWS_PAGE, *_HISTORY_VIEW, patient=False)
        found = (_entry(row) for row in rows if isinstance(row["key"][0], str) and isinstance(row["key"][2], str))
        return (entries for _, entries in groupby(found, key=lambda entry: entry.node))

    def add_audit(self, entries: Sequence[Document]) -> None:
        """In one request."""
        _couch_audit.add(self._audit, entries)

    def audit(self, since: str, until: str | None = None) -> Iterator[Document]:
        """By id, which begins with the time."""
        return _couch_audit.newest_first(self._audit, since, until)

    def prune_audit(self, before: str, limit: int) -> Iterator[int]:
        """The oldest first."""
        return _couch_audit.prune(self._audit, before, limit)

    def forget(self, node: str, requested_by: str, at: str) -> bool:
        """The entry in the history comes first, so that nothing goes without one."""
        known = False
        for attempt in range(_TRIES):
            _pause(attempt)
            record, status = self.record(node), self.status(node)
            found = ((self._records.database, record), (self._status.database, status))
            doomed = [(database, document) for database, document in found if document is not None]
            if not doomed:
                return known
            known = True
            self._history.write([_merge.forgotten(node, record, requested_by, at)])
            still_there = [database.delete([(node, document["_rev"])]) for database, document in doomed]
            if not any(still_there):
                return True
        raise self._contended([node])

    def close(self) -> None:
        """May be called twice."""
        self._records.close()
        self._status.close()
        self._couch.close()

    # --- one try at a batch -----------------------------------------------------------------------

    def _try(
        self, todo: dict[str, list[Storable]], received_at: str, again: bool, former: Mapping[str, Document]
    ) -> _Tried:
        """Read, merge, write: history before record before status.

        ``former``: records that an earlier try has overwritten, by node, as they were.
        """
        records, statuses = self._found(todo)
        overwritten = sorted(former.keys() & todo.keys())
        records.replace(overwritten, self._records.read(overwritten))
        forgotten_at = self._forgotten_at(records, statuses)
        merged = {
            node: _merge.merge(
                node,
                records.documents.get(node),
                statuses.documents.get(node),
                messages,
                received_at,
                forgotten_at.get(node),
                former.get(node),
            )
            for node, messages in todo.items()
        }
        tried, texts = _Tried(merged), Texts()
        self._write_history(tried, texts)
        if again:
            self._disown(tried, texts)
        tried.note(self._records.write([work.record for work in tried.left() if work.record is not None], texts))
        changed = [node for node in tried.written() if tried.merged[node].record is not None]
        tried.overwritten = {node: records.documents[node] for node in changed if node in records.documents}
        tried.note(self._status.write([work.status for work in tried.left() if work.status is not None], texts))
        self._records.drop(tried.conflicts)
        self._status.drop(tried.conflicts)
        self._note_others(tried.conflicts)
        return tried

    def _found(self, todo: dict[str, list[Storable]]) -> tuple[Found, Found]:
        """Record and status of each node; where it does not matter, without the values of the record.

        A copy of a record is compared with the record's revision, which tells whatever happened to it. That of a
        status is not, if only the status is written: then it is a conflict if it was old. A conflict costs much more
        than to compare, so that is done while there are other servers at work on the same nodes.

        No status is of a later time than its record here: it would tell of a result that the record does not
        hold yet, which then seems to be a late one, though another server is just storing it.
        """
        if time.monotonic() < self._alone_from_s:
            self._note_others(self._status.drop_old(todo))
        asked = [node for node, messages in todo.items() if node not in self._status or _merge.may_change(messages)]
        statuses = self._status.find(todo)
        self._records.drop_old(asked)
        records = self._records.find(asked)
        old = self._status.drop_old(_rewriting(records, todo))
        self._note_others(old)
        if old:
            statuses.replace(old, self._status.read(old))
            self._records.drop_old(old)
            records.replace(old, self._records.find(old))
        documents = records.documents
        partial = [node for node in _rewriting(records, todo) if node in documents and not is_whole(documents[node])]
        records.replace(partial, self._records.read(partial))
        return records, statuses

    def _note_others(self, written: Collection[str]) -> None:
        """Somebody else has written documents of these nodes, after us."""
        if written:
            self._alone_from_s = time.monotonic() + _OTHERS_STAY_S

    def _write_history(self, tried: _Tried, texts: Texts) -> None:
        """What is there already stays as it is, unless the record took another way since it was written."""
        changes = {change["_id"]: change for work in tried.merged.values() for change in work.history}
        nodes = {name: change["node"] for name, change in changes.items()}
        rows = self._history.write(list(changes.values()), texts.change)
        tried.note(rows.of(nodes, conflicts=False))
        self._write_anew(tried, rows.conflicts, _merge.corrected, texts)

    def _disown(self, tried: _Tried, texts: Texts) -> None:
        """What an earlier try at a result left in the history, when another one has brought its value meanwhile."""
        doubtful = {name for work in tried.left() for pair in work.doubtful for name in pair}
        self._write_anew(tried, doubtful, _merge.never_held, texts)

    def _write_anew(
        self,
        tried: _Tried,
        names: set[str],
        choose: Callable[[_merge.Merged, Mapping[str, Document]], Iterable[Document]],
        texts: Texts,
    ) -> None:
        """Look at what is in the history under these ids, and write what is chosen from that."""
        if names:
            existing = self._history.read(sorted(names)).documents
            anew = [change for work in tried.left() for change in choose(work, existing)]
            tried.note(self._history.write(anew, texts.change).of({change["_id"]: change["node"] for change in anew}))

    def _forgotten_at(self, records: Found, statuses: Found) -> Mapping[str, str]:
        """When the nodes whose documents were deleted were last forgotten."""
        found = {}
        for node in records.deleted | statuses.deleted:
            first = _merge.id_prefix(node, _merge.FORGOTTEN)
            last = first[:-1] + ";"  # which comes right after ':'
            rows = self._history.pages(1, "_all_docs", descending=True, startkey=last, endkey=first)
            for row in islice(rows, 1):
                found[node] = unquote(row["id"][len(first) :])
        return found

    def _one_by_one(self, messages: list[Storable], reason: str, received_at: str, again: bool) -> list[Outcome]:
        """Of a node whose document was refused: the message that is to blame, apart from the others."""
        if len(messages) == 1:
            return [_merge.refused(reason)]
        return [self.apply([message], received_at, again)[0] for message in messages]

    def _contended(self, nodes: Iterable[str]) -> StoreUnavailable:
        return StoreUnavailable(
            f"the store at {self._where}: {', '.join(sorted(nodes))} changed under us {_TRIES} times in a row"
        )

    # --- databases and design documents -----------------------------------------------------------

    def _databases(self) -> tuple[str, ...]:
        """Those with design documents first."""
        return self._records.database.name, self._status.database.name, self._history.name, self._audit.name

    def _create(self, database: str) -> bool:
        """Whether the database had to be made. Asks first: only an administrator may try to make one."""
        try:
            self._couch.call("get", database)
        except Refusal as error:
            if error.status != _NOT_FOUND:
                raise
        else:
            return False
        # A shard is a file that every batch syncs: small documents fit into one (docs.couchdb.org, "Sharding").
        small = database in (self._status.database.name, self._audit.name)
        try:
            self._couch.call("put", database, options={"q": "1"} if small else {})
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
class _Tried:
    """One try at a batch: per node what was merged, and which nodes did not get through, and why.

    ``overwritten``: the records that there were where another one was written.
    """

    merged: dict[str, _merge.Merged]
    overwritten: dict[str, Document] = field(default_factory=dict)
    conflicts: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)

    def note(self, rows: Rows) -> None:
        """Take out the nodes whose documents were not written."""
        self.conflicts |= rows.conflicts
        self.refused.update(rows.refused)

    def left(self) -> list[_merge.Merged]:
        """The work of the nodes that got through so far."""
        return [self.merged[node] for node in self.written()]

    def written(self) -> list[str]:
        """The nodes that got through so far."""
        return [node for node in self.merged if node not in self.conflicts and node not in self.refused]


def _rewriting(records: Found, todo: Mapping[str, Sequence[Storable]]) -> list[str]:
    """The nodes whose records may be written."""
    return [node for node, messages in todo.items() if _merge.may_rewrite(records.documents.get(node), messages)]


def _read(database: Database, nodes: Collection[str]) -> Iterator[Document]:
    """The documents that these nodes have, by name."""
    names = iter(sorted(set(nodes)))
    while page := list(islice(names, _DOCUMENTS_PAGE)):
        yield from database.read(page).documents.values()


def _pause(attempt: int) -> None:
    """Before another try: others are writing the same document, and one of us must be first."""
    if attempt:
        time.sleep(random.uniform(0, _CONFLICT_PAUSE_S * attempt))  # noqa: S311  # jitter, no secret


def _is_history(document: Document) -> bool:
    """Not a design document, or whatever else somebody put into the database."""
    return "event" in document


def _change(document: Document) -> Document:
    """A history document as every store gives it: without CouchDB's, with what older ones lack."""
    change = {name: value for name, value in with_value(document).items() if name != "_rev"}
    return {"stored_at": change.get("changed_at"), **change}


def _entry(row: Document) -> _prune.Entry:
    node, key, stored_at, seq, name = row["key"]
    return _prune.Entry(name, node, key, stored_at, seq, row["value"]["late"], row["value"]["rev"])
