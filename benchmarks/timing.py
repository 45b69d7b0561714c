"""Seconds of calls and of whole commands, and how much memory a command took at its most."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Times:
    """Seconds, and how many answers there were."""

    seconds: list[float] = field(default_factory=list)
    answers: Optional[int] = None

    def take(self, ask: Callable[[], int]) -> None:
        """Once more."""
        began_s = time.monotonic()
        self.answers = ask()
        self.seconds.append(time.monotonic() - began_s)

    def __str__(self) -> str:
        if not self.seconds:
            return "–"
        low, high = min(self.seconds), max(self.seconds)
        return f"{statistics.median(self.seconds):.3f} ({low:.3f}–{high:.3f})"


# A process of a few MiB starts the command: what a child of ours had at its most would never be less than what
# we have (the kernel counts from before exec).
_LAUNCHER = """
import json, os, sys, time
began_s = time.monotonic()
out = [(os.POSIX_SPAWN_OPEN, 1, sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)]
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ, file_actions=out)
_, status, usage = os.wait4(child, 0)
code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 255
print(json.dumps([time.monotonic() - began_s, usage.ru_maxrss, code]))
"""
_ADMIN = "import sys; from vogeler.cli.admin import main; sys.argv[0] = 'vogeler-admin'; sys.exit(main())"


@dataclass
class Commands:
    """Runs of one command."""

    url: str
    output: Path
    times: Times = field(default_factory=Times)
    largest_mib: float = 0.0
    problem: str = ""

    def run(self, words: list[str]) -> None:
        """Once more, unless it failed before."""
        if self.problem:
            return
        environment = {
            **os.environ,
            "VOGELER_DBHOST": self.url,
            "PYTHONPATH": str(ROOT),
            "VOGELER_STORE_TIMEOUT": "600s",
        }
        words = [sys.executable, "-ISc", _LAUNCHER, str(self.output), sys.executable, "-c", _ADMIN, *words]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        seconds, largest_kib, code = json.loads(done.stdout)
        if code:
            self.problem = f"exit code {code}: {done.stderr.strip().splitlines()[-1:]}"
            return
        self.times.seconds.append(seconds)
        self.largest_mib = max(self.largest_mib, largest_kib / 1024)

    @property
    def lines(self) -> int:
        """How many lines the last one wrote."""
        with self.output.open("rb") as output:
            return sum(1 for _ in output)
