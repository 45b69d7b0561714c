"""Everything comes back by itself: a short version of what docs/how-it-works.rst promises."""

from __future__ import annotations

import json
from pathlib import Path

from tests.servers.processes import Fleet, wait_until
from tests.servers.rabbitmq import RabbitMQ


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
