"""A fleet that is tried: broker, store and servers, the runners that ask it, and what each part used."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import engines, watched
from benchmarks.parts import Parts, Sampler
from benchmarks.progress import show
from benchmarks.simulator import groups_of
from benchmarks.watched import Watched
from tests.servers.processes import Fleet
from vogeler import messaging, targets, topology
from vogeler.errors import TransportError

_TIMEOUT_S = 900.0
_LOOK_EVERY_S = 0.5
_STOP_LIMIT_S = 90.0

# Statistics of every connection and channel each second, which are for a person who looks, are most of what a broker
# with thousands of them does (RabbitMQ, "Management Plugin", statistics interval).
_BROKER = "collect_statistics_interval = 60000\ntcp_listen_options.backlog = 1024\n"


@dataclass
class Trial:
    """``phases``: when each began, on the monotonic clock. ``problems``: what was not as it must be."""

    folder: Path
    on: engines.Engines
    fleet: Fleet
    parts: Parts = field(default_factory=Parts)
    phases: list[tuple[float, str]] = field(default_factory=list)
    runners: list[tuple[str, Watched]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sampler = Sampler(self.parts, self._numbers)

    def begin(self, phase: str) -> None:
        """Tell which phase begins, and remember when."""
        self.phases.append((time.monotonic(), phase))
        show(phase)

    def ask(self, name: str, alias: str, meant: str, nodes: Sequence[str], *flags: str) -> Watched:
        """One runner, to its end. ``nodes``: all there are."""
        wanted = targets.parse(meant)
        asked = [node for node in nodes if targets.matches(wanted, node, groups_of(node))]
        limits = ("--timeout", f"{_TIMEOUT_S:.0f}s", "--discovery", "30s")
        one = watched.run(self.fleet, self.folder, alias, meant, asked, *limits, *flags)
        self.runners.append((name, one))
        if not one.asked.rows:
            show("")
            print(f"{name}: no rows, exit code {one.asked.exit_code}:\n{one.asked.talk}", file=sys.stderr, flush=True)
        return one

    def ask_at_once(
        self, name: str, questions: Sequence[tuple[str, str]], nodes: Sequence[str], *flags: str
    ) -> list[Watched]:
        """A runner for each alias and targets, all at the same time."""
        with ThreadPoolExecutor(len(questions)) as pool:
            asking = [
                pool.submit(self.ask, f"{name}: {alias}, {number}", alias, meant, nodes, *flags)
                for number, (alias, meant) in enumerate(questions, 1)
            ]
            try:
                return [each.result() for each in asking]
            except BaseException:
                watched.kill_all()
                raise

    def by_name(self) -> dict[str, list[Watched]]:
        """The runners by name."""
        found: dict[str, list[Watched]] = {}
        for name, run in self.runners:
            found.setdefault(name, []).append(run)
        return found

    def wait(
        self, what: str, count: Callable[[], int], wanted: int, limit_s: float, every_s: float = _LOOK_EVERY_S
    ) -> float:
        """Until there are as many, with progress; how long it took. Ends the program when they never come."""
        began_s = time.monotonic()
        while (there := count()) < wanted:
            show(f"{what}: {there} of {wanted}")
            if time.monotonic() - began_s > limit_s:
                sys.exit(f"{what}: only {there} of {wanted} after {limit_s:.0f} s\n{self.fleet.logs()}")
            time.sleep(every_s)
        return time.monotonic() - began_s

    def wait_known(self, nodes: int, limit_s: float) -> float:
        """Until the store has heard of so many nodes."""
        with closing(self.fleet.store()) as store:
            return self.wait(
                "known to the store", lambda: sum(1 for _ in store.nodes()), nodes, limit_s, max(nodes / 5000, 0.1)
            )

    def wait_stored(self, limit_s: float) -> float:
        """Until nothing waits for a server."""
        return self.wait("results that wait", lambda: -self.sampler.next()["waiting"], 0, limit_s)

    def stop_daemons(self) -> None:
        """Clients finish what they run, and servers store what they have taken."""
        for daemon in reversed(self.fleet.daemons):
            daemon.process.terminate()
        for daemon in self.fleet.daemons:
            daemon.process.wait(_STOP_LIMIT_S)

    def _numbers(self) -> dict[str, int]:
        """Over a connection of its own each time, which a busy broker may lose."""
        while True:
            with suppress(TransportError), closing(messaging.connect(self.on.qhost, name="benchmark")) as transport:
                depths = transport.depths()
                break
        return {"waiting": depths[topology.RESULTS_QUEUE].messages, "dead": depths[topology.DEAD_QUEUE].messages}


@contextmanager
def trial(folder: Path, servers: int) -> Iterator[Trial]:
    """Broker, store and servers of its own; nothing is left of them."""
    with engines.fleet(_BROKER) as on:
        fleet = Fleet(on.qhost, on.dbhost, folder)
        one = Trial(folder, on, fleet)
        one.parts.add("broker", on.broker_pid)
        one.parts.add("store", on.store_pid)
        try:
            for _ in range(servers):
                server = fleet.server()
                server.wait_for("ready")
                one.parts.add("servers", server.process.pid)
            one.sampler.begin()
            yield one
        finally:
            watched.kill_all()
            one.sampler.end()
            for daemon in fleet.daemons:  # in an orderly way they have been stopped before
                daemon.kill()
