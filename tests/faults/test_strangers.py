"""Messages that are not ours, in masses; two clients of one name; a client that meets its own ghost."""

from __future__ import annotations

import gzip
import logging
import time
from contextlib import closing
from functools import cache

import pika
import pytest

from tests.faults.fleet import BROKER_NOTICES_WITHIN_S, FleetWorld, said_by_all
from tests.faults.network import DOWN
from tests.servers.processes import wait_until
from vogeler import topology
from vogeler.errors import ExitCode
from vogeler.messages import MAX_MESSAGE_BYTES

log = logging.getLogger(__name__)

LONGEST_BACKOFF_S = 15.0
NOISE_S = 15.0

# What is sent, with its content encoding, and what the reason says of it.
STRANGERS: list[tuple[bytes, str, str]] = [
    (b"", "", "not JSON"),
    (b"\xff\xfe\x00", "", "not JSON"),
    (b"<html>", "", "not JSON"),
    (b"[1, 2]", "", "not a JSON object"),
    (b'{"level": "info", "message": "a log line that lost its way"}', "", "protocol version None"),
    (b'{"v": 2, "type": "result", "node": "node00", "facts": []}', "", "protocol version 2"),
    (b'{"v": 1, "type": "command"}', "", "does not belong here"),
    (b'{"v": 1, "type": "result", "node": "../../etc"}', "", "of a result"),
    (b"[" * 100_000, "", "not JSON"),
    (b"not gzip", "gzip", "not gzip"),
    (gzip.compress(b"{}")[:-6], "gzip", "cut short"),
    (b"{}", "zstd", "content_encoding 'zstd'"),
]


@cache
def bomb() -> tuple[bytes, str, str]:
    return gzip.compress(b" " * (MAX_MESSAGE_BYTES + 1)), "gzip", "larger than"


def publish_strangers(world: FleetWorld, count: int) -> dict[str, str]:
    """As fast as it goes; only the last one waits for the broker, which then has the others, too.

    What each reason has to say, by message id.
    """
    expected = {}
    with closing(pika.BlockingConnection(pika.URLParameters(world.broker.url(world.vhost)))) as connection:
        channel = connection.channel()
        for number in range(count):
            body, encoding, expected[f"stranger-{number}"] = (
                bomb() if number % 500 == 499 else STRANGERS[number % len(STRANGERS)]
            )
            if number == count - 1:
                channel.confirm_delivery()
            properties = pika.BasicProperties(message_id=f"stranger-{number}", content_encoding=encoding or None)
            channel.basic_publish(topology.RESULTS_EXCHANGE, "result.stranger", body, properties)
    return expected


def take_strangers_from_the_dead(world: FleetWorld, expected: dict[str, str]) -> None:
    """Each is there, with its reason. They are dropped, as an operator would, so that the next test has none."""
    deadline_s = time.monotonic() + 30.0 + len(expected) / 500
    with closing(world.fleet.transport()) as transport, closing(transport.consume_dead()) as consumer:
        while expected:
            assert time.monotonic() < deadline_s, f"{len(expected)} are missing: {list(expected)[:10]}"
            delivery = consumer.receive(1.0)
            if delivery is not None and delivery.envelope.message_id in expected:
                assert expected.pop(delivery.envelope.message_id) in str(delivery.reason)
                consumer.ack([delivery])


def test_messages_that_are_not_ours_are_dead_letters_and_the_fleet_goes_on(world: FleetWorld, long: bool) -> None:
    """Thousands, of every kind, on the results queue: each with its reason, and no result waits behind them for long."""
    count = 100_000 if long else 500
    world.moment()
    with closing(world.fleet.transport()) as transport:

        def dead() -> int:
            return transport.depths()[topology.DEAD_QUEUE].messages

        before, started_s = dead(), time.monotonic()
        expected = publish_strangers(world, count)
        published_s = time.monotonic()
        wait_until(lambda: dead() >= before + count, "all are dead letters", world.fleet.logs, 30.0 + count / 50)
        ended_s = time.monotonic()
    log.warning("%d published in %.1f s, dead after %.1f s", count, published_s - started_s, ended_s - started_s)
    take_strangers_from_the_dead(world, expected)
    world.fault_ended()
    world.prove()


@pytest.mark.long
def test_the_second_client_of_a_name_says_so_and_ends(world: FleetWorld) -> None:
    """The first goes on, and does what is asked once."""
    world.moment()
    node = world.chance.choice(world.nodes)
    first = world.clients[node]
    second = world.start_client(node)
    world.clients[node] = first
    world.ended_on_purpose.add(second)
    assert second.process.wait(30) == ExitCode.NAME_TAKEN
    assert f"another client runs as node '{node}'" in second.log
    assert second.events("accepted") == []
    world.fault_ended()
    world.prove()


def test_a_client_waits_until_the_broker_knows_that_its_old_connection_is_dead(world: FleetWorld) -> None:
    """The clients see the cut, the broker does not: to it each is still there. They don't take their ghost for another."""
    world.moment()
    clients = list(world.clients.values())
    limit_s = BROKER_NOTICES_WITHIN_S + LONGEST_BACKOFF_S + NOISE_S
    with said_by_all(clients, "ready", limit_s), world.broken("clients") as (link,):
        link.cut((DOWN,))
    assert all("another client runs as node" in daemon.log for daemon in clients)
    world.prove()
    assert world.rushes("clients") == []
