"""Who asked what of whom, and when: known on the node and to the server, accepted or refused, whatever fails meanwhile."""

from __future__ import annotations

import csv
import io
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.servers.processes import Fleet, wait_until
from vogeler import signing
from vogeler.messages import Envelope

on_one_machine = pytest.mark.parametrize("fleet", [("local", "sqlite")], indirect=True, ids=["local"])


@pytest.fixture
def asked(fleet: Fleet) -> Fleet:
    """Two nodes: one takes what alice has signed alone, and has an audit log; the other takes everything."""
    fleet.plugin("facts", "echo fact")
    fleet.plugin("elsewhere", "no-such-program", requires="no-such-program")
    key = signing.new("alice")
    signing.save(key, fleet.directory / "alice.key")
    (fleet.directory / "trusted").write_text(key.public().line)
    fleet.environment["LOGNAME"] = "bob"
    fleet.server().wait_for("ready")
    fleet.client(
        "web01", "--trusted-keys", str(fleet.directory / "trusted"), "--state", str(fleet.directory / "state"),
        "--audit-log", str(fleet.directory / "audit.log"),
    )  # fmt: skip
    fleet.client("db01")
    fleet.wait_known("web01", "db01")
    return fleet


def audit(fleet: Fleet, *arguments: str) -> list[dict[str, Any]]:
    done = fleet.admin("audit", "--format", "json", *arguments)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def log_of(fleet: Fleet, name: str = "audit.log") -> list[dict[str, Any]]:
    path = fleet.directory / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_command_is_in_the_log_of_the_node_and_in_that_of_the_server(asked: Fleet) -> None:
    key = ("--signing-key", str(asked.directory / "alice.key"))
    asked.ask("-c", "facts", "-n", "all")
    asked.ask("-c", "facts", "-n", "web01", *key)
    asked.ask("-c", "facts", "-n", "web01", *key)  # the same value: no change, but a command
    asked.ask("-c", "nothing", "-n", "web01", *key)
    wait_until(lambda: len(audit(asked)) == 5, "five commands in the audit", asked.logs)
    rows = [(row["node"], row["alias"], row["requested_by"].split("@")[0], row["stage"]) for row in audit(asked)]
    assert rows[:3] == [
        ("web01", "nothing", "alice", "unavailable"),
        ("web01", "facts", "alice", "accepted"),
        ("web01", "facts", "alice", "accepted"),
    ]
    assert sorted(rows[3:]) == [("db01", "facts", "bob", "accepted"), ("web01", "facts", "bob", "refused")]
    lines = log_of(asked)
    assert [(line["node"], line["alias"], line["stage"]) for line in lines] == [
        ("web01", "facts", "refused"),
        ("web01", "facts", "accepted"),
        ("web01", "facts", "accepted"),
        ("web01", "nothing", "unavailable"),
    ]
    identity = signing.load(asked.directory / "alice.key").public().id
    assert [line["key"] for line in lines] == [None, identity, identity, identity]
    assert {line["run"] for line in lines} == {row["run"] for row in audit(asked, "-n", "web01")}
    (refused,) = audit(asked, "--stage", "refused")
    assert "not signed" in refused["reason"]
    assert refused["reason"] == lines[0]["reason"]


@on_one_machine
def test_the_audit_answers_by_node_alias_requester_and_time(asked: Fleet) -> None:
    asked.ask("-c", "facts", "-n", "all")
    wait_until(lambda: len(audit(asked)) == 2, "two commands in the audit", asked.logs)
    assert [row["node"] for row in audit(asked, "-n", "db*")] == ["db01"]
    assert audit(asked, "--alias", "pack*") == []
    assert len(audit(asked, "--alias", "fact?", "--requested-by", "bob@*")) == 2
    assert audit(asked, "--requested-by", "alice") == []
    assert audit(asked, "--until", "1h") == []
    assert len(audit(asked, "--limit", "1")) == 1
    table = asked.admin("audit").stdout.splitlines()
    assert table[0].split()[:5] == ["AT", "NODE", "ALIAS", "REQUESTED", "BY"]
    assert len(table) == 3
    text = asked.admin("audit", "--format", "csv").stdout
    assert {row["node"] for row in csv.DictReader(io.StringIO(text))} == {"web01", "db01"}


def test_what_was_refused_while_the_server_was_away_is_in_the_audit_once_it_is_back(asked: Fleet) -> None:
    server = asked.daemons[0]
    server.kill()
    asked.ask("-c", "facts", "-n", "web01", "--timeout", "1s")
    for daemon in asked.daemons[1:]:
        daemon.kill()
    asked.server().wait_for("ready")
    wait_until(lambda: audit(asked), "the refusal in the audit", asked.logs)
    (row,) = audit(asked)
    assert (row["node"], row["stage"]) == ("web01", "refused")


@on_one_machine
def test_an_audit_log_that_is_moved_away_is_begun_anew_and_holds_what_can_not_be_read(asked: Fleet) -> None:
    log = asked.directory / "audit.log"
    assert log.stat().st_mode & 0o777 == 0o600
    asked.ask("-c", "facts", "-n", "web01")
    log.rename(asked.directory / "audit.log.1")
    with closing(asked.transport()) as transport:
        assert transport.publish_command(Envelope(b"{", message_id="torn", type="command"), ["node.web01"], 60.0)
    wait_until(lambda: log_of(asked), "a line in the new log")
    assert [line["stage"] for line in log_of(asked)] == ["unreadable"]
    assert [line["stage"] for line in log_of(asked, "audit.log.1")] == ["refused"]


@on_one_machine
def test_an_audit_log_that_can_not_be_written_starts_no_client(fleet: Fleet, tmp_path: Path) -> None:
    client = fleet.client("web01", "--audit-log", str(tmp_path / "missing" / "audit.log"))
    assert client.process.wait(20) == 2
    assert "can't write" in client.log
