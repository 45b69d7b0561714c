"""The store contract: one record, one status and a history per node. One module per URL scheme.

A store belongs to the thread that opened it. Every call may raise StoreUnavailable (retry it whole:
applying a batch twice is applying it once) or StoreError (the store refuses).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Union

from vogeler import registry, urls
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

    def nodes(self) -> Iterator[NodeSummary]:
        """Every node ever heard and not forgotten, by name. Streamed."""

    def history(self, node: str, key: str | None = None) -> Iterator[Document]:
        """The changes of a node (of one key), newest first. Streamed."""

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
