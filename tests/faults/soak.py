"""A fleet that is broken again and again, for as long as one likes: ``make soak MINUTES=60``.

The tests that break the fleet on RabbitMQ and CouchDB are run one after another on one and the same fleet, in an order
that the seed decides: each kind of fault once before any comes again. All the time somebody looks at what every process
holds. In the end there are tables of it, and a chart, in the folder ``.soak``.
"""

from __future__ import annotations

import csv
import json
import random
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

import psutil
import pytest

from tests.faults.resources import Held, held_by
from tests.faults.world import WORLDS, Proof, World

# How many tests were run before this one: the dice of a test that comes again are others.
TURN = pytest.StashKey[int]()
FOLDER = Path(".soak")
SAMPLE_EVERY_S = 5.0


@dataclass(frozen=True)
class Fault:
    """One that was done. ``proof`` is None where it failed. Times in seconds since the beginning."""

    name: str
    began_s: float
    ended_s: float
    proof: Optional[Proof]


@dataclass(frozen=True)
class Sample:
    """What a process held at a time, in seconds since the beginning."""

    at_s: float
    name: str
    pid: int
    held: Held


class Soak:
    """The plugin of pytest that runs tests until the time is up."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._lasts_s = float(config.getoption("--soak")) * 60
        self._began_s = time.monotonic()
        self._faults: list[Fault] = []
        self._samples: list[Sample] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if "world" in getattr(item, "fixturenames", ())]

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own, which runs each test once."""
        self._began_s = time.monotonic()
        FOLDER.mkdir(exist_ok=True)
        seed = self._config.getoption("--faults-seed")
        deck = _shuffled(session.items, random.Random(seed))
        following: Optional[pytest.Item] = next(deck)
        with self._looking_on():
            while following is not None and not session.shouldstop:
                item, following = following, next(deck) if self._age_s() < self._lasts_s else None
                self._config.stash[TURN] = self._config.stash.get(TURN, 0) + 1
                self._config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.failed:
            proof = self._worlds()[-1].proofs[-1] if report.passed else None
            ended_s = self._age_s()
            self._faults.append(Fault(_plainly(report.nodeid), ended_s - report.duration, ended_s, proof))
        if report.failed:  # at once: there may be hours to go
            with (FOLDER / "failures.txt").open("a") as file:
                file.write(f"== {report.nodeid}, {report.when}\n{report.longreprtext}\n")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        table = "\n".join(_table(self._faults, self._age_s()))
        (FOLDER / "figures.md").write_text(table + "\n")
        (FOLDER / "faults.json").write_text(json.dumps([asdict(fault) for fault in self._faults], indent=1))
        with (FOLDER / "samples.csv").open("w") as file:
            rows = (
                (round(s.at_s, 1), s.name, s.pid, s.held.bytes, s.held.files, s.held.threads) for s in self._samples
            )
            csv.writer(file).writerows([("at_s", "name", "pid", "bytes", "files", "threads"), *rows])
        _draw(self._samples, self._faults, FOLDER / "held.png")
        terminalreporter.write_line(table)
        terminalreporter.write_line(f"in {FOLDER}/: figures.md, faults.json, samples.csv, held.png")

    def _worlds(self) -> list[World]:
        return self._config.stash.get(WORLDS, [])

    def _age_s(self) -> float:
        return time.monotonic() - self._began_s

    @contextmanager
    def _looking_on(self) -> Iterator[None]:
        over = threading.Event()

        def look() -> None:
            while not over.wait(SAMPLE_EVERY_S):
                for world in self._worlds()[-1:]:
                    self._samples += _looked_at(world, self._age_s())

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _shuffled(items: Sequence[pytest.Item], chance: random.Random) -> Iterator[pytest.Item]:
    """Without end: of each function one at random, before any function comes again. None twice in a row."""
    kinds: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        kinds[item.nodeid.partition("[")[0]].append(item)
    last = ""
    while True:
        order = chance.sample(sorted(kinds), len(kinds))
        if order[0] == last:
            order.reverse()
        for name in order:
            yield chance.choice(kinds[name])
        last = order[-1]


def _looked_at(world: World, at_s: float) -> Iterator[Sample]:
    pids = dict(world.pids())
    for name, port in (("RabbitMQ", _port_of(world, "broker")), ("CouchDB", _port_of(world, "couchdb"))):
        pid = _listening(port)
        if pid is not None:
            pids[name] = pid
    for name, pid in pids.items():
        with suppress(OSError):  # it has been killed
            yield Sample(at_s, name, pid, held_by(pid))


def _port_of(world: World, attribute: str) -> int:
    return int(getattr(getattr(world, attribute, None), "port", 0))


def _listening(port: int) -> Optional[int]:
    """Who listens on that port of this machine."""
    for connection in psutil.net_connections("tcp4"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            return connection.pid
    return None


def _plainly(nodeid: str) -> str:
    return nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")


def _table(faults: Sequence[Fault], age_s: float) -> Iterator[str]:
    """Markdown."""
    kinds: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        kinds[fault.name.partition("[")[0]].append(fault)
    yield "| fault | times | not as promised | back after, median | worst |"
    yield "|---|---|---|---|---|"
    for name, those in sorted(kinds.items()):
        yield _row(name, those)
    yield _row("**all**", faults)
    proofs = [fault.proof for fault in faults if fault.proof is not None]
    yield ""
    yield (
        f"{age_s / 60:.0f} minutes; {sum(p.commands for p in proofs):,} commands, {sum(p.results for p in proofs):,} "
        f"results; at most {max((p.rush for p in proofs), default=0)} attempts to connect in a second, of all."
    )


def _row(name: str, faults: Sequence[Fault]) -> str:
    back = [fault.proof.back_s for fault in faults if fault.proof is not None]
    times = f"{statistics.median(back):.1f} s | {max(back):.1f} s" if back else "– | –"
    return f"| {name} | {len(faults)} | {len(faults) - len(back)} | {times} |"


def _draw(samples: Sequence[Sample], faults: Sequence[Fault], path: Path) -> None:
    """Three panels over the same minutes, a line for every process."""
    from matplotlib.figure import Figure  # it is needed here alone, and takes a second

    figure = Figure(figsize=(11, 9), layout="constrained")
    memory, files, others = figure.subplots(3, 1, sharex=True)
    lines: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        lines[sample.name, sample.pid].append(sample)
    for (name, _), line in lines.items():
        minutes = [sample.at_s / 60 for sample in line]
        mebibytes = [sample.held.bytes / 2**20 for sample in line]
        if name in _OTHERS:
            others.plot(minutes, mebibytes, color=_OTHERS[name], linewidth=0.8)
        else:
            color = "tab:red" if name.startswith("server") else "tab:blue"
            memory.plot(minutes, mebibytes, color=color, linewidth=0.6)
            files.plot(minutes, [sample.held.files for sample in line], color=color, linewidth=0.6)
    _label(memory, "servers (red), clients (blue): MiB resident")
    _label(files, "servers (red), clients (blue): open files")
    _label(others, "RabbitMQ (orange), CouchDB (green): MiB resident")
    for panel in (memory, files, others):
        for fault in faults:
            panel.axvline(fault.began_s / 60, color="0.85", linewidth=0.5, zorder=0)
    others.set_xlabel("minutes; a grey line where a fault began")
    figure.savefig(path, dpi=90)


_OTHERS = {"RabbitMQ": "tab:orange", "CouchDB": "tab:green"}


def _label(panel: Any, text: str) -> None:
    panel.set_title(text, loc="left", fontsize="medium")
    panel.set_ylim(bottom=0)
