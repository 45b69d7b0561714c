"""A runner as a person at a terminal sees it: how many nodes are done at which time, and what it says in the end."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.load import Asked
from tests.servers.processes import COMMANDS, Fleet

_RUN = re.compile(r"\(run ([0-9a-f-]+)\)")
_DONE = re.compile(rb"(\d+)/(\d+) done")
_COLUMNS = "200"
SHARES = (0.5, 0.95, 0.99, 1.0)


@dataclass
class Watched:
    """``asked``: as tests/faults/checker.py takes it. ``progress``: seconds since its start → nodes done."""

    asked: Asked
    targets: str
    took_s: float = 0.0
    progress: list[tuple[float, int]] = field(default_factory=list)

    def reached_s(self) -> list[float | None]:
        """When 50, 95, 99 and 100 % of its nodes were done; the last is the runner's end."""
        total = len(self.asked.rows)
        times = [next((at for at, done in self.progress if done >= share * total), None) for share in SHARES[:-1]]
        return [*(self.took_s if at is None else at for at in times), self.took_s]


def run(fleet: Fleet, folder: Path, alias: str, targets: str, nodes: list[str], *flags: str) -> Watched:
    """One runner, to its end, which is that of this program at the latest. ``nodes``: those that ``targets`` means."""
    timeout_s = float(flags[flags.index("--timeout") + 1].rstrip("s"))
    watched = Watched(Asked(alias, nodes, timeout_s, time.time()), targets)
    terminal, theirs = pty.openpty()
    out = folder / f"runner-{threading.get_ident()}-{time.monotonic_ns()}.json"
    words = [str(COMMANDS / "vogeler-runner"), "-c", alias, "-n", targets, "--format", "json", *flags]
    began_s = time.monotonic()
    with out.open("wb") as stdout:
        process = subprocess.Popen(
            words,
            env={**fleet.environment, "COLUMNS": _COLUMNS},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=theirs,
        )
    os.close(theirs)
    with _under_way(process):
        watched.asked.talk = _watch(terminal, began_s, watched.progress)
        watched.asked.exit_code = process.wait()
    watched.took_s, watched.asked.ended_at = time.monotonic() - began_s, time.time()
    watched.asked.rows = _rows(out)
    found = _RUN.search(watched.asked.talk)
    watched.asked.run = found.group(1) if found else None
    return watched


_processes: set[subprocess.Popen[bytes]] = set()


@contextmanager
def _under_way(process: subprocess.Popen[bytes]) -> Iterator[None]:
    _processes.add(process)
    try:
        yield
    finally:
        process.kill()  # one that has ended takes no harm
        _processes.discard(process)


def kill_all() -> None:
    """End the runners that are under way, in whatever thread."""
    for process in list(_processes):
        process.kill()


def _watch(terminal: int, began_s: float, progress: list[tuple[float, int]]) -> str:
    """What is left on the terminal at the end; on the way, how many were done."""
    talk = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other end is closed: pty(7)
            chunk = b""
        if not chunk:
            os.close(terminal)
            return talk.rpartition(b"\x1b[K")[2].decode(errors="replace").replace("\r\n", "\n")
        talk += chunk
        for match in _DONE.finditer(chunk):
            progress.append((time.monotonic() - began_s, int(match.group(1))))


def _rows(out: Path) -> dict[str, dict[str, Any]]:
    text = out.read_text()
    out.unlink()
    return {row["node"]: row for row in json.loads(text)} if text else {}
