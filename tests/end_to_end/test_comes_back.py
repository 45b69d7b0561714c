"""Everything comes back by itself: a short version of what docs/how-it-works.rst promises."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pika
import pytest

from tests.servers.processes import Fleet, wait_until
from tests.servers.rabbitmq import RabbitMQ
from vogeler import topology
from vogeler.cli._daemon import LEAVE_AFTER_S

SLACK_S = 10.0  # of a busy machine


def test_a_broker_that_is_restarted_while_a_plugin_runs_loses_nothing(
    rabbitmq: RabbitMQ, amqp_url: str, couch_url: str, tmp_path: Path
) -> None:
    """The runner, the clients and the servers reconnect; the result that was under way is stored, and told."""
    fleet = Fleet(amqp_url, couch_url, tmp_path)
    started, go_on = tmp_path / "started", tmp_path / "go-on"
    fleet.plugin("patient", f"sh -c 'touch {started}; while [ ! -e {go_on} ]; do sleep 0.02; done; echo done'")
    try:
        assert fleet.admin("setup").returncode == 0
        servers = [fleet.server(), fleet.server()]
        clients = [fleet.client("web01"), fleet.client("web02")]
        fleet.wait_known("web01", "web02")
        runner = fleet.start_runner("-c", "patient", "-n", "all", "--format", "json", "--timeout", "90s")
        wait_until(started.exists, "the plugin runs")
        rabbitmq.kill()
        for daemon in [*servers, *clients]:
            daemon.wait_for("retry")
        rabbitmq.start()
        go_on.touch()
        rows = json.loads(runner.communicate(timeout=120)[0])
        assert [(row["node"], row["stage"]) for row in rows] == [("web01", "stored"), ("web02", "stored")]
        assert {row["stage"] for row in fleet.ask("-c", "patient", "-n", "all").values()} == {"unchanged"}
    finally:
        go_on.touch()
        fleet.stop()


def test_a_command_that_nobody_has_accepted_when_the_broker_is_lost_is_waited_for(
    rabbitmq: RabbitMQ, amqp_url: str, couch_url: str, tmp_path: Path
) -> None:
    """For as long as a client may wait before it tries again, though the runner has come back at once."""
    discovery_s = 1.0
    fleet = Fleet(amqp_url, couch_url, tmp_path)
    fleet.plugin("facts", "echo fact")
    try:
        fleet.server().wait_for("store")
        client = fleet.client("web01")
        fleet.wait_known("web01")
        client.kill()
        arguments = ("-c", "facts", "-n", "web01", "--format", "json", "--timeout", "120s")
        runner = fleet.start_runner(*arguments, "--discovery", f"{discovery_s}s")
        with closing(pika.BlockingConnection(pika.URLParameters(amqp_url))) as connection:
            channel, queue = connection.channel(), topology.node_queue("web01")
            wait_until(lambda: channel.queue_declare(queue, passive=True).method.message_count, "the command is sent")
        rabbitmq.kill()
        rabbitmq.start()
        vhost = amqp_url.rpartition("/")[2]
        wait_until(lambda: any(map(is_runner, rabbitmq.connections(vhost))), "the runner is back")
        back_s = time.monotonic()
        wait_until(lambda: time.monotonic() - back_s > 3 * discovery_s, "the time to accept is over")
        fleet.client("web01")
        rows = json.loads(runner.communicate(timeout=120)[0])
        assert [(row["node"], row["stage"]) for row in rows] == [("web01", "stored")]
    finally:
        rabbitmq.ensure_running()
        fleet.stop()


def is_runner(connection: dict[str, Any]) -> bool:
    return str(connection.get("user_provided_name")).startswith("vogeler-runner")


def test_daemons_leave_in_time_while_the_broker_is_frozen(
    rabbitmq: RabbitMQ, amqp_url: str, couch_url: str, tmp_path: Path
) -> None:
    """It answers nothing, and keeps the connections open. Neither a plugin nor an unconfirmed result keeps a daemon."""
    fleet = Fleet(amqp_url, couch_url, tmp_path)
    started = tmp_path / "started"
    fleet.plugin("patient", f"sh -c 'touch {started}; sleep 600'", timeout="1h")
    fleet.plugin("quick", "date +%N", interval="100ms", splay="0s")
    stop_timeout_s = 2.0
    try:
        server = fleet.server("--stop-timeout", f"{stop_timeout_s}s")
        server.wait_for("store")
        busy, idle = (
            fleet.client("web01", "--stop-timeout", f"{stop_timeout_s}s"),
            fleet.client("web02", "--stop-timeout", f"{stop_timeout_s}s"),
        )
        fleet.wait_known("web01", "web02")
        assert fleet.runner("-c", "patient", "-n", "web01", "--no-wait").returncode == 0
        wait_until(started.exists, "the plugin runs", fleet.logs)
        rabbitmq.pause()
        asked_s = time.monotonic()
        for daemon in (server, busy, idle):
            daemon.process.terminate()
        for daemon in (server, busy, idle):
            daemon.process.wait(60)
        assert time.monotonic() - asked_s < stop_timeout_s + LEAVE_AFTER_S + SLACK_S
    finally:
        rabbitmq.resume()
        fleet.stop()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_store_file_that_is_gone_or_another_one_is_opened_anew_by_the_server(tmp_path: Path, how: str) -> None:
    """Else it would write on into a file that nobody sees any more."""
    fleet = Fleet(f"local://{tmp_path}/bus.db", f"sqlite://{tmp_path}/vogeler.db", tmp_path)
    fleet.plugin("facts", "date +%N")
    copy = tmp_path / "copy.db"
    try:
        server = fleet.server()
        fleet.client("web01")
        fleet.wait_known("web01")
        assert fleet.ask("-c", "facts", "-n", "web01")["web01"]["stage"] == "stored"
        with closing(sqlite3.connect(tmp_path / "vogeler.db")) as shell:
            shell.execute(f"VACUUM INTO '{copy}'")
        for end in ("", "-wal", "-shm"):
            (tmp_path / f"vogeler.db{end}").unlink(missing_ok=True)
        if how == "replaced":
            copy.rename(tmp_path / "vogeler.db")
        assert fleet.ask("-c", "facts", "-n", "web01")["web01"]["stage"] == "stored"
        assert "removed or replaced" in server.wait_for("retry")["message"]
        with closing(fleet.store()) as store:
            assert len(list(store.history("web01", "facts"))) == (2 if how == "replaced" else 1)
    finally:
        fleet.stop()
