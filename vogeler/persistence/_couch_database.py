"""One database of CouchDB: read, write and delete documents in bulk, page through a view, follow the changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vogeler.errors import StoreError, StoreUnavailable
from vogeler.persistence import Document, _pages
from vogeler.persistence._couch_http import Couch, Refusal
from vogeler.persistence._texts import to_json

log = logging.getLogger(__name__)

# Errors of one row of _bulk_docs that may be gone the next time; any other is a no for good.
_ROW_TRANSIENT = frozenset(
    {"internal_server_error", "unknown_error", "timeout", "error", "service_unavailable", "os_process_error"}
)
# Of a whole _bulk_docs request: some document in it is not JSON to CouchDB, or too large.
_BODY_REFUSED = (400, 413)
_FILTER_IDS = 100  # of more than that CouchDB would go through all documents: changes_doc_ids_optimization_threshold


@dataclass
class Rows:
    """What was not written: the ids that somebody else wrote meanwhile, and those refused, with the reason.

    ``revs``: the new revision of each document that was.
    """

    conflicts: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    revs: dict[str, str] = field(default_factory=dict)

    def of(self, names: Mapping[str, str], conflicts: bool = True) -> Rows:
        """The same under other names; without the conflicts where they are no matter."""
        refused = {names[name]: reason for name, reason in self.refused.items()}
        return Rows({names[name] for name in self.conflicts if conflicts}, refused)


@dataclass(frozen=True)
class Encoded:
    """Documents as bytes, with their ids, and why which of them are no JSON."""

    texts: list[tuple[str, bytes]]
    refused: dict[str, str]


def encoded(documents: Iterable[Document], encode: Callable[[Document], str]) -> Encoded:
    """Documents as ``send`` takes them."""
    result = Encoded([], {})
    for document in documents:
        try:
            result.texts.append((document["_id"], encode(document).encode()))
        except (ValueError, RecursionError) as error:
            result.refused[document["_id"]] = f"not JSON: {error}"
    return result


@dataclass(frozen=True)
class Found:
    """Documents by id, and the ids of those that there were once, and were deleted."""

    documents: dict[str, Document]
    deleted: set[str]

    def replace(self, names: Iterable[str], found: Found) -> None:
        """Take what was found later of these ids."""
        for name in names:
            self.documents.pop(name, None)
        self.documents.update(found.documents)
        self.deleted.update(found.deleted)


class Database:
    """A database, by name. ``where``: the store's URL, without its password."""

    def __init__(self, couch: Couch, name: str, where: str) -> None:
        self._couch = couch
        self.name = name
        self._where = where

    def read(self, ids: Iterable[str]) -> Found:
        """The documents that there are, in one request.

        Asked for by key, ``_all_docs`` reads every document from a quorum of a cluster's copies, as a GET
        does; asked for a range, and in views, one copy is enough for it (fabric_view_all_docs in its sources).
        """
        names = list(ids)
        answer = self._couch.call("post", self.name, "_all_docs", body={"keys": names}, include_docs=True)
        rows = self._rows(answer)
        if len(rows) != len(names):
            raise StoreUnavailable(f"the store at {self._where} answered for {len(rows)} of {len(names)} documents")
        deleted = {row["key"] for row in rows if (row.get("value") or {}).get("deleted")}
        return Found({row["id"]: row["doc"] for row in rows if row.get("doc")}, deleted)

    def revisions(self, ids: Iterable[str]) -> dict[str, str]:
        """The revision of each document that there is.

        Much cheaper than to ask ``_all_docs``, which reads the documents for it. In a cluster one copy is asked,
        which another member may be ahead of for a moment.
        """
        found, names = {}, list(ids)
        for start in range(0, len(names), _FILTER_IDS):
            filtered = {"doc_ids": names[start : start + _FILTER_IDS]}
            answer = self._couch.call("post", self.name, "_changes", body=filtered, options={"filter": "_doc_ids"})
            for row in self._changes(answer)["results"]:
                if not row.get("deleted"):
                    found[row["id"]] = row["changes"][0]["rev"]
        return found

    def write(self, documents: list[Document], encode: Callable[[Document], str] = to_json) -> Rows:
        """Write documents in one request, or in as few as the server takes them in. Each has a row of its own."""
        return self.send(encoded(documents, encode))

    def send(self, documents: Encoded) -> Rows:
        """As ``write``."""
        rows = Rows(refused=dict(documents.refused))
        self._bulk(documents.texts, rows)
        return rows

    def delete(self, revisions: Iterable[tuple[str, str]]) -> set[str]:
        """Delete documents by id and ``_rev``. Returns the ids of those that somebody else wrote meanwhile."""
        rows = self.write([{"_id": name, "_rev": rev, "_deleted": True} for name, rev in revisions])
        for reason in rows.refused.values():
            raise StoreError(reason, "check what this login may do in the database")
        return rows.conflicts

    def pages(self, page: int, *path: str, first: int = 2, patient: bool = True, **query: Any) -> Iterator[Document]:
        """The rows of a view whose keys are all different, in pages that grow from ``first`` up to ``page``.

        ``patient``: wait for a view that is being brought up to date longer than for another answer.
        """
        skip = 0
        for limit in _pages.growing(page, first):
            rows = self._view(path, {**query, "limit": limit, "skip": skip}, patient)
            yield from rows
            if len(rows) < limit:
                return
            query["startkey"], skip = rows[-1]["key"], 1

    def pages_by_document(self, page: int, *path: str, **query: Any) -> Iterator[Document]:
        """The rows of a view in which many documents emit one key, each of them once.

        The next page begins with the last row of this one, by key and document, which may be gone by then. On a
        server that knows no ``startkey_docid`` it begins with the first row of the key, and is as much larger.
        """
        last: Document | None = None
        of_key = 0  # how many rows of the last key there were
        while True:
            limit = page + (last is not None)
            rows = self._view(path, {**query, "limit": limit})
            if last is not None and rows and rows[0]["key"] == last["key"] and rows[0]["id"] < last["id"]:
                query.pop("startkey_docid")
                limit = page + of_key
                rows = self._view(path, {**query, "limit": limit})
            for row in rows:
                if last is None or row["key"] != last["key"] or row["id"] > last["id"]:
                    last = row
                    yield row
            if last is None or len(rows) < limit:
                return
            of_key = sum(row["key"] == last["key"] for row in rows)
            query["startkey"], query["startkey_docid"] = last["key"], last["id"]

    def _view(self, path: tuple[str, ...], query: dict[str, Any], patient: bool = True) -> list[Document]:
        """CouchDB answers with an error when it takes it long to bring a view up to date: ``patient`` asks again."""
        while True:
            try:
                return self._rows(self._couch.call("get", self.name, *path, **query))
            except StoreUnavailable as error:
                if not (patient and self._is_updating(path[:2])):
                    raise
                log.warning("a view is being brought up to date, waiting: %s", error, extra={"event": "indexing"})

    def _is_updating(self, design: tuple[str, ...]) -> bool:
        """Whether the views of a design document are being brought up to date."""
        if design[:1] != ("_design",):
            return False
        about = self._couch.call("get", self.name, *design, "_info")
        return isinstance(about.get("view_index"), dict) and about["view_index"].get("updater_running") is True

    def last_change(self) -> str:
        """Where the changes of the database have come to by now."""
        answer = self._couch.call("get", self.name, "_changes", options={"since": "now", "limit": "1"})
        return str(self._changes(answer)["last_seq"])

    def changes(self, since: str, page: int) -> tuple[str, list[tuple[str, Document]]]:
        """The documents written since then, at most a page, each with where that has come to; and where the page has.

        Does not wait for any. A long poll would, but not every server and proxy ends one in time.
        """
        options = {"since": since, "limit": str(page)}
        answer = self._changes(self._couch.call("get", self.name, "_changes", include_docs=True, options=options))
        there = [row for row in answer["results"] if not row.get("deleted") and row.get("doc") is not None]
        return str(answer["last_seq"]), [(str(row["seq"]), row["doc"]) for row in there]

    def _changes(self, answer: Any) -> Document:
        if not isinstance(answer, dict) or "last_seq" not in answer or not isinstance(answer.get("results"), list):
            raise StoreUnavailable(f"what answers at {self._where} is not CouchDB: changes without a last_seq")
        return answer

    def _bulk(self, texts: list[tuple[str, bytes]], rows: Rows) -> None:
        """Halve what the server refuses as a whole, until it is known which document it refuses."""
        if not texts:
            return
        body = b'{"docs":[' + b",".join(text for _, text in texts) + b"]}"
        try:
            answer = self._couch.call("post", self.name, "_bulk_docs", body=body)
        except Refusal as error:
            if error.status not in _BODY_REFUSED:
                raise
            if len(texts) == 1:
                rows.refused[texts[0][0]] = error.message
                return
            middle = len(texts) // 2
            self._bulk(texts[:middle], rows)
            self._bulk(texts[middle:], rows)
        else:
            self._note_rows(self._rows({"rows": answer}), [name for name, _ in texts], rows)

    def _note_rows(self, answers: list[Document], sent: list[str], rows: Rows) -> None:
        if sorted(str(row.get("id")) for row in answers) != sorted(sent):
            raise StoreUnavailable(f"the store at {self._where} answered for {len(answers)} of {len(sent)} documents")
        for row in answers:
            error = row.get("error")
            if error is None:
                rows.revs[row["id"]] = str(row.get("rev"))
            elif error == "conflict":
                rows.conflicts.add(row["id"])
            elif error == "unauthorized":
                raise StoreError(
                    f"the store at {self._where} does not let this login write: {_said(row)}",
                    "name a login that may: docs/security.md, `Who can do what with which credential`",
                )
            elif error in _ROW_TRANSIENT:
                raise StoreUnavailable(f"the store at {self._where} could not write {row['id']}: {_said(row)}")
            else:
                rows.refused[row["id"]] = f"the store at {self._where} refuses {row['id']}: {_said(row)}"

    def _rows(self, answer: Any) -> list[Document]:
        """The rows of an answer. Raises StoreUnavailable for one that CouchDB would not give."""
        rows = answer.get("rows") if isinstance(answer, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise StoreUnavailable(f"what answers at {self._where} is not CouchDB: an answer without rows")
        return rows


def _said(row: Document) -> str:
    return f"{row.get('error')}, {row.get('reason')}"
