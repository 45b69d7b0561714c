"""Who waits for what, and for how long: queues on the node, stops, schedules, slow connections."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers.processes import COMMANDS, Fleet, wait_until
from vogeler.errors import ExitCode
from vogeler.messages import Result, encode, now
from vogeler.persistence import Store


@pytest.fixture
def slow(fleet: Fleet) -> Fleet:
    """A client that runs one plugin at a time, and a plugin that waits for a file."""
    fleet.plugin("facts", "echo fact")
    fleet.plugin("patient", f"sh -c 'echo begun >> {fleet.directory}/begun; "
                 f"while [ ! -e {fleet.directory}/go-on ]; do sleep 0.02; done; echo done'")  # fmt: skip
    fleet.server().wait_for("ready")
    fleet.client("web01", "--workers", "1").wait_for("ready")
    fleet.wait_known("web01")
    return fleet


def begun(fleet: Fleet) -> int:
    log = fleet.directory / "begun"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_a_command_that_expires_while_it_waits_for_its_turn_is_refused(slow: Fleet) -> None:
    first = slow.start_runner("-c", "patient", "-n", "web01", "--format", "json")
    wait_until(lambda: begun(slow) == 1, "the first runs")
    second = slow.start_runner("-c", "patient", "-n", "web01", "--ttl", "200ms", "--format", "json")
    third = slow.start_runner("-c", "facts", "-n", "web01", "--ttl", "60s", "--format", "json")
    slow.daemons[-1].wait_for("accepted", times=3)
    accepted_s = time.monotonic()
    wait_until(lambda: time.monotonic() > accepted_s + 0.3, "the second has expired")
    (slow.directory / "go-on").touch()
    row = json.loads(second.communicate(timeout=30)[0])[0]
    assert row["stage"] == "refused"
    assert "expired at" in row["reason"]
    assert [json.loads(runner.communicate(timeout=30)[0])[0]["stage"] for runner in (first, third)] == [
        "stored",
        "stored",
    ]
    assert begun(slow) == 1


def test_a_stopping_client_begins_nothing_and_what_waited_runs_after_the_restart(slow: Fleet) -> None:
    client = slow.client("web02", "--workers", "1")
    slow.wait_known("web02")
    runners = [slow.start_runner("-c", "patient", "-n", "web02", "--format", "json") for _ in range(3)]
    wait_until(lambda: begun(slow) == 1, "the first runs")
    client.wait_for("accepted", times=3)
    client.process.terminate()
    (slow.directory / "go-on").touch()
    assert client.process.wait(30) == 0
    assert begun(slow) == 1
    slow.client("web02")
    stages = [json.loads(runner.communicate(timeout=60)[0])[0]["stage"] for runner in runners]
    assert set(stages) <= {"stored", "unchanged"}
    assert begun(slow) == 3


def test_a_schedule_survives_a_change_of_its_file_while_it_runs(slow: Fleet) -> None:
    command = f"sh -c 'echo tick >> {slow.directory}/ticks; sleep 0.3'"
    slow.plugin("clock", command, interval="200ms", splay="0s")
    client = slow.client("tick01")
    ticks = slow.directory / "ticks"
    wait_until(ticks.exists, "it runs")
    slow.plugin("clock", command, interval="200ms", splay="0s", description="another one")
    client.signal(signal.SIGHUP)
    client.wait_for("reload")
    count = len(ticks.read_text().splitlines())
    wait_until(lambda: len(ticks.read_text().splitlines()) >= count + 3, "it goes on")


def test_the_clock_of_a_runner_starts_when_the_command_is_sent(amqp_url: str, couch_url: str, tmp_path: Path) -> None:
    """A member of the cluster that accepts and never answers makes connecting slower than the discovery window."""
    fleet = Fleet(amqp_url, couch_url, tmp_path)
    fleet.plugin("facts", "echo fact")
    try:
        fleet.server().wait_for("ready")
        fleet.client("web01")
        fleet.wait_known("web01")
        with socket.create_server(("127.0.0.1", 0)) as silent:
            login = amqp_url.partition("@")[0]
            fleet.environment["VOGELER_QHOST"] = f"{login}@127.0.0.1:{silent.getsockname()[1]}/x,{amqp_url}"
            for _ in range(4):  # which member is tried first is chance
                flags = ("--connect-timeout", "1s", "--discovery", "300ms", "--ttl", "700ms")
                done = fleet.runner("-c", "facts", "-n", "web01", *flags)
                assert done.returncode == ExitCode.OK, done.stderr
    finally:
        fleet.stop()


def test_a_reader_that_leaves_does_not_change_the_exit_code(slow: Fleet) -> None:
    slow.plugin("broken", "false")
    slow.client("web03").wait_for("ready")
    slow.wait_known("web03")
    runner = f"{COMMANDS}/vogeler-runner -c broken -n web03; echo $? > {slow.directory}/code"
    subprocess.run(["sh", "-c", f"({runner}) | true"], env=slow.environment, check=True, capture_output=True)
    wait_until((slow.directory / "code").exists, "the runner has ended")
    assert (slow.directory / "code").read_text().strip() == str(int(ExitCode.SOME_FAILED))


def test_results_that_are_older_than_what_is_stored_are_counted_as_late(fleet: Fleet) -> None:
    """As of a node whose clock was set back: what it was told when the clock was ahead stays in the record."""
    fleet.plugin("facts", "echo fact")
    fleet.server().wait_for("store")
    for node in ("web01", "web02"):
        fleet.client(node)
    fleet.wait_known("web01", "web02")
    with closing(fleet.store()) as store:
        ahead = Result("web01", "facts", "facts", time.time_ns() // 1000 + 3_600_000_000, "ok", now(), value=["newer"])
        assert not [outcome for outcome in store.apply([ahead], now()) if outcome.refused]
        done = fleet.runner("-c", "facts", "-n", "all")
        assert done.returncode == ExitCode.OK
        assert done.stderr.startswith("facts: 2 stored (1 late) (run ")
        assert (store.record("web01") or {})["facts"] == ["newer"]
    assert "kept in the history only" in done.stdout


def test_a_busy_server_stores_the_results_of_each_node_in_their_order(fleet: Fleet) -> None:
    """However many it writes at once: none is late, and each follows the one before it."""
    nodes, times = [f"web{number:02d}" for number in range(30)], 20
    first = int(time.time() * 1_000_000) - times
    with closing(fleet.transport()) as transport, closing(fleet.store()) as store:
        transport.setup()
        for number in range(times):
            for node in nodes:
                result = Result(node, "n", "n", first + number, "ok", now(), value=number)
                transport.publish_result(encode(result), node)
        server = fleet.server("--prefetch", "200")
        wait_until(lambda: _all_held(store, nodes, times - 1), "all are stored", fleet.logs)
        for node in nodes:
            changes = list(store.history(node, "n"))
            assert [change["value"] for change in changes] == list(reversed(range(times)))
            assert not any(change.get("late") for change in changes)
            assert [change.get("previous") for change in changes[:-1]] == [change["_id"] for change in changes[1:]]
    assert server.stop() == ExitCode.OK


def _all_held(store: Store, nodes: list[str], value: int) -> bool:
    return [record["n"] for record in store.records(nodes)] == [value] * len(nodes)
