"""Processes of a busy fleet are killed and frozen: what they were at is done once, or named."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing

import pytest

from tests.faults import stored
from tests.faults.checker import BROKER, SLACK_S, STORE
from tests.faults.fleet import FleetWorld
from tests.servers.couchdb import CouchServer
from tests.servers.processes import wait_until
from vogeler import topology

SHORT_FREEZE_S, LONG_FREEZE_S = 5.0, 60.0
PATIENCE_S, BRIEF_S = 90.0, SLACK_S  # how long a runner waits


def test_a_client_that_is_killed_while_its_plugin_runs_runs_it_again(world: FleetWorld, long: bool) -> None:
    """The runner hears of that run, from the client that was started again."""
    killed = set()
    for _ in range(5 if long else 1):
        with world.holding("patient"), world.runners.asking("patient", world.nodes, PATIENCE_S) as asking:
            node = world.moment_while_running("patient")
            world.kill_client(node)
            killed.add(node)
            client = world.start_client(node)
            world.moment_while_running("patient", client)
            world.release("patient")
            asked = asking.result()
        assert asked.exit_code == 0, asked.talk
    world.fault_ended()
    world.prove(suspects=killed)


def test_a_server_that_is_killed_between_the_store_and_the_ack_stores_nothing_twice(world: FleetWorld) -> None:
    """Tried until a result is in the history and in the queue, which is that moment."""
    for _ in range(60):
        wait_for_a_change(world)
        for server in list(world.servers):
            world.kill_server(server)
        wait_for_the_queue(world)
        caught = set(world.waiting_results()) & set(changed_values(world))
        for _ in range(2):
            world.start_server().wait_for("ready")
        if caught:
            break
    else:
        pytest.fail("the moment between the store and the acknowledgement was never met")
    world.fault_ended()
    world.prove(suspects=())


def wait_for_a_change(world: FleetWorld) -> None:
    """Return as soon as CouchDB has one more document in the history."""
    address, _, database = world.fleet.dbhost.rpartition("://")[2].rpartition("/")
    CouchServer(f"http://{address}").api("GET", f"/{database}_history/_changes?feed=longpoll&since=now")


def wait_for_the_queue(world: FleetWorld) -> None:
    """Until the broker has noticed that nobody takes results any more, and has them all back."""
    with closing(world.fleet.transport()) as transport:
        wait_until(lambda: transport.depths()[topology.RESULTS_QUEUE].consumers == 0, "the queue is nobody's")


def changed_values(world: FleetWorld) -> list[str]:
    return [change["value"] for change in stored.read(world.fleet.dbhost).history]


@pytest.mark.long
def test_the_nodes_go_on_with_what_a_runner_asked_that_was_killed(world: FleetWorld) -> None:
    for _ in range(10):
        world.moment()
        wait_until(lambda: [p for p in world.runners.processes() if world.runners.kill(p)], "a runner to kill")
    world.fault_ended()
    world.prove(suspects=())


@pytest.mark.long
def test_a_client_that_is_frozen_is_named_and_goes_on_afterwards(world: FleetWorld) -> None:
    """For a minute, which is longer than RabbitMQ waits for a heartbeat: it gives up the connection."""
    node = world.moment_while_running()
    frozen([world.clients[node].process.pid], LONG_FREEZE_S)
    world.fault_ended()
    world.prove(suspects={node})


@pytest.mark.long
def test_a_server_that_is_frozen_keeps_no_result_for_ever(world: FleetWorld) -> None:
    world.moment()
    frozen([world.chance.choice(world.servers).process.pid], LONG_FREEZE_S)
    world.fault_ended()
    world.prove(slack_s=LONG_FREEZE_S + SLACK_S)


def test_a_client_and_a_server_that_are_frozen_for_a_while_go_on(world: FleetWorld) -> None:
    node = world.moment_while_running()
    server = world.chance.choice(world.servers)
    frozen([world.clients[node].process.pid, server.process.pid], SHORT_FREEZE_S)
    world.fault_ended()
    world.prove(slack_s=SHORT_FREEZE_S + SLACK_S, suspects={node})


def test_a_runner_that_is_frozen_beyond_its_time_tells_what_the_store_knows(world: FleetWorld, long: bool) -> None:
    """It gets no receipt, as the broker gives up its connection. And somebody else has asked for the same since."""
    with world.holding("patient"), world.runners.asking("patient", world.nodes, BRIEF_S) as asking:
        node = world.moment_while_running("patient")
        pid = world.runners.processes("patient")[0].pid
        os.kill(pid, signal.SIGSTOP)
        run = [event["run"] for event in world.clients[node].events("accepted") if "patient" in event["message"]][-1]
        wait_until(lambda: world.close_connections(f"vogeler-runner {run}"), "the runner's connection")
        world.release("patient")
        world.runners.ask("patient", world.nodes)
        frozen([pid], LONG_FREEZE_S if long else BRIEF_S + 1)
        asking.result()
    world.fault_ended()
    world.prove(codes={BROKER, STORE})


def frozen(pids: list[int], freeze_s: float) -> None:
    """Freeze processes, and let them go on."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(freeze_s)  # it is this long that they hang: there is nothing to wait for
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
