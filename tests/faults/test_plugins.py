"""Plugins that misbehave: the result says what happened, nobody else on the node waits, and nothing is left behind."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.resources import Held, held_by
from tests.servers.processes import Daemon, Fleet, wait_until
from vogeler.messages import FAILED, OK, TIMEOUT, TOO_LARGE, UNPARSABLE, Command, encode
from vogeler.units import to_timestamp

NODE = "web01"
IN_TIME_S = 20.0  # for what takes a fraction of a second where nobody misbehaves


@dataclass(frozen=True)
class Fault:
    """What a plugin does, and how its result ends: a status, and words of its error."""

    script: str
    status: str
    error: str = ""
    stays: bool = False  # what it leaves behind is out of reach


SHELL = {
    "daemon": Fault("setsid sh -c 'sleep 600 & exec sleep 600' & echo done", OK, stays=True),
    "background": Fault("sleep 600 & sh -c 'sleep 600 & sleep 600' & echo done", OK),
    "deaf": Fault("trap '' TERM; while :; do sleep 1; done", TIMEOUT, "not done after"),
    "deaf-children": Fault("(trap '' TERM; sleep 600; sleep 600) & (trap '' TERM; sleep 600) & wait", TIMEOUT, "not done"),
    "endless": Fault("yes", TOO_LARGE, "more than its max_output of 1000000 bytes"),
    "endless-stderr": Fault("yes >&2", TIMEOUT, "not done after"),
    "silent": Fault("exec >&- 2>&-; sleep 600", TIMEOUT, "not done after"),
    "reader": Fault("cat; read line; echo nothing to read", OK),
    "hungry": Fault("head -c 100000000 /dev/zero | tail >/dev/null; sleep 600", TIMEOUT, "not done after"),
    "long-line": Fault("head -c 900000 /dev/zero | tr '\\0' x", OK),
    "binary": Fault("printf '\\377\\000\\001'; head -c 5000 /dev/urandom", UNPARSABLE, "not UTF-8: byte 0xff"),
    "killed": Fault("kill -KILL $$", FAILED, "killed by signal 9 (SIGKILL)"),
    "stopped": Fault("kill -STOP $$", TIMEOUT, "not done after"),
    "new-group": Fault("bash -c 'set -m; sleep 600 & sleep 600 & wait'", TIMEOUT, "not done after"),
    "new-session": Fault("setsid sleep 600 & wait", TIMEOUT, "not done after"),
    "new-session-deaf": Fault("setsid sh -c 'trap \"\" TERM; sleep 600; sleep 600' & sleep 600", TIMEOUT, "not done after"),
    "spinning": Fault("while :; do :; done", TIMEOUT, "not done after"),
}  # fmt: skip
PYTHON = {
    "double-fork": Fault(
        "import os, time\n"
        "if not os.fork():\n    os.setsid()\n    os.fork() and os._exit(0)\n    time.sleep(600)\n"
        "os.wait()\nprint('done')",
        OK, stays=True,
    ),
    "cut-off": Fault(
        "import os, time\n"
        "if not os.fork():\n    os.setsid()\n    os.fork() and os._exit(0)\n"
        "    os.closerange(0, 9)\n    os.fork()\n    time.sleep(600)\n"
        "os.wait()\ntime.sleep(600)",
        TIMEOUT, "not done after",
    ),
    "files": Fault(
        "import resource, os, time\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 11000), hard))\n"
        "files = [os.open('/dev/null', os.O_RDONLY) for _ in range(min(hard, 11000) - 1000)]\n"
        "print(len(files), flush=True)\ntime.sleep(600)",
        TIMEOUT, "not done after",
    ),
}  # fmt: skip
FAULTS = {**SHELL, **PYTHON}
STAY = {name for name, fault in FAULTS.items() if fault.stays}


class Node:
    """A client with all of these plugins, a good one, and a server."""

    def __init__(self, fleet: Fleet, *flags: str):
        self.fleet = fleet
        self._mark = secrets.token_hex(8)
        for name, fault in FAULTS.items():
            script = fleet.plugins / name
            script.write_text(f"#!{'/bin/sh' if name in SHELL else sys.executable}\n{fault.script}\n")
            script.chmod(0o755)
            fleet.plugin(
                name, f"%(here)s/{name}", timeout="2s", max_output="1MB", **{"env.MARK": f"{self._mark}-{name}"}
            )
        fleet.plugin("good", "date +%N")
        fleet.server().wait_for("ready")
        self.client: Daemon = fleet.client(NODE, *flags)
        fleet.wait_known(NODE)
        self._transport = fleet.transport()
        self._store = fleet.store()

    def ask(self, alias: str) -> str:
        """Send a command; its run."""
        expires_at = to_timestamp(time.time() + 60)
        command = Command(alias, "tester", expires_at, {"nodes": [NODE]})
        assert self._transport.publish_command(encode(command), [f"node.{NODE}"], 60.0)
        return command.id

    def check(self, alias: str, run: str) -> dict[str, Any]:
        """How that run ended, once it has."""

        def ended() -> Any:
            check = (self._store.status(NODE) or {}).get("keys", {}).get(alias, {})
            return check if check.get("run") == run else None

        found: dict[str, Any] = wait_until(ended, f"{alias} has ended", self.fleet.logs, limit_s=60)
        return found

    def answers(self) -> None:
        """Somebody who behaves does not wait for those who don't."""
        started_s = time.monotonic()
        assert self.check("good", self.ask("good"))["status"] == OK
        assert time.monotonic() - started_s < IN_TIME_S

    def ends_as_told(self, alias: str, run: str) -> None:
        fault, check = FAULTS[alias], self.check(alias, run)
        assert (check["status"], fault.error in (check["error"] or "")) == (fault.status, True), check

    def is_tidy(self, *names: str) -> None:
        """Nothing is left of any plugin, except of these."""
        wait_until(lambda: {name for _, name in self._left()} == set(names), "nothing else is left", self.fleet.logs)

    def _left(self) -> Iterator[tuple[int, str]]:
        """The processes that plugins have started and are there, each with the plugin's name."""
        for entry in Path("/proc").iterdir():
            environment = b""
            with suppress(OSError):  # gone, or nobody's any more
                environment = (entry / "environ").read_bytes() if entry.name.isdecimal() else b""
            _, mark, rest = environment.partition(f"MARK={self._mark}-".encode())
            if mark:
                yield int(entry.name), rest.partition(b"\0")[0].decode()

    def close(self) -> None:
        self._transport.close()
        self._store.close()
        for pid, _ in self._left():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Fleet]:
    """One machine, without services."""
    fleet = Fleet(f"local://{tmp_path}/bus.db", f"sqlite://{tmp_path}/vogeler.db", tmp_path)
    yield fleet
    fleet.stop()


@pytest.fixture
def node(local: Fleet) -> Iterator[Node]:
    with closing(Node(local)) as made:
        yield made


@pytest.mark.long
@pytest.mark.parametrize("name", FAULTS)
def test_one_that_misbehaves(node: Node, name: str) -> None:
    run = node.ask(name)
    node.answers()
    node.ends_as_told(name, run)
    node.is_tidy(*({name} & STAY))
    node.answers()


def test_all_of_them_at_once(fleet: Fleet) -> None:
    with closing(Node(fleet, "--workers", "30")) as node:
        runs = {name: node.ask(name) for name in FAULTS}
        node.answers()
        for name, run in runs.items():
            node.ends_as_told(name, run)
        node.is_tidy(*STAY)
        node.answers()
        assert node.client.stop() == 0


def test_as_many_as_there_are_workers_keep_the_others_waiting_for_their_timeout_only(node: Node) -> None:
    """And the runner is told that they were accepted."""
    for _ in range(2):
        for name in ("deaf", "silent", "spinning", "new-session"):
            node.ask(name)
    node.answers()


def test_round_after_round_leaves_nothing_in_the_client(local: Fleet, long: bool) -> None:
    """No thread, no open file, no memory, no zombie."""
    names = FAULTS.keys() - STAY
    with closing(Node(local, "--workers", "8")) as node:  # a thread of each is made in the first round

        def play(rounds: int) -> Held:
            for _ in range(rounds):
                for name, run in {name: node.ask(name) for name in names}.items():
                    node.check(name, run)
            node.is_tidy()
            assert not psutil.Process(node.client.process.pid).children()
            return held_by(node.client.process.pid)

        before, after = play(2), play(50 if long else 3)
    assert after.files <= before.files
    assert after.threads <= before.threads
    assert after.bytes < before.bytes + 16_000_000


def test_what_a_plugin_eats_is_not_eaten_by_the_client(node: Node) -> None:
    client = psutil.Process(node.client.process.pid)
    node.answers()
    before = held_by(client.pid)
    run = node.ask("hungry")
    wait_until(lambda: _is_below(client, 80_000_000), "the plugin has eaten", node.fleet.logs)
    assert held_by(client.pid).bytes < before.bytes + 50_000_000
    node.ends_as_told("hungry", run)
    assert held_by(client.pid).bytes < before.bytes + 50_000_000


def _is_below(client: psutil.Process, size_bytes: int) -> bool:
    """Whether a process below the client holds as much."""
    for process in client.children(recursive=True):
        with suppress(psutil.Error):
            if process.memory_info().rss >= size_bytes:
                return True
    return False


def test_one_that_deletes_its_own_directory_fails_from_then_on_and_nobody_else(local: Fleet) -> None:
    folder = local.directory / "suicidal"
    folder.mkdir()
    (folder / "rm.cfg").write_text("[rm]\ncommand = sh -c 'rm -rf %(here)s; echo gone'\n")
    with closing(Node(local, "--plugins", str(folder))) as node:
        assert node.check("rm", node.ask("rm"))["status"] == OK
        check = node.check("rm", node.ask("rm"))
        assert check["status"] == FAILED
        assert f"No such file or directory: {folder}" in check["error"]
        node.answers()
        node.client.signal(signal.SIGHUP)
        assert "plugin directory can't be read" in node.client.wait_for("bad_plugin")["message"]
        node.answers()
