"""Sealing: a value leaves the node so that chosen readers, who have the private key, can read it and nobody else.

::

    place       canonical JSON of ["vogeler seal v1", node, key, path, reader, reader's key, digest]
    plain       canonical JSON of the value, and spaces up to a step, so that its length says little
    ephemeral   X25519 private key: HMAC-SHA-256 of place and plain, with a key that is made of the node's secret
    sealed      base64 of: the ephemeral public key, ChaCha20-Poly1305 of plain with place as associated data

The key of ChaCha20-Poly1305 is HKDF-SHA-256 of what X25519 (RFC 7748) gives for the ephemeral key and the reader's. The
same value at the same place is sealed to the same bytes, and any other one with another key: docs/decisions/0031.

The library is imported when the first key is used.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vogeler import keys
from vogeler.errors import ConfigError, PluginError, UsageError
from vogeler.globs import any_matches, is_glob, literal_prefix
from vogeler.leaves import deeper_than
from vogeler.messages import canonical_json
from vogeler.redact import hidden, keyed_digest, paths_of, secret_in
from vogeler.sealed import VERSION, readers
from vogeler.trust import distrust
from vogeler.watched import Watched

_DOMAIN = f"vogeler seal {VERSION}"
_KIND, _PRIVATE = "x25519", "x25519-private"
_TAG_BYTES = 16
_ONCE = bytes(12)  # the nonce: each key is used for one text alone
_STEP_BYTES = 128
_MOST_DEEP = 200  # as in a result
_UNCLEAR = f"a line is: NAME {_KIND}:KEY, and then perhaps keys=GLOB,GLOB"
_MADE_BY = "vogeler-admin key new NAME --reader FILE"


@dataclass(frozen=True)
class Reader(keys.Public):
    """Whose key it is, and for which keys of the record: a line of a file of readers."""

    KIND = _KIND

    keys: tuple[str, ...] = ()  # globs; none: all keys

    @property
    def line(self) -> str:
        """As it stands in the file."""
        return f"{self.name} {self.text}" + (f" keys={','.join(self.keys)}" if self.keys else "")


@dataclass(frozen=True)
class ReaderKey:
    """What opens what was sealed for a reader."""

    name: str
    raw: bytes = field(repr=False)

    def public(self) -> Reader:
        """What others seal with for it."""
        return Reader(self.name, _public(_private(self.raw)))


class Readers:
    """The readers in a file, which is read again when it has changed. May be asked from several threads."""

    def __init__(self, path: Path, strict: bool = False) -> None:
        """``strict``: it must not be possible, either, to put another file in its place."""
        self._path, self._strict = path, strict
        self._file = Watched(path, _usable)
        self._lock = threading.Lock()

    def all(self) -> list[Reader]:
        """Every reader in the file, as it is now. Raises ConfigError, also where the library is missing."""
        _library()
        doubt = distrust(self._path) if self._strict else None
        if doubt is not None:
            raise ConfigError(f"{self._path} is refused: {doubt.reason}", doubt.remedy)
        with self._lock:
            return list(self._file.get().values())

    def of(self, key: str) -> list[Reader]:
        """Those for whom values of a key of the record are sealed. Raises ConfigError, also where there are none."""
        found = [reader for reader in self.all() if not reader.keys or any_matches(reader.keys, (key,))]
        if not found:
            raise ConfigError(f"no reader in {self._file} is for the key {key}", f"add a line: {_MADE_BY} prints it")
        return found


@dataclass(frozen=True)
class Sealing:
    """What a node seals with: its name, its secret's file, the readers; and paths, with the key of the record first."""

    node: str
    key_file: Path
    readers: Readers | None
    paths: tuple[str, ...] = ()

    def concerns(self, key: str, below: Sequence[str]) -> bool:
        """Whether something in the value of ``key`` may have to be sealed."""
        return bool(below) or any(_may_meet(path, key) for path in self.paths)

    def check(self, key: str, below: Sequence[str]) -> None:
        """Raises PluginError where a value of ``key`` could not be sealed now."""
        if self.concerns(key, below):
            self._readers_of(key)
            if os.path.exists(self.key_file):  # noqa: PTH110 - raises nothing
                secret_in(self.key_file, "seal")

    def of(self, value: Any, key: str, below: Sequence[str]) -> tuple[Any, int]:
        """The value of ``key`` with what is at the paths sealed, and how many were.

        ``below`` are paths below the value, as for redaction. Raises PluginError where that can't be done: then nothing
        may be sent.
        """
        if not self.concerns(key, below):
            return value, 0
        found = self._readers_of(key)
        return hidden(
            value,
            key,
            paths_of(key, self.paths, below),
            lambda: secret_in(self.key_file, "seal"),
            lambda secret, path, plain: seal(secret, found, (self.node, key, path), plain),
        )

    def _readers_of(self, key: str) -> list[Reader]:
        if self.readers is None:
            raise PluginError("can't seal: there are no readers", "name a file with their public keys with readers")
        try:
            return self.readers.of(key)
        except ConfigError as error:
            raise PluginError(f"can't seal: {error.message}", error.remedy) from None


def _may_meet(path: str, key: str) -> bool:
    """Whether a path of the settings, which may be a glob, can be that of the value of a key, or lie in it."""
    first, within = literal_prefix(path), f"{key}."
    return path == key or first.startswith(within) or (is_glob(path) and within.startswith(first))


class ForOthers(LookupError):
    """None of the keys opens it; the text is the names of those whose do."""


Place = tuple[str, str, str]  # node, key of the record, path with that key first


def seal(secret: bytes, found: Iterable[Reader], place: Place, plain: Any) -> dict[str, Any]:
    """The object that takes the place of a value: the same for the same secret, readers, place and value."""
    digest = f"sealed:{keyed_digest(secret, plain)}"
    text = _padded(canonical_json(plain).encode("utf-8", "surrogatepass"))
    own = _hmac(secret, _DOMAIN.encode())
    sealed: dict[str, dict[str, str]] = {}
    for reader in found:
        about = _about(place, reader.name, reader.raw, digest)
        ephemeral = _private(_hmac(own, len(about).to_bytes(8, "big") + about + text))
        public = _public(ephemeral)
        made = _cipher(ephemeral, reader.raw, public, reader.raw).encrypt(_ONCE, text, about)
        sealed.setdefault(reader.name, {})[reader.id] = keys.encoded(public + made)
    return {"sealed": VERSION, "digest": digest, "for": sealed}


def unseal(own: Iterable[ReaderKey], place: Place, sealed: Mapping[str, Any]) -> Any:
    """What was sealed there. Raises ForOthers, or ValueError where it is not what was sealed there."""
    if sealed["sealed"] != VERSION:
        raise ValueError(f"sealed in a way that is not known here: {str(sealed['sealed'])[:40]}")
    for key in own:
        public = key.public()
        for name, texts in sealed["for"].items():
            if isinstance(texts, dict) and public.id in texts:
                about = _about(place, name, public.raw, sealed["digest"])
                return _opened(key, public.raw, about, texts[public.id])
    raise ForOthers(", ".join(readers(dict(sealed))))


def _opened(key: ReaderKey, own: bytes, about: bytes, text: object) -> Any:
    raw = keys.plain_bytes(text) if isinstance(text, str) else None
    if raw is None or len(raw) < keys.KEY_BYTES + _TAG_BYTES:
        raise ValueError("it is cut short, or no base64")
    public, made = raw[: keys.KEY_BYTES], raw[keys.KEY_BYTES :]
    from cryptography.exceptions import InvalidTag

    try:
        plain = _cipher(_private(key.raw), public, public, own).decrypt(_ONCE, made, about)
    except (InvalidTag, ValueError):  # ValueError: a point of small order
        raise ValueError("it was changed, or sealed at another place or for another reader") from None
    try:
        value = json.loads(plain.decode("utf-8", "surrogatepass"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ValueError("what was sealed is not JSON") from None
    if deeper_than(value, _MOST_DEEP):
        raise ValueError(f"what was sealed is nested deeper than {_MOST_DEEP}")
    return value


def _about(place: Place, name: str, raw: bytes, digest: object) -> bytes:
    return canonical_json([_DOMAIN, *place, name, keys.encoded(raw), digest]).encode("utf-8", "surrogatepass")


def _padded(text: bytes) -> bytes:
    """Spaces behind JSON mean nothing. Up to a multiple of the step, which is at most an eighth of a longer text."""
    step = max(_STEP_BYTES, 1 << max(0, len(text).bit_length() - 4))
    return text + b" " * (-len(text) % step)


def _hmac(key: bytes, text: bytes) -> bytes:
    import hmac

    return hmac.digest(key, text, "sha256")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# --- files and lines -------------------------------------------------------------------------------


def new(name: str) -> ReaderKey:
    """A new key. Raises UsageError for a name that can't be one."""
    try:
        return ReaderKey(keys.checked_name(name), os.urandom(keys.KEY_BYTES))
    except ValueError as error:
        raise UsageError(str(error)) from None


def load(path: Path) -> ReaderKey:
    """The private key in a file that only its owner may read. Raises ConfigError."""
    _library()
    return ReaderKey(*keys.load_private(path, _PRIVATE, _MADE_BY))


def save(key: ReaderKey, path: Path) -> None:
    """Write a private key to a new file. Raises ConfigError, also where there is one already."""
    keys.save_private(path, key.name, key.raw, _PRIVATE, "read what is sealed for this name", "--reader")


def parse_reader(line: str) -> Reader:
    """A line of a file of readers. Raises ValueError."""
    name, raw, options = keys.parse_line(line, _KIND, {"keys"}, _UNCLEAR)
    return Reader(name, raw, keys.globs(options, "keys"))


def parse_readers(text: str) -> Mapping[str, Reader]:
    """The readers by the id of their key. Raises ValueError."""
    return keys.parse_file(text, parse_reader)


def _usable(text: str) -> Mapping[str, Reader]:
    """Readers whose keys are keys: of points of small order everybody knows what X25519 gives (RFC 7748, 6.1)."""
    found = parse_readers(text)
    for reader in found.values():
        try:
            _private(bytes(keys.KEY_BYTES)).exchange(_library().X25519PublicKey.from_public_bytes(reader.raw))
        except ValueError:
            raise ValueError(f"the key {reader.id} of {reader.name} is no key of X25519 that keeps a secret") from None
    return found


# --- the library -----------------------------------------------------------------------------------


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import x25519
    except ImportError:
        raise ConfigError(
            "sealed values need the Python library cryptography",
            "install it: pip install 'vogeler[sealing]', or the system's package python3-cryptography",
        ) from None
    return x25519


def _private(raw: bytes) -> Any:
    return _library().X25519PrivateKey.from_private_bytes(raw)


def _public(private: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    raw: bytes = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return raw


def _cipher(private: Any, other: bytes, ephemeral: bytes, reader: bytes) -> Any:
    """ChaCha20-Poly1305 with the key that both sides come to, each from its private key and the other's public one."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    shared = private.exchange(_library().X25519PublicKey.from_public_bytes(other))
    info = _DOMAIN.encode() + ephemeral + reader
    return ChaCha20Poly1305(HKDF(SHA256(), keys.KEY_BYTES, salt=None, info=info).derive(shared))
