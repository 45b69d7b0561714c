"""Keys, signatures and policies: any text is read, or refused in words; what is read is written the same."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.examples import NASTY_TEXTS, fuzzed, mutated, tried
from vogeler import policy, signing
from vogeler.errors import ConfigError, MessageError
from vogeler.messages import Envelope
from vogeler.signing import PrivateKey, PublicKey, TrustedKeys

ALICE = PrivateKey("alice", bytes(range(32)))
SIGNED = ALICE.sign(Envelope(b'{"v":1,"type":"command"}', None, "one", "command"), "command")
SIGNATURE = SIGNED.signature or ""
PIECES = st.sampled_from(
    [" ", "=", "#", ":", ",", "\n", "\r", "\u2028", "\x00", "A", "/", "é", "ed25519", "expires=", "*", "[", "v1"]
)
LINES = mutated(
    st.just(f"# keys\n{ALICE.public().line} aliases=a,b* expires=2099-01-01T00:00:00.000Z # hers\n"), PIECES
)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,20}", fullmatch=True)
GLOBS = st.lists(st.from_regex(r"[a-z*?\[\]!-]{1,8}", fullmatch=True), max_size=3).map(tuple)


FOLDER = tempfile.TemporaryDirectory()


def written(text: str, name: str = "tried") -> Path:
    file = Path(FOLDER.name, name)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    return file


@fuzzed
@given(LINES | NASTY_TEXTS)
def test_a_file_of_keys_is_read_or_refused_with_its_line(text: str) -> None:
    keys = tried(lambda: TrustedKeys(written(text)), ConfigError)
    for key in keys.all() if keys else ():
        assert signing.parse_public(key.line) == key
        assert len(key.raw) == 32


@fuzzed
@given(NAMES, st.binary(min_size=32, max_size=32), GLOBS, st.none() | st.just("2099-01-01T00:00:00.000Z"))
def test_a_key_that_is_written_is_read_as_the_same(
    name: str, raw: bytes, aliases: tuple[str, ...], expires_at: str | None
) -> None:
    key = PublicKey(name, raw, aliases, expires_at)
    assert list(signing.parse_keys(key.line).items()) == [(key.id, key)]


@fuzzed
@given(mutated(st.just(f"alice ed25519-private:{'A' * 43}=\n"), PIECES) | NASTY_TEXTS)
def test_a_private_key_is_read_or_refused_without_a_word_of_it(text: str) -> None:
    refused = ""
    try:
        signing.parse_private(text)
    except ValueError as error:
        refused = str(error)
    assert "A" * 20 not in refused


@fuzzed
@given(mutated(st.just(SIGNATURE), PIECES) | NASTY_TEXTS)
def test_a_signature_with_any_change_is_none(text: str) -> None:
    keys = TrustedKeys(TRUSTED)
    owner = tried(lambda: keys.owner(replace(SIGNED, signature=text), "command"), MessageError)
    assert (owner is None) == (text != SIGNATURE)


@fuzzed
@given(st.binary(max_size=64) | mutated(st.just(SIGNED.body), st.sampled_from([b" ", b"1", b"\x00", b"}"])))
def test_a_body_with_any_change_is_not_what_was_signed(body: bytes) -> None:
    owner = tried(lambda: TrustedKeys(TRUSTED).owner(replace(SIGNED, body=body), "command"), MessageError)
    assert (owner is None) == (body != SIGNED.body)


@pytest.mark.parametrize("position", range(len(SIGNED.body)))
def test_every_byte_of_a_command_is_signed(position: int) -> None:
    body = bytearray(SIGNED.body)
    body[position] ^= 1
    with pytest.raises(MessageError):
        TrustedKeys(TRUSTED).owner(replace(SIGNED, body=bytes(body)), "command")


@fuzzed
@given(mutated(st.just("alice rpms,os* web*\n* facts # all\n"), PIECES) | NASTY_TEXTS)
def test_a_policy_is_read_or_refused_and_then_answers(text: str) -> None:
    rules = tried(lambda: policy.Policy(written(text)), ConfigError)
    if rules is not None:
        tried(lambda: rules.objection("alice", ("rpms",), "web01"), ConfigError)


TRUSTED = written(ALICE.public().line + "\n", "trusted")
