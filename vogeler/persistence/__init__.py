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
from vogeler.messages import OK, UNAVAILABLE, Heartbeat, Result
from vogeler.units import parse_timestamp

Document = dict[str, Any]
Storable = Union[Result, Heartbeat]
# Statuses of a check that are no problem: a plugin that is unavailable on a node is no error there.
WELL = (OK, UNAVAILABLE)
# The reason that comes with STORED where the record was left as it was.
LATE = "older than what is stored: kept in the history only"


@dataclass(frozen=True)
class Outcome:
    """What became of one message of a batch.

    ``stage``: ``stored``, ``unchanged``, ``failed`` or ``unavailable``, as in a receipt.
    ``refused`` means that the store will never take it: it belongs to the dead letters. ``wanted``: the value was left
    out, and the store has none with that digest; it has to be sent in full.
    """

    stage: str
    reason: str | None = None
    refused: bool = False
    wanted: bool = False


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
    intervals: Mapping[str, float] = field(default_factory=dict)  # key → how often its plugin runs by itself, seconds
    user: str | None = None  # whose login at the broker its last heartbeat came with, where that is known

    @classmethod
    def of(cls, status: Document) -> NodeSummary:
        """What a status document says. Whatever else somebody wrote there by hand is as if it were not there."""
        agent, checks = _object(status.get("agent")), checks_of(status)
        return cls(
            node=status["_id"],
            heard_at=_time(status.get("heard_at")),
            version=_text(agent.get("version")),
            started_at=_time(agent.get("started_at")),
            groups=tuple(map(str, _list(agent.get("groups")))),
            problems=tuple(sorted(key for key, check in checks.items() if check.get("status") not in WELL)),
            checked={key: check["checked_at"] for key, check in checks.items() if _time(check.get("checked_at"))},
            intervals=_intervals(_list(agent.get("plugins"))),
            user=_text(agent.get("user")),
        )


def stored_keys(record: Document) -> dict[str, Document]:
    """What a record says of each of its keys; a key whose value somebody took out by hand is not stored."""
    about = _objects(_object(record.get("vogeler")).get("keys"))
    return {key: meta for key, meta in about.items() if key in record}


def checks_of(status: Document) -> dict[str, Document]:
    """How the last check of each key went."""
    return _objects(status.get("keys"))


def _intervals(plugins: list[Any]) -> dict[str, float]:
    """The shortest, where several plugins fill one key."""
    found: dict[str, float] = {}
    for plugin in map(_object, plugins):
        key, interval_s = plugin.get("key"), plugin.get("interval_s")
        if isinstance(key, str) and isinstance(interval_s, (int, float)) and not isinstance(interval_s, bool):
            found[key] = min(interval_s, found.get(key, interval_s))
    return found


def _object(value: object) -> Document:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> dict[str, Document]:
    return {key: item for key, item in _object(value).items() if isinstance(item, dict)}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _time(value: object) -> str | None:
    try:
        parse_timestamp(str(value))
    except ValueError:
        return None
    return str(value)


class Store(Protocol):
    """One connection to a store."""

    def setup(self, designs: Path | None = None) -> list[str]:
        """Make databases, tables and views that are missing or out of date; returns what was
        done, a line each. Can be called at any time, by several at once.

        ``designs``: a folder with design documents (None: as shipped), for a store that has such.
        """

    def ping(self) -> str:
        """The store's name and version. Raises StoreError when its databases are not there."""

    def apply(self, batch: Sequence[Storable], received_at: str, again: bool = False) -> list[Outcome]:
        """Store a batch: history before record before status. An outcome each, in order.

        One message that the store refuses does not stop the others. ``again``: somebody may have begun to store some
        of it before, and got no further.
        """

    def refresh(self) -> None:
        """Have what answers questions brought up to date with what was stored, and don't wait for it.

        Nobody has to: who asks is told what was stored by then, and waits as long as that takes.
        """

    def record(self, node: str) -> Document | None:
        """The node's document, as design.md section 3 has it, or None."""

    def status(self, node: str) -> Document | None:
        """The node's status document, or None."""

    def statuses(self, nodes: Collection[str]) -> Iterator[Document]:
        """The status documents that these nodes have, by name. Streamed: flat in memory."""

    def records(self, nodes: Collection[str] | None = None) -> Iterator[Document]:
        """The records of these nodes, or of all, by name. Streamed: flat in memory."""

    def leaves(self, prefix: str, exact: bool = False) -> Iterator[tuple[str, str, Scalar]]:
        """(path, node, value) of every leaf of a record whose path begins with ``prefix``, which is not empty.

        ``exact``: whose path is ``prefix``, and no other. From an index, without reading the records: the leaves of a
        path come together, there node by node; the same value twice is one leaf. leaves.py says what a leaf is.
        """

    def leaves_within(self, path: str) -> Iterator[tuple[str, str, Scalar]]:
        """As ``leaves``: what is at a path, and what is below it."""

    def names(self) -> Iterator[str]:
        """The nodes of ``nodes``, by name alone, which costs much less."""

    def nodes(self) -> Iterator[NodeSummary]:
        """Every node ever heard and not forgotten, by name. Streamed."""

    def history(self, node: str, key: str | None = None) -> Iterator[Document]:
        """The changes of a node (of one key), newest first: by ``stored_at``, then ``seq``. Streamed.

        At any time T the record held the value of the first that is not ``late`` and has ``stored_at <= T``;
        unless an entry ``forgotten`` comes before it, which is of no key, and stored at T or before. (Of servers
        whose clocks differ one may die between history and record. Even then it is the highest ``seq`` since then.)
        """

    def changes_named(self, names: Collection[str]) -> dict[str, Document]:
        """Changes by their ``_id``, those that are still there. A change names the one before it: ``previous``."""

    def absences(self, node: str) -> Iterator[Document]:
        """What is of no key in the history: that the node was ``forgotten``, and ``returned``. As above."""

    def changes(self, since: str, until: str | None = None) -> Iterator[Document]:
        """The history of every node with ``since <= stored_at < until``, newest first, as above. Streamed."""

    def follow(self, position: str | None = None) -> Iterator[tuple[str, Document | None]]:
        """History documents as they are stored, from now on, without end; None at once, and about every second.

        With each comes the position behind it. Whoever gives that to a later call, of any connection to the
        store, is told of all that was stored after it and of nothing else; a position that the store does not
        know, as its database is another one by now, is its beginning. (A cluster of CouchDB that has lost a
        member may tell of something again.)
        """

    def prune(self, before: str, keep: int, limit: int) -> Iterator[int]:
        """Remove history that was stored before a time, in steps; yields how many entries each has removed.

        Of each key of a node there stay the newest ``keep`` changes, and the newest one stored before that time,
        which is what the key held then; of a node that was forgotten before that time, nothing from before
        it was. A step removes at most ``limit`` entries and takes about a second, so that it may find none; at
        the end every node was looked at. Can be interrupted and repeated at any time, and done by several at once.
        """

    def add_audit(self, entries: Sequence[Document]) -> None:
        """Keep what audit.py made of a batch. Twice with one ``_id`` is once."""

    def audit(self, since: str, until: str | None = None) -> Iterator[Document]:
        """The entries with ``since <= stored_at < until``, newest first. Streamed."""

    def prune_audit(self, before: str, limit: int) -> Iterator[int]:
        """Remove the entries that were stored before a time, ``limit`` a step; yields how many each has removed."""

    def forget(self, node: str, requested_by: str, at: str) -> bool:
        """Remove record and status; the history stays, with an entry that says who did it.

        False when there was no such node.
        """

    def close(self) -> None:
        """May be called twice; never raises."""


def writers(dbhost: str) -> int:
    """How many connections that apply batches at once the store is worth. Raises UsageError."""
    count: int = _module(urls.parse(dbhost)).WRITERS
    return count


def connect(dbhost: str, password: str | None = None, timeout_s: float = 30.0) -> Store:
    """Open the store that the URL names. Raises UsageError, StoreError, StoreUnavailable."""
    url = urls.parse(dbhost).with_password(password)
    store: Store = _module(url).connect(url, timeout_s)
    return store


def _module(url: urls.Url) -> Any:
    return registry.load(__name__, url.scheme, "store URL scheme")
