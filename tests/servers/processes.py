"""A fleet of real processes on one machine: servers, clients, runners, as the commands start them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from vogeler import messaging, persistence
from vogeler.messaging import Transport
from vogeler.persistence import Store

COMMANDS = Path(sys.executable).parent
LIMIT_S = 30.0
NOT_STRICT = "[client]\nstrict_modes = no\n"  # what tests make is in /tmp

# The engines that the whole loop is tried on.
ENGINES = [("local", "sqlite"), ("amqp", "couch")]


def wait_until(condition: Callable[[], Any], what: str, logs: Callable[[], str] = str, limit_s: float = LIMIT_S) -> Any:
    """The first true value of ``condition``; fails after ``limit_s``, saying ``what`` did not happen."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail(f"not within {limit_s:.0f} s: {what}\n{logs()}")


class Daemon:
    """A server or client process, and what it has logged."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path):
        self._log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                arguments, env=environment, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr
            )

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in self.log.splitlines() if line.startswith("{") and line.endswith("}"))
        return [line for line in lines if line.get("event") == name]

    def wait_for(self, event: str, times: int = 1) -> dict[str, Any]:
        """The latest log line of that event, once there are as many."""

        def seen() -> bool:
            if self.process.poll() is not None and len(self.events(event)) < times:
                pytest.fail(f"ended with {self.process.returncode} before {event!r}:\n{self.log}")
            return len(self.events(event)) >= times

        wait_until(seen, f"{event!r} in the log of {self.process.args}", lambda: self.log[-3000:])
        return self.events(event)[-1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(LIMIT_S)


class Fleet:
    """Processes that share a broker, a store and a folder of plugins."""

    def __init__(self, qhost: str, dbhost: str, directory: Path, commands: Path = COMMANDS):
        self.qhost, self.dbhost, self.directory, self.commands = qhost, dbhost, directory, commands
        self.plugins = directory / "plugins"
        self.plugins.mkdir()
        self.daemons: list[Daemon] = []
        self.prefix: list[str] = []  # a program that starts daemons and runners, with its arguments
        config = directory / "vogeler.conf"
        config.write_text(f"[vogeler]\nqhost = {qhost}\ndbhost = {dbhost}\nlogformat = json\n{NOT_STRICT}")
        keep = {name: value for name, value in os.environ.items() if not name.startswith("VOGELER_")}
        self.environment = {**keep, "VOGELER_CONFIG": str(config)}

    def plugin(self, name: str, command: str, result_format: str = "output", **keys: str) -> None:
        lines = [f"[{name}]", f"name = {name}", f"command = {command}", f"result_format = {result_format}"]
        (self.plugins / f"{name}.cfg").write_text("\n".join([*lines, *(f"{k} = {v}" for k, v in keys.items()), ""]))

    def server(self, *flags: str, environment: Mapping[str, str] = MappingProxyType({})) -> Daemon:
        return self._start("server", *flags, environment=environment)

    def client(self, node: str, *flags: str, environment: Mapping[str, str] = MappingProxyType({})) -> Daemon:
        flags = ("--node", node, "--plugins", str(self.plugins), *flags)
        return self._start("client", *flags, environment=environment)

    def _start(self, program: str, *flags: str, environment: Mapping[str, str]) -> Daemon:
        log = self.directory / f"{program}-{len(self.daemons)}.log"
        environment = {**self.environment, **environment}
        daemon = Daemon([*self.prefix, str(self.commands / f"vogeler-{program}"), *flags], environment, log)
        self.daemons.append(daemon)
        return daemon

    def runner(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("runner", *arguments)

    def admin(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("admin", *arguments)

    def start_runner(self, *arguments: str) -> subprocess.Popen[str]:
        command = [*self.prefix, str(self.commands / "vogeler-runner"), *arguments]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.commands / f"vogeler-{program}"), *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)

    def ask(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """The runner's answer, by node."""
        done = self.runner(*arguments, "--format", "json")
        assert done.stdout, done.stderr
        return {row["node"]: row for row in json.loads(done.stdout)}

    def logs(self) -> str:
        """The end of every daemon's log."""
        return "\n".join(f"== {daemon.process.args}\n{daemon.log[-2000:]}" for daemon in self.daemons)

    def store(self) -> Store:
        return persistence.connect(self.dbhost)

    def transport(self) -> Transport:
        return messaging.connect(self.qhost)

    def wait_known(self, *nodes: str) -> None:
        """Until the store has heard of every one of the nodes."""
        with closing(self.store()) as store:
            wait_until(lambda: {n.node for n in store.nodes()} >= set(nodes), f"{nodes} known to the store", self.logs)

    def stop(self) -> None:
        for daemon in self.daemons:
            daemon.process.terminate()
        for daemon in self.daemons:
            try:
                daemon.process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                raise


@pytest.fixture(params=ENGINES, ids="-".join)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet of nobody yet, on each pair of engines; everything is set up."""
    qhost = request.getfixturevalue("amqp_url") if "amqp" in request.param else f"local://{tmp_path}/bus.db"
    dbhost = request.getfixturevalue("couch_url") if "couch" in request.param else f"sqlite://{tmp_path}/vogeler.db"
    made = Fleet(qhost, dbhost, tmp_path)
    with closing(made.store()) as store:
        store.setup()
    yield made
    made.stop()
