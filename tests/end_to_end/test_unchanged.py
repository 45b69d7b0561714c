"""A value that has not changed is not sent again, and the store gets it all the same where it lacks it."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from tests.servers.processes import Daemon, Fleet, wait_until
from vogeler.messages import OMITTED, Heartbeat, Result, decode

NODE = "web01"
VALUE = {f"package-{number}": f"{number}.{number % 7}-{number % 11}" for number in range(1200)}


@pytest.fixture
def packages(fleet: Fleet) -> Fleet:
    """A fleet with a plugin that always gives the same 30 KB, a server and nobody else."""
    (fleet.plugins / "packages.json").write_text(json.dumps(VALUE))
    fleet.plugin("packages", "cat packages.json", "json")
    fleet.server().wait_for("store")
    return fleet


def stage(fleet: Fleet, *flags: str) -> str:
    return str(fleet.ask("-c", "packages", "-n", NODE, *flags)[NODE]["stage"])


def stored(fleet: Fleet) -> Any:
    with closing(fleet.store()) as store:
        return (store.record(NODE) or {}).get("packages")


@contextmanager
def nobody_stores(fleet: Fleet) -> Iterator[None]:
    """Until the end of the block there is no server."""
    for daemon in fleet.daemons:
        if "vogeler-server" in " ".join(map(str, daemon.process.args)) and daemon.process.poll() is None:
            assert daemon.stop() == 0
    yield
    fleet.server().wait_for("store")


def next_result(fleet: Fleet) -> tuple[Result, int]:
    """The next result in the queue, which stays there, and the bytes of its body."""
    with closing(fleet.transport()) as transport, closing(transport.consume_results(100)) as consumer:

        def found() -> Any:
            delivery = consumer.receive(1.0)
            if delivery is None:
                return None
            message = decode(delivery.envelope, Result, Heartbeat)
            return (message, len(delivery.envelope.body)) if isinstance(message, Result) else None

        result: tuple[Result, int] = wait_until(found, "a result", fleet.logs)
        return result


def test_what_was_sent_last_is_told_by_its_digest_alone(packages: Fleet) -> None:
    packages.client(NODE)
    packages.wait_known(NODE)
    assert stage(packages) == "stored"
    with nobody_stores(packages):
        runner = packages.start_runner("-c", "packages", "-n", NODE, "--format", "json")
        result, size_bytes = next_result(packages)
        assert (result.key, result.status) == ("packages", "ok")
        assert result.value is OMITTED
        assert size_bytes < 400
    (row,) = json.loads(runner.communicate(timeout=60)[0])
    assert row["stage"] == "unchanged"
    assert stored(packages) == VALUE


def test_a_command_may_ask_for_it_in_full(packages: Fleet) -> None:
    packages.client(NODE)
    packages.wait_known(NODE)
    assert stage(packages) == "stored"
    with nobody_stores(packages):
        runner = packages.start_runner("-c", "packages", "-n", NODE, "--full")
        assert next_result(packages)[0].value == VALUE
    assert runner.wait(60) == 0
    runner.communicate()


def test_a_runner_asks_again_where_the_store_has_lost_it(packages: Fleet) -> None:
    """For the user it is one run, which stores the value."""
    client = packages.client(NODE)
    packages.wait_known(NODE)
    assert [stage(packages), stage(packages)] == ["stored", "unchanged"]
    assert packages.admin("forget", NODE).returncode == 0
    assert stored(packages) is None
    rows = packages.ask("-c", "packages", "-n", NODE, "--timeout", "30s")
    assert rows[NODE]["stage"] == "stored"
    assert stored(packages) == VALUE
    assert len(client.events("accepted")) == 4
    assert len({event["run"] for event in client.events("accepted")}) == 3
    assert stage(packages) == "unchanged"


def test_a_client_sends_it_in_full_after_each_connection(packages: Fleet) -> None:
    """A broker that was away may have lost it."""
    client = packages.client(NODE)
    packages.wait_known(NODE)
    assert stage(packages) == "stored"
    assert client.stop() == 0
    packages.client(NODE)
    with nobody_stores(packages):
        runner = packages.start_runner("-c", "packages", "-n", NODE)
        assert next_result(packages)[0].value == VALUE
    assert runner.wait(60) == 0
    runner.communicate()


def test_a_value_that_is_too_large_to_be_sent_is_not_believed_to_be_there(fleet: Fleet) -> None:
    """It fails each time with its reason, and nobody asks for it in full."""
    (fleet.plugins / "noise").write_bytes(base64.b64encode(random.Random(1).randbytes(20_000_000)))
    fleet.plugin("noise", "cat noise", "string", max_output="30MB")
    fleet.server().wait_for("store")
    client = fleet.client(NODE)
    fleet.wait_known(NODE)
    for times in (1, 2):
        row = fleet.ask("-c", "noise", "-n", NODE)[NODE]
        assert row["stage"] == "failed"
        assert "bytes compressed: at most" in row["reason"]
        assert len(client.events("accepted")) == times


def forget(fleet: Fleet) -> None:
    assert fleet.admin("forget", NODE).returncode == 0


def scheduled(fleet: Fleet, full_every: str) -> Daemon:
    """A client that runs the plugin ten times a second, and whose value is stored."""
    fleet.plugin("packages", "cat packages.json", "json", interval="100ms", splay="1ms")
    client = fleet.client(NODE, "--full-every", full_every)
    wait_until(lambda: stored(fleet) == VALUE, "it is stored", fleet.logs)
    return client


def test_the_store_wants_what_comes_by_schedule_and_is_told_by_its_digest_alone(packages: Fleet) -> None:
    scheduled(packages, "1h")
    forget(packages)
    packages.daemons[0].wait_for("wanted")
    assert stored(packages) is None


def test_nobody_has_to_ask_for_what_comes_by_schedule(packages: Fleet) -> None:
    """It is sent in full every now and then, so that a store that has lost it gets it."""
    client = scheduled(packages, "1s")
    forget(packages)
    wait_until(lambda: stored(packages) == VALUE, "it is there again", packages.logs)
    assert len(client.events("ready")) == 1  # and not because it has connected anew


def test_a_value_whose_volatile_part_has_changed_is_sent(fleet: Fleet) -> None:
    fleet.plugin("load", """sh -c 'echo "{\\"cpus\\": 2, \\"load\\": $(date +%s%N)}"'""", "json", volatile="load")
    fleet.server().wait_for("store")
    fleet.client(NODE)
    fleet.wait_known(NODE)
    seen = []
    for expected in ("stored", "unchanged", "unchanged"):
        assert fleet.ask("-c", "load", "-n", NODE)[NODE]["stage"] == expected
        with closing(fleet.store()) as store:
            seen.append(store.record(NODE)["load"]["load"])
    assert len(set(seen)) == 3
