"""Signatures: Ed25519 (RFC 8032) over a message's bytes as they travel, beside them in a header.

::

    header   v1 <id of the key> <signature, base64>
    signed   "vogeler v1\\n" <purpose> "\\n" <id of the key> "\\n" <content_encoding, or nothing> "\\n" <body>

The body holds everything that a message means. The purpose is ``command`` for what a runner sends, and ``result`` for
all that a client does: the one is never taken for the other, whatever key it is signed with.

The library is imported when the first key is used.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vogeler import keys
from vogeler.errors import ConfigError, MessageError, UsageError
from vogeler.messages import Envelope
from vogeler.units import parse_timestamp
from vogeler.watched import Watched

_DOMAIN = "vogeler v1"
_VERSION = "v1"
_KIND, _PRIVATE = "ed25519", "ed25519-private"
_SIGNATURE_BYTES = 64
_ID = re.compile(r"[0-9a-f]{16}")
_HEADER_CHARACTERS = 200
_UNCLEAR = f"a line is: NAME {_KIND}:KEY, and then perhaps aliases=GLOB,GLOB and expires=TIMESTAMP"


@dataclass(frozen=True)
class PublicKey(keys.Public):
    """Whose key it is, for which aliases, and until when: a line of a file of trusted keys."""

    KIND = _KIND

    aliases: tuple[str, ...] = ()  # globs; none: all aliases
    expires_at: str | None = None

    @property
    def line(self) -> str:
        """As it stands in the file."""
        aliases = f" aliases={','.join(self.aliases)}" if self.aliases else ""
        return f"{self.name} {self.text}{aliases}" + (f" expires={self.expires_at}" if self.expires_at else "")


@dataclass(frozen=True)
class PrivateKey:
    """What signs in somebody's name."""

    name: str
    raw: bytes = field(repr=False)

    def public(self) -> PublicKey:
        """What others check it with."""
        return PublicKey(self.name, _public(self.raw))

    def sign(self, envelope: Envelope, purpose: str) -> Envelope:
        """The envelope with its signature."""
        own = self.public().id
        signature = _private(self.raw).sign(_signed(envelope, purpose, own))
        return replace(envelope, signature=f"{_VERSION} {own} {keys.encoded(signature)}")


class TrustedKeys:
    """The public keys in a file, which is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError where the file can't be used, or the library is missing."""
        _library()
        self._file = Watched(path, parse_keys)
        self._file.get()

    def all(self) -> list[PublicKey]:
        """Every key in the file, as it is now. Raises ConfigError."""
        return list(self._file.get().values())

    def owner(self, envelope: Envelope, purpose: str) -> PublicKey:
        """The key that the envelope is signed with. Raises MessageError for one that it should not be."""
        if envelope.signature is None:
            raise MessageError(f"not signed; only what a key in {self._file} has signed is taken here")
        name, signature = parse_signature(envelope.signature)
        try:
            key = self._file.get().get(name)
        except ConfigError as error:
            raise MessageError(f"the trusted keys can't be read: {error.message}") from None
        if key is None:
            raise MessageError(f"signed with the key {name}, which is not in {self._file}")
        if key.expires_at is not None and parse_timestamp(key.expires_at) < time.time():
            raise MessageError(f"signed with the key {name} of {key.name}, which has expired at {key.expires_at}")
        if not _is_signed(key.raw, signature, _signed(envelope, purpose, name)):
            raise MessageError(f"not what {key.name} has signed with the key {name}: it was changed, or forged")
        return key


def new(name: str) -> PrivateKey:
    """A new key. Raises UsageError for a name that can't be one."""
    try:
        return PrivateKey(keys.checked_name(name), os.urandom(keys.KEY_BYTES))
    except ValueError as error:
        raise UsageError(str(error)) from None


def load(path: Path) -> PrivateKey:
    """The private key in a file that only its owner may read. Raises ConfigError."""
    _library()
    return PrivateKey(*keys.load_private(path, _PRIVATE, "vogeler-admin key new"))


def save(key: PrivateKey, path: Path) -> None:
    """Write a private key to a new file. Raises ConfigError, also where there is one already."""
    keys.save_private(path, key.name, key.raw, _PRIVATE, "sign in this name", "--signing-key")


# --- texts: each raises ValueError, which never quotes a private key ---------------------------------------


def parse_private(text: str) -> PrivateKey:
    """The one line that is no comment in a file with a private key."""
    return PrivateKey(*keys.parse_private(text, _PRIVATE))


def parse_keys(text: str) -> Mapping[str, PublicKey]:
    """The trusted keys by id."""
    return keys.parse_file(text, parse_public)


def parse_public(line: str) -> PublicKey:
    """A line of a file of trusted keys."""
    name, raw, options = keys.parse_line(line, _KIND, {"aliases", "expires"}, _UNCLEAR)
    expires_at = options.get("expires")
    if expires_at is not None:
        parse_timestamp(expires_at)
    return PublicKey(name, raw, keys.globs(options, "aliases"), expires_at)


def parse_signature(text: str) -> tuple[str, bytes]:
    """The id of the key, and the signature. Raises MessageError."""
    words = text[:_HEADER_CHARACTERS].split(" ")
    if len(words) != 3 or words[0] != _VERSION or not _ID.fullmatch(words[1]):
        raise MessageError(f"its signature is not of the kind known here: {_VERSION}, the id of a key, base64")
    try:
        return words[1], keys.decoded(words[2], _SIGNATURE_BYTES, "the signature")
    except ValueError as error:
        raise MessageError(str(error)) from None


# --- the library ---------------------------------------------------------------------------------


def _signed(envelope: Envelope, purpose: str, key_id: str) -> bytes:
    head = "\n".join((_DOMAIN, purpose, key_id, envelope.content_encoding or "", ""))
    return head.encode() + envelope.body


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise ConfigError(
            "signatures need the Python library cryptography",
            "install it: pip install 'vogeler[signing]', or the system's package python3-cryptography",
        ) from None
    return ed25519


@lru_cache(maxsize=4)
def _private(raw: bytes) -> Any:
    return _library().Ed25519PrivateKey.from_private_bytes(raw)


@lru_cache(maxsize=4)
def _public(raw: bytes) -> bytes:
    private = _private(raw)  # which says so where the library is missing
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public: bytes = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return public


def _is_signed(raw: bytes, signature: bytes, content: bytes) -> bool:
    library = _library()
    from cryptography.exceptions import InvalidSignature

    try:
        library.Ed25519PublicKey.from_public_bytes(raw).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True
