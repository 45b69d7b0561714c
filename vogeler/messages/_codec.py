"""From a message to the bytes that a transport carries, and back, checked."""

from __future__ import annotations

import json
import zlib
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, TypeVar, overload

from vogeler.errors import MessageError
from vogeler.messages._json import parse
from vogeler.messages._types import OK, OMITTED, Command, Decision, Heartbeat, Message, Receipt, Result

VERSION = 1
CONTENT_TYPE = "application/json"
COMPRESS_ABOVE_BYTES = 256
MAX_MESSAGE_BYTES = 64 * 1024 * 1024  # unpacked
MAX_ENVELOPE_BYTES = 16 * 1024 * 1024  # as sent: RabbitMQ's max_message_size, by default since 4.0

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
First = TypeVar("First", bound=Message)
Second = TypeVar("Second", bound=Message)
Third = TypeVar("Third", bound=Message)
_TYPES: dict[str, type[Message]] = {cls.TYPE: cls for cls in (Command, Result, Heartbeat, Decision, Receipt)}
_FIELDS: dict[type[Message], dict[str, Field[Any]]] = {cls: {f.name: f for f in fields(cls)} for cls in _TYPES.values()}


@dataclass(frozen=True)
class Envelope:
    """What a transport carries: the bytes and the headers that describe them. ``signature``: as in signing.py."""

    body: bytes
    content_encoding: str | None = None
    message_id: str = ""
    type: str = ""
    signature: str | None = None

    @property
    def unpacked_bytes(self) -> int:
        """The size of the body when unpacked, as gzip's last four bytes claim it: RFC 1952, 2.3.1."""
        return len(self.body) if self.content_encoding is None else int.from_bytes(self.body[-4:], "little")


def encode(message: Message) -> Envelope:
    """The message as bytes, compressed with gzip when that is worth it.

    Raises MessageError when it is larger than may be sent, or not JSON.
    """
    content: dict[str, Any] = {"v": VERSION, "type": message.TYPE}
    for name, value in vars(message).items():
        if value is not OMITTED and (value is not None or name == "value"):  # a value may be null; else that is nothing
            content[name] = value
    try:
        body = _ENCODER.encode(content).encode()
    except (ValueError, RecursionError) as error:
        raise MessageError(f"a {message.TYPE} that is not JSON in UTF-8: {error}") from None
    encoding = None
    if len(body) > MAX_MESSAGE_BYTES:
        raise MessageError(f"a {message.TYPE} of {len(body)} bytes: at most {MAX_MESSAGE_BYTES} are allowed")
    if len(body) > COMPRESS_ABOVE_BYTES:
        packer = zlib.compressobj(level=1, wbits=31)
        body, encoding = packer.compress(body) + packer.flush(), "gzip"
    if len(body) > MAX_ENVELOPE_BYTES:
        raise MessageError(
            f"a {message.TYPE} of {len(body)} bytes compressed: at most {MAX_ENVELOPE_BYTES} are allowed"
        )
    return Envelope(body, encoding, message.id, message.TYPE)


@overload
def decode(envelope: Envelope, expected: type[First], /) -> First: ...
@overload
def decode(envelope: Envelope, expected: type[First], other: type[Second], /) -> First | Second: ...
@overload
def decode(
    envelope: Envelope, expected: type[First], other: type[Second], third: type[Third], /
) -> First | Second | Third: ...
def decode(envelope: Envelope, *expected: type[Any]) -> Any:
    """The message in an envelope, checked field by field, of one of the ``expected`` types.

    Raises MessageError that says what is wrong and carries the fields that could be read.
    """
    return message_of(read_object(unpacked(envelope)), expected)


def message_of(content: dict[str, Any], expected: tuple[type[Any], ...]) -> Any:
    if content.get("v") != VERSION:
        raise MessageError(f"protocol version {content.get('v')!r}: this side speaks version {VERSION}", content)
    cls = _TYPES.get(str(content.get("type")))
    if cls is None or cls not in expected:
        raise MessageError(f"a message of type {content.get('type')!r} does not belong here", content)
    known = _FIELDS[cls]
    for name in content.keys() - known.keys() - {"v", "type"}:
        raise MessageError(f"unknown field {name!r} in a {cls.TYPE}: sent by a later version?", content)
    for name, spec in known.items():
        if name in content:
            try:
                spec.metadata["check"](content[name])
            except ValueError as error:
                raise MessageError(f"field {name!r} of a {cls.TYPE}: {error}", content) from None
        elif (spec.default is MISSING and spec.default_factory is MISSING) or name in ("id", "at"):
            raise MessageError(f"a {cls.TYPE} without the field {name!r}", content)
    if cls is Result and "value" not in content and content["status"] == OK:
        if content.get("digest") is None:
            raise MessageError("a result with neither a value nor a digest", content)
        content["value"] = OMITTED
    return cls(**{name: content[name] for name in known if name in content})


def unpacked(envelope: Envelope) -> bytes:
    if envelope.content_encoding is None and len(envelope.body) <= MAX_MESSAGE_BYTES:
        return envelope.body
    if envelope.content_encoding is None:
        raise MessageError(f"larger than {MAX_MESSAGE_BYTES} bytes")
    if envelope.content_encoding != "gzip":
        raise MessageError(f"content_encoding {envelope.content_encoding!r} is not known here")
    unpacker = zlib.decompressobj(wbits=31)
    try:
        body = unpacker.decompress(envelope.body, MAX_MESSAGE_BYTES)
    except zlib.error as error:
        raise MessageError(f"not gzip: {error}") from None
    if unpacker.unconsumed_tail:
        raise MessageError(f"larger than {MAX_MESSAGE_BYTES} bytes when unpacked")
    if not unpacker.eof:
        raise MessageError("the gzip data is cut short")
    if unpacker.unused_data:  # the end of the body would not tell its size: see Envelope.unpacked_bytes
        raise MessageError("there is something behind the gzip data")
    return body


def read_object(body: bytes) -> dict[str, Any]:
    try:
        content = parse(body)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not JSON in UTF-8: {error}") from None
    if not isinstance(content, dict):
        raise MessageError("not a JSON object")
    return content
