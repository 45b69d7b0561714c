"""A fleet of real processes, each with its own login and the rights that this needs: all that is allowed, works."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pika
import pytest

from tests.messaging.conftest import LIMIT_S, body_of, message
from tests.roles.conftest import Logins
from tests.servers.processes import COMMANDS, NOT_STRICT, Daemon, Fleet, wait_until
from tests.servers.rabbitmq import RabbitMQ
from vogeler import messages, messaging, topology
from vogeler.errors import ExitCode, TransportUnavailable
from vogeler.messages import Command, Heartbeat, Receipt, Result, encode, new_id, now
from vogeler.units import to_timestamp

NODES = ("web01", "web02.example")


class RoleFleet(Fleet):
    """Every program finds the login of its own in the file or the environment."""

    def __init__(self, logins: Logins, admins_dbhost: str, directory: Path) -> None:
        logins.dbhost = admins_dbhost
        logins.write_config(logins.rabbitmq.url(logins.vhost))
        logins.make(*(f"--node={node}:front" for node in NODES), "--runner", "alice")
        super().__init__("none", admins_dbhost, directory)
        self.logins = logins
        sections = {"server": "vogeler.server", "runner": "vogeler.runner.alice", "admin": "vogeler.admin"}
        lines = ["[vogeler]", "logformat = json", *([f"dbhost = {admins_dbhost}"] if "sqlite" in admins_dbhost else [])]
        for section, user in sections.items():
            lines += [f"[{section}]", *(f"{name} = {text}" for name, text in logins.settings(user).items())]
        (directory / "vogeler.conf").write_text("\n".join(lines) + "\n" + NOT_STRICT)

    def start(self, node: str, login: str = "", *flags: str) -> Daemon:
        """A client, and wait until it is ready."""
        settings = self.logins.settings(login or topology.node_user(node))
        environment = {"VOGELER_QHOST": settings["qhost"], "VOGELER_QPASSWORD": settings["qpassword"]}
        client = self.client(node, "--groups", "front", *flags, environment=environment)
        client.wait_for("ready")
        return client

    def connection_of(self, name: str) -> str:
        """The broker's name for the connection of a client."""

        def found() -> Any:
            rows = self.logins.rabbitmq.connections(self.logins.vhost)
            return [r["name"] for r in rows if r.get("client_properties", {}).get("connection_name") == name]

        return str(wait_until(found, f"{name} is connected", self.logs)[0])

    def findings(self) -> dict[str, dict[str, Any]]:
        done = self.admin("doctor", "--format", "json")
        return {row["check"]: row for row in json.loads(done.stdout)}


@pytest.fixture
def fleet(logins: Logins, tmp_path: Path) -> Iterator[RoleFleet]:
    """With a store that knows no logins."""
    yield from started(RoleFleet(logins, f"sqlite://{tmp_path}/vogeler.db", tmp_path))


@pytest.fixture
def couch_fleet(logins: Logins, couch_url_with_logins: str, tmp_path: Path) -> Iterator[RoleFleet]:
    """With logins at the store as well."""
    yield from started(RoleFleet(logins, couch_url_with_logins, tmp_path))


def started(made: RoleFleet) -> Iterator[RoleFleet]:
    made.plugin("facts", "cat facts")
    (made.plugins / "facts").write_text("one\n")
    yield made
    made.stop()


def test_everything_that_a_fleet_does_is_allowed(couch_fleet: RoleFleet, rabbitmq: RabbitMQ) -> None:
    """Heartbeats, commands to all and to groups, receipts, what is wanted in full, dead letters, coming back."""
    fleet = couch_fleet
    server = fleet.server()
    server.wait_for("ready")
    clients = {node: fleet.start(node) for node in NODES}
    fleet.wait_known(*NODES)
    # Commands, results, receipts.
    asked = fleet.ask("-c", "facts", "-n", "all")
    assert {node: row["stage"] for node, row in asked.items()} == dict.fromkeys(NODES, "stored")
    assert {row["stage"] for row in fleet.ask("-c", "facts", "-n", "group:front").values()} == {"unchanged"}
    assert fleet.ask("-c", "facts", "-n", "web01")["web01"]["stage"] == "unchanged"
    accepted = clients["web01"].wait_for("accepted")
    assert accepted["user"] == "vogeler.runner.alice"
    assert fleet.ask("-c", "nothing", "-n", "web01")["web01"]["stage"] == "unavailable"
    assert clients["web01"].wait_for("unavailable")["user"] == "vogeler.runner.alice"
    # Forgotten by the admin: the digest alone is not enough, and the value is asked for.
    assert fleet.admin("forget", "web01").returncode == ExitCode.OK
    assert fleet.ask("-c", "facts", "-n", "web01", "--discovery", "5s")["web01"]["stage"] == "stored"
    server.wait_for("wanted")
    # Dead letters: of a client, and of the server.
    with closing(messaging.connect(fleet.logins.url("vogeler.runner.alice"))) as runner:
        runner.publish_command(message("no command", message_id="garbage-1"), ["node.web01"], 60.0)
    clients["web01"].wait_for("dead_letter")
    with closing(messaging.connect(fleet.logins.url("vogeler.node.web01"))) as node:
        node.publish_result(message("no result", message_id="garbage-2"), "web01")
    server.wait_for("dead_letter")
    listed = json.loads(fleet.admin("dead", "list", "--format", "json").stdout)
    assert {row["id"]: row["user"] for row in listed} == {
        "garbage-1": "vogeler.node.web01",
        "garbage-2": "vogeler.node.web01",
    }
    assert fleet.admin("dead", "drop", "--all").returncode == ExitCode.OK
    # What the admin finds.
    assert {check: row["state"] for check, row in fleet.findings().items() if row["state"] != "ok"} == {}
    assert "web02.example" in fleet.admin("nodes").stdout
    # A node whose queue has expired makes it again; one whose connection is lost comes back.
    rabbitmq.delete_queue(fleet.logins.vhost, topology.node_queue("web01"))
    clients["web01"].wait_for("ready", 2)
    rabbitmq.close_connection(fleet.connection_of("vogeler-client web02.example"))
    clients["web02.example"].wait_for("ready", 2)
    rabbitmq.close_connection(fleet.connection_of("vogeler-server"))
    server.wait_for("ready", 2)
    # Results by several queues, and back.
    for queues, value in (("2", "two"), ("1", "three")):
        spread = fleet.admin("setup", "--result-queues", queues)
        assert spread.returncode == ExitCode.OK, spread.stderr
        (fleet.plugins / "facts").write_text(value)
        assert {row["stage"] for row in fleet.ask("-c", "facts", "-n", "all").values()} == {"stored"}


def test_a_second_client_of_a_name_is_told_so_and_a_wrong_login_is_named(fleet: RoleFleet) -> None:
    fleet.start("web01")
    own = fleet.logins.settings("vogeler.node.web01")
    environment = {"VOGELER_QHOST": own["qhost"], "VOGELER_QPASSWORD": own["qpassword"]}
    second = fleet.client("web01", "--groups", "front", environment=environment)
    assert second.process.wait(LIMIT_S) == ExitCode.NAME_TAKEN
    another = fleet.client("web02.example", environment=environment)
    assert "ACCESS_REFUSED" in another.wait_for("retry")["message"]


def test_commands_by_way_of_the_spare_queue(fleet: RoleFleet) -> None:
    """As in a cluster whose member with the node's queue was away: it is taken, and left when the other is there."""
    url = fleet.logins.url("vogeler.node.web01")
    with closing(messaging.connect(url)) as before:
        before.consume_commands("web01", ("front",)).close()
        arguments = {"x-queue-type": "classic", "x-expires": 3_600_000}
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            connection.channel().queue_declare(topology.spare_queue("web01"), durable=True, arguments=arguments)
    with closing(messaging.connect(f"{url},{url}")) as node:
        consumer = node.consume_commands("web01", ("front",))
        with closing(messaging.connect(fleet.logins.url("vogeler.runner"))) as runner:
            runner.publish_command(message("by the spare"), ["group.front"], 60.0)
        delivery = consumer.receive(LIMIT_S)
        assert body_of(delivery) == "by the spare"
        assert delivery is not None
        assert delivery.user == "vogeler.runner"
        consumer.ack([delivery])

        def is_left() -> bool:
            try:
                consumer.receive(1.0)
            except TransportUnavailable as error:
                return "is back" in str(error)
            return False

        wait_until(is_left, "the spare queue is left")
    assert topology.spare_queue("web01") not in fleet.logins.rabbitmq.queues(fleet.logins.vhost)


# --- who said it ------------------------------------------------------------------------------------


def forged(node: str, run: str) -> Result:
    return Result(node, "facts", "facts", 1, messages.OK, now(), run=run, value=["forged"], digest="sha256:0")


def test_what_a_node_says_in_the_name_of_another_is_refused_and_told_to_nobody_in_that_name(fleet: RoleFleet) -> None:
    """A result and a heartbeat, by the key that RabbitMQ lets it send by; and one that doesn't say who sent it."""
    server = fleet.server()
    server.wait_for("ready")
    run = new_id()
    with closing(messaging.connect(fleet.logins.url("vogeler.runner"))) as runner:
        receipts = runner.consume_receipts(run)
        with closing(messaging.connect(fleet.logins.url("vogeler.node.web02.example"))) as mallory:
            mallory.publish_result(encode(forged("web01", run)), "web02.example")
            mallory.publish_result(encode(Heartbeat("web01", {"user": "vogeler.node.web01"})), "web02.example")
        with fleet.logins.connect("vogeler.node.web02.example") as connection:
            nameless = encode(forged("web01", run))
            connection.channel().basic_publish(
                "vogeler.results", "result.web02.example", nameless.body,
                pika.BasicProperties(content_encoding=nameless.content_encoding, message_id="nameless"),
            )  # fmt: skip
            unreadable = encode(forged("web01", run)).body + b" "
            connection.channel().basic_publish("vogeler.results", "result.web02.example", unreadable)
        with closing(messaging.connect(fleet.logins.url("vogeler.node.web02.example"))) as node:
            node.publish_result(encode(Heartbeat("web02.example", {"user": "somebody else"})), "web02.example")
        fleet.wait_known("web02.example")
        assert receipts.receive(0) is None
    events = server.events("wrong_sender")
    assert {(event["node"], event["user"]) for event in events} == {
        ("web01", "vogeler.node.web02.example"),
        ("web01", ""),
    }
    with closing(fleet.store()) as store:
        assert {node.node: node.user for node in store.nodes()} == {"web02.example": "vogeler.node.web02.example"}
        assert store.record("web01") is None
    listed = json.loads(fleet.admin("dead", "list", "--format", "json").stdout)
    assert len(listed) == 4
    assert {row["user"] for row in listed} == {"vogeler.node.web02.example", ""}
    # Nor does it get there by the hand of an operator who puts everything back.
    again = fleet.admin("dead", "requeue", "--all")
    assert again.returncode == ExitCode.SOME_FAILED
    assert again.stderr.count("in the name of web01, sent by") >= 3
    assert len(json.loads(fleet.admin("dead", "list", "--format", "json").stdout)) == 4


def test_a_node_can_not_have_its_forgery_requeued_as_a_dead_letter_of_anothers(fleet: RoleFleet) -> None:
    """It may send dead letters, with any header; the server need not be there."""
    headers = {"x-vogeler-user": "vogeler.node.web01", "x-vogeler-reason": "store down", "x-vogeler-source": "results"}
    with fleet.logins.connect("vogeler.node.web02.example") as connection:
        for user in ("vogeler.node.web02.example", None):
            properties = pika.BasicProperties(headers=headers, user_id=user, message_id=f"by-{user}")
            body = encode(forged("web01", new_id())).body
            connection.channel().basic_publish("vogeler.results", "dead.web02.example", body, properties)

    def letters() -> Any:
        rows = json.loads(fleet.admin("dead", "list", "--format", "json").stdout)
        return rows if len(rows) == 2 else None

    rows = wait_until(letters, "both are dead letters")
    assert {row["user"] for row in rows} == {"vogeler.node.web02.example", ""}
    assert fleet.admin("dead", "requeue", "--all").returncode == ExitCode.SOME_FAILED


def test_a_receipt_in_the_name_of_another_node_is_not_taken(fleet: RoleFleet) -> None:
    """While web01 is at it, web02 says that it has failed; of itself it may say so."""
    fleet.plugin("slow", "sh -c 'until test -e go; do sleep 0.05; done; echo done'")
    server = fleet.server()
    server.wait_for("ready")
    client = fleet.start("web01")
    fleet.wait_known("web01")
    process = fleet.start_runner("-c", "slow", "-n", "web01", "--format", "json")
    run = client.wait_for("accepted")["run"]
    with closing(messaging.connect(fleet.logins.url("vogeler.node.web02.example"))) as mallory:
        lie = encode(Receipt(run, "web01", messages.FAILED, {"reason": "a lie"}))
        mallory.publish_receipts([(run, lie)])
        mallory.publish_receipts([(run, encode(Receipt(run, "web02.example", messages.REFUSED, {})))])
    (fleet.plugins / "go").touch()
    stdout, stderr = process.communicate(timeout=60)
    stages = {row["node"]: row["stage"] for row in json.loads(stdout)}
    assert stages == {"web01": "stored", "web02.example": "refused"}, stderr
    assert "a receipt in the name of web01 comes from the user vogeler.node.web02.example" in stderr


def test_a_command_that_a_node_has_sent_is_not_run(fleet: RoleFleet) -> None:
    """An operator who joins receipts and broadcasts lets every node send commands, as far as RabbitMQ is concerned."""
    client = fleet.start("web01")
    with fleet.logins.connect("vogeler.runner.alice") as connection:
        connection.channel().exchange_bind("vogeler.broadcast", "vogeler.receipts", "all")
    command = encode(Command(alias="facts", requested_by="root@ops1", expires_at=messages.now()))
    with fleet.logins.connect("vogeler.node.web02.example") as connection:
        for user in ("vogeler.node.web02.example", None):
            properties = pika.BasicProperties(content_encoding=command.content_encoding, user_id=user)
            connection.channel().basic_publish("vogeler.receipts", "all", command.body, properties)
    client.wait_for("dead_letter", 2)
    said = [event["message"] for event in client.events("dead_letter")]
    assert "sent by the user vogeler.node.web02.example, which may send none" in said[0]
    assert "sent by somebody who does not say who, which may send none" in said[1]
    assert client.events("accepted") == client.events("refused") == []


def test_one_login_for_all_nodes_works_and_the_doctor_warns(fleet: RoleFleet) -> None:
    fleet.logins.make("--shared")
    server = fleet.server()
    server.wait_for("ready")
    for node in ("db01", "db02"):
        fleet.start(node, "vogeler-node")
    fleet.wait_known("db01", "db02")
    assert {row["stage"] for row in fleet.ask("-c", "facts", "-n", "all").values()} == {"stored"}
    finding = fleet.findings()["logins"]
    assert finding["state"] == "warn"
    assert "vogeler-node is the login of 2 nodes" in finding["finding"]
    server.signal(signal.SIGTERM)
    assert server.process.wait(LIMIT_S) == 0


def test_a_server_may_not_be_given_the_login_of_a_reader(couch_fleet: RoleFleet) -> None:
    """It keeps what it has taken, and says why; nothing becomes a dead letter."""
    fleet = couch_fleet
    reader = fleet.logins.settings("vogeler.reader")
    environment = {"VOGELER_DBHOST": reader["dbhost"], "VOGELER_DBPASSWORD": reader["dbpassword"]}
    server = fleet.server("--stop-timeout", "1s", environment=environment)
    server.wait_for("ready")
    fleet.start("web01")
    assert "does not let this login write" in server.wait_for("retry")["message"]
    assert server.events("dead_letter") == []


def test_the_login_of_an_admin_sends_no_command_by_a_queue_whose_letters_die(logins: Logins, tmp_path: Path) -> None:
    """It may make queues of results, and write to the exchange of commands."""
    logins.make("--node", "web02")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "facts.cfg").write_text(f"[facts]\ncommand = touch {tmp_path}/ran\n")
    node = Daemon(
        [str(COMMANDS / "vogeler-client"), "--node", "web02", "--plugins", str(tmp_path / "plugins"), "--strict-modes", "no",
         "--logformat", "json"],
        {"VOGELER_CONFIG": "/dev/null", "VOGELER_QHOST": logins.url("vogeler.node.web02"), "PATH": os.environ["PATH"]}, tmp_path / "log",
    )  # fmt: skip
    try:
        node.wait_for("ready")
        made = encode(Command("facts", requested_by="mallory", expires_at=to_timestamp(time.time() + 60)))
        with closing(logins.connect("vogeler.admin")) as admin:
            channel = admin.channel()
            route = {"x-dead-letter-exchange": "vogeler.broadcast", "x-dead-letter-routing-key": "node.web02"}
            channel.queue_declare("vogeler.results.77", arguments={**route, "x-message-ttl": 0})
            channel.queue_bind("vogeler.results.77", "vogeler.results", "result.#")
            properties = pika.BasicProperties(
                user_id="vogeler.admin", type="command", message_id=made.message_id, content_type="application/json",
                content_encoding=made.content_encoding,
            )  # fmt: skip
            channel.basic_publish("vogeler.results", "result.x", made.body, properties)
            assert "sent by the user vogeler.admin, which may send none" in node.wait_for("dead_letter")["message"]
            channel.queue_delete("vogeler.results.77")
        assert not (tmp_path / "ran").exists()
    finally:
        node.kill()
