"""Several queues of results, servers that are killed, and the number of queues changed while results come."""

from __future__ import annotations

import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tests.faults import stored
from tests.servers.processes import COMMANDS, Fleet, wait_until
from vogeler import topology
from vogeler.errors import ExitCode
from vogeler.messages import Result, encode, now

pytestmark = pytest.mark.parametrize("fleet", [("amqp", "couch")], indirect=True, ids="-".join)

NODES = [f"web{number:02d}" for number in range(12)]
EVERY_S = 0.005


class Load(threading.Thread):
    """A result of one node after the other, each with a value of its own, until stopped."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(daemon=True)
        self._fleet = fleet
        self._stopping = threading.Event()
        self.confirmed: list[tuple[str, int]] = []
        self.start()

    def run(self) -> None:
        with closing(self._fleet.transport()) as transport:
            number = 0
            while not self._stopping.wait(EVERY_S):
                number += 1
                node = NODES[number % len(NODES)]
                transport.publish_result(
                    encode(Result(node, "facts", "facts", number, "ok", now(), value=number)), node
                )
                self.confirmed.append((node, number))

    def reach(self, more: int) -> None:
        """Until there are so many more results."""
        wanted = len(self.confirmed) + more
        wait_until(lambda: len(self.confirmed) >= wanted, "the load goes on", self._fleet.logs)

    def stop(self) -> None:
        self._stopping.set()
        self.join()


@pytest.fixture
def load(fleet: Fleet) -> Iterator[Callable[[], Load]]:
    loads: list[Load] = []

    def starter() -> Load:
        loads.append(Load(fleet))
        return loads[-1]

    yield starter
    for one in loads:
        one.stop()


def prove(fleet: Fleet, load: Load) -> None:
    """Every result that the broker has confirmed is in the history once, and the last of each node in its record."""
    load.stop()

    def changes() -> Counter[tuple[str, int]]:
        return Counter((change["node"], change["value"]) for change in stored.read(fleet.dbhost).history)

    confirmed = Counter(load.confirmed)
    wait_until(lambda: changes().keys() >= confirmed.keys(), "all results are stored", fleet.logs)
    assert changes() == confirmed
    last = dict(load.confirmed)
    wait_until(
        lambda: {node: record.get("facts") for node, record in stored.read(fleet.dbhost).records.items()} == last,
        "the records have the last values", fleet.logs,
    )  # fmt: skip
    with closing(fleet.transport()) as transport:
        wait_until(lambda: not any(depth.messages for depth in transport.depths().values()), "all queues are empty")


def test_a_killed_server_hands_its_nodes_to_the_other_and_every_result_is_stored_once(
    fleet: Fleet, load: Callable[[], Load]
) -> None:
    servers = [fleet.server(), fleet.server()]
    for server in servers:
        server.wait_for("ready")
    done = fleet.admin("setup", "--result-queues", "3")
    assert done.returncode == ExitCode.OK, done.stderr
    assert f"created queue {topology.numbered_queue(3)}" in done.stderr
    results = load()
    for victim in servers:  # of whom at least one is at work
        results.reach(60)
        victim.kill()
        if victim is servers[0]:
            results.reach(60)
            fleet.server().wait_for("ready")
    prove(fleet, results)


def test_from_one_queue_to_three_and_back_under_load_though_the_admin_is_killed(
    fleet: Fleet, load: Callable[[], Load]
) -> None:
    chance = random.Random(3)
    for server in (fleet.server(), fleet.server()):
        server.wait_for("ready")
    results = load()
    for queues in ("3", "1"):
        words = [str(COMMANDS / "vogeler-admin"), "setup", "--result-queues", queues]
        for _ in range(3):
            results.reach(20)
            with subprocess.Popen(words, env=fleet.environment, stderr=subprocess.DEVNULL) as admin:
                time.sleep(chance.uniform(0.1, 0.5))
                admin.kill()
        done = fleet.admin("setup", "--result-queues", queues)
        assert done.returncode == ExitCode.OK, done.stderr
        assert "kept" not in done.stderr
        assert "no server" not in done.stderr
        checks = [row["check"] for row in json.loads(fleet.admin("doctor", "--format", "json").stdout)]
        numbered = [f"results queue {number}" for number in (1, 2, 3)] if queues == "3" else []
        assert [check for check in checks if check.startswith("results queue")] == ["results queue", *numbered]
    prove(fleet, results)


def test_a_queue_that_nobody_takes_from_is_told_by_the_doctor(fleet: Fleet) -> None:
    assert fleet.admin("setup", "--result-queues", "2").returncode == ExitCode.OK
    rows = json.loads(fleet.admin("doctor", "--format", "json").stdout)
    assert {row["check"]: row["remedy"] for row in rows}["server"] == "start vogeler-server"
    with closing(fleet.transport()) as transport:
        shared = transport._consumer(topology.RESULTS_QUEUE)  # type: ignore[attr-defined]
        shared.start(1)  # a server that was not told
        rows = json.loads(fleet.admin("doctor", "--format", "json").stdout)
    assert {row["check"]: row["finding"] for row in rows}["server"] == (
        "none is taking from vogeler.results.1, vogeler.results.2"
    )


@pytest.mark.parametrize("queues", ["0", "-1", "101", "three", "²"])
def test_a_number_of_queues_that_makes_no_sense_is_refused(fleet: Fleet, queues: str) -> None:
    done = fleet.admin("setup", f"--result-queues={queues}")
    assert done.returncode == ExitCode.USAGE
    assert "from 1 to 100" in done.stderr
