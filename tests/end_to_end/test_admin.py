"""vogeler-admin against a running fleet, on each pair of engines."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest

from tests.servers.processes import Fleet, wait_until
from vogeler import topology
from vogeler.errors import ExitCode
from vogeler.messages import Envelope, Result, encode, now


def doctor(fleet: Fleet) -> tuple[int, dict[str, dict[str, Any]]]:
    done = fleet.admin("doctor", "--format", "json")
    return done.returncode, {finding["check"]: finding for finding in json.loads(done.stdout)}


@pytest.fixture
def known(fleet: Fleet) -> Fleet:
    """One server, one client, one record."""
    fleet.plugin("facts", "echo fact")
    fleet.plugin("table", "printf 'name size\\na 1\\n'", result_format="table")
    fleet.server().wait_for("ready")
    fleet.client("web01", "--groups", "web")
    fleet.wait_known("web01")
    fleet.ask("-c", "facts", "-n", "all")
    return fleet


def test_setup_can_be_run_again_at_any_time(fleet: Fleet) -> None:
    assert fleet.admin("setup").returncode == ExitCode.OK
    again = fleet.admin("setup")
    assert again.returncode == ExitCode.OK
    assert again.stderr == "everything was there already\n"


def test_nodes_lists_who_was_heard_when(known: Fleet) -> None:
    rows = json.loads(known.admin("nodes", "--format", "json").stdout)
    assert [(row["node"], row["groups"], row["problems"]) for row in rows] == [("web01", "web", "")]
    assert rows[0]["heard_at"].endswith("Z")
    table = known.admin("nodes").stdout.splitlines()
    assert table[0].split()[:2] == ["NODE", "HEARD"]
    assert table[1].startswith("web01")


def test_show_gives_the_keys_a_value_or_the_whole_record(known: Fleet) -> None:
    assert known.admin("show", "web01", "facts").stdout == "fact\n"
    assert json.loads(known.admin("show", "web01", "facts", "--format", "json").stdout) == ["fact"]
    assert json.loads(known.admin("show", "web01", "--format", "json").stdout)["system_name"] == "web01"
    row = known.admin("show", "web01", "--format", "csv").stdout.splitlines()[1]
    assert row.startswith("facts,1 entry,2")
    known.ask("-c", "table", "-n", "all")
    assert known.admin("show", "web01", "table").stdout == "NAME  SIZE\na     1\n"


def test_show_says_what_there_is_instead_of_what_is_not(known: Fleet) -> None:
    node, key = known.admin("show", "web1"), known.admin("show", "web01", "fact")
    assert [node.returncode, key.returncode] == [ExitCode.NOT_FOUND, ExitCode.NOT_FOUND]
    assert "did you mean 'web01'?" in node.stderr
    assert "did you mean 'facts'?" in key.stderr


def test_a_forgotten_node_is_gone_leaves_its_history_and_comes_back_when_it_speaks(known: Fleet) -> None:
    assert known.admin("forget", "web01").returncode == ExitCode.OK
    with closing(known.store()) as store:
        assert store.record("web01") is None
        assert [entry["event"] for entry in store.history("web01")] == ["forgotten", "change"]
    assert known.admin("forget", "web01").returncode == ExitCode.NOT_FOUND
    assert known.ask("-c", "facts", "-n", "all", "--discovery", "5s")["web01"]["stage"] == "stored"


def test_doctor_finds_a_fleet_well(known: Fleet) -> None:
    code, findings = doctor(known)
    assert code == ExitCode.OK
    assert {name: finding["state"] for name, finding in findings.items()} == {
        "broker": "ok", "may publish": "ok", "server": "ok", "results queue": "ok", "dead letters": "ok",
        "store": "ok", "nodes": "ok", "keys": "ok", **({} if known.qhost.startswith("local:") else {"logins": "ok"}),
    }  # fmt: skip


def test_doctor_finds_no_server_and_says_what_to_do(fleet: Fleet) -> None:
    assert fleet.admin("setup").returncode == 0
    code, findings = doctor(fleet)
    assert code == ExitCode.UNHEALTHY
    assert (findings["server"]["state"], findings["server"]["remedy"]) == ("bad", "start vogeler-server")


def test_doctor_tells_an_absent_broker_and_an_absent_store_apart(fleet: Fleet) -> None:
    done = fleet.admin(
        "doctor", "--qhost", "amqp://127.0.0.1:1", "--dbhost", "couch://127.0.0.1:1/x", "--format", "json"
    )
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == ExitCode.UNHEALTHY
    assert {name: finding["state"] for name, finding in findings.items()} == {"broker": "bad", "store": "bad"}
    assert "127.0.0.1:1" in findings["broker"]["finding"]


def test_a_poison_message_is_a_dead_letter_with_its_reason_and_stops_nothing(known: Fleet) -> None:
    with closing(known.transport()) as transport:
        transport.publish_result(Envelope(b"\xff not ours", message_id="poison-1", type="result"), "web01")
        wait_until(lambda: transport.depths()[topology.DEAD_QUEUE].messages == 1, "a dead letter")
    rows = json.loads(known.admin("dead", "list", "--format", "json").stdout)
    assert [(row["id"], row["source"]) for row in rows] == [("poison-1", "vogeler.results")]
    assert "not JSON" in rows[0]["reason"]
    assert "not JSON" in known.admin("dead", "show", "poison-1").stdout
    assert doctor(known)[1]["dead letters"]["state"] == "warn"
    assert known.ask("-c", "facts", "-n", "all")["web01"]["stage"] == "unchanged"
    refused = known.admin("dead", "requeue", "--all")
    assert refused.returncode == ExitCode.SOME_FAILED
    assert "it would come straight back" in refused.stderr
    assert known.admin("dead", "drop", "poison-1").returncode == ExitCode.OK
    assert json.loads(known.admin("dead", "list", "--format", "json").stdout) == []
    assert known.admin("dead", "drop", "poison-1").returncode == ExitCode.NOT_FOUND


def test_a_dead_letter_that_can_be_stored_after_all_is_requeued_and_stored(known: Fleet) -> None:
    result = Result("late01", "facts", "facts", 1, "ok", now(), value=["late"])
    with closing(known.transport()) as transport:
        transport.publish_result(Envelope(b"{}", message_id="hopeless", type="result"), "late01")
        wait_until(lambda: transport.depths()[topology.DEAD_QUEUE].messages == 1, "a dead letter")
        dead = transport.consume_dead()
        letter = dead.receive(5.0)
        assert letter is not None
        dead.ack([letter])
        dead.close()
        results = transport.consume_commands("late01", ())  # its dead letters go the way of a client's
        transport.publish_command(encode(result), [topology.node_key("late01")], 60.0)
        delivery = results.receive(5.0)
        assert delivery is not None
        results.dead_letter(delivery, "a test")
        results.close()
    rows = json.loads(known.admin("dead", "list", "--format", "json").stdout)
    assert [(row["id"], row["source"], row["reason"]) for row in rows] == [(result.id, "vogeler.node.late01", "a test")]
    assert known.admin("dead", "requeue", result.id).returncode == ExitCode.OK
    with closing(known.store()) as store:
        wait_until(lambda: (store.record("late01") or {}).get("facts") == ["late"], "the requeued result is stored")


@pytest.mark.parametrize("arguments", [["dead", "drop"], ["dead", "show", "--all"]])
def test_dead_asks_which_one(fleet: Fleet, arguments: list[str]) -> None:
    assert fleet.admin(*arguments).returncode == ExitCode.USAGE
