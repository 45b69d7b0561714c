"""A broadcast to real clients, from the runner's start to its end, beside the same plugin run bare.

    python benchmarks/broadcast.py [--clients 50] [--rounds 9]
    python benchmarks/broadcast.py --local                      # on the local engines

The engines are those of VOGELER_QHOST and VOGELER_DBHOST, else a private RabbitMQ and a CouchDB as engines.py has
it. Everything else is started and stopped by this program. Prints medians of the rounds, and of their ratios to the
floor of the same round: as many bare runs of the plugin, two at a time. The plugin is `dpkg-query -W` on a copy of
this machine's list of packages, in which one is new in each round. Processor time is that of every process with
all it has started, from the runner's start to its end; "after" is what followed within five seconds, less what idle
ones take: a server has CouchDB bring its views up to date two seconds later.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

from benchmarks import engines
from benchmarks.installed import install
from benchmarks.parts import Parts
from benchmarks.progress import show
from tests.servers.processes import Daemon, Fleet

_IDLE_S, _AFTER_S = 1.0, 5.0


@dataclass(frozen=True)
class Cost:
    """Seconds: of wall time, of processor time by part; of all parts after it, beyond what idle ones take."""

    wall_s: float
    cpu_s: dict[str, float]
    after_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Of all parts."""
        return sum(self.cpu_s.values())


@dataclass(frozen=True)
class Round:
    """One of each, measured one after the other."""

    floor: Cost
    changed: Cost
    unchanged: Cost


def main() -> None:
    """Start the fleet, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--local", action="store_true", help="the local engines")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped
    with tempfile.TemporaryDirectory(prefix="vogeler-benchmark-") as folder, ExitStack() as stack:
        chosen = engines.local(Path(folder)) if arguments.local else engines.fleet()
        measure(stack.enter_context(chosen), Path(folder), arguments)


def measure(on: engines.Engines, folder: Path, arguments: argparse.Namespace) -> None:
    """Rounds of: bare runs, a broadcast that changes every record, one that changes none."""
    list_packages(folder, 0)
    plugin = ["dpkg-query", f"--admindir={folder}", "-W"]
    size_bytes = len(subprocess.run(plugin, capture_output=True, check=True).stdout)
    with started(on, folder, plugin, arguments) as (fleet, parts, clients):
        rounds = []
        for number in range(arguments.rounds + 1):
            floor = bare(plugin, len(clients))
            list_packages(fleet.directory, number)
            rounds.append(Round(floor, *(broadcast(fleet, parts, len(clients)) for _ in range(2))))
            show(f"round {number} of {arguments.rounds}")
        show("")
        print(f"{on.about}; {len(clients)} clients, {arguments.servers} servers, a value of {size_bytes} bytes")
        report(rounds[1:], clients)  # the first one warms up


@contextmanager
def started(
    on: engines.Engines, folder: Path, plugin: list[str], arguments: argparse.Namespace
) -> Iterator[tuple[Fleet, Parts, list[Daemon]]]:
    """Servers and clients, known to the store."""
    fleet, parts = Fleet(on.qhost, on.dbhost, folder, install(folder / "venv")), Parts()
    fleet.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # without .pyc files every start would compile
    parts.add("broker", on.broker_pid)
    parts.add("store", on.store_pid)
    fleet.plugin("collect", shlex.join(plugin))
    fleet.admin("setup")
    try:
        for _ in range(arguments.servers):
            server = fleet.server()
            server.wait_for("ready")
            parts.add("servers", server.process.pid)
        nodes = [f"bench{number:03d}" for number in range(arguments.clients)]
        began_s = time.monotonic()
        clients = [fleet.client(node) for node in nodes]
        parts.add("clients", *(client.process.pid for client in clients))
        fleet.wait_known(*nodes)
        show(f"{len(nodes)} clients ready after {time.monotonic() - began_s:.1f} s")
        yield fleet, parts, clients
    finally:
        fleet.stop()


def list_packages(folder: Path, number: int) -> None:
    """This machine's list of packages, and one more."""
    about = f"Package: benchmark\nStatus: install ok installed\nArchitecture: all\nVersion: {number}\n"
    text = Path("/var/lib/dpkg/status").read_text(encoding="utf-8")
    (folder / "status").write_text(f"{text}\n{about}Maintainer: nobody\nDescription: none\n", encoding="utf-8")


def bare(plugin: list[str], count: int) -> Cost:
    """That many runs of the plugin, two at a time."""
    began_s, before_s = time.monotonic(), reaped_s()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: subprocess.run(plugin, stdout=subprocess.DEVNULL, check=True), range(count)))
    return Cost(time.monotonic() - began_s, {"plugin": reaped_s() - before_s})


def reaped_s() -> float:
    """Seconds of processor time of our children that have ended: of bare runs and runners."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def broadcast(fleet: Fleet, parts: Parts, count: int) -> Cost:
    """From the runner's start to its end; everybody has to be stored."""
    idle = parts.now()
    time.sleep(_IDLE_S)
    began, before_s = parts.now(), reaped_s()
    done = fleet.runner("-c", "collect", "-n", "all", "--format", "json")
    ended, runner_s = parts.now(), reaped_s() - before_s
    time.sleep(_AFTER_S)
    idle_s = sum(began.since(idle).values()) * _AFTER_S / _IDLE_S
    after_s = sum(parts.now().since(ended).values()) - idle_s
    stages = [row["stage"] for row in json.loads(done.stdout)]
    if len(stages) != count or set(stages) - {"stored", "unchanged"}:
        sys.exit(f"not everybody was stored: {done.stderr}")
    return Cost(ended.at_s - began.at_s, {**ended.since(began), "runner": runner_s}, after_s)


def report(rounds: list[Round], clients: list[Daemon]) -> None:
    """Medians, and medians of the ratios to the floor of the same round; what a client holds."""
    for name in ("floor", "changed", "unchanged"):
        costs = [getattr(one, name) for one in rounds]
        wall, wall_ratio = medians([cost.wall_s for cost in costs], [one.floor.wall_s for one in rounds])
        cpu, cpu_ratio = medians([cost.total_s for cost in costs], [one.floor.total_s for one in rounds])
        print(f"{name:10} wall {wall:6.3f} s {wall_ratio:5.2f} × floor   CPU {cpu:6.3f} s {cpu_ratio:5.2f} × floor")
        for part in costs[0].cpu_s if name != "floor" else ():
            used, ratio = medians([cost.cpu_s[part] for cost in costs], [one.floor.total_s for one in rounds])
            each_ms = used / len(clients) * 1e3
            print(f"  {part:8} {'':28} CPU {used:6.3f} s {ratio:5.2f} × floor  {each_ms:6.2f} ms a node")
        if name != "floor":
            print(f"  {'after':8} {'':28} CPU {statistics.median(cost.after_s for cost in costs):6.3f} s")
    sizes = [psutil.Process(client.process.pid).memory_info().rss / 2**20 for client in clients]
    print(f"client RSS {statistics.median(sizes):.1f} MiB median, {max(sizes):.1f} MiB largest")


def medians(values: list[float], floors: list[float]) -> tuple[float, float]:
    """The median of the values, and that of their ratios to the floors."""
    return statistics.median(values), statistics.median(value / floor for value, floor in zip(values, floors))


if __name__ == "__main__":
    main()
