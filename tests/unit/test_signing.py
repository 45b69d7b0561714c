"""Keys, signatures, whom to trust, and which commands were done: what the parts promise by themselves."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from vogeler import policy, signing
from vogeler.errors import ConfigError, MessageError, UsageError
from vogeler.gate import Gate
from vogeler.messages import Command, Envelope, encode, new_id
from vogeler.seen import Seen
from vogeler.signing import PrivateKey, PublicKey, TrustedKeys
from vogeler.units import to_timestamp
from vogeler.watched import lines_of

# RFC 8032, 7.1, test 1: the secret key and the public one.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
ALICE = PrivateKey("alice", SEED)
BODY = Envelope(b'{"v":1}', None, "id", "command")


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    file = tmp_path / "trusted"
    file.write_text(f"# who may\n\n{ALICE.public().line}  # on call\n")
    return file


def command(**changes: object) -> Command:
    fields = {"alias": "facts", "requested_by": "alice", "expires_at": to_timestamp(time.time() + 60), **changes}
    return Command(**fields)  # type: ignore[arg-type]


def why(keys: TrustedKeys, envelope: Envelope, purpose: str = "command") -> str:
    with pytest.raises(MessageError) as caught:
        keys.owner(envelope, purpose)
    return caught.value.message


def test_a_key_is_that_of_the_standard() -> None:
    assert ALICE.public() == PublicKey("alice", PUBLIC)


def test_a_signature_is_what_is_documented(trusted: Path) -> None:
    """The example of docs/formats.rst: should it change, no older client would take a command of a newer runner."""
    signed = ALICE.sign(BODY, "command")
    assert signed == replace(BODY, signature=signed.signature)
    assert signed.signature == (
        "v1 21fe31dfa154a261 "
        "1Sxz8lShNJ9qdGPeyW7TenB2mN3jPo55eQuRp4eJF77bQc2W7tGwhs/7+sv7GT1BTIi/MtkX3ePdeCbydmnvAQ=="
    )  # fmt: skip
    assert TrustedKeys(trusted).owner(signed, "command").name == "alice"


@pytest.mark.parametrize(
    ("changes", "purpose", "reason"),
    [
        ({"signature": None}, "command", "not signed"),
        ({"body": b'{"v":2}'}, "command", "changed, or forged"),
        ({"content_encoding": "gzip"}, "command", "changed, or forged"),
        ({}, "result", "changed, or forged"),
        ({"signature": "v2 0123456789abcdef AAAA"}, "command", "not of the kind known here"),
        ({"signature": "v1 0123456789abcdef AAAA"}, "command", "not the base64 of 64 bytes"),
    ],
)
def test_what_was_not_signed_so_has_no_owner(
    trusted: Path, changes: dict[str, object], purpose: str, reason: str
) -> None:
    envelope = replace(ALICE.sign(BODY, "command"), **changes)  # type: ignore[arg-type]
    assert reason in why(TrustedKeys(trusted), envelope, purpose)


def test_a_signature_says_whose_it_is_only_under_the_id_of_its_own_key(trusted: Path) -> None:
    mallory = signing.new("mallory")
    signature = mallory.sign(BODY, "command").signature or ""
    assert f"the key {mallory.public().id}, which is not in" in why(
        TrustedKeys(trusted), replace(BODY, signature=signature)
    )
    renamed = signature.replace(mallory.public().id, ALICE.public().id)
    assert "changed, or forged" in why(TrustedKeys(trusted), replace(BODY, signature=renamed))


def test_base64_is_written_in_one_way_only(trusted: Path) -> None:
    """Else one signature would have several texts."""
    head, _, base64 = (ALICE.sign(BODY, "command").signature or "").rpartition(" ")
    for other in (base64.rstrip("="), base64 + "\n", f" {base64}", base64[:-3] + chr(ord(base64[-3]) + 1) + "=="):
        assert why(TrustedKeys(trusted), replace(BODY, signature=f"{head} {other}"))


def test_a_key_is_trusted_until_it_expires(trusted: Path) -> None:
    envelope = ALICE.sign(BODY, "command")
    keys = TrustedKeys(trusted)
    for delta_s, expired in ((60, False), (-1, True)):
        key = replace(ALICE.public(), expires_at=to_timestamp(time.time() + delta_s))
        trusted.write_text(key.line + "\n")
        if expired:
            assert "has expired at" in why(keys, envelope)
        else:
            assert keys.owner(envelope, "command") == key


def test_a_file_that_was_changed_counts_at_once_however_it_was_changed(trusted: Path, tmp_path: Path) -> None:
    keys, envelope = TrustedKeys(trusted), ALICE.sign(BODY, "command")
    assert keys.owner(envelope, "command")
    trusted.write_text("")
    assert "which is not in" in why(keys, envelope)
    (tmp_path / "anew").write_text(ALICE.public().line)
    (tmp_path / "anew").replace(trusted)
    assert keys.owner(envelope, "command")
    trusted.unlink()
    assert "can't be read" in why(keys, envelope)
    trusted.write_text(ALICE.public().line)
    assert keys.owner(envelope, "command")


def test_two_changes_within_a_tick_of_the_clock_both_count(trusted: Path) -> None:
    """Of the same length, and with the same times where the file system's clock has not gone on."""
    keys, bob = TrustedKeys(trusted), signing.new("robin")
    for _ in range(50):
        for key in (ALICE, bob):
            trusted.write_text(key.public().line)
            assert keys.owner(key.sign(BODY, "command"), "command").name == key.name


def test_a_file_with_an_error_trusts_nobody_and_says_where(trusted: Path) -> None:
    """Not what it said before either: that may be what was to be taken out."""
    keys, envelope = TrustedKeys(trusted), ALICE.sign(BODY, "command")
    trusted.write_text(f"{ALICE.public().line}\nbob ed25519:short\n")
    assert f"{trusted}, line 2: the key is not the base64 of 32 bytes" in why(keys, envelope)
    with pytest.raises(ConfigError, match="line 2"):
        TrustedKeys(trusted)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("alice", "a line is: NAME"),
        (f"al/ice {ALICE.public().text}", "not the name of a key"),
        (f"alice {ALICE.public().text} alias=a", "a line is: NAME"),
        (f"alice {ALICE.public().text} aliases=", "a line is: NAME"),
        (f"alice {ALICE.public().text} aliases=,", "names none"),
        (f"alice {ALICE.public().text} aliases=a aliases=b", "a line is: NAME"),
        (f"alice {ALICE.public().text} expires=tomorrow", "not a UTC timestamp"),
        (f"{ALICE.public().line}\nbob {ALICE.public().text}", "line 2: this key is there already, of alice"),
    ],
)
def test_a_line_that_is_none_says_what_is_wrong(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        signing.parse_keys(line)


def test_a_line_is_read_as_it_is_written() -> None:
    key = replace(ALICE.public(), aliases=("rpms", "os*"), expires_at="2030-01-01T00:00:00.000Z")
    assert signing.parse_public(key.line) == key
    assert list(signing.parse_keys(f"\n# no\n{key.line} # alice's\n").values()) == [key]


def test_the_line_that_is_wrong_is_counted_with_the_comments_before_it() -> None:
    with pytest.raises(ValueError, match="line 4: "):
        signing.parse_keys(f"# no\n{ALICE.public().line}\n# no\nbob\n")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a b # c\n\n  # d\n\te\t#f\n#", [(1, "a b "), (4, "\te\t")]),
        ("a#1 b,#2 c=#3", [(1, "a#1 b,#2 c=#3")]),
        ("""a "b # c" 'd # e',"#" # f""", [(1, """a "b # c" 'd # e',"#" """)]),
        ("""a bob's # that's "all""", [(1, "a bob's ")]),
        ('a "b # c', [(1, 'a "b ')]),
    ],
)
def test_a_comment_begins_with_a_word_and_not_inside_one_or_in_quotes(text: str, lines: list[tuple[int, str]]) -> None:
    assert list(lines_of(text)) == lines


def test_a_policy_and_trusted_keys_have_the_same_comments() -> None:
    assert policy.parse("bob@c#1 os*,c# # all\n[#]* facts #\n") == [
        policy.Rule("bob@c#1", ("os*", "c#")),
        policy.Rule("[#]*", ("facts",)),
    ]
    with pytest.raises(ValueError, match="line 1: a rule is: "):
        policy.parse('bob "a # b"\n')
    key = replace(ALICE.public(), aliases=("os*", "c#"))
    assert list(signing.parse_keys(f"{key.line} # hers\n").values()) == [key]


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o666])
def test_trusted_keys_that_others_may_write_are_not_trusted(trusted: Path, mode: int) -> None:
    trusted.chmod(mode)
    with pytest.raises(ConfigError, match="open to others"):
        TrustedKeys(trusted)


def test_a_private_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "alice.key"
    signing.save(ALICE, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signing.load(path) == ALICE
    assert "9d61" not in repr(ALICE)
    assert "\\x9d" not in repr(ALICE)
    with pytest.raises(ConfigError, match="exists"):
        signing.save(ALICE, path)
    for mode in (0o640, 0o604, 0o610):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="open to others"):
            signing.load(path)


def test_an_error_never_quotes_a_private_key(tmp_path: Path) -> None:
    path = tmp_path / "alice.key"
    signing.save(ALICE, path)
    text = path.read_text()
    secret = text.split(":")[-1].strip()
    path.write_text(text.replace("ed25519-private:", "ed25519-private: "))
    with pytest.raises(ConfigError) as caught:
        signing.load(path)
    assert secret not in f"{caught.value.message} {caught.value.remedy}"


def test_what_is_no_file_of_this_user_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError):
            signing.load(path)


def test_a_name_that_can_not_be_one_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="not the name of a key"):
        signing.new("al ice")


# --- the gate ------------------------------------------------------------------------------------


def test_a_command_says_who_asks_as_the_key_does(trusted: Path) -> None:
    gate = Gate(TrustedKeys(trusted))
    asked = command(requested_by="bob")
    with pytest.raises(MessageError, match="requested by 'bob', but signed by alice"):
        gate.check(asked, ALICE.sign(encode(asked), "command"))
    assert gate.check(command(), ALICE.sign(encode(command()), "command")) == ALICE.public()


def test_a_gate_without_keys_lets_everything_in_and_remembers_nothing() -> None:
    gate = Gate()
    assert gate.check(command(), encode(command())) is None
    gate.done(command(id="run"))
    assert not gate.is_done(command(id="run"))


# --- what was done -------------------------------------------------------------------------------


def test_what_was_done_is_known_to_the_next_process_with_full_apart(tmp_path: Path) -> None:
    later = to_timestamp(time.time() + 60)
    Seen(tmp_path / "state" / "seen", 300).add(("run-1", False), later)
    again = Seen(tmp_path / "state" / "seen", 300)
    assert ("run-1", False) in again
    assert ("run-1", True) not in again
    assert not again.forgets(later)


def test_a_line_that_was_cut_short_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    later = to_timestamp(time.time() + 60)
    Seen(path, 300).add(("run-1", False), later)
    with path.open("a") as file:
        file.write("2026-01-01T00:00")
    Seen(path, 300).add(("run-2", True), later)
    assert {("run-1", False), ("run-2", True)} <= Seen(path, 300)._done.keys()


def test_what_has_expired_leaves_the_file_and_is_not_taken_again_when_the_clock_goes_back(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    seen = Seen(path, 0)
    past, later = to_timestamp(time.time() - 60), to_timestamp(time.time() + 600)
    seen.add(("kept", False), later)
    size = 0
    for _ in range(1500):
        seen.add((new_id(), False), past)
        size = max(size, path.stat().st_size)
    assert path.stat().st_size < size
    for known in (seen, Seen(path, 0)):
        assert ("kept", False) in known
        assert known.forgets(past)
        assert not known.forgets(later)


def test_a_state_that_can_not_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="signed commands"):
        Seen(tmp_path / "file" / "seen", 300)
