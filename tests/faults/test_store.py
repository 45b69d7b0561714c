"""The store is away, slow, full, mad or empty: results wait in the queue, and all are stored when it is well again."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

import pytest

from tests.faults import stored
from tests.faults.checker import STORE, DeadLetter
from tests.faults.fleet import STORE_LINKS, STORE_TIMEOUT_S, FleetWorld
from tests.persistence.proxy import Exchange
from tests.servers.processes import wait_until

SETTLING_S = 60.0  # a batch that was begun in a fault says the time it was begun at
FULL = {"error": "error", "reason": "internal_server_error"}  # what CouchDB 3.5 says of a full disk, with 500


def refusing(status: int, error: str) -> Callable[[Exchange], None]:
    body = json.dumps({"error": error, "reason": f"{error}, says the test"}).encode()
    return lambda exchange: exchange.reply(status, body)


def without_room(exchange: Exchange) -> None:
    """A full disk: all can be read, and nothing be written."""
    if exchange.command == "GET" or exchange.path.endswith("/_all_docs?include_docs=true"):
        exchange.pass_on()
    else:
        exchange.reply(500, json.dumps(FULL).encode())


def garbled(exchange: Exchange) -> None:
    exchange.reply(200, b"<html>It works!</html>", "text/html")


def halved(exchange: Exchange) -> None:
    """What was asked for is done, and half of the answer comes."""
    status, body = exchange.forward()
    exchange.reply(status, body[: len(body) // 2], Content_Length=str(len(body)))
    exchange.hang_up()


def late(exchange: Exchange) -> None:
    time.sleep(1.0)
    exchange.pass_on()


def lost(exchange: Exchange) -> None:
    """What was asked for is done, and nobody hears of it."""
    exchange.forward()
    exchange.hang_up()


MADNESS: dict[str, Callable[[Exchange], None]] = {
    "401": refusing(401, "unauthorized"),
    "409": refusing(409, "conflict"),
    "429": refusing(429, "too_many_requests"),
    "500": refusing(500, "unknown_error"),
    "503": refusing(503, "service_unavailable"),
    "full": without_room,
    "garbled": garbled,
    "halved": halved,
    "lost": lost,
    "hangs-up": Exchange.hang_up,
    "late": late,
}


def sometimes(behave: Callable[[Exchange], None], share: float, chance: random.Random) -> Callable[[Exchange], None]:
    return lambda exchange: behave(exchange) if chance.random() < share else exchange.pass_on()


def any_of(chance: random.Random) -> Callable[[Exchange], None]:
    """Each request meets another madness."""
    kinds = [*MADNESS.values()]
    return lambda exchange: chance.choice(kinds)(exchange)


def until_noticed(world: FleetWorld, times: int) -> None:
    """Until the servers have tried again so often in all."""

    def tried() -> int:
        return sum(len(server.events("retry")) for server in world.servers)

    before = tried()
    wait_until(lambda: tried() >= before + times, "the servers try again", world.fleet.logs, 60.0)


@pytest.mark.parametrize(
    "share", [pytest.param(1.0, marks=pytest.mark.long), pytest.param(0.2, marks=pytest.mark.long)]
)
@pytest.mark.parametrize("madness", [name for name in MADNESS if name != "late"])
def test_a_store_that_answers_madness_for_a_while(world: FleetWorld, madness: str, share: float) -> None:
    """Always, or now and then. Nothing that it says makes a server give up a result, or store it twice."""
    world.moment()
    with world.answering(sometimes(MADNESS[madness], share, world.chance)):
        until_noticed(world, 6)
    world.prove(codes={STORE}, slack_s=SETTLING_S)


def test_a_store_that_answers_every_madness_there_is(world: FleetWorld) -> None:
    """All of the above, mixed, at random; and some answers take a second."""
    world.moment()
    with world.answering(sometimes(any_of(world.chance), 0.5, world.chance)):
        until_noticed(world, 4)
    world.prove(codes={STORE}, slack_s=SETTLING_S)


@pytest.mark.long
def test_what_the_store_finds_too_large_waits_among_the_dead_letters(world: FleetWorld) -> None:
    """A limit that is too low for a while: the runners are told, and what is requeued after is stored."""

    def refused() -> list[DeadLetter]:
        return [letter for letter in world.dead_letters() if letter.message_id not in world.poison.maybe]

    world.moment()
    with world.answering(too_large_to_write):
        wait_until(refused, "dead letters", world.fleet.logs)
        world.moment()
    world.end_load()
    assert all("answers 413: document_too_large" in str(letter.reason) for letter in refused())
    world.fleet.admin("dead", "requeue", "--all")
    world.prove(codes={STORE}, slack_s=SETTLING_S)


def too_large_to_write(exchange: Exchange) -> None:
    """What CouchDB says where max_document_size is too small for anything."""
    if exchange.path.endswith("/_bulk_docs"):
        exchange.reply(413, b'{"error":"document_too_large","reason":"web01"}')
    else:
        exchange.pass_on()


@pytest.mark.long
def test_a_slow_store(world: FleetWorld) -> None:
    """Every answer takes 5 s: batches grow, and what a runner does not live to see is stored all the same."""
    world.moment()

    def slowly(exchange: Exchange) -> None:
        time.sleep(STORE_TIMEOUT_S - 3)
        exchange.pass_on()

    with world.answering(slowly):
        time.sleep(60.0)  # it is slow for so long
    world.prove(codes={STORE}, slack_s=SETTLING_S)


@pytest.mark.long
def test_a_store_that_is_away_for_minutes(world: FleetWorld, long: bool) -> None:
    """Everybody goes on, the results wait in the broker, and the servers try again less and less often."""
    world.moment()
    with world.broken("servers-store") as (link,):
        link.refuse()
        time.sleep(180.0 if long else 30.0)  # it is away for so long
    world.prove(codes={STORE}, slack_s=SETTLING_S)


def test_a_server_that_starts_before_the_store_and_finds_it_empty(world: FleetWorld) -> None:
    """It takes results at once, says what it waits for, makes the databases, and has the results; a runner ends with 8."""
    world.end_load()
    world.couchdb.delete(world.database)
    with world.broken(*STORE_LINKS) as links:
        for link in links:
            link.refuse()
        for server in list(world.servers):
            world.kill_server(server)
        world.again(world.chance)
        fresh = [world.start_server(), world.start_server()]
        for server in fresh:
            assert "store unreachable" in server.wait_for("retry", 2)["message"]
        asked = world.runners.ask("quick", world.nodes)
        assert asked.exit_code == STORE
        assert "store unreachable" in asked.talk
    for server in fresh:
        server.wait_for("store")
    assert any("created database" in server.log for server in fresh)
    world.prove(codes={STORE}, slack_s=SETTLING_S)


@pytest.mark.long
def test_a_database_that_is_deleted_under_a_running_server_is_made_again(world: FleetWorld) -> None:
    """With all that was in it. The next results make the server set it up, and are not lost."""
    world.end_load()
    world.couchdb.delete(world.database)
    world.again(world.chance)
    world.fault_ended()
    wait_until(lambda: any("created database" in server.log for server in world.servers), "made again")
    world.prove(codes={STORE})
    assert stored.read(world.fleet.dbhost).records.keys() == set(world.nodes)
