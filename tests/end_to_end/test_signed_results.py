"""A server that was given the nodes' keys stores what each has signed itself, and keeps the rest as dead letters."""

from __future__ import annotations

import json
import time
from contextlib import closing

import pytest

from tests.servers.processes import Fleet, wait_until
from vogeler import signing
from vogeler.messages import OK, Heartbeat, Result, digest_of, encode, now
from vogeler.units import to_timestamp

on_one_machine = pytest.mark.parametrize("fleet", [("local", "sqlite")], indirect=True, ids=["local"])


@pytest.fixture
def signing_fleet(fleet: Fleet) -> Fleet:
    """web01 and db01, each with a key that the server trusts."""
    fleet.plugin("facts", "echo fact")
    lines = []
    for node in ("web01", "db01"):
        key = signing.new(node)
        signing.save(key, fleet.directory / f"{node}.key")
        lines.append(key.public().line)
    (fleet.directory / "nodes").write_text("\n".join(lines))
    fleet.server("--trusted-keys", str(fleet.directory / "nodes")).wait_for("ready")
    for node in ("web01", "db01"):
        fleet.client(node, "--signing-key", str(fleet.directory / f"{node}.key"))
    fleet.wait_known("web01", "db01")
    return fleet


def dead(fleet: Fleet) -> dict[str, str]:
    rows = json.loads(fleet.admin("dead", "list", "--format", "json").stdout)
    return {row["id"]: row["reason"] for row in rows}


def result(node: str) -> Result:
    return Result(node, "facts", "facts", 1, OK, now(), digest=digest_of("forged"), value="forged")


def test_what_a_node_has_signed_is_stored_and_what_it_has_not_is_a_dead_letter(signing_fleet: Fleet) -> None:
    answers = signing_fleet.ask("-c", "facts", "-n", "all")
    assert {node: row["stage"] for node, row in answers.items()} == {"web01": "stored", "db01": "stored"}
    web01 = signing.load(signing_fleet.directory / "web01.key")
    unsigned, in_the_name_of_db01, command = result("db01"), result("db01"), result("web01")
    beat = Heartbeat("db01", {"version": "0", "plugins": []})
    with closing(signing_fleet.transport()) as transport:
        transport.publish_result(encode(unsigned), "db01")
        transport.publish_result(web01.sign(encode(in_the_name_of_db01), "result"), "db01")
        transport.publish_result(web01.sign(encode(command), "command"), "web01")
        transport.publish_result(web01.sign(encode(beat), "result"), "db01")
    wait_until(lambda: len(dead(signing_fleet)) == 4, "four dead letters", signing_fleet.logs)
    reasons = dead(signing_fleet)
    assert "a result of db01: not signed" in reasons[unsigned.id]
    assert reasons[in_the_name_of_db01.id] == "a result of db01, but signed by web01"
    assert "changed, or forged" in reasons[command.id]
    assert reasons[beat.id] == "a heartbeat of db01, but signed by web01"
    with closing(signing_fleet.store()) as store:
        assert {record["_id"]: record["facts"] for record in store.records()} == {"db01": ["fact"], "web01": ["fact"]}


@on_one_machine
def test_a_client_does_not_start_with_the_key_of_another(signing_fleet: Fleet) -> None:
    client = signing_fleet.client("web02", "--signing-key", str(signing_fleet.directory / "db01.key"))
    assert client.process.wait(20) == 2
    assert "is the key of db01, and this node is web02" in client.log


def test_what_an_untrusted_node_has_sent_can_be_stored_once_its_key_is_trusted(signing_fleet: Fleet) -> None:
    fleet, key = signing_fleet, signing.new("web02")
    signing.save(key, fleet.directory / "web02.key")
    fleet.client("web02", "--signing-key", str(fleet.directory / "web02.key")).wait_for("ready")
    row = fleet.ask("-c", "facts", "-n", "web02")["web02"]
    assert row["stage"] == "failed"
    assert f"not stored: a result of web02: signed with the key {key.public().id}" in row["reason"]
    trust = ("key", "trust", "web02", key.public().text, "--trusted-keys", str(fleet.directory / "nodes"))
    assert fleet.admin(*trust).returncode == 0
    assert fleet.admin("dead", "requeue", "--all").returncode == 0
    with closing(fleet.store()) as store:
        wait_until(lambda: store.record("web02"), "the result is stored", fleet.logs)
    assert fleet.ask("-c", "facts", "-n", "web02")["web02"]["stage"] == "unchanged"


def test_what_a_node_has_signed_long_ago_does_not_bring_it_back_to_life(signing_fleet: Fleet) -> None:
    """The broker keeps a heartbeat and a result, and delivers them again when the node is gone."""
    fleet, node = signing_fleet, "web01"
    fleet.ask("-c", "facts", "-n", node)
    for daemon in fleet.daemons[1:]:
        daemon.stop()
    key = signing.load(fleet.directory / "web01.key")
    with closing(fleet.transport()) as transport, closing(fleet.store()) as store:
        before = store.status(node) or {}
        beat = Heartbeat(node, {"version": "0", "plugins": []}, at=to_timestamp(time.time() - 3600))
        seq = before["keys"]["facts"]["seq"]
        again = [
            Result(node, "facts", "facts", seq - ago, OK, now(), digest=digest_of(["fact"]), value=["fact"])
            for ago in (0, 9)
        ]
        for message in (beat, *again):
            transport.publish_result(key.sign(encode(message), "result"), node)
        fresh = Heartbeat("db01", {"version": "fresh", "plugins": []})
        transport.publish_result(signing.load(fleet.directory / "db01.key").sign(encode(fresh), "result"), "db01")
        wait_until(lambda: (store.status("db01") or {})["agent"]["version"] == "fresh", "they are stored", fleet.logs)
        wait_until(lambda: transport.depths()["vogeler.results"].messages == 0, "nothing waits", fleet.logs)
        after = store.status(node) or {}
    assert (after["heard_at"], after["agent"]) == (before["heard_at"], before["agent"])
    fleet.daemons[0].wait_for("stale")


def test_a_heartbeat_without_any_keys_may_be_late(fleet: Fleet) -> None:
    """After an outage of the server, say, or from a node whose clock is behind."""
    fleet.server().wait_for("ready")
    beat = Heartbeat("web01", {"version": "0", "plugins": []}, at=to_timestamp(time.time() - 3600))
    with closing(fleet.transport()) as transport:
        transport.publish_result(encode(beat), "web01")
    fleet.wait_known("web01")
