"""How small and quick the agent is, and how soon commands start, each beside a bare Python.

    python benchmarks/agent.py [--runs 20,100,1000] [--idle 120] [--rounds 30] [--dbhost couch://...]

Starts a private RabbitMQ, and a client on each engine, in an environment as ``pip install`` makes it and with what the
client's systemd unit sets, and stops them. A figure and its floor are taken by turns. Takes about a quarter of an hour;
with ``--runs 20 --idle 20 --rounds 5`` some two minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

from benchmarks.installed import ROOT, environment, install
from tests.servers.processes import Daemon, wait_until
from tests.servers.rabbitmq import RabbitMQ, running_rabbitmq
from vogeler import messaging
from vogeler.messages import Command, encode
from vogeler.messaging import Transport
from vogeler.topology import node_key
from vogeler.units import to_timestamp

UNIT = ROOT / "etc/systemd/vogeler-client.service"
NODE = "bench"
BURST = 200
SETTLED_S = 1.0  # after its last run, a client has nothing more to do
IDLE_AFTER_S = 25.0  # then the last limit of time is over that was set for a confirmation
COLLECT = "[facts]\ncommand = {command}\n[large]\ncommand = seq 550000\n"  # 3.7 MB

# Python with what the engine can't do without, connected and idle.
FLOORS = {
    "amqp": """
import pika, sys
connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
connection.channel()
print("ready", flush=True)
while True:
    connection.process_data_events(30.0)
""",
    "local": """
import select, sqlite3, sys
database = sqlite3.connect(sys.argv[1].partition("://")[2] + ".floor")
database.execute("CREATE TABLE IF NOT EXISTS one (two)")
print("ready", flush=True)
while True:
    select.poll().poll(30_000)
""",
}
FLOOR = "python -c pass"
IMPORTS = "import vogeler.{0}.client, vogeler.{0}._daemon, vogeler.{0}._log, vogeler.client, vogeler.messaging.{1}"
Took = tuple[float, float]  # seconds, and of them on a processor: what else the machine does matters less to these


class Place:
    """Installed commands, a plugin, and what they need to know."""

    def __init__(self, folder: Path, plugin: str, dbhost: str | None, unit: bool) -> None:
        """``unit``: with the environment that the client's unit sets, for the client and the floor of its memory."""
        self._folder = folder
        self._commands = install(folder / "venv")
        self.python = str(self._commands / "python")
        self._plugins = folder / "plugins"
        self._plugins.mkdir()
        (self._plugins / "collect.cfg").write_text(COLLECT.format(command=plugin))
        self.environment = environment()
        self.environment["VOGELER_LOGFORMAT"] = "json"
        self.environment["VOGELER_STRICT_MODES"] = "no"  # the plugin is in /tmp
        self.environment["VOGELER_DBHOST"] = dbhost or f"sqlite://{folder}/vogeler.db"
        self._unit = dict(re.findall(r"^Environment=(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE)) if unit else {}
        self._count = 0

    def command(self, program: str) -> str:
        """The path of ``vogeler-PROGRAM``."""
        return str(self._commands / f"vogeler-{program}")

    @contextmanager
    def client(self, qhost: str, node: str) -> Iterator[Daemon]:
        """A client that is ready, until the end of the block."""
        client = self._start(qhost, [self.command("client"), "--node", node, "--plugins", str(self._plugins)])
        try:
            client.wait_for("ready")
            yield client
        finally:
            client.kill()

    @contextmanager
    def floor(self, engine: str, qhost: str) -> Iterator[Daemon]:
        """The bare Python beside it."""
        floor = self._start(qhost, [self.python, "-c", FLOORS[engine], qhost])
        try:
            wait_until(lambda: "ready" in floor.log, "the floor ready", lambda: floor.log)
            yield floor
        finally:
            floor.kill()

    def _start(self, qhost: str, words: list[str]) -> Daemon:
        self._count += 1
        environment = {**self.environment, **self._unit, "VOGELER_QHOST": qhost}
        return Daemon(words, environment, self._folder / f"{self._count}.log")

    def run(self, *words: str, qhost: str = "local:///nowhere") -> Took:
        """How long a command takes, whatever comes of it."""
        environment = {**self.environment, "VOGELER_QHOST": qhost}
        began_s = time.monotonic()
        with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
            _, status, used = os.wait4(command.pid, 0)
            command.returncode = os.waitstatus_to_exitcode(status)
        return time.monotonic() - began_s, used.ru_utime + used.ru_stime


def main() -> None:
    """Measure, and print a table a subject."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="20,100,1000", help="after how many runs memory is looked at")
    parser.add_argument("--idle", type=float, default=120.0, help="seconds of idleness (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="starts of each command (default: %(default)s)")
    parser.add_argument("--plugin", default="dpkg-query -W", help="what the client runs (default: %(default)s)")
    parser.add_argument("--engines", default="amqp,local", help="default: %(default)s")
    parser.add_argument("--dbhost", help="the runner's store (default: SQLite in a temporary folder)")
    parser.add_argument("--no-unit", action="store_true", help="the client without what its systemd unit sets")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vogeler-benchmark-") as folder:
        place = Place(Path(folder), arguments.plugin, arguments.dbhost, unit=not arguments.no_unit)
        brokers = running_rabbitmq() if "amqp" in arguments.engines else iter(())
        try:
            for engine in filter(None, arguments.engines.split(",")):
                qhost = f"local://{folder}/bus.db" if engine == "local" else _vhost(next(brokers))
                place.run(place.command("admin"), "setup", qhost=qhost)
                agent(place, engine, qhost, [int(count) for count in arguments.runs.split(",")], arguments.idle)
                starts(place, engine, qhost, arguments.rounds)
            commands(place, folder, arguments.rounds)
        finally:
            for _ in brokers:  # stops it
                pass


def _vhost(broker: RabbitMQ) -> str:
    broker.create_vhost("bench")
    return broker.url("bench")


# --- the agent ------------------------------------------------------------------------------------


def agent(place: Place, engine: str, qhost: str, counts: list[int], idle_s: float) -> None:
    """Memory after so many runs, after a burst and a large value; and what it costs to do nothing."""
    with place.floor(engine, qhost) as floor, place.client(qhost, NODE) as client:
        print(f"\n{engine}: memory in MiB         RSS     PSS     USS   RSS above the floor")
        _show_memory("bare Python", floor, floor)
        _show_memory("no run yet", client, floor)
        with closing(messaging.connect(qhost)) as transport:
            for number in range(1, counts[-1] + 1):
                ask(transport, client, "facts", 1)
                if number in counts:
                    _show_memory(f"{number} runs, one by one", client, floor)
            ask(transport, client, "facts", BURST)
            _show_memory(f"{BURST} more at once", client, floor)
            ask(transport, client, "large", 1)
            _show_memory("one of 3.7 MB", client, floor)
    with place.floor(engine, qhost) as floor, place.client(qhost, NODE) as client:
        with closing(messaging.connect(qhost)) as transport:
            ask(transport, client, "facts", 1)
        _say(f"{engine}: {idle_s:.0f} s of idleness")
        time.sleep(IDLE_AFTER_S)
        used_s = [-_on_processor_s(daemon) for daemon in (client, floor)]
        time.sleep(idle_s)
        used_s = [before_s + _on_processor_s(daemon) for before_s, daemon in zip(used_s, (client, floor))]
        client_percent, floor_percent = (100 * one_s / idle_s for one_s in used_s)
        _say("")
        print(f"{engine}: idle for {idle_s:.0f} s: {client_percent:.4f} % of a core; bare Python {floor_percent:.4f} %")


def ask(transport: Transport, client: Daemon, alias: str, count: int) -> None:
    """So many commands through the broker, at once, and until the client has collected what they ask for."""
    total = _collected(client) + count
    for _ in range(count):
        expires_at = to_timestamp(time.time() + 3600)
        command = Command(alias, "benchmark", expires_at, {"nodes": [NODE]})
        transport.publish_command(encode(command), [node_key(NODE)], 3600.0)
    deadline_s = time.monotonic() + 60 + count
    while _collected(client) < total:
        if time.monotonic() > deadline_s:
            sys.exit(f"not {total} runs:\n{client.log[-2000:]}")
        time.sleep(0.02)
    _say(f"{total} runs")


def _collected(client: Daemon) -> int:
    return client.log.count('"collected"')


def _show_memory(what: str, daemon: Daemon, floor: Daemon) -> None:
    time.sleep(SETTLED_S)
    found, bare = (psutil.Process(one.process.pid).memory_full_info() for one in (daemon, floor))
    sizes = (found.rss, found.pss, found.uss, found.rss - bare.rss)
    _say("")
    print(f"  {what:24} " + " ".join(f"{size / 2**20:7.1f}" for size in sizes))


def _on_processor_s(daemon: Daemon) -> float:
    """All threads together, to the nanosecond: what psutil reads counts ticks of 10 ms."""
    threads = Path(f"/proc/{daemon.process.pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


# --- starts ---------------------------------------------------------------------------------------


def starts(place: Place, engine: str, qhost: str, rounds: int) -> None:
    """From the start of the process: of a client until it is ready, of a runner until the client has its command."""
    taken: dict[str, list[Took]] = {}
    imports = IMPORTS.format("cli", engine)
    for number in range(rounds):
        _say(f"{engine}: start {number + 1} of {rounds}")
        _take(taken, FLOOR, place.run(place.python, "-c", "pass"))
        _take(taken, "the client's imports", place.run(place.python, "-c", imports))
        began_s = time.monotonic()
        with place.client(qhost, f"start{number}") as client:
            _take(taken, "vogeler-client, ready", (time.monotonic() - began_s, _on_processor_s(client)))
            began_at_s = time.time()
            words = ("-c", "facts", "-n", f"start{number}", "--discovery", "10ms", "--timeout", "10ms", "--ttl", "60s")
            _, used_s = place.run(place.command("runner"), *words, qhost=qhost)
            accepted_at = datetime.fromisoformat(client.wait_for("accepted")["at"].replace("Z", "+00:00"))
            _take(taken, "vogeler-runner -c X, accepted", (accepted_at.timestamp() - began_at_s, used_s))
    _show_times(f"{engine}: start, median of {rounds}", taken)


def commands(place: Place, folder: str, rounds: int) -> None:
    """Commands that need no broker."""
    words = {FLOOR: [place.python, "-c", "pass"]}
    for program in ("runner", "admin", "client", "server"):
        words[f"vogeler-{program} --help"] = [place.command(program), "--help"]
    admin = place.command("admin")
    words["vogeler-admin nodes --help"] = [admin, "nodes", "--help"]
    words["vogeler-admin nodes, none"] = [admin, "nodes", "--dbhost", f"sqlite://{folder}/empty.db"]
    taken: dict[str, list[Took]] = {}
    for number in range(rounds + 1):
        _say(f"commands: {number} of {rounds}")
        for name, command in words.items():
            took = place.run(*command)
            if number:  # the first makes files
                _take(taken, name, took)
    _show_times(f"commands, median of {rounds}", taken)


def _take(taken: dict[str, list[Took]], name: str, took: Took) -> None:
    taken.setdefault(name, []).append(took)


def _show_times(title: str, taken: dict[str, list[Took]]) -> None:
    """Ratios are medians of those within a round."""
    _say("")
    print(f"\n{title + ':':34} seconds  × first  on a processor  × first")
    for name, found in taken.items():
        pairs = [(*one, *bare) for one, bare in zip(found, taken[FLOOR])]
        columns = [
            [p[0] for p in pairs],
            [p[0] / p[2] for p in pairs],
            [p[1] for p in pairs],
            [p[1] / p[3] for p in pairs],
        ]
        print("  {:32} {:7.3f} {:8.1f} {:15.3f} {:8.1f}".format(name, *map(statistics.median, columns)))


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
