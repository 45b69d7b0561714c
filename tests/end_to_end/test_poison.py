"""Messages made to hurt: each is a dead letter or a refusal with its reason, and everybody else goes on."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import Any

import pytest

from tests.servers.processes import Fleet, wait_until
from vogeler import topology
from vogeler.messages import Envelope, new_id, now
from vogeler.messaging import Transport
from vogeler.units import to_timestamp

LONG = "x" * 300
HALF = "\ud800"  # half a surrogate pair: JSON can hold it, UTF-8 can't


def dead(transport: Transport) -> int:
    return transport.depths()[topology.DEAD_QUEUE].messages


def answer(fleet: Fleet) -> str:
    """The stage that a run on web01 ends in."""
    return str(fleet.ask("-c", "facts", "-n", "web01")["web01"]["stage"])


@pytest.fixture
def running(fleet: Fleet) -> Fleet:
    fleet.plugin("facts", "echo fact")
    fleet.server().wait_for("ready")
    fleet.client("web01").wait_for("ready")
    fleet.wait_known("web01")
    return fleet


def envelope(content: dict[str, Any]) -> Envelope:
    return Envelope(json.dumps(content).encode(), message_id="poison", type=content["type"])


def result(**changes: Any) -> dict[str, Any]:
    plain = {
        "v": 1, "type": "result", "id": new_id(), "at": now(), "node": "web09", "alias": "facts", "key": "facts",
        "seq": 1, "status": "ok", "collected_at": now(), "value": ["x"],
    }  # fmt: skip
    return {**plain, **changes}


POISON: list[dict[str, Any]] = [
    {"run": HALF},
    {"run": LONG},
    {"run": "a b"},
    {"digest": HALF},
    {"requested_by": HALF},
    {"error": "x" * 5000},
    {"seq": 2**60},
    {"seq": -1},
    {"collected_at": "2099-01-01T00:00:00.000Z"},
    {"type": "heartbeat", "agent": {"groups": 5}},
    {"type": "heartbeat", "agent": {"groups": [["a"]]}},
    {"type": "heartbeat", "agent": {"plugins": [1]}},
]


def test_a_result_that_is_poison_is_a_dead_letter_and_the_next_is_stored(running: Fleet) -> None:
    with closing(running.transport()) as transport:
        for count, changes in enumerate(POISON, 1):
            content = result(**changes)
            if content["type"] == "heartbeat":
                content = {name: content[name] for name in ("v", "type", "id", "at", "node", "agent")}
            transport.publish_result(envelope(content), "web09")
            wait_until(lambda: dead(transport) == count, f"{changes} is a dead letter", running.logs)  # noqa: B023
            assert answer(running) in ("stored", "unchanged"), changes
    assert running.admin("nodes").returncode == 0


def test_a_command_that_is_poison_is_a_dead_letter_and_the_next_is_run(running: Fleet) -> None:
    soon = to_timestamp(time.time() + 60)
    with closing(running.transport()) as transport:
        for count, changes in enumerate(({"requested_by": HALF}, {"id": LONG}, {"id": HALF}, {"alias": "x" * 5000}), 1):
            content = {"v": 1, "type": "command", "id": new_id(), "at": now(), "alias": "facts", "requested_by": "a@b",
                       "expires_at": soon, **changes}  # fmt: skip
            assert transport.publish_command(envelope(content), ["all"], 60.0)
            wait_until(lambda: dead(transport) == count, f"{changes} is a dead letter", running.logs)  # noqa: B023
            assert answer(running) in ("stored", "unchanged"), changes


def test_a_record_that_was_edited_by_hand_stops_nobody(running: Fleet) -> None:
    """Whatever is in the documents, a result for that node is stored or a dead letter, and the server lives on."""
    running.ask("-c", "facts", "-n", "web01")
    broken = {"schema": 1, "keys": {"facts": "broken"}}
    if running.dbhost.startswith("sqlite"):
        import sqlite3

        with closing(sqlite3.connect(running.dbhost[len("sqlite://") :])) as db:
            body = json.dumps({"_id": "web01", "facts": 1, "vogeler": broken})
            db.execute("UPDATE records SET body = ?", (body,))
            db.commit()
    else:
        import couchdb

        host, _, database = running.dbhost.replace("couch://", "http://").rpartition("/")
        records = couchdb.Server(host)[database]
        document = records["web01"]
        document["vogeler"] = broken
        records.save(document)
    assert running.ask("-c", "facts", "-n", "web01", "--timeout", "10s")["web01"]["stage"] in ("stored", "failed")
    running.client("web02")
    running.wait_known("web02")
    assert running.ask("-c", "facts", "-n", "web02")["web02"]["stage"] == "stored"


def test_a_header_that_rabbitmq_would_never_write_stops_nobody(amqp_url: str, couch_url: str, tmp_path: Any) -> None:
    import pika

    fleet = Fleet(amqp_url, couch_url, tmp_path)
    try:
        fleet.plugin("facts", "echo fact")
        fleet.server().wait_for("ready")
        with closing(pika.BlockingConnection(pika.URLParameters(amqp_url))) as connection:
            properties = pika.BasicProperties(headers={"x-death": "x"})
            connection.channel().basic_publish(topology.RESULTS_EXCHANGE, "result.web09", b"{}", properties)
        fleet.client("web01")
        fleet.wait_known("web01")
        assert fleet.ask("-c", "facts", "-n", "web01")["web01"]["stage"] == "stored"
    finally:
        fleet.stop()
