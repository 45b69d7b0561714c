"""What must not leave the node: put in its place is a keyed digest, by which a change is still seen.

HMAC-SHA-256 (RFC 2104) over the canonical JSON: without the key nobody can try out which value it is. Nodes that have
the same key give equal values equal digests.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vogeler.errors import PluginError
from vogeler.leaves import replaced
from vogeler.messages import canonical_json

WHOLE = "."  # the path, in a plugin file, of the whole value
_KEY_BYTES = 32
_LEAST_BYTES, _MOST_BYTES = 16, 4096
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class Redaction:
    """The node's key file, made where there is none yet; and paths in its record, with the key of the record first."""

    key_file: Path
    paths: tuple[str, ...] = ()

    def of(self, value: Any, key: str, below: Sequence[str]) -> tuple[Any, int]:
        """The value of ``key`` without what is at the paths, and how many were replaced.

        ``below`` are paths below the value, as leaves.without takes them, or WHOLE. Raises PluginError where the key
        file can't be used: then nothing may be sent.
        """
        return hidden(
            value,
            key,
            paths_of(key, self.paths, below),
            lambda: secret_in(self.key_file, "redact"),
            lambda secret, path, found: f"redacted:{keyed_digest(secret, found)}",
        )


def paths_of(key: str, paths: Sequence[str], below: Sequence[str]) -> list[str]:
    """Paths in the record: those that are so, and those below the value of ``key``."""
    return [*paths, *(key if path == WHOLE else f"{key}.{path}" for path in below)]


def hidden(
    value: Any,
    key: str,
    paths: Sequence[str],
    read_secret: Callable[[], bytes],
    hide: Callable[[bytes, str, Any], Any],
) -> tuple[Any, int]:
    """The value of ``key`` with what ``hide`` makes of each part at the paths, and how many these were.

    ``hide`` gets the secret, which is read when the first part is found, the path of the part, and the part.
    """
    secret: list[bytes] = []
    count = 0

    def hidden_part(path: str, found: Any) -> Any:
        nonlocal count
        if not secret:
            secret.append(read_secret())
        count += 1
        return hide(secret[0], path, found)

    return (replaced(value, key, paths, hidden_part) if paths else value), count


def keyed_digest(secret: bytes, value: Any) -> str:
    """32 hex digits, by which a change of the value is seen."""
    import hmac

    return hmac.new(secret, canonical_json(value).encode("utf-8", "surrogatepass"), "sha256").hexdigest()[:32]


def secret_in(file: Path, purpose: str) -> bytes:
    """The key of the node, made where there is none yet. ``purpose``: what can't be done without it.

    Raises PluginError.
    """
    try:
        with suppress(FileExistsError):
            _make(file)
        with file.open("rb") as opened:
            found = os.fstat(opened.fileno())
            key = opened.read(_MOST_BYTES)
    except OSError as error:
        raise PluginError(
            f"can't {purpose}: the key file {file}: {error.strerror}", "name another with redact_key"
        ) from None
    if found.st_uid not in (0, os.geteuid()):
        what = f"the key file {file} belongs to another user, number {found.st_uid}, who knows the key then"
        raise PluginError(f"can't {purpose}: {what}", "remove it: a new one is made")
    if found.st_mode & _OTHERS:
        what = f"others may read or write the key file {file} (mode {stat.S_IMODE(found.st_mode):04o})"
        raise PluginError(f"can't {purpose}: {what}", f"chmod 600 {file}")
    if len(key) < _LEAST_BYTES:
        what = f"the key file {file} has {len(key)} bytes, at least {_LEAST_BYTES} are needed"
        raise PluginError(f"can't {purpose}: {what}", f"remove it, or: head -c 32 /dev/urandom > {file}")
    return key


def _make(file: Path) -> None:
    """Whole or not at all, whoever makes it at the same time. Raises FileExistsError."""
    if file.exists():
        raise FileExistsError
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(secrets.token_bytes(_KEY_BYTES))
            opened.flush()
            os.fsync(opened.fileno())
        os.link(draft, file)
    finally:
        draft.unlink()
