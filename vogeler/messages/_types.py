"""The messages: command, result, heartbeat, decision, receipt; and the words in them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Union

from vogeler.messages._fields import (
    check_agent,
    check_detail,
    check_flag,
    check_id,
    check_integer,
    check_key,
    check_node_name,
    check_nothing,
    check_seconds,
    check_targets,
    check_text,
    check_texts,
    check_time,
    checked,
    one_of,
    or_null,
)
from vogeler.units import to_timestamp

# How a run went for one node, as a receipt tells it.
ACCEPTED, STORED, UNCHANGED, FAILED = "accepted", "stored", "unchanged", "failed"
UNAVAILABLE, REFUSED = "unavailable", "refused"
STAGES = (ACCEPTED, STORED, UNCHANGED, FAILED, UNAVAILABLE, REFUSED)

# What a client decides about a command. Repeated: it was done before, and is not done again.
REPEATED = "repeated"
DECISIONS = (ACCEPTED, UNAVAILABLE, REFUSED, REPEATED)

# How a plugin ended. Only OK changes the record.
OK, TIMEOUT, TOO_LARGE, UNPARSABLE = "ok", "timeout", "too_large", "unparsable"
STATUSES = (OK, FAILED, TIMEOUT, TOO_LARGE, UNPARSABLE, UNAVAILABLE)


class _Omitted:
    """The value of a result that does not carry it."""

    def __repr__(self) -> str:
        return "OMITTED"


OMITTED: Any = _Omitted()


def now() -> str:
    """This moment as a timestamp."""
    return to_timestamp(time.time())


def new_id() -> str:
    """A UUIDv7 (RFC 9562, 5.7): 48 bits of milliseconds, then random, so that ids sort by time."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    number = number & ~(0xF << 76) | 0x7 << 76  # version
    number = number & ~(0x3 << 62) | 0x2 << 62  # variant
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


@dataclass(frozen=True)
class Command:
    """Runner → clients: which alias to run, on which nodes, until when. The id is the run's id."""

    TYPE: ClassVar[str] = "command"

    alias: str = checked(check_text)
    requested_by: str = checked(check_text)
    expires_at: str = checked(check_time)
    targets: Mapping[str, list[str]] | None = checked(check_targets, default=None)
    splay_s: float = checked(check_seconds, default=0.0)
    full: bool = checked(check_flag, default=False)
    id: str = checked(check_id, default_factory=new_id)
    at: str = checked(check_time, default_factory=now)


@dataclass(frozen=True)
class Result:
    """Client → server: what a plugin gave. ``run`` and ``requested_by`` are null when by schedule.

    ``seq`` grows with every result of a node and orders them; ``digest`` is that of ``value``, without what is
    at the paths below it that ``volatile`` names: globs with dots, as in leaves.py. ``value`` is OMITTED where the
    client believes that the store has it: the digest tells whether that is so.
    """

    TYPE: ClassVar[str] = "result"

    node: str = checked(check_node_name)
    alias: str = checked(check_text)
    key: str = checked(check_key)
    seq: int = checked(check_integer)
    status: str = checked(one_of(STATUSES))
    collected_at: str = checked(check_time)
    duration_s: float = checked(check_seconds, default=0.0)
    run: str | None = checked(or_null(check_id), default=None)
    requested_by: str | None = checked(or_null(check_text), default=None)
    exit_code: int | None = checked(or_null(check_integer), default=None)
    digest: str | None = checked(or_null(check_text), default=None)
    value: Any = checked(check_nothing, default=None)
    error: str | None = checked(or_null(check_text), default=None)
    volatile: list[str] | None = checked(or_null(check_texts), default=None)
    id: str = checked(check_id, default_factory=new_id)
    at: str = checked(check_time, default_factory=now)


@dataclass(frozen=True)
class Heartbeat:
    """Client → server: I am here, and this is what I offer.

    ``agent``: ``version``, ``started_at``, ``groups`` and ``plugins``, a list of
    ``{name, alias, description, format, key, available, reason}``.
    """

    TYPE: ClassVar[str] = "heartbeat"

    node: str = checked(check_node_name)
    agent: dict[str, Any] = checked(check_agent)
    id: str = checked(check_id, default_factory=new_id)
    at: str = checked(check_time, default_factory=now)


@dataclass(frozen=True)
class Decision:
    """Client → server: what became of a command that was not run. Of one that was, the result tells.

    ``key``: the id of the key that it is signed with, where that was looked at and is trusted.
    """

    TYPE: ClassVar[str] = "decision"

    node: str = checked(check_node_name)
    run: str = checked(check_id)
    alias: str = checked(check_text)
    requested_by: str = checked(check_text)
    stage: str = checked(one_of(DECISIONS))
    reason: str | None = checked(or_null(check_text), default=None)
    key: str | None = checked(or_null(check_text), default=None)
    id: str = checked(check_id, default_factory=new_id)
    at: str = checked(check_time, default_factory=now)


@dataclass(frozen=True)
class Receipt:
    """Client, server → runner: how far a run has come on one node.

    ``detail`` may hold ``key``, ``reason``, ``duration_s``.
    """

    TYPE: ClassVar[str] = "receipt"

    run: str = checked(check_id)
    node: str = checked(check_node_name)
    stage: str = checked(one_of(STAGES))
    detail: dict[str, Any] = checked(check_detail, default_factory=dict)
    id: str = checked(check_id, default_factory=new_id)
    at: str = checked(check_time, default_factory=now)


Message = Union[Command, Result, Heartbeat, Decision, Receipt]
