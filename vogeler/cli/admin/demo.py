"""vogeler-admin demo."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess  # the demo starts the real daemons, as a person would
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vogeler import messages, messaging, persistence
from vogeler.cli._output import as_text, printable, write_rows
from vogeler.cli._program import talk
from vogeler.cli._progress import Progress
from vogeler.cli.admin._versions import holds
from vogeler.cli.runner import requester
from vogeler.config import Settings
from vogeler.errors import ExitCode, VogelerError
from vogeler.history import difference
from vogeler.messages import Command
from vogeler.persistence import Store
from vogeler.runner import Answer, Limits, Runner

HELP = "ask this machine for everything it can tell, with no service and no root"

_ALIASES = ("packages", "system", "ps", "listening", "services", "mounts", "users")
_READY_WITHIN_S = 30.0
_STOPPED_WITHIN_S = 40.0
_PROGRAMS = ("server", "client")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--directory``."""
    parser.add_argument(
        "--directory", default="vogeler-demo", metavar="DIR", help="where to keep it (default: %(default)s)"
    )


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """Server and client as processes of their own on the local engine, and the questions from here."""
    del settings  # the demo's are its own
    directory = Path(arguments.directory)
    qhost, dbhost, config = _write_config(directory)
    began_at = messages.now()
    with closing(persistence.connect(dbhost)) as store, _daemons(config, directory) as processes:
        node = _wait_until_ready(store, processes, began_at, directory)
        answers = [_ask(alias, node, qhost, store) for alias in _ALIASES]
        talk("")
        write_rows(_rows(answers, store, node, began_at), ("key", "holds", "for_example", "since_last_time"), "table")
    _say_where(node, config, dbhost)
    return ExitCode.OK


def _write_config(directory: Path) -> tuple[str, str, Path]:
    directory.mkdir(parents=True, exist_ok=True)
    place = directory.resolve()
    qhost, dbhost = f"local://{quote(str(place))}/bus.db", f"sqlite://{quote(str(place))}/vogeler.db"
    config = directory / "vogeler.conf"
    config.write_text(f"[vogeler]\nqhost = {qhost}\ndbhost = {dbhost}\n[client]\nstrict_modes = no\n", encoding="utf-8")
    return qhost, dbhost, config


@contextmanager
def _daemons(config: Path, directory: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A server and a client, stopped in the end, whatever happens."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VOGELER_")}
    processes = []
    try:
        for program in _PROGRAMS:
            code = f"import sys; from vogeler.cli.{program} import main; sys.exit(main())"
            with (directory / f"{program}.log").open("wb") as log:
                command = [sys.executable, "-c", code, "--config", str(config)]
                processes.append(subprocess.Popen(command, stderr=log, env=environment))  # noqa: S603 - our own programs
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(_STOPPED_WITHIN_S)


def _wait_until_ready(store: Store, processes: list[subprocess.Popen[bytes]], began_at: str, directory: Path) -> str:
    """The name of this node, once the server has stored a heartbeat of its client."""
    deadline_s = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline_s:
        for node in store.nodes():
            if node.heard_at is not None and node.heard_at >= began_at:
                return node.node
        for program, process in zip(_PROGRAMS, processes):
            if process.poll() is not None:
                log = (directory / f"{program}.log").read_text(encoding="utf-8", errors="replace")
                raise VogelerError(f"vogeler-{program} ended with exit code {process.returncode}:\n{log[-2000:]}")
        time.sleep(0.05)
    raise VogelerError(
        f"no heartbeat of a client was stored within {_READY_WITHIN_S:.0f} s", f"see the logs in {directory}"
    )


def _ask(alias: str, node: str, qhost: str, store: Store) -> Answer:
    with Progress(alias) as progress:
        runner = Runner(lambda: messaging.connect(qhost), store, Limits(), progress.draw)
        command = Command(alias=alias, requested_by=requester(), expires_at=messages.now(), targets={"nodes": [node]})
        answer = runner.run(command).rows()[0]
    took = f" in {answer.duration_s:.2f} s" if answer.duration_s is not None else ""
    talk(f"  {alias}: {answer.stage}{took}" + (f": {printable(answer.reason)}" if answer.reason else ""))
    return answer


def _rows(answers: list[Answer], store: Store, node: str, began_at: str) -> Iterator[dict[str, Any]]:
    record = store.record(node) or {}
    for answer in answers:
        if answer.key in record:
            value = record[answer.key]
            changes = list(store.history(node, answer.key))[:2]
            yield {
                "key": answer.key,
                "holds": holds(value),
                "for_example": _example(value),
                "since_last_time": _since_last_time(changes, began_at),
            }


def _since_last_time(changes: list[dict[str, Any]], began_at: str) -> str:
    """What the newest of the two latest changes did, if it was made now."""
    if not changes or changes[0]["changed_at"] < began_at:
        return "no change"
    return str(difference(changes[1]["value"], changes[0]["value"])) if len(changes) > 1 else "first time"


def _example(value: Any) -> str:
    if isinstance(value, dict):
        parts = [f"{name}: {as_text(item)}" for name, item in list(value.items())[:2]]
    else:
        parts = [as_text(item) for item in value[:1]] if isinstance(value, list) else [as_text(value)]
    text = ", ".join(parts)
    return text if len(text) <= 60 else text[:59] + "…"


def _say_where(node: str, config: Path, dbhost: str) -> None:
    programs = Path(sys.argv[0]).parent
    flags = f"--config {shlex.quote(str(config))}"
    shown = min(str(programs.resolve()), os.path.relpath(programs), key=len)
    talk(f"\nThe record is in {dbhost}. To look further:\n")
    for command in ("nodes", f"show {node}", f"show {node} users", f"show {node} system --format json"):
        talk(f"  {shown}/vogeler-admin {flags} {command}")
    talk("\nTo ask again, with a server and a client that stay:\n")
    talk(f"  {shown}/vogeler-server {flags} & {shown}/vogeler-client {flags} &")
    talk(f"  {shown}/vogeler-runner {flags} -c packages -n all")
    talk("  kill %1 %2\n")
