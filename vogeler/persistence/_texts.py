"""Documents as JSON text, of which a large value is made once and kept compressed; parsed only when looked into."""

from __future__ import annotations

import json
import zlib
from typing import Any

from vogeler.persistence import Document

# CouchDB takes one text in about half the time of a list or object that is as long. It may count twice the
# characters, so that what comes near to its max_document_size stays as it is.
_AS_TEXT = range(1_000, 1_000_000)
_VALUE_JSON = "value_json"
_COMPRESSED_FROM = 4_000  # characters
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def to_json(value: object) -> str:
    """The JSON text of a value, in ASCII: half a surrogate pair, which UTF-8 can't hold, stays what it was.

    Raises ValueError or RecursionError for what JSON can't hold.
    """
    return _ENCODER.encode(value)


class Packed:
    """A value of a document as its JSON text. ``LEFT_OUT`` stands for a value that is not at hand."""

    __slots__ = ("_packed",)

    def __init__(self, packed: str | bytes) -> None:
        self._packed = packed

    @classmethod
    def of(cls, text: str) -> Packed:
        """The value that has this text, which is compressed if that is worth it."""
        return cls(text if len(text) < _COMPRESSED_FROM else zlib.compress(text.encode(), 1))

    @property
    def size_bytes(self) -> int:
        """Of what is kept."""
        return len(self._packed)

    @property
    def text(self) -> str:
        """The JSON text, in ASCII."""
        return self._packed if isinstance(self._packed, str) else zlib.decompress(self._packed).decode()


LEFT_OUT = Packed(b"")


def unpacked(value: Any) -> Any:
    """The value, which may be packed."""
    return json.loads(value.text) if isinstance(value, Packed) else value


def is_whole(document: Document) -> bool:
    """Whether no value of it is left out."""
    return all(value is not LEFT_OUT for value in document.values())


class Texts:
    """The texts of the documents of one batch: record and history hold one value, which becomes text once."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[object, str]] = {}  # with the value: as long as it lives, its id is its own

    def of(self, value: object) -> str:
        """The text of a value. Raises ValueError or RecursionError for what JSON can't hold."""
        if isinstance(value, Packed):
            return value.text
        if not isinstance(value, (dict, list)):
            return to_json(value)
        if id(value) not in self._made:
            self._made[id(value)] = value, to_json(value)
        return self._made[id(value)][1]

    def document(self, document: Document) -> str:
        """The text of a document."""
        return "{" + ",".join([f"{to_json(name)}:{self.of(value)}" for name, value in document.items()]) + "}"

    def change(self, change: Document) -> str:
        """The text of a history document, in which ``value_json`` holds the text of a large value."""
        value = change.get("value")
        text = self.of(value) if isinstance(value, (dict, list)) else ""
        if len(text) not in _AS_TEXT:
            return self.document(change)
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')  # it is ASCII, in one line
        return self.document(_renamed(change, "value", _VALUE_JSON, Packed(f'"{quoted}"')))


def with_value(change: Document) -> Document:
    """A history document with its value, whichever way it was written; the text itself, if somebody edited that."""
    if _VALUE_JSON not in change:
        return change
    text = change[_VALUE_JSON]
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        value = text
    return _renamed(change, _VALUE_JSON, "value", value)


def _renamed(document: Document, old: str, new: str, value: object) -> Document:
    """In the same place."""
    return {new if name == old else name: value if name == old else item for name, item in document.items()}
