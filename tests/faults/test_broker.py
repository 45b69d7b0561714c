"""The broker of a busy fleet goes, forgets, refuses and comes back."""

from __future__ import annotations

import pytest

from tests.faults.checker import BROKER
from tests.faults.fleet import FleetWorld
from tests.servers.processes import wait_until
from vogeler import topology

PATIENCE_S = 90.0  # how long a runner waits


@pytest.mark.long
def test_a_broker_that_is_stopped_in_an_orderly_way_and_started_has_lost_nothing(world: FleetWorld) -> None:
    world.moment_while_running()
    world.broker.stop()
    everybody_notices(world)
    world.broker.start()
    world.fault_ended()
    world.prove(codes={BROKER})


def test_a_broker_that_is_killed_has_lost_nothing_that_it_confirmed(world: FleetWorld) -> None:
    world.moment_while_running()
    world.broker.kill()
    everybody_notices(world)
    world.broker.start()
    world.fault_ended()
    world.prove(codes={BROKER})


@pytest.mark.long
def test_a_broker_that_has_lost_its_data_is_set_up_again_by_those_who_need_it(world: FleetWorld) -> None:
    """Messages are lost with it: the runners name whom they don't know the end of. The dead letters are gone, too."""
    world.moment_while_running()
    world.broker.kill()
    world.broker.lose_data()
    world.poison.sent.clear()
    world.broker.start()
    everybody_notices(world)
    world.admit()
    world.fault_ended()
    world.prove(codes={BROKER}, lossy=True)


@pytest.mark.long
@pytest.mark.parametrize("what", ["memory", "disk"])
def test_a_broker_without_memory_or_disk_space_takes_all_when_it_has_some_again(world: FleetWorld, what: str) -> None:
    """Runners are told why; clients keep what their plugins gave."""
    world.moment_while_running()
    world.broker.raise_alarm(what)
    try:
        asked = world.runners.ask("quick", world.nodes)
        assert asked.exit_code == BROKER
        assert "it accepts no messages (out of memory or disk space)" in asked.talk
    finally:
        world.broker.clear_alarms()
    world.fault_ended()
    world.prove(codes={BROKER})


@pytest.mark.long
def test_the_queue_of_a_node_that_is_deleted_is_made_again(world: FleetWorld) -> None:
    """The commands in it are lost: the node is named as silent, or unfinished."""
    node = world.moment_while_running()
    world.broker.delete_queue(world.vhost, topology.node_queue(node))
    world.fault_ended()
    world.prove()


@pytest.mark.long
def test_the_queue_of_results_that_is_deleted_is_made_again(world: FleetWorld) -> None:
    """The results in it are lost: the runners name whom they don't know the end of."""
    world.poison.end()
    wait_until(lambda: world.poison.sent <= {letter.message_id for letter in world.dead_letters()}, "the dead letters")
    world.moment_while_running()
    world.broker.delete_queue(world.vhost, topology.RESULTS_QUEUE)
    world.poison.begin()
    world.fault_ended()
    world.prove(codes={BROKER}, lossy=True)


def test_connections_that_the_operator_closes_are_opened_again(world: FleetWorld) -> None:
    """And what the plugins are at is not begun once more, but told to the runner."""
    with world.holding("patient"), world.runners.asking("patient", world.nodes, PATIENCE_S) as asking:
        world.moment_while_all_run("patient")
        before = {daemon: len(daemon.events("ready")) for daemon in world.daemons()}
        assert world.close_connections() >= len(before)
        for daemon, times in before.items():
            daemon.wait_for("ready", times + 1)
        world.release("patient")
        asked = asking.result()
    assert asked.exit_code == 0, asked.talk
    world.fault_ended()
    world.prove(codes={BROKER})


@pytest.mark.long
@pytest.mark.parametrize("what", ["password", "permissions"])
def test_a_login_that_is_taken_away_and_given_back_is_used_again(world: FleetWorld, what: str) -> None:
    world.moment_while_running()
    if what == "password":
        world.broker.create_user(world.user, "another one")
    else:
        world.broker.set_permissions(world.vhost, world.user, "", "", "")
    world.close_connections()
    everybody_notices(world)
    world.admit()
    world.fault_ended()
    world.prove(codes={BROKER})


def everybody_notices(world: FleetWorld) -> None:
    """Until every daemon has tried again in vain once more."""
    before = {daemon: len(daemon.events("retry")) for daemon in world.daemons()}
    for daemon, times in before.items():
        daemon.wait_for("retry", times + 1)
