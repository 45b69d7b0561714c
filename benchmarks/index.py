"""What the index of leaves costs CouchDB, beside storing the records, and beside an index of one row a leaf.

    VOGELER_TEST_COUCHDB_URL=http://... python benchmarks/index.py [--nodes 100] [--rounds 2]

Without the variable the store is a small server that indexes in a way of its own. Records of a generated fleet, of some
900 packages each; in a round five packages change in some of the records, then in all of them. The index is brought up
to date after the records are stored. Prints milliseconds of CouchDB's processor time for each record that was changed,
medians of the rounds, and how long it takes to ask which nodes have a package, in which version.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import engines
from benchmarks.fleet import HOUR_S, Fleet
from benchmarks.parts import Parts
from benchmarks.progress import show
from tests.servers.couchdb import CouchServer
from vogeler.persistence import _couch_design

CHANGED, SOME = 5, 50  # packages of a record; records
BATCH = 25
OF_EACH_LEAF = """function (doc) {
  function walk(path, value) {
    if (value === null || typeof value !== 'object') {
      emit(path, value);
    } else {
      Object.keys(value).forEach(function (name) {
        walk(Array.isArray(value) ? path : path + '.' + name, value[name]);
      });
    }
  }
  walk('packages', doc.packages);
}"""
ASKED = {"a row a group": "packages.o", "a row a leaf": "packages.openssl"}
Record = dict[str, Any]


class Store:
    """A database with one index, or none, and what it took so far, in seconds of processor time."""

    def __init__(self, server: CouchServer, name: str, parts: Parts, index: str | None) -> None:
        self._server, self._name, self._parts = server, name, parts
        self._revs: dict[str, str] = {}
        self._view = None if index is None else f"/{name}/_design/index/_view/{index}"
        server.api("PUT", f"/{name}")

    def design(self, view: str, content: dict[str, Any]) -> None:
        """Make the index."""
        design = {"language": "javascript", "autoupdate": False, "views": {view: content}}
        self._server.api("PUT", f"/{self._name}/_design/index", design)

    def write(self, records: list[Record]) -> float:
        """Store the records; how long CouchDB was at it."""
        before_s = self._spent_s()
        for start in range(0, len(records), BATCH):
            documents = [self._revised(record) for record in records[start : start + BATCH]]
            rows = self._server.api("POST", f"/{self._name}/_bulk_docs", {"docs": documents})
            self._revs.update({row["id"]: row["rev"] for row in rows})
        return self._spent_s() - before_s

    def _revised(self, record: Record) -> Record:
        rev = self._revs.get(record["_id"])
        return record if rev is None else {**record, "_rev": rev}

    def update(self) -> float:
        """Bring the index up to date; how long CouchDB was at it, where there is one."""
        before_s = self._spent_s()
        if self._view is not None:  # who waits for it gets an error after a minute
            self._server.api("GET", f"{self._view}?limit=0&update=lazy")
            while self._is_updating():
                time.sleep(0.02)
        return self._spent_s() - before_s

    def _is_updating(self) -> bool:
        """The small server has done it before it answers, and says nothing of it."""
        about = self._server.api("GET", f"/{self._name}/_design/index/_info")["view_index"]
        return isinstance(about, dict) and about.get("updater_running") is True

    def ask_s(self, key: str) -> float:
        """Seconds to read the rows of a key."""
        began_s = time.monotonic()
        self._server.api("GET", f'{self._view}?key="{key}"')
        return time.monotonic() - began_s

    def _spent_s(self) -> float:
        return self._parts.now().cpu_s["store"]


def main() -> None:
    """Three databases, the same records, a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with engines.couchdb() as dbhost:
        measure(dbhost, arguments)


def measure(dbhost: str, arguments: argparse.Namespace) -> None:
    """All rounds by turns."""
    url = urlsplit(dbhost)
    server = CouchServer(f"http://{url.netloc}")
    parts = Parts()
    parts.add("store", engines.listening(dbhost, 5984))
    ours = {design["_id"]: design["views"] for design in _couch_design.load(_couch_design.find_folder(), "records")}
    leaf_view = {"map": OF_EACH_LEAF, "options": {"collation": "raw"}}
    plans = {"no index": None, "a row a group": "groups", "a row a leaf": "rows"}
    stores = {plan: Store(server, f"{url.path[1:]}_{n}", parts, view) for n, (plan, view) in enumerate(plans.items())}
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    try:
        stores["a row a group"].design("groups", ours["_design/leaves"]["groups"])
        stores["a row a leaf"].design("rows", leaf_view)
        for what, records in rounds(arguments.nodes, arguments.rounds):
            for plan, store in stores.items():
                show(f"{what}: {plan}")
                stored_s = store.write(records)
                spent[plan, what].append((store.update() if plans[plan] else stored_s) / len(records) * 1e3)
        show("")
        report(arguments.nodes, plans, spent)
        asked = {plan: stores[plan].ask_s(key) for plan, key in ASKED.items()}
        print("; ".join(f"who has openssl, {plan}: {took_s * 1e3:.0f} ms" for plan, took_s in asked.items()))
    finally:
        for number in range(len(plans)):
            server.delete(f"{url.path[1:]}_{number}")


def rounds(nodes: int, count: int) -> list[tuple[str, list[Record]]]:
    """What is stored, in order: everything, then some changes, then changes everywhere."""
    until_s = time.time() // HOUR_S * HOUR_S
    fleet = Fleet(nodes, 30, 1, until_s)
    records = [{"_id": node.name, "packages": fleet.value(node, "packages", until_s)} for node in fleet.nodes]
    steps = [("first", records)]
    for number in range(count):
        for what, those in (("some changed", records[:SOME]), ("all changed", records)):
            steps.append((what, [changed(record, f"{number} {what}") for record in those]))
    return steps


def changed(record: Record, salt: str) -> Record:
    """With other versions of some packages."""
    chosen = random.Random(f"{record['_id']} {salt}").sample(sorted(record["packages"]), CHANGED)
    return {**record, "packages": {**record["packages"], **dict.fromkeys(chosen, salt)}}


def report(nodes: int, plans: dict[str, Any], spent: dict[tuple[str, str], list[float]]) -> None:
    """A row a plan."""
    steps = ("first", "some changed", "all changed")
    print(f"CouchDB's processor time a record, ms: to store it, then what its index takes; {nodes} nodes")
    print(f"{'':15}" + "".join(f"{step:>15}" for step in steps))
    for plan in plans:
        print(f"{plan:15}" + "".join(f"{statistics.median(spent[plan, step]):15.1f}" for step in steps))


if __name__ == "__main__":
    main()
