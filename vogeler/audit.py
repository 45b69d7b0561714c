"""Who asked what of whom: the audit log of a node, and what the server keeps for the whole fleet."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union

from vogeler import messages
from vogeler.errors import ConfigError
from vogeler.messages import Decision, Heartbeat, Result, canonical_json

log = logging.getLogger(__name__)

Entry = dict[str, Any]
# What a node decided alike in one batch is one entry with many nodes.
_SHARED = ("run", "alias", "requested_by", "stage", "reason", "key")


class AuditLog:
    """A file of JSON lines. It is opened for each: whoever rotates it moves it away, and it is made anew.

    No link is followed, and no file written that others can: its folder may be one where others can write, too.
    """

    def __init__(self, path: Path) -> None:
        """Raises ConfigError where it can't be written."""
        self._path = path
        try:
            self._append(b"")
        except OSError as error:
            reason = "it is a link, and none is followed" if error.errno == errno.ELOOP else error.strerror
            raise ConfigError(f"can't write {path}: {reason}", "name another file as audit_log") from None

    def write(self, entry: Mapping[str, Any]) -> None:
        """One line. A full disk stops no command; it is told in the log."""
        try:
            self._append(json.dumps(entry).encode() + b"\n")
        except OSError as error:
            log.error("not in the audit log: %s: %s", error, json.dumps(entry), extra={"event": "not_audited"})

    def _append(self, line: bytes) -> None:
        how = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self._path, how, 0o600)
        try:
            _check(os.fstat(descriptor))
            if line:
                os.write(descriptor, line)
        finally:
            os.close(descriptor)


def _check(found: os.stat_result) -> None:
    """Raises OSError, unless it is a device or a file of root or this user that nobody else can write."""
    if stat.S_ISREG(found.st_mode):
        foreign = found.st_uid not in (0, os.geteuid())
        if foreign or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(
                errno.EPERM, "it belongs to another user" if foreign else "others can write it: chmod go-w"
            )
    elif not stat.S_ISCHR(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a file")


def entries_of(batch: Sequence[Union[Result, Heartbeat, Decision]], received_at: str) -> list[Entry]:
    """What a batch tells of commands, for ``Store.add_audit``: ``nodes`` is node → when, by the node's clock.

    A result of a command says that it was accepted. An entry's id begins with the time, by the server's clock.
    """
    found: dict[tuple[Any, ...], dict[str, str]] = {}
    for message in batch:
        if isinstance(message, Result) and message.run is not None:
            shared = (message.run, message.alias, message.requested_by, messages.ACCEPTED, None, None)
            found.setdefault(shared, {})[message.node] = message.collected_at
        elif isinstance(message, Decision):
            shared = tuple(getattr(message, name) for name in _SHARED)
            found.setdefault(shared, {})[message.node] = message.at
    return [_entry(dict(zip(_SHARED, shared)), nodes, received_at) for shared, nodes in found.items()]


def _entry(shared: Entry, nodes: dict[str, str], received_at: str) -> Entry:
    content = {**shared, "nodes": nodes}
    mark = hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]
    return {"_id": f"{received_at}-{mark}", "stored_at": received_at, **content}
