"""Bad usage, absent and wrong servers: a clear text on stderr, the documented exit code, nothing on stdout."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.processes import Fleet
from vogeler.errors import ExitCode


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Fleet]:
    """The local engines and nobody running."""
    made = Fleet(f"local://{tmp_path}/bus.db", f"sqlite://{tmp_path}/vogeler.db", tmp_path)
    yield made
    made.stop()


@pytest.fixture
def web_server() -> Iterator[int]:
    """Something else entirely on a port: it speaks HTTP."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], ExitCode.USAGE, "-c"),
        (["-c", "x", "-n", ""], ExitCode.USAGE, "no nodes were named"),
        (["-c", "x", "-n", "a/b"], ExitCode.USAGE, "is not a node name"),
        (["-c", "x", "-n", "all", "--timeout", "soon"], ExitCode.USAGE, "'soon' is not a duration"),
        (["-c", "x", "-n", "all", "--qhost", "localhost"], ExitCode.USAGE, "scheme://host"),
        (["-c", "x", "-n", "all", "--qhost", "amqb://localhost"], ExitCode.USAGE, "did you mean 'amqp'?"),
        (["-c", "x", "-n", "all", "--dbhost", "cuoch://localhost/x"], ExitCode.USAGE, "did you mean 'couch'?"),
        (["-c", "x", "-n", "all", "--qhost", "amqp://a:secret@localhost"], ExitCode.USAGE, "process list"),
        (["-c", "x", "-n", "all", "--no-wait", "--show"], ExitCode.USAGE, "leave one of them out"),
        (["-c", "x", "-n", "all", "--qhost", "amqp://127.0.0.1:1"], ExitCode.BROKER, "127.0.0.1:1"),
        (["-c", "x", "-n", "all", "--dbhost", "couch://127.0.0.1:1/x"], ExitCode.STORE, "127.0.0.1:1"),
        (["-c", "x", "-n", "all", "--discovery", "100ms"], ExitCode.NOBODY_ANSWERED, "is a client running?"),
    ],
)
def test_the_runner_says_what_is_wrong(lab: Fleet, arguments: list[str], code: ExitCode, said: str) -> None:
    done = lab.runner(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_a_web_server_where_the_broker_should_be_is_told_as_such(lab: Fleet, web_server: int) -> None:
    done = lab.runner("-c", "x", "-n", "all", "--qhost", f"amqp://127.0.0.1:{web_server}", "--connect-timeout", "3s")
    assert done.returncode == ExitCode.BROKER
    assert "AMQP" in done.stderr
    assert f"127.0.0.1:{web_server}" in done.stderr


def test_a_web_server_where_the_store_should_be_is_told_as_such(lab: Fleet, web_server: int) -> None:
    done = lab.runner("-c", "x", "-n", "all", "--dbhost", f"couch://127.0.0.1:{web_server}/x", "--store-timeout", "3s")
    assert done.returncode == ExitCode.STORE
    assert f"127.0.0.1:{web_server}" in done.stderr


def test_a_port_that_accepts_and_says_nothing_is_given_up_in_time(lab: Fleet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = lab.runner("-c", "x", "-n", "all", "--qhost", f"amqp://127.0.0.1:{port}", "--connect-timeout", "1s")
    assert done.returncode == ExitCode.BROKER


def test_a_wrong_login_is_told_without_the_password(lab: Fleet, amqp_url: str, couch_url: str) -> None:
    for variable, url, code in (("QHOST", amqp_url, ExitCode.BROKER), ("DBHOST", couch_url, ExitCode.STORE)):
        scheme, _, rest = url.partition("://")
        lab.environment[f"VOGELER_{variable}"] = f"{scheme}://nobody:wr0ng@{rest.rpartition('@')[2]}"
        done = lab.runner("-c", "x", "-n", "all")
        del lab.environment[f"VOGELER_{variable}"]
        assert done.returncode == code, done.stderr
        assert "nobody:…@" in done.stderr
        assert "wr0ng" not in done.stderr


def test_plugin_authors_need_no_broker(lab: Fleet) -> None:
    lab.plugin("facts", "echo '{\"a\": 1}'", "json")
    lab.plugin("bad", "true", "jsno")
    lab.environment["VOGELER_QHOST"] = "amqp://127.0.0.1:1"
    flags = ["--plugins", str(lab.plugins), "--node", "n"]
    tested = lab._run("client", *flags, "test", "facts")
    assert (tested.returncode, json.loads(tested.stdout)) == (ExitCode.OK, {"a": 1})
    listed = lab._run("client", *flags, "list", "--format", "json")
    assert listed.returncode == ExitCode.SOME_FAILED
    assert [row["name"] for row in json.loads(listed.stdout)] == ["facts"]
    assert "bad.cfg:4" in listed.stderr
    assert "did you mean 'json'?" in listed.stderr
    unknown = lab._run("client", *flags, "test", "fact")
    assert unknown.returncode == ExitCode.NOT_FOUND
    assert "did you mean 'facts'?" in unknown.stderr


def test_the_demo_runs_twice_and_tells_what_changed(tmp_path: Path) -> None:
    lab = Fleet("local:///nowhere/bus.db", "sqlite:///nowhere/vogeler.db", tmp_path)
    first = lab.admin("demo", "--directory", str(tmp_path / "demo"))
    assert first.returncode == ExitCode.OK, first.stderr
    assert "users" in first.stdout
    assert "first time" in first.stdout
    second = lab.admin("demo", "--directory", str(tmp_path / "demo"))
    assert second.returncode == ExitCode.OK, second.stderr
    assert [line for line in second.stdout.splitlines() if line.startswith("users") and "no change" in line]
    pasted = [line.split()[1:] for line in second.stderr.splitlines() if "vogeler-admin --config" in line]
    assert len(pasted) == 4
    assert all(lab.admin(*arguments).returncode == ExitCode.OK for arguments in pasted)
