"""What the commands import: a module in every agent of a fleet is memory, and one before ``--help`` is waiting."""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.servers.processes import Daemon, Fleet
from vogeler.cli.admin import help_of
from vogeler.registry import names

COMMAND = "import sys; from vogeler.cli.{0} import main; sys.argv[0] = 'vogeler-{0}'\n"
TOLD_AT_THE_END = COMMAND + "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)\n"
TOLD_ON_SIGNAL = (
    COMMAND
    + """
import json, signal
def tell(*_):
    print(json.dumps({{"event": "modules", "names": [*sys.modules]}}), flush=True)
signal.signal(signal.SIGUSR1, tell)
main()
"""
)

# Libraries of other engines and formats, and what is large in the standard library.
ENGINES = {"pika", "couchdb", "yaml", "sqlite3", "psutil", "cryptography"}
# What is for keys, rights and their log, in a client that was given none.
RIGHTS = {f"vogeler.{name}" for name in ("signing", "sealing", "keys", "seen", "watched", "policy", "audit")}
LARGE = {"asyncio", "http", "email", "xml", "urllib.request", "multiprocessing", "unittest", "pkg_resources"}
LARGE |= {"importlib.metadata", "importlib.resources", "logging.config", "tempfile", "difflib", "pdb", "xmlrpc"}
UNHELPFUL = ENGINES | LARGE | {"ssl", "hashlib", "logging", "dataclasses", "inspect", "subprocess", "json", "socket"}

on_each_broker = pytest.mark.parametrize(
    "fleet", [("local", "sqlite"), ("amqp", "sqlite")], indirect=True, ids=["local", "amqp"]
)


def modules_of(program: str, *arguments: str) -> set[str]:
    """What a command has imported when it ends."""
    command = [sys.executable, "-c", TOLD_AT_THE_END.format(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("program", ["runner", "admin", "client", "server"])
def test_help_imports_nothing_that_it_does_not_show(program: str) -> None:
    assert modules_of(program, "--help") & UNHELPFUL == set()


def test_a_subcommand_imports_no_other(tmp_path: Path) -> None:
    found = modules_of("admin", "--dbhost", f"sqlite://{tmp_path}/v.db", "nodes")
    assert "vogeler.cli.admin.nodes" in found
    assert found & {f"vogeler.cli.admin.{name}" for name in names("vogeler.cli.admin") if name != "nodes"} == set()
    assert found & (LARGE | ENGINES - {"sqlite3"} | {"ssl", "hashlib", "vogeler.messaging"}) == set()


def test_the_list_of_subcommands_says_what_their_modules_say() -> None:
    for name in names("vogeler.cli.admin"):
        assert help_of(name) == import_module(f"vogeler.cli.admin.{name}").HELP


def test_a_runner_on_one_machine_imports_no_library_of_a_fleet(tmp_path: Path) -> None:
    engines = ("--qhost", f"local://{tmp_path}/bus.db", "--dbhost", f"sqlite://{tmp_path}/v.db")
    found = modules_of("runner", "-c", "facts", "-n", "all", "--discovery", "10ms", *engines)
    assert "vogeler.messaging.local" in found
    assert found & (LARGE | RIGHTS | ENGINES - {"sqlite3"} | {"ssl"}) == set()


def test_a_command_on_couchdb_imports_no_more_than_the_library_needs() -> None:
    found = modules_of("admin", "nodes", "--dbhost", "couch://127.0.0.1:1/records")
    assert "couchdb" in found
    assert found & (LARGE - {"http", "email"} | ENGINES - {"couchdb"}) == set()


@on_each_broker
def test_a_client_imports_its_broker_and_nothing_of_stores_or_formats_that_it_does_not_need(fleet: Fleet) -> None:
    engine = fleet.qhost.partition(":")[0]
    fleet.plugin("facts", "echo a")
    fleet.plugin("table", "printf 'a b\\n1 2\\n'", result_format="table")
    client = start_client(fleet)
    assert collected(fleet, client, "facts", "table")
    theirs = {"amqp": {"pika"}, "local": {"sqlite3"}}[engine]
    found = modules(client)
    assert theirs <= found
    assert found & (LARGE | ENGINES - theirs | {"vogeler.persistence", "vogeler.query", "vogeler.history"}) == set()
    assert found & RIGHTS == set()
    assert engine == "amqp" or "ssl" not in found


@on_each_broker
def test_a_client_imports_a_format_when_a_plugin_has_it(fleet: Fleet) -> None:
    fleet.plugin("facts", "echo a: 1", result_format="yaml")
    client = start_client(fleet)
    assert "yaml" not in modules(client)
    assert collected(fleet, client, "facts")
    assert "yaml" in modules(client)


def start_client(fleet: Fleet) -> Daemon:
    fleet.admin("setup")
    words = [sys.executable, "-c", TOLD_ON_SIGNAL.format("client"), "--node", "web01", "--plugins", str(fleet.plugins)]
    client = Daemon(words, fleet.environment, fleet.directory / "imports.log")
    fleet.daemons.append(client)
    client.wait_for("ready")
    return client


def collected(fleet: Fleet, client: Daemon, *aliases: str) -> bool:
    """Each plugin was run, and the result read."""
    for count, alias in enumerate(aliases, 1):
        fleet.runner("-c", alias, "-n", "web01", "--no-wait")
        client.wait_for("collected", count)
    return {event["status"] for event in client.events("collected")} == {"ok"}


def modules(client: Daemon) -> set[str]:
    count = len(client.events("modules"))
    client.signal(signal.SIGUSR1)
    return set(client.wait_for("modules", count + 1)["names"])
