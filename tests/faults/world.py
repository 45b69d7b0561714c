"""A fleet under load, to which something is done; and the proof that it did no harm.

::

    world.start()              # servers, clients, runners; everybody has been heard (the fixtures do this)
    world.moment()             # at random, while plugins run
    ...                        # the fault
    world.fault_ended()
    world.prove()              # everybody is back, and the checker is content
"""

from __future__ import annotations

import logging
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Optional

import pytest

from tests.faults import stored
from tests.faults.checker import SLACK_S, DeadLetter, Seen, violations
from tests.faults.load import Poison, Runners
from tests.faults.resources import Held, held_by, leaks
from tests.faults.truth import STEADY, TruthLog
from tests.servers.processes import Daemon, Fleet, wait_until
from vogeler import topology
from vogeler.errors import MessageError
from vogeler.messages import Result, decode
from vogeler.messaging import Delivery
from vogeler.units import parse_timestamp

log = logging.getLogger(__name__)

# All worlds that there were, for who looks on: soak.py.
WORLDS = pytest.StashKey[list["World"]]()

BACK_WITHIN_S = 30.0
# In all, as they happen in any one second: the first two or three delays of the backoff are shorter than that.
ATTEMPTS_A_DAEMON_A_SECOND = 4.0
RUN_TIMEOUT_S = 20.0
_PROBE_TIMEOUT_S = 10.0
_SETTLED_WITHIN_S = 40.0

# Name of each queue → how many messages it has, handed out or not.
Queues = Callable[[], Mapping[str, int]]


@dataclass(frozen=True)
class Proof:
    """What one proof was about: since the one before it.

    ``back_s``: from the end of the fault until all were back; ``commands`` that runners sent; ``results`` of plugins
    that ended well; ``rush``: attempts to connect in the worst second, of all that there have been.
    """

    back_s: float
    commands: int
    results: int
    rush: int


class World:
    """Clients, servers, runners and the log of what their plugins did.

    ``queues``: asks the broker. ``store``: the URL to read the store at, when ``fleet.dbhost`` leads through something
    that the test breaks. ``chance``: decides what happens to whom. Nothing runs before ``start``.
    """

    def __init__(
        self,
        fleet: Fleet,
        chance: random.Random,
        queues: Queues,
        clients: int,
        servers: int = 2,
        runners: int = 2,
        store: Optional[str] = None,
    ) -> None:
        self.fleet = fleet
        self.chance = chance
        self.log = TruthLog(fleet.directory)
        self.nodes = [f"node{number:02d}" for number in range(clients)]
        self.runners = Runners(fleet, self.nodes, RUN_TIMEOUT_S)
        self.poison = Poison(fleet, self.nodes[0])
        self.clients: dict[str, Daemon] = {}
        self.servers: list[Daemon] = []
        self.killed: set[int] = set()  # clients, by process id
        self.ended_on_purpose: set[Daemon] = set()
        self._queues = queues
        self._server_count, self._runner_count = servers, runners
        self._store = store or fleet.dbhost
        self._held: dict[str, Held] = {}
        self.proofs: list[Proof] = []
        self._settled: set[str] = set()  # values that an earlier proof was content with
        self._fault_ended_s = time.monotonic()
        self.began_s = time.monotonic()  # with this load

    # --- the life of a world ----------------------------------------------------------------------

    def start(self) -> None:
        """Start everybody, let each plugin run once, see what each process holds, and begin the load."""
        done = self.fleet.admin("setup")
        assert done.returncode == 0, done.stderr
        for _ in range(self._server_count):
            self.start_server()
        for node in self.nodes:
            self.start_client(node)
        for daemon in (*self.servers, *self.clients.values()):
            daemon.wait_for("ready")
        self.fleet.wait_known(*self.nodes)
        for alias in ("slow", "quick", "probe"):
            self._all_answer(alias)
        self._held = self.held()
        self.begin_load()

    def again(self, chance: random.Random) -> None:
        """The same world for one more fault, after a proof: what was before is settled."""
        self.chance = chance
        self._settled = set(self.log.runs())
        self.runners.asked.clear()
        self.begin_load()

    def begin_load(self) -> None:
        """Runners, and poison among the results."""
        self.began_s = time.monotonic()
        self.runners.begin([random.Random(self.chance.random()) for _ in range(self._runner_count)])
        self.poison.begin()

    def end_load(self) -> None:
        """Ask no more; wait for the runners that are under way."""
        try:
            self.poison.end()
        finally:
            self.runners.end()

    def stop(self) -> None:
        """End everything, also what a test has left frozen."""
        for daemon in self.fleet.daemons:
            daemon.process.send_signal(signal.SIGCONT)
        for process in self.runners.processes():
            process.send_signal(signal.SIGCONT)
        try:
            self.end_load()
        finally:
            self.fleet.stop()

    # --- its people -------------------------------------------------------------------------------

    def start_client(self, node: str, *flags: str, **environment: str) -> Daemon:
        """Start the client of a node, or start it again."""
        flags = ("--plugins", str(self.log.plugins_of(node)), *flags)
        self.clients[node] = self.fleet.client(node, *flags, environment=environment)
        return self.clients[node]

    def start_server(self, *flags: str, **environment: str) -> Daemon:
        """Start one more server."""
        self.servers.append(self.fleet.server(*flags, environment=environment))
        return self.servers[-1]

    def kill_client(self, node: str) -> None:
        """Kill -9. What its plugins are at goes on, and nobody reads what they print."""
        daemon = self.clients.pop(node)
        self.killed.add(daemon.process.pid)
        self.ended_on_purpose.add(daemon)
        daemon.kill()

    def kill_server(self, server: Daemon) -> None:
        """Kill -9."""
        self.servers.remove(server)
        self.ended_on_purpose.add(server)
        server.kill()

    def daemons(self) -> list[Daemon]:
        """Those that are meant to live."""
        return [*self.servers, *self.clients.values()]

    # --- moments ----------------------------------------------------------------------------------

    def moment(self) -> None:
        """Return at a random moment of a busy fleet: some time after a few more lines in the log."""
        lines = self.log.count() + self.chance.randint(1, 4 * len(self.nodes))
        wait_until(lambda: self.log.count() >= lines, "plugins run", self.fleet.logs)
        time.sleep(self.chance.uniform(0, 0.3))  # or it would always be when a plugin begins or ends

    def moment_while_running(self, key: str = "slow", client: Optional[Daemon] = None) -> str:
        """A node whose plugin runs now: one at random of those that there are, or that of this client."""
        clients = self.clients if client is None else {n: c for n, c in self.clients.items() if c is client}
        pids = {daemon.process.pid for daemon in clients.values()}

        def running() -> list[str]:
            return sorted({run.node for run in self.log.running() if run.key == key and run.client_pid in pids})

        return self.chance.choice(wait_until(running, f"{key} runs somewhere", self.fleet.logs))

    def moment_while_all_run(self, key: str) -> None:
        """Return when the plugin runs on every node."""
        pids = {daemon.process.pid for daemon in self.clients.values()}

        def everywhere() -> bool:
            return {run.client_pid for run in self.log.running() if run.key == key} >= pids

        wait_until(everywhere, f"{key} runs everywhere", self.fleet.logs)

    @contextmanager
    def holding(self, alias: str) -> Iterator[None]:
        """Until the end of the block or ``release`` the plugin does not end on any node."""
        for node in self.nodes:
            self.log.hold_of(node, alias).touch()
        try:
            yield
        finally:
            self.release(alias)

    def release(self, alias: str) -> None:
        """Let the plugins end."""
        for node in self.nodes:
            self.log.hold_of(node, alias).unlink(missing_ok=True)

    def fault_ended(self) -> None:
        """From now on everybody has to come back."""
        self._fault_ended_s = time.monotonic()

    # --- the proof --------------------------------------------------------------------------------

    def prove(
        self,
        codes: Collection[int] = (),
        slack_s: float = SLACK_S,
        suspects: Optional[Collection[str]] = None,
        lossy: bool = False,
    ) -> None:
        """Fails unless everybody is back in time, and all is as it was promised.

        ``codes``: exit codes that a runner may have ended with because of the fault, as broker or store were away;
        ``slack_s``: at least as long as a server was frozen; ``suspects``: nodes that may be silent or unfinished, None
        where it may be any. As in checker.Seen. ``lossy``: the broker has lost what it had. Ends the load.
        """
        back_s, rush = self.recovered(), self.attempts_a_second()
        log.warning("back %.1f s after the fault; %d attempts a second at most", back_s, rush)
        self.end_load()
        self._wait_content(codes, slack_s, suspects)
        if not lossy:
            self._wait_all_stored()
        found = [*self._unwell(), *self._left_in_queues(), *leaks(self._held, self.held()), *self._rushes()]
        assert not found, "\n".join(found) + "\n" + self.fleet.logs()
        self.proofs.append(Proof(back_s, len(self.runners.asked), len(self._succeeded()), rush))

    def _succeeded(self) -> set[str]:
        """The values of plugins that ended well since the last proof."""
        ran = (run for run in self.log.runs().values() if run.succeeded and run.key != STEADY)
        return {run.value for run in ran} - self._settled

    def _wait_all_stored(self) -> None:
        """Whatever a runner was told: a client that lives keeps what has run until the broker has it."""
        lived = {run.value for run in self.log.runs().values() if run.client_pid not in self.killed}
        ran = self._succeeded() & lived

        def missing() -> set[str]:
            return ran - {change["value"] for change in stored.read(self._store).history}

        wait_until(lambda: not missing(), "all that ran is stored", lambda: f"{missing()}\n{self.fleet.logs()}")

    def recovered(self, within_s: float = BACK_WITHIN_S) -> float:
        """Seconds from the end of the fault until all nodes answer and all servers work; fails after too many."""
        while True:
            asked = self.runners.ask("probe", self.nodes, _PROBE_TIMEOUT_S, discovery_s=3.0)
            back = asked.exit_code == 0 and self._servers_consume()
            back_s = time.monotonic() - self._fault_ended_s
            if back:
                assert back_s < within_s, f"back only {back_s:.1f} s after the fault\n{self.fleet.logs()}"
                return back_s
            # One more after the limit: this one may have begun just before it.
            assert back_s < within_s + _PROBE_TIMEOUT_S, (
                f"not back after {back_s:.1f} s: {asked.talk}\n{self.fleet.logs()}"
            )
            time.sleep(0.2)

    def _servers_consume(self) -> bool:
        with closing(self.fleet.transport()) as transport:
            return transport.depths()[topology.RESULTS_QUEUE].consumers == len(self.servers)

    def _all_answer(self, alias: str) -> None:
        asked = self.runners.ask(alias, self.nodes)
        assert asked.exit_code == 0, f"{asked.talk}\n{self.fleet.logs()}"

    def _wait_content(self, codes: Collection[int], slack_s: float, suspects: Optional[Collection[str]]) -> None:
        """What is under way may still arrive."""
        deadline_s = time.monotonic() + _SETTLED_WITHIN_S
        while True:
            found = self.violations(codes, slack_s, suspects)
            if not found:
                return
            if time.monotonic() > deadline_s:
                raise AssertionError(f"{len(found)} violations:\n" + "\n".join(found) + "\n" + self.fleet.logs())
            time.sleep(0.5)

    def violations(
        self,
        codes: Collection[int] = (),
        slack_s: float = SLACK_S,
        suspects: Optional[Collection[str]] = None,
    ) -> list[str]:
        """What the checker finds now."""
        dead, holds = self.dead_letters(), stored.read(self._store)
        asked = [one for one in self.runners.asked if one.ended_at or one.killed]
        poison = self.poison.sent, self.poison.maybe
        about = self.killed, self._settled, codes, slack_s, suspects
        return violations(Seen(self.log.runs(), holds, asked, dead, *poison, *about))

    def dead_letters(self) -> list[DeadLetter]:
        """All that there are, left where they are."""
        with closing(self.fleet.transport()) as transport, closing(transport.consume_dead()) as consumer:
            found: list[DeadLetter] = []
            delivery = consumer.receive(2.0)
            while delivery is not None:
                found.append(_letter(delivery))
                delivery = consumer.receive(0.3)
            return found

    def pids(self) -> dict[str, int]:
        """The daemons' processes, by name: ``server 0``, or the node's."""
        servers = {f"server {number}": server for number, server in enumerate(self.servers)}
        return {name: daemon.process.pid for name, daemon in {**servers, **self.clients}.items()}

    def held(self) -> dict[str, Held]:
        """What each process holds, by name."""
        return {name: held_by(pid) for name, pid in self.pids().items()}

    def attempts_a_second(self) -> int:
        """How often servers and clients together tried to connect, in the worst second."""
        events = [one for d in self.fleet.daemons for name in ("ready", "retry") for one in d.events(name)]
        return max(Counter(int(parse_timestamp(event["at"])) for event in events).values(), default=0)

    def _rushes(self) -> list[str]:
        limit = ATTEMPTS_A_DAEMON_A_SECOND * len(self.daemons())
        worst = self.attempts_a_second()
        return [f"{worst} attempts to connect in one second, of {len(self.daemons())} daemons"] if worst > limit else []

    def _unwell(self) -> list[str]:
        """Daemons that ended by themselves, or met a bug."""
        ended = [d for d in self.fleet.daemons if d.process.poll() is not None and d not in self.ended_on_purpose]
        bugs = [d for d in self.fleet.daemons if d.events("bug") or "Traceback" in d.log]
        return [f"{d.process.args} ended with {d.process.returncode}:\n{d.log[-3000:]}" for d in ended] + [
            f"{d.process.args} met a bug:\n{d.log[-3000:]}" for d in bugs
        ]

    def _left_in_queues(self) -> list[str]:
        """Nothing may wait but dead letters, and no queue of a runner may be left."""
        wanted = {topology.RESULTS_QUEUE, topology.DEAD_QUEUE, *map(topology.node_queue, self.nodes)}
        found: Mapping[str, int] = {}

        def clean() -> bool:
            nonlocal found
            found = {name: n for name, n in self._queues().items() if not name.startswith(topology.server_queue(""))}
            return found.keys() == wanted and not any(n for name, n in found.items() if name != topology.DEAD_QUEUE)

        deadline_s = time.monotonic() + _SETTLED_WITHIN_S
        while not clean():
            if time.monotonic() > deadline_s:
                return [f"left in the broker: {dict(found)}"]
            time.sleep(0.1)
        return []


def _letter(delivery: Delivery) -> DeadLetter:
    value: Any = None
    with suppress(MessageError):
        value = decode(delivery.envelope, Result).value
    return DeadLetter(delivery.envelope.message_id, delivery.reason, value)
