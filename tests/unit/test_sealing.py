"""Sealed values: what is promised to those who have the key, and to those who have not."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vogeler import sealing
from vogeler.errors import ConfigError, PluginError, UsageError
from vogeler.redact import keyed_digest
from vogeler.sealed import brief, is_sealed, walked
from vogeler.sealing import Place, Reader, ReaderKey, Readers, Sealing, seal, unseal

SECRET = b"0123456789abcdef"
ALICE = ReaderKey("alice", bytes(range(32)))
# RFC 7748, 6.1: Bob's keys.
BOB = ReaderKey("bob", bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
BOBS_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
PLACE: Place = ("web01", "app", "app.password")


def sealed(plain: Any, *keys: ReaderKey, place: Place = PLACE, secret: bytes = SECRET) -> dict[str, Any]:
    return seal(secret, [key.public() for key in keys or (ALICE,)], place, plain)


def text_of(made: dict[str, Any], key: ReaderKey = ALICE) -> bytes:
    return base64.b64decode(made["for"][key.name][key.public().id])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "redact.key").write_bytes(SECRET)
    (tmp_path / "redact.key").chmod(0o600)
    (tmp_path / "readers").write_text(f"# who may\n{ALICE.public().line}\n{BOB.public().line} keys=app*,users  # dba\n")
    return tmp_path


def node(folder: Path, *paths: str, name: str = "web01") -> Sealing:
    return Sealing(name, folder / "redact.key", Readers(folder / "readers"), paths)


# --- what is sealed ---------------------------------------------------------------------------------


def test_a_key_is_that_of_the_standard() -> None:
    assert BOB.public() == Reader("bob", BOBS_PUBLIC)


def test_a_sealed_value_is_what_is_documented() -> None:
    """Made once more by hand, from docs/formats.rst alone."""
    import hashlib
    import hmac

    plain, own = b'"T0p-secret"', BOB.public()
    digest = "sealed:" + hmac.new(SECRET, plain, "sha256").hexdigest()[:32]
    key = base64.b64encode(BOBS_PUBLIC).decode()
    about = json.dumps(["vogeler seal v1", *PLACE, "bob", key, digest], separators=(",", ":")).encode()
    padded = plain + b" " * (128 - len(plain))
    secret = hmac.new(SECRET, b"vogeler seal v1", "sha256").digest()
    scalar = hmac.new(secret, len(about).to_bytes(8, "big") + about + padded, "sha256").digest()
    ephemeral = X25519PrivateKey.from_private_bytes(scalar)
    public = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(BOBS_PUBLIC))
    info = b"vogeler seal v1" + public + BOBS_PUBLIC
    cipher = ChaCha20Poly1305(HKDF(SHA256(), 32, salt=None, info=info).derive(shared))
    text = base64.b64encode(public + cipher.encrypt(bytes(12), padded, about)).decode()
    assert own.id == hashlib.sha256(BOBS_PUBLIC).hexdigest()[:16]
    assert sealed("T0p-secret", BOB) == {"sealed": "v1", "digest": digest, "for": {"bob": {own.id: text}}}


def test_the_example_in_the_documents_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs/formats.rst").read_text("utf-8")
    shown = page.split("Sealed values\n~~~")[1].split(".. code-block:: json\n\n")[1].split("\n\n")[0]
    assert json.loads(shown) == sealed("T0p-secret", BOB)


@pytest.mark.parametrize(
    "changes",
    [{"place": ("web02", *PLACE[1:])}, {"place": ("web01", "app2", "app.password")},
     {"place": ("web01", "app", "app.password2")}, {"secret": b"another secret.."}],
)  # fmt: skip
def test_the_same_value_elsewhere_has_another_key(changes: dict[str, Any]) -> None:
    assert text_of(sealed("x"))[:32] != text_of(sealed("x", **changes))[:32]


def test_the_order_of_keys_and_of_readers_means_nothing() -> None:
    assert sealed({"a": 1, "b": 2}, ALICE, BOB) == sealed({"b": 2, "a": 1}, BOB, ALICE)


def test_the_digest_is_that_of_redact() -> None:
    assert sealed([1, "x"])["digest"] == f"sealed:{keyed_digest(SECRET, [1, 'x'])}"


# --- what somebody makes of it -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", [("web02", "app", "app.password"), ("web01", "app2", "app.password"), ("web01", "app", "app.passwort")]
)
def test_what_was_moved_is_not_opened(place: Place) -> None:
    with pytest.raises(ValueError, match="sealed at another place"):
        unseal([ALICE], place, sealed("x"))


def test_what_is_given_out_as_another_readers_is_not_opened() -> None:
    made = sealed("x")
    made["for"] = {"bob": made["for"]["alice"]}
    with pytest.raises(ValueError, match="another reader"):
        unseal([ALICE], PLACE, made)


def test_a_digest_of_something_else_is_not_believed() -> None:
    made = {**sealed("x"), "digest": sealed("y")["digest"]}
    with pytest.raises(ValueError, match="changed"):
        unseal([ALICE], PLACE, made)


@pytest.mark.parametrize("raw", [b"", b"x" * 47, bytes(48), bytes(200), b"\xff" * 100], ids=len)
def test_what_is_cut_short_or_has_no_point_is_refused(raw: bytes) -> None:
    made = sealed("x")
    made["for"]["alice"][ALICE.public().id] = base64.b64encode(raw).decode()
    with pytest.raises(ValueError, match="cut short|changed"):
        unseal([ALICE], PLACE, made)


@pytest.mark.parametrize(
    "plain",
    [b"", b"{", b"NaN", b"[" * 100_000, b"[" * 300 + b"]" * 300, b"\xff\xfe"],
    ids=lambda plain: repr(plain[:5]),
)
def test_anybody_can_seal_and_what_is_no_value_is_refused(plain: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the public key, by another program: here ours, with its words taken out of its mouth."""
    monkeypatch.setattr(sealing, "_padded", lambda text: plain)
    made = sealed("x")
    with pytest.raises(ValueError, match="not JSON|nested deeper than 200"):
        unseal([ALICE], PLACE, made)


def test_a_later_way_to_seal_is_told() -> None:
    with pytest.raises(ValueError, match="not known here: v2"):
        unseal([ALICE], PLACE, {**sealed("x"), "sealed": "v2"})


# --- a node -------------------------------------------------------------------------------------------


def test_a_value_is_sealed_at_its_paths_and_opened_at_the_same(folder: Path) -> None:
    value: Any = {
        "password": "p",
        "keys": {"a": {"private": "k", "public": 1}},
        "users": [{"hash": 1}, {"hash": 2}],
        "n": 3,
    }
    made, count = node(folder, "*.private", "other.n").of(value, "app", ["password", "users.hash"])
    assert count == 4
    assert (made["n"], made["keys"]["a"]["public"]) == (3, 1)
    assert all(is_sealed(one) for one in (made["password"], made["keys"]["a"]["private"], made["users"][1]["hash"]))
    for own in (ALICE, BOB):
        opened = walked(made, "app", lambda path, found, own=own: unseal([own], ("web01", "app", path), found))  # type: ignore[misc]
        assert opened == value


def test_a_reader_is_for_the_keys_that_its_line_names(folder: Path) -> None:
    for key, names in (("app2", ["alice", "bob"]), ("users", ["alice", "bob"]), ("packages", ["alice"])):
        made, _ = node(folder).of("x", key, ["."])
        assert sorted(made["for"]) == names


def test_a_reader_with_two_keys_opens_with_either(folder: Path) -> None:
    anew = sealing.new("alice")
    with (folder / "readers").open("a") as file:
        file.write(anew.public().line + "\n")
    made, _ = node(folder).of("x", "app", ["."])
    assert len(made["for"]["alice"]) == 2
    assert [unseal([own], ("web01", "app", "app"), made) for own in (ALICE, anew, BOB)] == ["x"] * 3


def test_a_reader_who_is_taken_out_gets_nothing_more_from_then_on(folder: Path) -> None:
    seals = node(folder)
    assert "bob" in seals.of("x", "app", ["."])[0]["for"]
    (folder / "readers").write_text(ALICE.public().line)
    assert "bob" not in seals.of("x", "app", ["."])[0]["for"]


@pytest.mark.parametrize(
    ("paths", "key", "concerned"),
    [
        (["users.*.hash"], "users", True),
        (["users.*.hash"], "user", False),
        (["users.*.hash"], "users2", False),
        (["users"], "users", True),
        (["users"], "users.x", False),
        (["*.password"], "anything", True),
        (["us*"], "users", True),
        (["use*s.hash"], "useful", True),
        (["[u]sers.hash"], "users", True),
        (["a.b.c"], "a.b", True),
        ([], "users", False),
    ],
)
def test_a_plugin_is_concerned_if_a_path_of_the_settings_can_be_in_its_value(
    folder: Path, paths: list[str], key: str, concerned: bool
) -> None:
    assert node(folder, *paths).concerns(key, []) == concerned


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("", 0o644, "no reader in .* is for the key app"),
        ("alice x25519:AAAA", 0o644, "line 1: the key is not the base64 of 32 bytes"),
        ("# x\nalice ed25519:" + "A" * 43 + "=", 0o644, "line 2: a line is: NAME x25519:KEY"),
        (f"{ALICE.public().line} aliases=x", 0o644, "line 1: a line is"),
        (f"{ALICE.public().line} keys=", 0o644, "line 1: a line is"),
        (f"{ALICE.public().line}\n{ALICE.public().line}", 0o644, "line 2: this key is there already"),
        (f"alice x25519:{'A' * 43}=", 0o644, "no key of X25519"),
        (f"alice x25519:AQ{'A' * 41}=", 0o644, "no key of X25519"),
        (f"{ALICE.public().line} keys=other*", 0o644, "no reader in .* is for the key app"),
        (ALICE.public().line, 0o666, "is open to others: its mode is 0666"),
        (None, 0, "can't read"),
    ],
)
def test_without_a_good_file_of_readers_nothing_is_sealed_or_sent(
    folder: Path, content: str | None, mode: int, said: str
) -> None:
    file = folder / "readers"
    file.unlink()
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    for act in (lambda: node(folder).check("app", ["."]), lambda: node(folder).of("x", "app", ["."])):
        with pytest.raises(PluginError, match=f"can't seal: .*{said}"):
            act()


def test_readers_that_others_can_replace_are_refused_where_that_is_asked_for(folder: Path) -> None:
    folder.chmod(0o777)
    strict = Sealing("web01", folder / "redact.key", Readers(folder / "readers", strict=True))
    with pytest.raises(PluginError, match="can't seal: .*is refused"):
        strict.check("app", ["."])
    node(folder).check("app", ["."])


def test_without_a_good_secret_nothing_is_sealed(folder: Path) -> None:
    (folder / "redact.key").chmod(0o644)
    for act in (lambda: node(folder).check("app", ["x"]), lambda: node(folder).of({"x": 1}, "app", ["x"])):
        with pytest.raises(PluginError, match="can't seal: .*0644"):
            act()


def test_without_the_library_nothing_is_sealed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(PluginError, match="need the Python library cryptography"):
        node(folder).check("app", ["x"])
    with pytest.raises(ConfigError, match="need the Python library cryptography"):
        sealing.load(folder / "readers")


# --- files and lines ----------------------------------------------------------------------------------


def test_a_private_key_is_for_one_pair_of_eyes(tmp_path: Path) -> None:
    file = tmp_path / "alice.key"
    sealing.save(ALICE, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sealing.load(file) == ALICE
    assert "raw" not in repr(ALICE)
    with pytest.raises(ConfigError, match="File exists"):
        sealing.save(ALICE, file)
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="open to others: its mode is 0640"):
        sealing.load(file)


def test_a_key_that_signs_opens_nothing(tmp_path: Path) -> None:
    file = tmp_path / "alice.key"
    file.write_text(f"alice ed25519-private:{base64.b64encode(os.urandom(32)).decode()}")
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="not a private key: one line NAME x25519-private:KEY"):
        sealing.load(file)


def test_a_name_is_a_name() -> None:
    with pytest.raises(UsageError, match="not the name of a key"):
        sealing.new("al ice")


# --- how it looks ---------------------------------------------------------------------------------------


def test_in_brief_it_is_one_text() -> None:
    made = {"a": [sealed("x", ALICE, BOB)], "b": 1}
    assert brief(made) == {"a": [f"{sealed('x')['digest']} for alice, bob"], "b": 1}


@pytest.mark.parametrize(
    "value", [{}, {"sealed": "v1", "digest": "x"}, {"sealed": "v1", "digest": "x", "for": []}, [], "x"]
)
def test_what_does_not_look_like_it_is_left_alone(value: Any) -> None:
    assert not is_sealed(value)
    assert brief(value) == value
