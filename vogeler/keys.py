"""Keys as people handle them: a name and base64 on a line; a private one in a file for one pair of eyes.

Texts that are no key raise ValueError, which never quotes a private one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

from vogeler.errors import ConfigError
from vogeler.watched import lines_of, read

KEY_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,252}")


@dataclass(frozen=True)
class Public:
    """Whose key it is. What it is for, those say who derive from this."""

    KIND: ClassVar[str]

    name: str
    raw: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """What it is found by: the first half of its digest is enough."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def text(self) -> str:
        """The key alone: ``ed25519:...``."""
        return f"{self.KIND}:{encoded(self.raw)}"


Key = TypeVar("Key", bound=Public)


def parse_line(line: str, kind: str, known: set[str], unclear: str) -> tuple[str, bytes, dict[str, str]]:
    """``NAME kind:KEY option=value ...``: the name, the key, the options, none twice and each of those ``known``."""
    words = line.split()
    if len(words) < 2 or not words[1].startswith(f"{kind}:"):
        raise ValueError(unclear)
    name, key, *options = words
    values = dict(option.partition("=")[::2] for option in options)
    if len(values) < len(options) or values.keys() - known or not all(values.values()):
        raise ValueError(unclear)
    return checked_name(name), decoded(key.partition(":")[2], KEY_BYTES, "the key"), values


def parse_file(text: str, parse: Callable[[str], Key]) -> Mapping[str, Key]:
    """A key per line, by id, none twice; an error says in which line it is."""
    found: dict[str, Key] = {}
    for number, line in lines_of(text):
        try:
            key = parse(line)
            if key.id in found:
                raise ValueError(f"this key is there already, of {found[key.id].name}")
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        found[key.id] = key
    return found


def globs(values: dict[str, str], option: str) -> tuple[str, ...]:
    """The globs of an option that is a comma list; none where it is not there."""
    found = tuple(filter(None, values.get(option, "").split(",")))
    if option in values and not found:
        raise ValueError(f"{option}= names none")
    return found


def parse_private(text: str, kind: str) -> tuple[str, bytes]:
    """Name and key: the one line that is no comment in a file with a private key."""
    words = [line.split() for _, line in lines_of(text)]
    if len(words) != 1 or len(words[0]) != 2 or not words[0][1].startswith(f"{kind}:"):
        raise ValueError(f"not a private key: one line NAME {kind}:KEY")
    name, key = words[0]
    return checked_name(name), decoded(key.partition(":")[2], KEY_BYTES, "the key")


def load_private(path: Path, kind: str, made_by: str) -> tuple[str, bytes]:
    """Name and key, from a file that only its owner may read. Raises ConfigError."""
    text, _ = read(path, 0o077, f"chmod 600 {path}; and make another key if somebody may have read this one")
    try:
        return parse_private(text, kind)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}", f"{made_by} makes one") from None


def save_private(path: Path, name: str, raw: bytes, kind: str, can: str, flag: str) -> None:
    """Write a private key to a new file. Raises ConfigError, also where there is one already."""
    text = f"# The private key of {name}: who can read it can {can}.\n{name} {kind}:{encoded(raw)}\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"can't write {path}: {error.strerror}", f"name a new file with {flag}") from None


def checked_name(name: str) -> str:
    """The name of a key, which it is."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a key: letters, digits and '._@+-', at most 253")
    return name


def encoded(raw: bytes) -> str:
    """Base64."""
    return base64.b64encode(raw).decode()


def decoded(text: str, size_bytes: int, what: str) -> bytes:
    """Base64 of so many bytes, in the one way that there is to write them."""
    raw = plain_bytes(text)
    if raw is None or len(raw) != size_bytes:
        raise ValueError(f"{what} is not the base64 of {size_bytes} bytes")
    return raw


def plain_bytes(text: str) -> bytes | None:
    """Base64 of any length, in the one way that there is to write it; None: it is not."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        return None
    return raw if encoded(raw) == text else None
