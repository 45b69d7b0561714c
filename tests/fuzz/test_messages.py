"""What comes over the wire: anybody who may publish can send anything."""

from __future__ import annotations

import dataclasses
import gzip
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.examples import ANYTHING, NASTY_TEXTS, fuzzed, mutated, towers, tried
from vogeler import messages
from vogeler.errors import MessageError
from vogeler.messages import (
    DECISIONS,
    STAGES,
    STATUSES,
    Command,
    Decision,
    Envelope,
    Heartbeat,
    Known,
    Message,
    Receipt,
    Result,
    Unread,
    decode,
    decode_stored,
    encode,
)

KNOWN = Known()
TYPES = (Command, Result, Heartbeat, Decision, Receipt)

IDS = st.from_regex(r"[A-Za-z0-9-]{1,64}", fullmatch=True)
NODES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", fullmatch=True)
KEYS = st.from_regex(r"[a-z][a-z .:@+-]{0,20}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
TIMES = st.datetimes().map(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0") + ".123Z")
SECONDS = st.floats(0, 1e8)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=10,
)
TARGETS = st.none() | st.dictionaries(st.sampled_from(["nodes", "groups"]), st.lists(TEXTS, max_size=3), min_size=1)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Command, TEXTS, TEXTS, TIMES, targets=TARGETS, splay_s=SECONDS, full=st.booleans(), id=IDS, at=TIMES
    ),
    st.builds(
        Result, NODES, TEXTS, KEYS, st.integers(), st.sampled_from(STATUSES), TIMES, SECONDS, run=st.none() | IDS,
        requested_by=st.none() | TEXTS, exit_code=st.none() | st.integers(), digest=st.none() | TEXTS,
        value=JSON_VALUES, error=st.none() | TEXTS, volatile=st.none() | st.lists(TEXTS, max_size=3), id=IDS, at=TIMES,
    ),
    st.builds(
        Heartbeat, NODES, st.fixed_dictionaries({"version": TEXTS, "started_at": TEXTS, "groups": st.lists(NODES)}),
        id=IDS, at=TIMES,
    ),
    st.builds(
        Decision, NODES, IDS, TEXTS, TEXTS, st.sampled_from(DECISIONS), reason=st.none() | TEXTS, key=st.none() | TEXTS,
        id=IDS, at=TIMES,
    ),
    st.builds(
        Receipt, IDS, NODES, st.sampled_from(STAGES), st.fixed_dictionaries({"key": TEXTS, "reason": st.none() | TEXTS}),
        id=IDS, at=TIMES,
    ),
)  # fmt: skip
BODIES = MESSAGES.map(lambda message: _unpacked(encode(message)))
ENCODINGS = st.sampled_from([None, "gzip", "deflate", "GZIP", "", "x" * 300])


def _unpacked(envelope: Envelope) -> bytes:
    return gzip.decompress(envelope.body) if envelope.content_encoding else envelope.body


def read(envelope: Envelope) -> Any:
    """The message in it, or None. What can be read can be written and read again, if it is UTF-8."""
    assert envelope.unpacked_bytes >= 0
    message: Any = tried(lambda: decode(envelope, *TYPES), MessageError)  # type: ignore[call-overload]
    if message is not None:
        again = tried(lambda: encode(message), MessageError)
        if again is None:
            assert "\\ud" in json.dumps(dataclasses.asdict(message))  # half a surrogate pair: JSON can hold it
        else:
            assert decode(again, *TYPES) == message  # type: ignore[call-overload]
        if envelope.content_encoding:
            assert envelope.unpacked_bytes == len(_unpacked(envelope))
    for known in (Known(), KNOWN, KNOWN):  # the value is new, and then known
        stored = tried(lambda known=known: decode_stored(envelope, known), MessageError)  # type: ignore[misc]
        assert stored is None if not isinstance(message, (Result, Heartbeat, Decision)) else _whole(stored) == message
    return message


def _whole(message: Any) -> Any:
    """With its value."""
    return messages.read(message) if isinstance(message, Result) else message


@fuzzed
@given(MESSAGES)
def test_what_is_sent_is_what_is_read(message: Message) -> None:
    assert read(encode(message)) == message


@fuzzed
@given(st.binary(max_size=200), ENCODINGS)
def test_any_bytes(body: bytes, encoding: str | None) -> None:
    read(Envelope(body, encoding))


@fuzzed
@given(mutated(BODIES, st.binary(max_size=6) | st.sampled_from([b"null", b"1e999", b"-0", b'"\\ud800"', b"[", b"{}"])))
def test_a_message_damaged_on_its_way(body: bytes) -> None:
    read(Envelope(body))
    read(Envelope(gzip.compress(body, 1), "gzip"))


@fuzzed
@given(mutated(BODIES.map(lambda body: gzip.compress(body, 1)), st.binary(max_size=6)))
def test_gzip_damaged_on_its_way(body: bytes) -> None:
    read(Envelope(body, "gzip"))


@fuzzed
@given(MESSAGES, st.dictionaries(NASTY_TEXTS, ANYTHING, max_size=1), st.data())
def test_a_message_with_any_value_in_any_field(message: Message, more: dict[str, Any], data: st.DataObject) -> None:
    content = {"v": 1, "type": message.TYPE, **dataclasses.asdict(message), **more}
    for name in data.draw(st.lists(st.sampled_from(sorted(content)), max_size=3)):
        content[name] = data.draw(ANYTHING)
    read(Envelope(json.dumps(content).encode()))


@fuzzed
@given(BODIES, towers(), st.data())
def test_towers_of_brackets_in_any_field(body: bytes, tower: str, data: st.DataObject) -> None:
    content = json.loads(body)
    content[data.draw(st.sampled_from(sorted(content)))] = "TOWER"
    read(Envelope(json.dumps(content).replace('"TOWER"', tower).encode()))


@fuzzed
@given(st.sampled_from(TYPES), ANYTHING)
def test_any_json(expected: type[Message], content: Any) -> None:
    body = json.dumps(content).encode()
    tried(lambda: decode(Envelope(body), expected), MessageError)


@fuzzed
@given(st.builds(Result, NODES, TEXTS, KEYS, st.integers(), st.just("ok"), TIMES, value=ANYTHING, error=NASTY_TEXTS))
def test_a_result_that_can_not_be_sent_is_a_message_error(result: Result) -> None:
    envelope = tried(lambda: encode(result), MessageError)
    if envelope is None:
        assert not _is_json(result.value) or not _is_json(result.error)


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return False
    return True


@fuzzed
@given(MESSAGES.filter(lambda message: isinstance(message, Result)), st.data())
def test_fields_that_look_like_the_value_are_not_taken_for_it(message: Message, data: st.DataObject) -> None:
    body = _unpacked(encode(message))
    piece = st.sampled_from([
        b',"value":', b',"id":', b'"value":1,', b',"value":null', b',"id":null', b'"value"', b",", b"null", b'{"a":1',
        b"}", b'"',
    ])  # fmt: skip
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.sampled_from([n for n, byte in enumerate(body) if byte in b',"{}:'] or [0]))
        body = body[:place] + data.draw(piece) + body[place + data.draw(st.integers(0, 1)) :]
    read(Envelope(body))


def test_a_value_that_came_before_is_not_read_again() -> None:
    value = {"a": [1.5, "ü", "\ud800"], "value": None, "error": {"error": 3}}
    known = Known(most=1)
    first, again = (Result("web01", "x", "k", seq, "ok", "2026-01-31T08:00:00.000Z", value=value) for seq in (1, 2))
    fields = [{name: item for name, item in vars(result).items() if item is not None} for result in (first, again)]
    bodies = [
        Envelope(json.dumps({"v": 1, "type": "result", **content}, separators=(",", ":")).encode())
        for content in fields
    ]
    assert decode_stored(bodies[0], known) == first
    stored = decode_stored(bodies[1], known)
    assert isinstance(stored, Result)
    assert isinstance(stored.value, Unread)
    assert messages.read(stored) == again
    assert decode_stored(encode(dataclasses.replace(again, value=1)), known).value == 1  # type: ignore[union-attr]
    assert decode_stored(bodies[1], known) == again
