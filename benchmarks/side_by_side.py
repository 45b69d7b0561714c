"""How much faster two servers are than one.

    python benchmarks/side_by_side.py [--nodes 300] [--rounds 3] [--queues 2]

Starts a RabbitMQ of its own, and for each store one `vogeler-server`, then two that share the queue of results, then
two with results spread by node over several queues. The stores: `slow_store.py`, which only takes time, and Apache
CouchDB if VOGELER_TEST_COUCHDB_URL names one, with an administrator's login.

A round: of each node one result of 900 packages (30 KB) that differs from what is stored, then four that don't. They
lie in the broker before the servers, which are stopped by a signal meanwhile, go on; until the last receipt. Prints
medians over the rounds; the ratio is that of two medians. CPU is that of the processes, in milliseconds per result;
`cores` is how many of them the store, the servers and the broker together kept busy.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.engines import listening
from benchmarks.intake import Values
from benchmarks.parts import Parts
from benchmarks.progress import show
from tests.servers.couchdb import VARIABLE, CouchServer
from tests.servers.ports import free_ports
from tests.servers.processes import Fleet
from tests.servers.rabbitmq import RabbitMQ, running_rabbitmq
from vogeler import messages
from vogeler.messages import Envelope, Result, digest_of, encode
from vogeler.messaging import Transport

REPEAT = 4  # unchanged results of each node in a round
BALANCED_WITHIN_S = 60.0
LAYOUTS = ("one server", "two, one queue", "two, spread by node")
PARTS = ("servers", "store", "broker")
Look = TypeVar("Look")


def main() -> None:
    """Start what is needed, measure, print a table for each store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queues", type=int, default=2)
    arguments = parser.parse_args()
    with contextmanager(running_rabbitmq)() as broker:
        with slow_store() as store:
            Trial(arguments, broker, store, "a store that only takes time").measure()
        if os.environ.get(VARIABLE):
            Trial(arguments, broker, CouchServer(os.environ[VARIABLE]), "Apache CouchDB").measure()


@contextmanager
def slow_store() -> Iterator[CouchServer]:
    """It, running on a port of its own."""
    (port,) = free_ports(1)
    program = [sys.executable, str(Path(__file__).with_name("slow_store.py")), str(port)]
    with subprocess.Popen(program) as process:
        try:
            store = CouchServer(f"http://127.0.0.1:{port}")
            while not store.answers():
                time.sleep(0.05)
            yield store
        finally:
            process.terminate()


class Trial:
    """One store, and the ways to serve it."""

    def __init__(self, arguments: argparse.Namespace, broker: RabbitMQ, store: CouchServer, name: str) -> None:
        self._arguments, self._broker, self._store, self._name = arguments, broker, store, name
        self._nodes = [f"bench{number:05d}" for number in range(arguments.nodes)]
        self._values = Values("map")
        self._rates: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._cpu_ms: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)

    def measure(self) -> None:
        """Each layout with a database and a virtual host of its own, and the table."""
        for layout in LAYOUTS:
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vogeler-benchmark-")))
                self._vhost, database = f"side-{secrets.token_hex(4)}", f"side_{secrets.token_hex(4)}"
                self._broker.create_vhost(self._vhost)
                stack.callback(self._broker.delete_vhost, self._vhost)
                if self._store.user:
                    stack.callback(self._store.delete, database)
                fleet = Fleet(self._broker.url(self._vhost), self._store.url(database), folder)
                stack.callback(fleet.stop)
                self._serve(fleet, layout)
        self._report()

    def _serve(self, fleet: Fleet, layout: str) -> None:
        """All rounds of one layout. The databases have no views, so that CouchDB does not index meanwhile."""
        designs = fleet.directory / "no-views"
        for part in ("records", "status", "history"):
            (designs / part).mkdir(parents=True)
        for _ in range(1 if layout == LAYOUTS[0] else 2):
            fleet.server("--design-docs", str(designs)).wait_for("ready")
        parts = Parts()
        parts.add("servers", *(daemon.process.pid for daemon in fleet.daemons))
        parts.add("store", listening(f"couch://127.0.0.1:{self._store.port}", self._store.port))
        parts.add("broker", listening(self._broker.url(self._vhost), self._broker.port))
        with closing(fleet.transport()) as transport:
            if layout == LAYOUTS[2]:
                transport.spread_results(self._arguments.queues)
            seq = self._first(fleet, transport, layout)
            for number in range(self._arguments.rounds):
                for case, times in (("changed", 1), ("unchanged", REPEAT)):
                    results = self._results(f"{layout} {number}", seq, times)
                    seq += len(results)
                    before = self._timed(fleet, transport, results, parts.now)
                    after = parts.now()
                    self._rates[layout, case].append(len(results) / (after.at_s - before.at_s))
                    self._cpu_ms[layout, case].append(
                        {part: 1000 * cpu_s / len(results) for part, cpu_s in after.since(before).items()}
                    )
                show(f"{self._name}, {layout}: " + ", ".join(f"{r[-1]:.0f}/s" for r in self._rates.values()))

    def _first(self, fleet: Fleet, transport: Transport, layout: str) -> int:
        """Every node's first result; spread by node, until each server has its share. The next ``seq``."""
        seq, began_s = 1, time.monotonic()
        while True:
            results = self._results(f"first {seq}", seq, 1)
            seq += len(results)
            self._timed(fleet, transport, results, time.monotonic)
            if layout != LAYOUTS[2] or self._is_balanced(len(fleet.daemons)):
                return seq
            if time.monotonic() - began_s > BALANCED_WITHIN_S:
                sys.exit("one server takes from all queues\n" + fleet.logs())

    def _is_balanced(self, servers: int) -> bool:
        """Whether each server is the one that takes from as many of the numbered queues as another."""
        active = Counter(
            consumer["channel_details"]["connection_name"]
            for consumer in self._broker.api("GET", f"/api/consumers/{self._vhost}")
            if consumer["active"] and consumer["queue"]["name"].startswith("vogeler.results.")
        )
        return len(active) == servers and max(active.values()) - min(active.values()) <= 1

    def _results(self, salt: str, seq: int, times: int) -> list[tuple[str, Result]]:
        found = []
        for number, node in enumerate(self._nodes):
            value = self._values.of(number, salt)
            about = {"duration_s": 0.02, "exit_code": 0, "digest": digest_of(value), "value": value}
            found += [(number, time_, node, about) for time_ in range(times)]
        found.sort(key=lambda row: row[1])  # of every node one, then of every node the next
        return [
            (node, Result(node, "packages", "packages", seq + place, "ok", messages.now(), **about))
            for place, (_, _, node, about) in enumerate(found)
        ]

    def _timed(
        self, fleet: Fleet, transport: Transport, results: list[tuple[str, Result]], look: Callable[[], Look]
    ) -> Look:
        """Until all receipts are there. What ``look`` gave when the servers could begin."""
        run = messages.new_id()
        envelopes: list[tuple[str, Envelope]] = [
            (node, encode(Result(**{**vars(result), "run": run, "requested_by": "bench"}))) for node, result in results
        ]
        receipts = transport.consume_receipts(run)
        for server in fleet.daemons:
            server.signal(signal.SIGSTOP)
        try:
            for node, envelope in envelopes:
                transport.publish_result(envelope, node)
            began = look()
        finally:
            for server in fleet.daemons:
                server.signal(signal.SIGCONT)
        for _ in results:
            while receipts.receive(30.0) is None:
                show(f"waiting: {transport.depths()}")
        receipts.close()
        return began

    def _report(self) -> None:
        print(f"\n{self._name}, {len(self._nodes)} nodes, {self._arguments.queues} queues where spread\n")
        print("| case | servers | results/s | × one | CPU of the servers, ms | of the store | of RabbitMQ | cores |")
        print("|---|---|---|---|---|---|---|---|")
        for case in ("changed", "unchanged"):
            one = statistics.median(self._rates[LAYOUTS[0], case])
            for layout in LAYOUTS:
                rate = statistics.median(self._rates[layout, case])
                spent = {
                    part: statistics.median(row.get(part, 0.0) for row in self._cpu_ms[layout, case]) for part in PARTS
                }
                cpu = " | ".join(f"{spent[part]:.2f}" for part in PARTS)
                cores = rate * sum(spent.values()) / 1000
                print(f"| {case} | {layout} | {rate:,.0f} | {rate / one:.2f} | {cpu} | {cores:.1f} |")


if __name__ == "__main__":
    main()
