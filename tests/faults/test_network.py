"""The network between any two is cut, goes silent, loses: it is noticed in time, and everybody comes back.

Nobody is told of a silent connection: it is there, and nothing comes. Who waits for something on it has to look at the
clock. Between us and RabbitMQ that is the AMQP heartbeat, between us and CouchDB the ``store_timeout``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.faults.checker import BROKER, STORE
from tests.faults.fleet import (
    BROKER_LINKS,
    CONNECT_TIMEOUT_S,
    STORE_LINKS,
    STORE_TIMEOUT_S,
    WE_NOTICE_WITHIN_S,
    FleetWorld,
    said_by_all,
)
from tests.faults.network import BOTH, DOWN, UP, Link
from tests.servers.processes import Daemon

NOISE_S = 15.0  # a busy machine
EVERYWHERE = (*BROKER_LINKS, *STORE_LINKS)
PAIRS = [*(pytest.param((name,), id=name, marks=pytest.mark.long) for name in EVERYWHERE)]
ALL = pytest.param(EVERYWHERE, id="everywhere")

CUTS: dict[str, Callable[[Link], None]] = {"cut": Link.cut, "refused": Link.refuse}
SILENCES: dict[str, Callable[[Link], None]] = {
    "stalled": lambda link: link.stall(*BOTH),
    "stalled-up": lambda link: link.stall(UP),
    "stalled-down": lambda link: link.stall(DOWN),
    "black-hole": lambda link: link.swallow(*BOTH),
    "black-hole-up": lambda link: link.swallow(UP),
    "black-hole-down": lambda link: link.swallow(DOWN),
}


def only_in_long(names: Sequence[str], *always: str) -> list[Any]:
    return [name if name in always else pytest.param(name, marks=pytest.mark.long) for name in names]


@pytest.mark.parametrize("names", [*PAIRS, ALL])
@pytest.mark.parametrize("how", only_in_long([*CUTS], "cut"))
def test_a_network_that_is_cut_is_noticed_at_once(
    world: FleetWorld, names: tuple[str, ...], how: str, long: bool
) -> None:
    """Connections are reset, new ones too. All try again, not too often; after the end they are back in time."""
    world.moment_while_running()  # what is under way has a result when there is nobody to send it to
    with world.broken(*names) as links:
        with said_by_all(concerned(world, names), "retry", NOISE_S):
            for link in links:
                CUTS[how](link)
        time.sleep(world.chance.uniform(0, 20 if long else 1))  # it is away for so long
    world.prove(codes={BROKER, STORE})
    assert world.rushes(*names) == []


@pytest.mark.parametrize("names", [*PAIRS, ALL])
@pytest.mark.parametrize("how", only_in_long([*SILENCES], "black-hole"))
def test_a_silent_network_is_noticed_in_time(world: FleetWorld, names: tuple[str, ...], how: str) -> None:
    """Connections stay, and nothing comes through: given up after the heartbeat or the timeout, not before the end."""
    world.moment_while_running()  # what is under way has a result when there is nobody to send it to
    store_only = not set(names) & set(BROKER_LINKS)
    limit_s = STORE_TIMEOUT_S if store_only else WE_NOTICE_WITHIN_S
    daemons = concerned(world, names)
    with world.broken(*names) as links:
        with said_by_all(daemons, "retry", limit_s + NOISE_S):
            for link in links:
                SILENCES[how](link)
        if not daemons:
            time.sleep(limit_s)  # runners: whoever began before has ended, or noticed
    world.prove(codes={BROKER, STORE}, slack_s=limit_s + CONNECT_TIMEOUT_S + NOISE_S)
    assert world.rushes(*names) == []


@pytest.mark.parametrize("names", [*PAIRS, ALL])
def test_a_network_that_loses_packets_is_slow_and_nothing_else(
    world: FleetWorld, names: tuple[str, ...], long: bool
) -> None:
    """Of all portions some come 0.2 to 1 s late, and what is behind them, too. Nobody gives up; nothing is lost."""
    world.moment()
    with world.broken(*names) as links:
        for link in links:
            link.lose(0.1)
        for _ in range(5 if long else 1):
            world.moment()
    world.prove()


def concerned(world: FleetWorld, names: Sequence[str]) -> list[Daemon]:
    """The daemons that use one of these links; runners end by themselves."""
    clients = list(world.clients.values()) if "clients" in names else []
    return clients + (world.servers if {"servers", "servers-store"} & set(names) else [])
