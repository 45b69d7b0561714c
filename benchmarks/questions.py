"""What an operator asks of a fleet, as library calls and as whole commands, each beside a floor.

    python benchmarks/generator.py --nodes 10000 --load URL
    python benchmarks/questions.py URL [--rounds 5] [--only find] [--slow]

The store holds a fleet made by generator.py, and nobody writes to it meanwhile. In each round a question is
asked of the library, then of the command, then its floor is taken: what a program without Vogeler would need
for the same rows. Prints the median with least and most, in seconds, and how much memory the command took at its most.
A password comes from VOGELER_DBPASSWORD.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import floors
from benchmarks.catalogue import DAY_S
from benchmarks.timing import Commands, Times
from vogeler import find, history, persistence, query, summary
from vogeler.units import parse_timestamp, to_timestamp

# --- what is asked --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fleet:
    """The store that is asked, and what the questions need to know of what is in it."""

    url: str
    store: persistence.Store
    now_s: float  # the end of the fleet's time
    node: str

    def ago(self, days: float) -> str:
        """A time before the fleet's end."""
        return to_timestamp(self.now_s - days * DAY_S)


@dataclass(frozen=True)
class Question:
    """``ask`` returns how many answers there are. ``command``: the arguments of vogeler-admin for the same."""

    name: str
    ask: Callable[[Fleet], int]
    command: Callable[[Fleet], list[str]]
    floor: Optional[Callable[[Fleet], int]] = None
    slow: bool = False  # reads most of the store: left out unless asked for


def count(rows: Iterable[Any]) -> int:
    """How many there are, without keeping them."""
    return sum(1 for _ in rows)


def all_records(fleet: Fleet) -> int:
    """A floor: every record there is."""
    return floors.records(fleet.url)


def finding(expression: str, path: Optional[str] = None) -> Question:
    """A find, whose floor is all leaves at the path; with ``*``, all that begin so."""
    return Question(
        f"find '{expression}'",
        lambda fleet: len(find.find(fleet.store, query.parse(expression), time.time())),
        lambda fleet: ["find", expression, "--format", "jsonl"],
        path and (lambda fleet: floors.leaves(fleet.url, path.rstrip("*"), path[-1] != "*")),
    )


def the_summary(path: str, slow: bool = False) -> Question:
    """How many nodes have which value."""
    return Question(
        f"summary {path}",
        lambda fleet: len(summary.count_values(fleet.store.leaves(path))[0]),
        lambda fleet: ["summary", path, "--format", "csv"],
        lambda fleet: floors.leaves(fleet.url, path),
        slow,
    )


def the_outliers(path: str, slow: bool = False) -> Question:
    """Who differs from the majority."""
    return Question(
        f"outliers {path}",
        lambda fleet: count(summary.deviations(fleet.store.leaves(path), {n.node for n in fleet.store.nodes()})),
        lambda fleet: ["outliers", path, "--format", "csv"],
        lambda fleet: floors.leaves(fleet.url, path),
        slow,
    )


def the_changes(days: float) -> Question:
    """What happened on the whole fleet in its last days."""
    return Question(
        f"changes, the last {days:g} d",
        lambda fleet: count(fleet.store.changes(fleet.ago(days))),
        lambda fleet: ["changes", "--since", fleet.ago(days), "--format", "csv"],
        lambda fleet: floors.changes(fleet.url, fleet.ago(days)),
    )


QUESTIONS = (
    finding("packages.openssl", "packages.openssl"),
    finding("packages.openssl < 3.0.11", "packages.openssl"),
    finding("packages.openssl = 3.0.15-1~deb12u1 and not packages.telnetd", "packages.openssl"),
    finding("packages.telnetd", "packages.telnetd"),
    finding("system.os.id = debian and not packages.telnetd", "system.os.id"),
    finding("packages.openssl ~ ^3\\.0\\.1[15]", "packages.openssl"),
    finding("packages.python3-* ~ dfsg", "packages.python3-*"),
    finding("jmx has 9999", "jmx.*"),
    finding("seen > 2d"),
    replace(finding("*.openssl"), floor=all_records, slow=True),
    the_changes(0.04),
    the_changes(1),
    the_summary("packages.openssl"),
    the_summary("system.os"),
    the_outliers("system.os"),
    the_outliers("packages", slow=True),
    Question(
        "history of a node's packages",
        lambda fleet: count(history.versions(fleet.store.history(fleet.node, "packages"), history.version)),
        lambda fleet: ["history", fleet.node, "packages", "--format", "csv"],
        lambda fleet: floors.history(fleet.url, fleet.node, "packages"),
    ),
    Question(
        "a node's packages 10 d ago (--at)",
        lambda fleet: int(history.value_at(fleet.store.history(fleet.node, "packages"), fleet.ago(10)) is not None),
        lambda fleet: ["show", fleet.node, "packages", "--at", fleet.ago(10), "--format", "json"],
        lambda fleet: floors.history(fleet.url, fleet.node, "packages"),
    ),
    Question(
        "the list of nodes",
        lambda fleet: count(fleet.store.nodes()),
        lambda fleet: ["nodes", "--format", "csv"],
    ),
    Question(
        "every record",
        lambda fleet: count(fleet.store.records()),
        lambda fleet: [],
        all_records,
        slow=True,
    ),
)

# --- asking ---------------------------------------------------------------------------------------


def measure(fleet: Fleet, question: Question, rounds: int, most_s: float, output: Path) -> str:
    """One line of the report: as many rounds as there is time for, but two."""
    library, floor, commands = Times(), Times(), Commands(fleet.url, output)
    began_s = time.monotonic()
    for number in range(rounds):
        library.take(partial(question.ask, fleet))
        if words := question.command(fleet):
            commands.run(words)
        if question.floor is not None:
            floor.take(partial(question.floor, fleet))
        if number and time.monotonic() - began_s > most_s:
            break
    if commands.times.seconds and question.name.startswith("find") and commands.lines != library.answers:
        commands.problem = f"{commands.lines} lines for {library.answers} answers"
    told = commands.problem or (
        f"{commands.times} | {commands.largest_mib:.0f} MiB" if commands.times.seconds else "– | –"
    )
    rows = "" if floor.answers is None else f" of {floor.answers} rows"
    return f"| {question.name} | {library.answers} | {library} | {told} | {floor}{rows} |"


def the_fleet(url: str, store: persistence.Store) -> Fleet:
    """Looks into the store: when was it last told anything, and about whom is there much to tell."""
    nodes = {node.node: node.heard_at or "" for node in store.nodes()}
    if not nodes:
        sys.exit("the store is empty: load it with benchmarks/generator.py")
    some = sorted(nodes)[:: max(len(nodes) // 50, 1)]
    busiest = max(some, key=lambda node: count(store.history(node, "packages")))
    return Fleet(url, store, parse_timestamp(max(nodes.values())), busiest)


def main() -> None:
    """Ask, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="the store")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--most", type=float, default=30.0, help="seconds for one question (default: 30), at least two rounds"
    )
    parser.add_argument("--only", default="", help="questions with this in their name")
    parser.add_argument("--slow", action="store_true", help="also those that read most of the store")
    arguments = parser.parse_args()
    store = persistence.connect(arguments.url, os.environ.get("VOGELER_DBPASSWORD"), 3600.0)
    with closing(store), tempfile.TemporaryDirectory(prefix="vogeler-questions-") as folder:
        print(f"{store.ping()}, Python {sys.version.split()[0]}")
        fleet = the_fleet(arguments.url, store)
        print("| question | answers | library, s | command, s | its memory | floor, s |\n|---|---|---|---|---|---|")
        for question in QUESTIONS:
            if arguments.only in question.name and (arguments.slow or not question.slow):
                line = measure(fleet, question, arguments.rounds, arguments.most, Path(folder) / "output")
                print(line, flush=True)


if __name__ == "__main__":
    main()
