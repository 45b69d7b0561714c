"""What is too much for a broker, for the server's memory, for a pattern: said, and nobody else suffers."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers.processes import Daemon, Fleet, wait_until
from tests.servers.rabbitmq import RabbitMQ, server_script
from vogeler.errors import ExitCode
from vogeler.messages import Result, encode, now

MEGABYTE = 1_000_000


# --- the broker's max_message_size ------------------------------------------------------------------


@pytest.fixture
def strict_fleet(couch_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """On a broker of its own that takes messages of 100 kB at most."""
    with tempfile.TemporaryDirectory(prefix="vogeler-rabbitmq-") as folder:
        broker = RabbitMQ(server_script(), Path(folder))
        broker.configure("max_message_size = 100000\n")
        fleet = Fleet(broker.url("/"), couch_url, tmp_path)
        try:
            broker.start()
            yield fleet
        finally:
            fleet.stop()
            broker.end()


def test_a_result_that_the_broker_finds_too_large_is_sent_without_its_value(strict_fleet: Fleet) -> None:
    fleet = strict_fleet
    size = fleet.directory / "size"
    size.write_text("1000")
    random = f"import random; print(random.randbytes(int(open({str(size)!r}).read())).hex())"
    fleet.plugin("noise", f'{sys.executable} -c "{random}"', result_format="string")
    fleet.plugin("facts", "echo fact")
    fleet.server().wait_for("store")  # which is set up then
    client = fleet.client("web01")
    fleet.wait_known("web01")
    assert fleet.ask("-c", "noise", "-n", "web01")["web01"]["stage"] == "stored"
    with closing(fleet.store()) as store:
        before = (store.record("web01") or {})["noise"]
        size.write_text("300000")
        answer = fleet.ask("-c", "noise", "-n", "web01")["web01"]
        assert (answer["stage"], answer["reason"][:10]) == ("failed", "too_large:")
        assert "max size" in answer["reason"]
        assert (store.record("web01") or {})["noise"] == before
        check = (store.status("web01") or {})["keys"]["noise"]
    assert check["status"] == "too_large"
    assert "max_message_size" in client.events("retry")[-1]["message"]
    assert fleet.ask("-c", "facts", "-n", "web01")["web01"]["stage"] == "stored"
    size.write_text("1000")
    assert fleet.ask("-c", "noise", "-n", "web01")["web01"]["stage"] == "stored"


# --- the server's memory ----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["local", "amqp"])
def test_results_that_are_small_only_as_they_are_sent_are_not_unpacked_all_at_once(
    request: pytest.FixtureRequest, engine: str, tmp_path: Path
) -> None:
    """Forty of 10 MB each, and 45 kB compressed."""
    qhost = request.getfixturevalue("amqp_url") if engine == "amqp" else f"local://{tmp_path}/bus.db"
    fleet = Fleet(qhost, f"sqlite://{tmp_path}/vogeler.db", tmp_path)
    count = 40
    try:
        with closing(fleet.transport()) as transport, closing(fleet.store()) as store:
            transport.setup()
            first = int(time.time() * MEGABYTE) - count
            for seq in range(first, first + count):
                value = ["x" * (10 * MEGABYTE)]
                transport.publish_result(encode(Result("web01", "big", "big", seq, "ok", now(), value=value)), "web01")
            server = fleet.server()
            wait_until(
                lambda: ((store.status("web01") or {}).get("keys", {}).get("big") or {}).get("seq") == first + count - 1,
                "all of them are stored", fleet.logs, limit_s=120,
            )  # fmt: skip
            assert peak_bytes(server) < 300 * MEGABYTE
        assert server.stop() == ExitCode.OK
    finally:
        fleet.stop()


def peak_bytes(daemon: Daemon) -> int:
    """The most that it ever held."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


# --- a name -----------------------------------------------------------------------------------------


def test_an_alias_that_is_long_and_unknown_is_unavailable_and_no_silence(tmp_path: Path) -> None:
    """What the client says of it quotes it, and is longer than a receipt may be."""
    fleet = Fleet(f"local://{tmp_path}/bus.db", f"sqlite://{tmp_path}/vogeler.db", tmp_path)
    try:
        fleet.server()
        fleet.client("web01")
        fleet.wait_known("web01")
        answer = fleet.ask("-c", "\x7f" * 2000, "-n", "web01")["web01"]
        assert (answer["stage"], answer["reason"][:20]) == ("unavailable", "no plugin answers to")
    finally:
        fleet.stop()


# --- a regular expression ---------------------------------------------------------------------------


def test_a_pattern_that_takes_for_ever_is_ended_by_ctrl_c(tmp_path: Path) -> None:
    fleet = Fleet(f"local://{tmp_path}/bus.db", f"sqlite://{tmp_path}/vogeler.db", tmp_path)
    with closing(fleet.store()) as store:
        store.apply([Result("web01", "big", "big", 1, "ok", now(), value="a" * 60 + "b")], now())
    finding = Daemon(
        [str(Path(sys.executable).parent / "vogeler-admin"), "find", "big ~ (a+)+$"],
        fleet.environment,
        tmp_path / "log",
    )
    try:
        wait_until(
            lambda: cpu_s(finding) > 3 or finding.process.poll() is not None, "it is at work", lambda: finding.log
        )
        finding.signal(signal.SIGINT)
        assert finding.process.wait(30) == ExitCode.INTERRUPTED
        assert finding.log == ""
    finally:
        finding.kill()


def cpu_s(daemon: Daemon) -> float:
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
