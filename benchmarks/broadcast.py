"""A broadcast to real clients, from the runner's start to its end, beside the same plugin run bare.

    python benchmarks/broadcast.py --clients 20 [--rounds 5] [--plugin 'dpkg-query -W']

The engines are those of VOGELER_QHOST and VOGELER_DBHOST, else the local ones in a temporary folder. Servers and
clients are started and stopped by this program. Prints, per round, seconds for changed and for unchanged
values, and their ratio to the floor: as many bare runs of the plugin, two at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

from tests.servers.processes import Daemon, Fleet


def main() -> None:
    """Start the fleet, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plugin", default="dpkg-query -W", help="what each node runs (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vogeler-benchmark-") as folder:
        fleet = Fleet(
            os.environ.get("VOGELER_QHOST", f"local://{folder}/bus.db"),
            os.environ.get("VOGELER_DBHOST", f"sqlite://{folder}/vogeler.db"),
            Path(folder),
        )
        try:
            measure(fleet, arguments)
        finally:
            fleet.stop()


def measure(fleet: Fleet, arguments: argparse.Namespace) -> None:
    """Rounds of: bare runs, a broadcast that changes every record, one that changes none."""
    (fleet.plugins / "salt").write_text("")
    script = fleet.plugins / "collect"
    script.write_text(f"#!/bin/sh\n{arguments.plugin}\nexec cat salt\n")
    script.chmod(0o755)
    fleet.plugin("collect", "./collect")
    fleet.admin("setup")
    for _ in range(arguments.servers):
        fleet.server().wait_for("ready")
    nodes = [f"bench{number:03d}" for number in range(arguments.clients)]
    began_s = time.monotonic()
    clients = [fleet.client(node) for node in nodes]
    fleet.wait_known(*nodes)
    print(f"{len(nodes)} clients ready after {time.monotonic() - began_s:.1f} s", file=sys.stderr)
    rounds = []
    for number in range(arguments.rounds):
        floor_s = bare(arguments.plugin, len(nodes))
        (fleet.plugins / "salt").write_text(f"{number}\n")
        rounds.append((floor_s, broadcast(fleet, len(nodes)), broadcast(fleet, len(nodes))))
    report(rounds, clients)


def bare(plugin: str, count: int) -> float:
    """Seconds for ``count`` runs of the plugin, two at a time."""
    words = shlex.split(plugin)
    began_s = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: subprocess.run(words, stdout=subprocess.DEVNULL, check=True), range(count)))
    return time.monotonic() - began_s


def broadcast(fleet: Fleet, count: int) -> float:
    """Seconds from the runner's start to its end; everybody has to be stored."""
    began_s = time.monotonic()
    done = fleet.runner("-c", "collect", "-n", "all", "--format", "json")
    took_s = time.monotonic() - began_s
    stages = [row["stage"] for row in json.loads(done.stdout)]
    if len(stages) != count or set(stages) - {"stored", "unchanged"}:
        sys.exit(f"not everybody was stored: {done.stderr}")
    return took_s


def report(rounds: list[tuple[float, float, float]], clients: list[Daemon]) -> None:
    """Medians, ratios to the floor of the same round, and what a client holds."""
    for name, column in (("floor", 0), ("changed", 1), ("unchanged", 2)):
        seconds = statistics.median(row[column] for row in rounds)
        ratio = statistics.median(row[column] / row[0] for row in rounds)
        print(f"{name:10} {seconds:6.3f} s  {ratio:5.2f} × floor")
    sizes = [psutil.Process(client.process.pid).memory_info().rss / 2**20 for client in clients]
    print(f"client RSS {statistics.median(sizes):.1f} MiB median, {max(sizes):.1f} MiB largest")


if __name__ == "__main__":
    main()
