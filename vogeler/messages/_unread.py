"""Results for who stores them: a value that came before is not read again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from vogeler.errors import MessageError
from vogeler.messages._codec import Envelope, message_of, read_object, unpacked
from vogeler.messages._json import parse, sha256
from vogeler.messages._types import Decision, Heartbeat, Result

_VALUE, _AFTER_VALUE = b',"value":', b',"id":'


@dataclass(frozen=True)
class Unread:
    """The value of a result as it came: JSON, as it was when it came before. ``read`` gives it."""

    text: bytes


class Known:
    """Which texts were JSON when they were read, by their SHA-256: the last ones that came."""

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._marks: dict[bytes, None] = {}

    def __contains__(self, mark: object) -> bool:
        return mark in self._marks

    def add(self, mark: bytes) -> None:
        """This one was read, or came once more."""
        self._marks.pop(mark, None)
        self._marks[mark] = None
        if len(self._marks) > self._most:
            del self._marks[next(iter(self._marks))]


def decode_stored(envelope: Envelope, known: Known) -> Result | Heartbeat | Decision:
    """As ``decode``, for who stores it: a value that is ``known`` is not read, but is an Unread."""
    content = _read_lazily(unpacked(envelope), known)
    message: Result | Heartbeat | Decision = message_of(content, (Result, Heartbeat, Decision))
    return message


def read(result: Result) -> Result:
    """The result with its value."""
    return replace(result, value=json.loads(result.value.text)) if isinstance(result.value, Unread) else result


def _read_lazily(body: bytes, known: Known) -> dict[str, Any]:
    """As ``read_object``: the value, where it is found between the fields that our clients put it, apart from the rest.

    It is found if the rest is a result whose value is null with ``null`` in its place, and the value is JSON by
    itself. Whatever else there is, is read as a whole.
    """
    begin, end = body.find(_VALUE) + len(_VALUE), body.rfind(_AFTER_VALUE)
    if not len(_VALUE) <= begin < end or body.find(b'"value"', end) > 0:
        return read_object(body)
    text = body[begin:end]
    mark = sha256(text)
    try:
        content = read_object(body[:begin] + b"null" + body[end:])
        value = Unread(text) if mark in known else parse(text)
    except (ValueError, RecursionError, MessageError):
        return read_object(body)
    if content.get("type") != Result.TYPE or content.get("value", text) is not None:
        return read_object(body)
    known.add(mark)
    return {**content, "value": value}
