"""Copies of documents that this server has read or written, by id, with the revision that they are of.

Whoever writes a document gives it another revision, so that a copy of the revision that the document has is the
document. A copy of an older one is no harm to what is written by it: CouchDB answers with a conflict.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from vogeler.persistence import Document
from vogeler.persistence._couch_database import Database, Found, Rows, encoded
from vogeler.persistence._texts import LEFT_OUT, Packed, Texts

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

# What merging and writing look into. Large values beside these are only handed on.
_READ = frozenset({"_id", "vogeler", "keys", "forgotten_at"})
_LARGE = 200  # characters; smaller values are not worth to be packed
_ITEM_BYTES = 150  # that Python takes for each name and value, about
_OBJECT_FACTOR = 4  # how much larger an object is than its JSON text, about
Items = dict[str, tuple[object, int]]  # by name: what is kept, and how many bytes that is, about


class Copies:
    """The documents used last, up to so many bytes. Large values are kept as compressed text, or left out."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._copies: OrderedDict[str, tuple[Document, int]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._copies)

    def rev(self, name: str) -> str | None:
        """The revision that there is a copy of."""
        return str(self._copies[name][0]["_rev"]) if name in self._copies else None

    def get(self, name: str) -> Document:
        """The document, to be left as it is; large values are Packed. Raises KeyError."""
        self._copies.move_to_end(name)
        return self._copies[name][0]

    def keep(self, rev: str, items: Items) -> None:
        """Keep what ``packed`` or ``without_values`` made of a document, as of a revision."""
        document: Document = {**{name: value for name, (value, _) in items.items()}, "_rev": rev}
        size_bytes = sum(_ITEM_BYTES + size_bytes for _, size_bytes in items.values())
        self.drop([document["_id"]])
        self._copies[document["_id"]] = document, size_bytes
        self.size_bytes += size_bytes
        while self.size_bytes > self._limit_bytes:
            self.drop([next(iter(self._copies))])

    def drop(self, names: Iterable[str]) -> None:
        """Forget what is not so any more."""
        for name in names:
            if name in self._copies:
                self.size_bytes -= self._copies.pop(name)[1]


def packed(document: Document, texts: Texts) -> Items:
    """What is kept of a document that is written."""
    return {name: _packed(name, value, texts) for name, value in document.items()}


def without_values(document: Document) -> Items:
    """What is kept of a document that was read, for those who need not write it."""
    texts = Texts()
    return {
        name: (LEFT_OUT, 0) if _may_be_large(name, item) else _sized(item, texts) for name, item in document.items()
    }


def _packed(key: str, value: object, texts: Texts) -> tuple[object, int]:
    if isinstance(value, Packed):
        return value, value.size_bytes
    text = texts.of(value) if _may_be_large(key, value) else ""
    if len(text) <= _LARGE:
        return _sized(value, texts)
    made = Packed.of(text)
    return made, made.size_bytes


def _sized(value: object, texts: Texts) -> tuple[object, int]:
    if isinstance(value, str):
        return value, len(value)
    return value, _OBJECT_FACTOR * len(texts.of(value)) if isinstance(value, (dict, list)) else 0


def _may_be_large(key: str, value: object) -> bool:
    return key not in _READ and (isinstance(value, (dict, list)) or (isinstance(value, str) and len(value) > _LARGE))


class CopiedDatabase:
    """A database of documents that are merged and written again and again: what is known is not read.

    ``in_part``: copies are kept of what was only read, too, without large values. Not so of documents whose every
    merge is written, which takes all of their values.
    """

    def __init__(self, database: Database, limit_bytes: int, in_part: bool) -> None:
        self.database = database
        self._in_part = in_part
        self._packer: ThreadPoolExecutor | None = None
        self._copies = Copies(limit_bytes)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._copies.rev(name) is not None

    def drop_old(self, names: Iterable[str]) -> list[str]:
        """Ask which of the copies are of an older revision than the document, and forget these: their names."""
        doubtful = [name for name in names if name in self]
        revs = self.database.revisions(doubtful)
        old = [name for name in doubtful if revs.get(name) != self._copies.rev(name)]
        self.drop(old)
        return old

    def find(self, names: Iterable[str]) -> Found:
        """The documents that there are: copies, or else read. A copy may be without large values: LEFT_OUT."""
        wanted = list(names)
        known = {name: self._copies.get(name) for name in wanted if name in self}
        found = self.read([name for name in wanted if name not in known])
        found.documents.update(known)
        return found

    def read(self, names: list[str]) -> Found:
        """The documents that there are, from the server."""
        found = self.database.read(names) if names else Found({}, set())
        for document in found.documents.values() if self._in_part else ():
            self._copies.keep(document["_rev"], without_values(document))
        return found

    def write(self, documents: list[Document], texts: Texts) -> Rows:
        """Write documents, as of Database. Their copies are made while CouchDB is at it."""
        ready = encoded(documents, texts.document)
        good = [document for document in documents if document["_id"] not in ready.refused]
        packing = self._in_background(lambda: [packed(document, texts) for document in good])
        rows = self.database.send(ready)
        for document, items in zip(good, packing.result()):
            if document["_id"] in rows.revs:
                self._copies.keep(rows.revs[document["_id"]], items)
        return rows

    def _in_background(self, work: Callable[[], list[Items]]) -> Future[list[Items]]:
        """Compressing leaves the interpreter to others."""
        if self._packer is None:
            from concurrent.futures import ThreadPoolExecutor  # who only reads needs none

            self._packer = ThreadPoolExecutor(1, "packer")
        return self._packer.submit(work)

    def close(self) -> None:
        """May be called twice."""
        if self._packer is not None:
            self._packer.shutdown()

    def drop(self, names: Iterable[str]) -> None:
        """Read these the next time."""
        self._copies.drop(list(names))
