"""The store contract: one record, one status and a history per node. One module per URL scheme.

A store belongs to the thread that opened it. Every call may raise StoreUnavailable (retry it whole:
applying a batch twice is applying it once) or StoreError (the store refuses).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Union

from vogeler import registry, urls
from vogeler.leaves import Scalar
from vogeler.messages import Heartbeat, Result

Document = dict[str, Any]
Storable = Union[Result, Heartbeat]


@dataclass(frozen=True)
class Outcome:
    """What became of one message of a batch.

    ``stage``: ``stored``, ``unchanged``, ``failed`` or ``unavailable``, as in a receipt.
    ``refused`` means that the store will never take it: it belongs to the dead letters.
    """

    stage: str
    reason: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class NodeSummary:
    """A node as the listings show it. ``heard_at`` by the server's clock; None: never heard."""

    node: str
    heard_at: str | None
    version: str | None
    started_at: str | None
    groups: tuple[str, ...]
    problems: tuple[str, ...]  # the keys whose last check did not end well
    checked: Mapping[str, str] = field(default_factory=dict)  # key → when its last check was, by the node's clock


class Store(Protocol):
    """One connection to a store."""

    def setup(self, designs: Path | None = None) -> list[str]:
        """Make databases, tables and views that are missing or out of date; returns what was
        done, a line each. Can be called at any time, by several at once.

        ``designs``: a folder with design documents (None: as shipped), for a store that has such.
        """

    def ping(self) -> str:
        """The store's name and version. Raises StoreError when its databases are not there."""

    def apply(self, batch: Sequence[Storable], received_at: str) -> list[Outcome]:
        """Store a batch: history before record before status. An outcome each, in order.

        One message that the store refuses does not stop the others.
        """

    def record(self, node: str) -> Document | None:
        """The node's document, as design.md section 3 has it, or None."""

    def status(self, node: str) -> Document | None:
        """The node's status document, or None."""

    def records(self, nodes: Collection[str] | None = None) -> Iterator[Document]:
        """The records of these nodes, or of all, by name. Streamed: flat in memory."""

    def leaves(self, prefix: str, exact: bool = False) -> Iterator[tuple[str, str, Scalar]]:
        """(path, node, value) of every leaf of a record whose path begins with ``prefix``, which is not empty.

        ``exact``: whose path is ``prefix``, and no other. From an index, streamed path by path and there node by
        node, without reading the records; the same value twice is one leaf. leaves.py says what a leaf is.
        """

    def nodes(self) -> Iterator[NodeSummary]:
        """Every node ever heard and not forgotten, by name. Streamed."""

    def history(self, node: str, key: str | None = None) -> Iterator[Document]:
        """The changes of a node (of one key), newest first: by ``stored_at``, then ``seq``. Streamed.

        At any time T the record held the value of the first that is not ``late`` and has ``stored_at <= T``;
        unless an entry ``forgotten`` comes before it, which is of no key, and stored at T or before. (Of servers
        whose clocks differ one may die between history and record. Even then it is the highest ``seq`` since then.)
        """

    def changes(self, since: str, until: str | None = None) -> Iterator[Document]:
        """The history of every node with ``since <= stored_at < until``, newest first, as above. Streamed."""

    def follow(self) -> Iterator[Document | None]:
        """History documents as they are stored, from now on, without end; None at once, and about every second."""

    def prune(self, before: str, keep: int, limit: int) -> int:
        """Remove history that was stored before a time, at most ``limit`` entries; returns how many.

        Of each key of a node there stay the newest ``keep`` changes, and the newest one stored before that time,
        which is what the key held then; of a node that was forgotten before that time, nothing from before
        it was. Works for a few seconds at most, and goes on at the next call: 0 says that there was nothing
        for as long. Can be interrupted and repeated at any time, and done by several at once.
        """

    def forget(self, node: str, requested_by: str, at: str) -> bool:
        """Remove record and status; the history stays, with an entry that says who did it.

        False when there was no such node.
        """

    def close(self) -> None:
        """May be called twice; never raises."""


def connect(dbhost: str, password: str | None = None, timeout_s: float = 30.0) -> Store:
    """Open the store that the URL names. Raises UsageError, StoreError, StoreUnavailable."""
    url = urls.parse(dbhost).with_password(password)
    module = registry.load(__name__, url.scheme, "store URL scheme")
    store: Store = module.connect(url, timeout_s)
    return store
