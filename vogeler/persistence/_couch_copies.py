"""Copies of documents that this server has read or written, by id, with the revision that they are of.

Whoever writes a document gives it another revision, so that a copy of the revision that the document has is the
document. A copy of an older one is no harm to what is written by it: CouchDB answers with a conflict.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Union

from vogeler.persistence import Document
from vogeler.persistence._couch_database import Database, Found, Rows
from vogeler.persistence._texts import LEFT_OUT, Packed, Texts, is_large, to_json

# What merging looks into. Large values beside these are only handed on.
_READ = frozenset({"vogeler", "keys"})
_ITEM_BYTES = 150  # that Python takes for each name and value, about
_Items = list[tuple[str, Union[str, Packed]]]


class Copies:
    """The documents used last, up to so many bytes. Large values are kept compressed, or left out."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._copies: OrderedDict[str, tuple[str, _Items, int]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._copies)

    def rev(self, name: str) -> str | None:
        """The revision that there is a copy of."""
        return self._copies[name][0] if name in self._copies else None

    def get(self, name: str) -> Document:
        """The document with its ``_rev``; large values are Packed. Raises KeyError."""
        rev, items, _ = self._copies[name]
        self._copies.move_to_end(name)
        document: Document = {"_id": name, "_rev": rev}
        document.update((key, value if isinstance(value, Packed) else json.loads(value)) for key, value in items)
        return document

    def keep(self, document: Document, rev: str, texts: Texts) -> None:
        """A document that was written, with its new revision."""
        self._keep(document["_id"], rev, [(key, _kept(key, value, texts)) for key, value in _items(document)])

    def keep_without_values(self, document: Document) -> None:
        """A document that was read, for those who need not write it."""
        kept = [(key, LEFT_OUT if _may_be_large(key, value) else to_json(value)) for key, value in _items(document)]
        self._keep(document["_id"], document["_rev"], kept)

    def drop(self, names: Iterable[str]) -> None:
        """Forget what is not so any more."""
        for name in names:
            if name in self._copies:
                self.size_bytes -= self._copies.pop(name)[2]

    def _keep(self, name: str, rev: str, items: _Items) -> None:
        self.drop([name])
        size_bytes = sum(_ITEM_BYTES + (v.size_bytes if isinstance(v, Packed) else len(v)) for _, v in items)
        self._copies[name] = rev, items, size_bytes
        self.size_bytes += size_bytes
        while self.size_bytes > self._limit_bytes:
            self.drop([next(iter(self._copies))])


class CopiedDatabase:
    """A database of documents that are merged and written again and again: what is known is not read."""

    def __init__(self, database: Database, limit_bytes: int) -> None:
        self.database = database
        self._copies = Copies(limit_bytes)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._copies.rev(name) is not None

    def find(self, names: Iterable[str], check: Collection[str]) -> Found:
        """The documents that there are: copies, whose revision is asked for of those in ``check``, or else read.

        A copy may be without large values: LEFT_OUT.
        """
        wanted = list(names)
        doubtful = [name for name in wanted if name in self and name in check]
        revs = self.database.revisions(doubtful)
        self.drop(name for name in doubtful if revs.get(name) != self._copies.rev(name))
        known = {name: self._copies.get(name) for name in wanted if name in self}
        found = self.read([name for name in wanted if name not in known])
        found.documents.update(known)
        return found

    def read(self, names: list[str]) -> Found:
        """The documents that there are, from the server."""
        found = self.database.read(names) if names else Found({}, set())
        for document in found.documents.values():
            self._copies.keep_without_values(document)
        return found

    def write(self, documents: list[Document], texts: Texts) -> Rows:
        """Write documents, as of Database."""
        rows = self.database.write(documents, texts.document)
        for document in documents:
            if document["_id"] in rows.revs:
                self._copies.keep(document, rows.revs[document["_id"]], texts)
        return rows

    def drop(self, names: Iterable[str]) -> None:
        """Read these the next time."""
        self._copies.drop(list(names))


def _items(document: Document) -> Iterable[tuple[str, object]]:
    return ((key, value) for key, value in document.items() if key not in ("_id", "_rev"))


def _kept(key: str, value: object, texts: Texts) -> str | Packed:
    if isinstance(value, Packed):
        return value
    text = texts.of(value)
    return Packed.of(text) if is_large(text) and key not in _READ else text


def _may_be_large(key: str, value: object) -> bool:
    return key not in _READ and (isinstance(value, (dict, list)) or (isinstance(value, str) and is_large(value)))
