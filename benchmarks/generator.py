"""A generated fleet: what it is made of, or everything that its clients sent in some weeks, into a store.

    python benchmarks/generator.py --nodes 10000 --days 30 --seed 1                   # statistics
    python benchmarks/generator.py --nodes 10000 --load sqlite:///tmp/fleet.db       # into a store

The same seed and end make the same fleet, to the byte. The time is simulated: a store is told when it
"received" a message. What a store keeps no trace of is left out: of the checks that find nothing new, of which
a fleet sends most, there is only each node's last.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Union

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fleet import HOUR_S, Fleet
from vogeler import persistence
from vogeler.errors import StoreUnavailable
from vogeler.messages import Heartbeat, Result, canonical_json
from vogeler.units import parse_timestamp, to_timestamp


@dataclass
class Statistics:
    """What a fleet sent, counted. ``digest`` is over everything that was sent."""

    fleet: Fleet
    sent: Counter[str] = field(default_factory=Counter)
    sizes_bytes: list[int] = field(default_factory=list)
    _hash: Any = field(default_factory=hashlib.sha256)

    @classmethod
    def of(cls, fleet: Fleet) -> Statistics:
        """Makes all messages once."""
        counts = cls(fleet)
        for message in _shown(fleet.messages(), "messages"):
            counts.add(message)
        return counts

    def add(self, message: Union[Result, Heartbeat]) -> None:
        """One more message."""
        text = canonical_json({f.name: getattr(message, f.name) for f in fields(message)})
        self._hash.update(text.encode())
        self.sent[message.key if isinstance(message, Result) else "heartbeat"] += 1
        if isinstance(message, Result) and message.key == "packages":
            self.sizes_bytes.append(len(text))

    @property
    def digest(self) -> str:
        """One text for everything that was sent."""
        return str(self._hash.hexdigest())

    @property
    def packages(self) -> list[int]:
        """How many packages the nodes have, least first."""
        return sorted(len(node.installed) for node in self.fleet.nodes)

    def report(self) -> Iterator[str]:
        """Lines for a person."""
        fleet, nodes = self.fleet, self.fleet.nodes
        yield f"{len(nodes)} nodes, {fleet.days} days until {to_timestamp(fleet.until_s)}, seed {fleet.seed}"
        for title, values in (
            ("release", (node.distribution.release.name for node in nodes)),
            ("role", (node.role.name for node in nodes)),
            ("updates", (node.policy for node in nodes)),
        ):
            yield f"{title + ':':10} " + ", ".join(f"{name} {count}" for name, count in Counter(values).most_common())
        names = {name for distribution in fleet.distributions for name in distribution.names}
        packages = self.packages
        least, median, most = packages[0], statistics.median(packages), packages[-1]
        yield f"packages:  {least} to {most} on a node, median {median:.0f}, of {len(names)} names"
        yield f"silent:    {sum(node.silent_s < fleet.until_s for node in nodes)} nodes"
        yield f"messages:  {sum(self.sent.values())}: " + ", ".join(
            f"{n} {name}" for name, n in self.sent.most_common()
        )
        yield f"a list of packages is {statistics.median(self.sizes_bytes) / 1000:.1f} kB of JSON"
        yield f"digest:    {self.digest}"


def load(fleet: Fleet, store: persistence.Store, size: int) -> int:
    """Apply everything, in batches of at most ``size`` and an hour; returns how many messages there were."""
    total = 0
    for batch in _batches(_shown(fleet.messages(), "messages loaded"), size):
        refused = [outcome for outcome in store.apply(batch, _received_at(batch[-1])) if outcome.refused]
        if refused:
            sys.exit(f"refused: {refused[0].reason}")
        total += len(batch)
    return total


def _batches(messages: Iterator[Union[Result, Heartbeat]], size: int) -> Iterator[list[Union[Result, Heartbeat]]]:
    batch: list[Union[Result, Heartbeat]] = []
    for message in messages:
        if batch and (len(batch) == size or message.at[:13] != batch[0].at[:13]):
            yield batch
            batch = []
        batch.append(message)
    if batch:
        yield batch


def _received_at(message: Union[Result, Heartbeat]) -> str:
    return to_timestamp(parse_timestamp(message.at) + 0.2)


def _shown(messages: Iterator[Union[Result, Heartbeat]], what: str) -> Iterator[Union[Result, Heartbeat]]:
    """The same messages; on a terminal, how many of them have passed."""
    began_s = time.monotonic()
    for number, message in enumerate(messages):
        yield message
        if number % 1000 == 999 and sys.stderr.isatty():
            rate = number / (time.monotonic() - began_s)
            print(f"\r\x1b[K{number + 1} {what}, {rate:.0f}/s, {message.at[:16]}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Print statistics, or load a store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--until", help="the end of the fleet's time, UTC with Z (default: the last full hour)")
    parser.add_argument("--load", metavar="URL", help="a store, empty or new; its password from VOGELER_DBPASSWORD too")
    parser.add_argument("--batch", type=int, help="messages at a time (default: 100, or 1000 for SQLite)")
    parser.add_argument(
        "--design-docs", type=Path, metavar="DIR", help="CouchDB's design documents (default: as shipped)"
    )
    arguments = parser.parse_args()
    until_s = parse_timestamp(arguments.until) if arguments.until else time.time() // HOUR_S * HOUR_S
    fleet = Fleet(arguments.nodes, arguments.days, arguments.seed, until_s)
    if arguments.load is None:
        print("\n".join(Statistics.of(fleet).report()))
        return
    size = arguments.batch or (1000 if arguments.load.startswith("sqlite:") else 100)
    with closing(persistence.connect(arguments.load, os.environ.get("VOGELER_DBPASSWORD"), 600.0)) as store:
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="vogeler-no-designs-") as folder:
            for database in ("records", "status", "history"):
                Path(folder, database).mkdir()
            store.setup(Path(folder))
        total = load(fleet, store, size)
        took_s = time.monotonic() - began_s
        print(f"{total} messages of {len(fleet.nodes)} nodes in {took_s:.0f} s, {total / took_s:.0f}/s", flush=True)
        build(store, arguments.design_docs)


def build(store: persistence.Store, designs: Path | None) -> None:
    """CouchDB's views come last: built once they are much less work than kept up with every message."""
    began_s = time.monotonic()
    store.setup(designs)
    while True:
        try:
            rows = sum(1 for _ in store.leaves("system.os.id", exact=True))
            next(iter(store.changes("2000")), None)
            break
        except StoreUnavailable:  # CouchDB answers so when a view is not ready after a minute
            time.sleep(1)
    print(f"the index answers ({rows} nodes) after {time.monotonic() - began_s:.0f} s")


if __name__ == "__main__":
    main()
