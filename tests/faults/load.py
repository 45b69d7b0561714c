"""What a fleet is busy with: runners that ask all the time, and somebody who sends messages made to hurt."""

from __future__ import annotations

import json
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Optional

from tests.servers.processes import Fleet
from vogeler.errors import TransportError
from vogeler.messages import Envelope, new_id, now

_RUN = re.compile(r"\(run ([0-9a-f-]+)\)")
_GIVE_UP_S = 150.0  # a runner that has not ended by then hangs
_POISON_EVERY_S = 0.7
DISCOVERY_S = 8.0  # longer than a client takes to start on a busy machine


@dataclass
class Asked:
    """One runner: what it was asked, and what it said. Times in seconds on the wall clock.

    ``rows`` by node. ``killed``: by the test; it said nothing then. ``run`` is None for a runner that was
    killed, or that could not send its command.
    """

    alias: str
    nodes: list[str]
    timeout_s: float
    started_at: float
    ended_at: float = 0.0
    exit_code: int = -1
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    talk: str = ""
    run: Optional[str] = None
    killed: bool = False

    def __str__(self) -> str:
        nodes = f"{len(self.nodes)} nodes" if len(self.nodes) > 3 else ",".join(self.nodes)
        return f"run {self.run} of {self.alias} on {nodes} (exit code {self.exit_code})"


def _in_turn(die: random.Random) -> Iterator[str]:
    """The aliases without end, each soon again: some tests wait for one."""
    while True:
        yield from die.sample(("quick", "quick", "steady", "slow", "moody"), 5)


class Runners:
    """Runners in threads, one after the other in each, until ``end``."""

    def __init__(self, fleet: Fleet, nodes: Sequence[str], timeout_s: float) -> None:
        self._fleet = fleet
        self._nodes = list(nodes)
        self.timeout_s = timeout_s
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._processes: dict[subprocess.Popen[str], Asked] = {}
        self.asked: list[Asked] = []

    def begin(self, dice: Sequence[random.Random]) -> None:
        """A thread for each of the dice, which say what it asks."""
        self._ending.clear()
        self._threads = [threading.Thread(target=self._ask_on, args=(die,)) for die in dice]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Ask no more, and wait for the runners that are under way."""
        self._ending.set()
        for thread in self._threads:
            thread.join(_GIVE_UP_S + 10)
            assert not thread.is_alive(), "a runner does not end"
        self._threads = []

    def _ask_on(self, die: random.Random) -> None:
        for alias in _in_turn(die):
            if self._ending.is_set():
                return
            some = sorted(die.sample(self._nodes, die.randint(1, len(self._nodes))))
            asked = self.ask(alias, self._nodes if die.random() < 0.5 else some)
            if not asked.rows:
                self._ending.wait(0.3)  # the broker or the store is away

    def ask(
        self, alias: str, nodes: Sequence[str], timeout_s: Optional[float] = None, discovery_s: float = DISCOVERY_S
    ) -> Asked:
        """One runner, to its end."""
        asked = Asked(alias, list(nodes), timeout_s or self.timeout_s, time.time())
        targets = "all" if asked.nodes == self._nodes else ",".join(nodes)
        limits = ("--timeout", f"{asked.timeout_s}s", "--discovery", f"{discovery_s}s")
        process = self._fleet.start_runner("-c", alias, "-n", targets, "--format", "json", *limits)
        with self._lock:
            self.asked.append(asked)
            self._processes[process] = asked
        try:
            out, asked.talk = process.communicate(timeout=_GIVE_UP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, asked.talk = process.communicate()
            asked.talk += f"\nit did not end within {_GIVE_UP_S:.0f} s, and was killed by the test"
        with self._lock:
            del self._processes[process]
        asked.exit_code = process.returncode
        if out and not asked.killed:
            asked.rows = {row["node"]: row for row in json.loads(out)}
        found = _RUN.search(asked.talk)
        asked.run = found.group(1) if found else None
        asked.ended_at = time.time()
        return asked

    def processes(self, alias: Optional[str] = None) -> list[subprocess.Popen[str]]:
        """The runners that are under way; those of one alias."""
        with self._lock:
            return [process for process, asked in self._processes.items() if alias in (None, asked.alias)]

    @contextmanager
    def asking(self, alias: str, nodes: Sequence[str], timeout_s: float) -> Iterator[Future[Asked]]:
        """One runner beside the others; the block may wait for its result, and its end does."""
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(self.ask, alias, nodes, timeout_s)

    def kill(self, process: subprocess.Popen[str]) -> bool:
        """Kill -9 a runner. False when it had ended before."""
        with self._lock:
            asked = self._processes.get(process)
            if asked is None or process.poll() is not None:
                return False
            asked.killed = True
            process.kill()
            return True


class Poison:
    """Sends results that nobody can store, one after the other, and knows which the broker has confirmed.

    ``sent`` by message id; what was not confirmed may have arrived nevertheless, and is in ``maybe``.
    """

    def __init__(self, fleet: Fleet, node: str) -> None:
        self._fleet = fleet
        self._node = node
        self._ending = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self.sent: set[str] = set()
        self.maybe: set[str] = set()

    def begin(self) -> None:
        self._ending.clear()
        self._thread = threading.Thread(target=self._keep_sending)
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive(), "the sender of poison does not end"

    def _keep_sending(self) -> None:
        while not self._ending.is_set():
            try:
                with closing(self._fleet.transport()) as transport:
                    while not self._ending.wait(_POISON_EVERY_S):
                        self._send(transport.publish_result)
            except TransportError:
                self._ending.wait(_POISON_EVERY_S)

    def _send(self, publish: Callable[[Envelope, str], None]) -> None:
        envelope = self._envelope()
        self.maybe.add(envelope.message_id)
        publish(envelope, self._node)
        self.sent.add(envelope.message_id)

    def _envelope(self) -> Envelope:
        """By turns: what is no message, and what the store refuses."""
        name = new_id()
        if len(self.maybe) % 2:
            return Envelope(b"{poison", message_id=name, type="result")
        content = {
            "v": 1, "type": "result", "id": name, "at": now(), "node": self._node, "alias": "poison", "key": "poison",
            "seq": -1, "status": "ok", "collected_at": now(), "value": name,
        }  # fmt: skip
        return Envelope(json.dumps(content).encode(), message_id=name, type="result")
