"""Sealed values: any value is opened as it was, with any change it is not, and whatever is there is refused in words."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.examples import NASTY_TEXTS, SCALARS, fuzzed, mutated, tried
from tests.fuzz.test_keys import PIECES, written
from vogeler import sealing
from vogeler.errors import ConfigError
from vogeler.messages import canonical_json
from vogeler.sealed import brief, is_sealed
from vogeler.sealing import Reader, ReaderKey, Readers, parse_reader, seal, unseal

ALICE, BOB = ReaderKey("alice", bytes(range(32))), ReaderKey("bob", bytes(range(1, 33)))
PLACE = ("web01", "app", "app.password")
VALUES = st.recursive(SCALARS, lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=5), some))
JSON = VALUES.filter(lambda value: _is_json(value))


def _is_json(value: Any) -> bool:
    try:
        canonical_json(value)
    except ValueError:
        return False
    return True


def sealed(plain: Any, *keys: ReaderKey) -> dict[str, Any]:
    return seal(b"0123456789abcdef", [key.public() for key in keys or (ALICE,)], PLACE, plain)


def text_of(made: dict[str, Any]) -> bytes:
    return base64.b64decode(made["for"]["alice"][ALICE.public().id])


HOSTILE = st.recursive(
    SCALARS | NASTY_TEXTS | mutated(st.just(sealed("x")["for"]["alice"][ALICE.public().id]), st.sampled_from("A=/ é")),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.sampled_from([ALICE.public().id, "alice", "x"]), some),
)


@fuzzed
@given(JSON)
def test_who_has_the_key_reads_what_was_sealed_and_nobody_else(plain: Any) -> None:
    made = json.loads(json.dumps(sealed(plain, ALICE, BOB)))
    assert is_sealed(made)
    for own in (ALICE, BOB):
        assert canonical_json(unseal([own], PLACE, made)) == canonical_json(plain)
    with pytest.raises(sealing.ForOthers, match="alice, bob"):
        unseal([sealing.new("alice")], PLACE, made)


@fuzzed
@given(JSON, JSON)
def test_the_same_value_is_the_same_and_another_is_another(one: Any, other: Any) -> None:
    same = canonical_json(one) == canonical_json(other)
    made, again = sealed(one), sealed(other)
    assert (made == again) == same
    assert (made["digest"] == again["digest"]) == same
    if not same:  # never the same key for two texts: the ephemeral public keys differ
        assert text_of(made)[:32] != text_of(again)[:32]


@fuzzed
@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=5000))
def test_a_length_says_little(plain: str) -> None:
    """Texts of up to 126 characters are all one; longer ones are longer by at most an eighth, or 127 bytes."""
    size = len(text_of(sealed(plain))) - 32 - 16
    step = max(128, 1 << (len(plain) + 2).bit_length() - 4 if len(plain) > 100 else 0)
    assert size % step == 0
    assert len(plain) + 2 <= size < len(plain) + 2 + step
    assert step == 128 or step <= (len(plain) + 2) / 8


@fuzzed
@given(st.data())
def test_with_any_change_of_a_byte_it_is_not_opened(data: st.DataObject) -> None:
    raw = bytearray(text_of(sealed("x")))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    made = sealed("x")
    made["for"]["alice"][ALICE.public().id] = base64.b64encode(raw).decode()
    with pytest.raises(ValueError, match="changed"):
        unseal([ALICE], PLACE, made)


@fuzzed
@given(HOSTILE, HOSTILE, st.dictionaries(st.sampled_from(["alice", "bob", "\x1b[2J", ""]), HOSTILE, max_size=3))
def test_whatever_is_there_is_refused_in_words(version: Any, digest: Any, readers: dict[str, Any]) -> None:
    for head in (version, "v1"):
        for what in (digest, sealed("x")["digest"]):
            made = {"sealed": head, "digest": what, "for": readers}
            assert is_sealed(made)
            assert isinstance(brief(made), str)
            with contextlib.suppress(ValueError, sealing.ForOthers):
                assert unseal([ALICE], PLACE, made) == "x"


@fuzzed
@given(st.binary(min_size=32, max_size=32), st.lists(st.from_regex(r"[a-z*?]{1,8}", fullmatch=True), max_size=3))
def test_a_line_that_is_written_is_read_as_the_same(raw: bytes, keys: list[str]) -> None:
    reader = Reader("alice", raw, tuple(keys))
    assert parse_reader(reader.line) == reader


@fuzzed
@given(mutated(st.just(f"# who\n{ALICE.public().line} keys=a,b* # hers\n"), PIECES) | NASTY_TEXTS)
def test_a_file_of_readers_is_read_or_refused_with_its_line(text: str) -> None:
    found = tried(lambda: Readers(written(text, "readers")).all(), ConfigError)
    for reader in found or ():
        assert parse_reader(reader.line) == reader


@fuzzed
@given(mutated(st.just(f"alice x25519-private:{'A' * 43}=\n"), PIECES) | NASTY_TEXTS)
def test_a_private_key_of_a_reader_is_read_or_refused_without_a_word_of_it(text: str) -> None:
    file = written(text, "reader.key")
    file.chmod(0o600)
    refused = ""
    try:
        sealing.load(file)
    except ConfigError as error:
        refused = str(error)
    assert "A" * 20 not in refused
