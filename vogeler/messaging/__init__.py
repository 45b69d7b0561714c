"""The transport contract: how commands, results and receipts travel. One module per URL scheme.

A transport is one connection and belongs to the thread that opened it; only ``Consumer.wake`` may be
called from another. Every call may raise TransportUnavailable (lost; open a new transport) or
TransportError (the broker refuses). A delivery that was not acked when its transport went away is
delivered again, to whoever consumes next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

from vogeler import registry, urls
from vogeler.errors import UsageError
from vogeler.messages import Envelope

NODE_QUEUE_EXPIRES_S = 7 * 86400.0  # a node's queue goes, with its messages, when nobody consumed it for so long
COMMANDS_PREFETCH = 32
DEAD_PREFETCH = 65535  # dead letters are looked through before any of them is acked
SETUP_REMEDY = "run `vogeler-admin setup`"


@dataclass(frozen=True, eq=False)
class Delivery:
    """One message handed to a consumer. Ack it, or dead-letter it; else it comes again.

    ``reason`` and ``source`` (the queue it was meant for) are set on dead letters only. ``user``: whose login sent it,
    as the broker has checked; "" where the sender did not say; None on an engine that can't tell. Of a dead letter, who
    sent it in the first place.
    """

    envelope: Envelope
    redelivered: bool = False
    reason: str | None = None
    source: str | None = None
    user: str | None = None
    tag: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class QueueDepth:
    """How many messages wait in a queue, and how many consumers it has."""

    messages: int
    consumers: int


class Consumer(Protocol):
    """A stream of deliveries from one queue."""

    def receive(self, wait_s: float) -> Delivery | None:
        """The next delivery, or None after ``wait_s`` seconds or a ``wake``.

        Serves the connection's heartbeats while it waits: call it often.
        """

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done with these. One from an earlier connection is passed over: it comes again."""

    def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Move a delivery to the dead letters, with the reason, and ack it. Confirmed."""

    def wake(self) -> None:
        """Make ``receive`` return at once. From any thread, also after close."""

    def close(self) -> None:
        """Stop consuming; what was not acked goes back to its place in the queue."""


class Transport(Protocol):
    """One connection to a broker."""

    def setup(self) -> list[str]:
        """Make the exchanges and queues of topology.py that are missing; returns what was made,
        a line each. Can be called at any time. Until somebody has, the broker refuses the rest;
        an engine that needs no one to set it up has done so when it was opened."""

    def spread_results(self, queues: int) -> list[str]:
        """Have results spread by node over so many queues, each taken by one server at a time; 1: one queue, which
        servers share. Set up first. Returns what was done, a line each. Loses nothing, also when it is cut short:
        call it again. Raises UsageError where the engine has but one queue."""

    def consume_commands(self, node: str, groups: tuple[str, ...]) -> Consumer:
        """Make and bind the node's queue, and consume it alone.

        Raises NodeNameTaken when another client does so already.
        """

    def consume_results(self, prefetch: int) -> Consumer:
        """Results and heartbeats, at most ``prefetch`` of each queue unacked. Shared among servers."""

    def consume_receipts(self, run: str) -> Consumer:
        """The receipts of one run, from now on. Nothing to ack: acked as they are delivered."""

    def consume_dead(self) -> Consumer:
        """The dead letters, oldest first; ack drops one for good."""

    def publish_command(self, envelope: Envelope, keys: Sequence[str], ttl_s: float) -> bool:
        """Confirmed. To every queue bound to one of the keys, once each; gone after ``ttl_s``.

        False when no queue is bound to any of them: nobody will ever see it.
        """

    def publish_result(self, envelope: Envelope, node: str) -> None:
        """Results and heartbeats. Returns when the broker has it safe."""

    def publish_receipts(self, receipts: Sequence[tuple[str, Envelope]]) -> None:
        """Pairs of run id and receipt. Not confirmed: a runner that left takes none."""

    def depths(self) -> Mapping[str, QueueDepth]:
        """The queues of results and dead letters, by name; one that is missing is left out. Where a queue is
        one server's at a time, those that stand by may not be counted."""

    def close(self) -> None:
        """Close the connection. May be called twice; never raises."""


def connect(qhost: str, password: str | None = None, timeout_s: float = 10.0, name: str = "") -> Transport:
    """Open a connection to the broker that the URL (or comma list of URLs of one cluster) names.

    ``name`` is shown in the broker's list of connections. Raises UsageError, TransportError,
    TransportUnavailable.
    """
    cluster = urls.parse_many(qhost, password)
    transport: Transport = _module(cluster).connect(cluster, timeout_s, name)
    return transport


def prepare(qhost: str) -> None:
    """Import what ``connect`` needs. From any thread; what is wrong with the URL is for ``connect`` to say."""
    with suppress(UsageError):
        _module(urls.parse_many(qhost))


def _module(cluster: tuple[urls.Url, ...]) -> ModuleType:
    return registry.load(__name__, cluster[0].scheme, "broker URL scheme")
