"""What is encoded comes back equal; whatever else arrives is refused with its reason, never half understood."""

from __future__ import annotations

import gzip
import json
import random
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vogeler.errors import MOST_CHARACTERS, MessageError
from vogeler.messages import (
    MAX_MESSAGE_BYTES,
    OMITTED,
    Command,
    Decision,
    Envelope,
    Heartbeat,
    Receipt,
    Result,
    canonical_json,
    check_key,
    check_node_name,
    decode,
    digest_of,
    encode,
    new_id,
)

NOW = "2026-01-31T08:00:00.000Z"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def command(**changes: Any) -> bytes:
    content = {
        "v": 1,
        "type": "command",
        "id": "r",
        "at": NOW,
        "alias": "rpms",
        "requested_by": "a@b",
        "expires_at": NOW,
    }
    content.update(changes)
    return json.dumps({name: value for name, value in content.items() if value is not ...}).encode()


@given(JSON)
def test_a_result_with_any_json_value_survives_the_wire(value: Any) -> None:
    result = Result("web01", "rpms", "rpm", 7, "ok", NOW, value=value, digest=digest_of(value), run="r")
    assert decode(encode(result), Result) == result


def test_a_value_that_is_left_out_is_told_from_one_that_is_null() -> None:
    digest = digest_of(None)
    null = Result("web01", "rpms", "rpm", 7, "ok", NOW, value=None, digest=digest)
    omitted = Result("web01", "rpms", "rpm", 7, "ok", NOW, value=OMITTED, digest=digest)
    assert decode(encode(null), Result).value is None
    assert decode(encode(omitted), Result).value is OMITTED
    assert decode(encode(Result("web01", "rpms", "rpm", 7, "failed", NOW, error="no")), Result).value is None


def test_a_value_that_is_left_out_has_a_digest() -> None:
    with pytest.raises(MessageError, match="neither a value nor a digest"):
        decode(encode(Result("web01", "rpms", "rpm", 7, "ok", NOW, value=OMITTED)), Result)


def test_a_result_without_its_value_is_small() -> None:
    """With names as long as they are in the world; what AMQP adds are some 170 bytes.

    Some ids and digests are compressed better than others: many are looked at, the same each time.
    """
    about = {"requested_by": "alice@operations01.example.org", "exit_code": 0, "duration_s": 0.187}
    chance = random.Random(1)
    sizes = []
    for _ in range(1000):
        now = 0x01A2009A47AE << 80  # where an id has its time
        ids = {name: str(uuid.UUID(int=now | chance.getrandbits(80), version=4)) for name in ("run", "id")}
        digest = "sha256:" + chance.randbytes(32).hex()
        result = Result("web-frontend-01.example.org", "packages", "packages", 1795260662943104, "ok", NOW, **about)
        sizes.append(
            len(encode(replace(result, **ids, at="2026-01-31T08:00:00.187Z", digest=digest, value=OMITTED)).body)
        )
    assert max(sizes) < 320


@pytest.mark.parametrize(
    "message",
    [
        Command("rpms", "alice@ops1", NOW, {"nodes": ["web*"], "groups": ["jboss"]}, 10.0, True),
        Heartbeat("web01", {"version": "0.1.0", "plugins": []}),
        Decision("web01", "run", "rpms", "alice", "refused", "not here", "0123456789abcdef"),
        Receipt("run", "web01", "stored", {"key": "rpm"}),
    ],
)
def test_every_message_survives_the_wire(message: Any) -> None:
    assert decode(encode(message), type(message)) == message


def test_only_long_messages_are_compressed() -> None:
    short, long = encode(Receipt("r", "n", "stored")), encode(Result("n", "a", "k", 1, "ok", NOW, value="x" * 5000))
    assert short.content_encoding is None
    assert long.content_encoding == "gzip"
    assert len(long.body) < 1000


def test_what_is_larger_than_may_be_sent_is_refused_here_not_by_the_broker() -> None:
    noise = random.Random(1).randbytes(9 * 1024 * 1024).hex()  # compresses to half
    with pytest.raises(MessageError, match="unpacked|bytes"):
        encode(Result("n", "a", "k", 1, "ok", NOW, value="x" * (MAX_MESSAGE_BYTES + 1)))
    assert encode(Result("n", "a", "k", 1, "ok", NOW, value=noise)).content_encoding == "gzip"
    with pytest.raises(MessageError, match="compressed"):
        encode(Result("n", "a", "k", 1, "ok", NOW, value=noise * 3))


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"\xff\xfe", "not JSON in UTF-8"),
        (b"", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (command(splay_s=float("nan")), "NaN"),
        (command(v=2), "protocol version 2"),
        (command(v=...), "protocol version None"),
        (command(type="order"), "'order' does not belong here"),
        (command(type="receipt"), "'receipt' does not belong here"),
        (command(only_if="load < 3"), "unknown field 'only_if'"),
        (command(alias=...), "without the field 'alias'"),
        (command(id=...), "without the field 'id'"),
        (command(alias=""), "'alias'"),
        (command(expires_at="tomorrow"), "'expires_at'"),
        (command(splay_s=-1), "'splay_s'"),
        (command(targets=["web01"]), "'targets'"),
        (command(targets={"hosts": ["web01"]}), "'targets'"),
        (command(targets={"nodes": ["[" * 5000]}), "'targets'"),
        (command(at="٢٠٢٦-01-31T08:00:00.000Z"), "'at'"),
        (command(splay_s=1).replace(b'"splay_s": 1', b'"splay_s": 1e999'), "beyond what a double holds"),
        (command(full=1), "'full'"),
    ],
)
def test_what_is_not_a_command_is_refused_with_the_reason(body: bytes, complaint: str) -> None:
    with pytest.raises(MessageError, match=complaint):
        decode(Envelope(body), Command)


def test_a_refusal_quotes_a_part_of_what_was_sent() -> None:
    for changes in ({"v": "x" * 10**6}, {"x" * 10**6: 1}, {"type": "\ud800" * 5000}):
        with pytest.raises(MessageError) as caught:
            decode(Envelope(command(**changes)), Command)
        assert len(caught.value.message) <= MOST_CHARACTERS
        caught.value.message.encode()


def test_a_refused_message_still_tells_whom_to_answer() -> None:
    with pytest.raises(MessageError) as caught:
        decode(Envelope(command(v=2)), Command)
    assert caught.value.fields["id"] == "r"


@pytest.mark.parametrize(
    ("envelope", "complaint"),
    [
        (Envelope(b"{}", "zstd"), "content_encoding 'zstd'"),
        (Envelope(b"{}", "gzip"), "not gzip"),
        (Envelope(gzip.compress(b"{}" * 999)[:-20], "gzip"), "cut short"),
        (Envelope(gzip.compress(b"{}") + b"\0\0\0\0", "gzip"), "behind the gzip data"),
        (Envelope(gzip.compress(b"{}") + gzip.compress(b"{}"), "gzip"), "behind the gzip data"),
    ],
)
def test_bad_compression_is_refused(envelope: Envelope, complaint: str) -> None:
    with pytest.raises(MessageError, match=complaint):
        decode(envelope, Command)


def test_what_is_too_large_is_refused_and_a_bomb_is_not_unpacked() -> None:
    body = b" " * (MAX_MESSAGE_BYTES + 10)
    for envelope in (Envelope(body), Envelope(gzip.compress(body), "gzip")):
        with pytest.raises(MessageError, match="larger than"):
            decode(envelope, Command)


@given(st.binary(), st.sampled_from([None, "gzip", "br"]))
def test_any_bytes_are_a_message_or_a_message_error(body: bytes, encoding: str | None) -> None:
    with pytest.raises(MessageError):
        decode(Envelope(body, encoding), Command)


@given(st.dictionaries(st.text(), st.integers(), min_size=1))
def test_the_same_facts_in_another_order_have_the_same_digest(value: dict[str, int]) -> None:
    assert digest_of(dict(reversed(list(value.items())))) == digest_of(value)


def test_canonical_json_is_sorted_and_tight() -> None:
    assert canonical_json({"b": [1, "ü"], "a": None}) == '{"a":null,"b":[1,"ü"]}'


@pytest.mark.parametrize("name", ["web01", "db-1.example.com", "0", "A_b", "x" * 253])
def test_node_names(name: str) -> None:
    check_node_name(name)


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "-n", "_users", "a b", "ä", "x" * 254, "a\n", None, 5])
def test_what_is_no_node_name(name: object) -> None:
    with pytest.raises(ValueError, match="is not a node name"):
        check_node_name(name)


@pytest.mark.parametrize(
    "key", ["system_name", "created_at", "updated_at", "last_error", "vogeler", "_id", "_rev", "", "a/b"]
)
def test_keys_that_a_plugin_may_not_have(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        check_key(key)


def test_ids_are_version_7_uuids_that_sort_by_time() -> None:
    ids = [uuid.UUID(new_id()) for _ in range(50)]
    assert {(identity.version, identity.variant) for identity in ids} == {(7, uuid.RFC_4122)}
    assert len(set(ids)) == 50
    assert [identity.int >> 80 for identity in ids] == sorted(identity.int >> 80 for identity in ids)


@pytest.mark.parametrize("volatile", ["uptime", [""], [3], {}, ["\ud800"]])
def test_volatile_paths_are_a_list_of_texts(volatile: Any) -> None:
    envelope = encode(Result("web01", "system", "system", 7, "ok", NOW, volatile=["uptime", "disks.*.free"]))
    assert decode(envelope, Result).volatile == ["uptime", "disks.*.free"]
    content = {**json.loads(gzip.decompress(envelope.body)), "volatile": volatile}
    with pytest.raises(MessageError, match="'volatile'"):
        decode(Envelope(json.dumps(content).encode()), Result)


@pytest.mark.parametrize("offset", range(0, 90, 7))
@pytest.mark.parametrize("number", [10**308, -(10**308), 10**309, -(10**400)])
def test_an_integer_beyond_a_double_is_refused_wherever_it_is(offset: int, number: int) -> None:
    """CouchDB can't take it. Digits in a text are a text, and what a double holds is a number."""
    sent = Result("web01", "a", "k", 1, "ok", "2026-01-31T08:00:00.000Z")
    for before in ("x" * offset, [7] * offset):
        envelope = encode(replace(sent, value={"a": before, "b": [number], "c": "9" * 2000}))
        if abs(number) < 10**309:
            assert decode(envelope, Result).value["b"] == [number]
        else:
            with pytest.raises(MessageError, match="beyond what a double holds"):
                decode(envelope, Result)
