"""vogeler-admin nodes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from vogeler import targets
from vogeler.cli._output import add_format, write_rows
from vogeler.cli.admin._behind import check_limits, stale, state
from vogeler.cli.admin._connect import open_store
from vogeler.config import Settings
from vogeler.errors import ExitCode
from vogeler.summary import LATE, ONLINE, SILENT, stale_keys
from vogeler.units import format_duration, parse_duration, parse_timestamp

if TYPE_CHECKING:
    from vogeler.persistence import NodeSummary, Store

HELP = "list the nodes: who is online, late or silent, what fails there, and which facts are old"
_COLUMNS = ("node", "heard_at", "silent_for", "state", "since", "version", "groups", "problems", "stale")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which nodes to list."""
    add_nodes(parser)
    parser.add_argument("--late", action="store_true", help="list only nodes that are late (with --silent: or silent)")
    parser.add_argument("--silent", action="store_true", help="list only nodes that are silent")
    parser.add_argument(
        "--stale",
        type=duration,
        nargs="?",
        const=True,
        metavar="AGE",
        help="list only nodes with stale keys, and which; with AGE: keys not checked for this long",
    )
    add_format(parser)


def add_nodes(parser: argparse.ArgumentParser) -> None:
    """The ``-n`` flag: which nodes, as for a runner."""
    parser.add_argument(
        "-n", "--nodes", default="all", metavar="NODES", help="a list of names, globs, group:NAME (default: all)"
    )


def duration(text: str) -> float:
    """An age on the command line, in seconds."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def nodes_meant(store: Store, meant: targets.Targets) -> Iterator[NodeSummary]:
    """Those nodes the store knows that ``-n`` means."""
    return (node for node in store.nodes() if targets.matches(meant, node.node, node.groups))


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """One row a node."""
    meant = targets.parse(arguments.nodes)
    check_limits(settings)
    with closing(open_store(settings)) as store:
        age_s = arguments.stale if isinstance(arguments.stale, float) else None
        rows = (_row(node, time.time(), age_s, settings) for node in nodes_meant(store, meant))
        write_rows((row for row in rows if _is_asked_for(row, arguments)), _COLUMNS, arguments.format)
    return ExitCode.OK


def _is_asked_for(row: dict[str, Any], arguments: argparse.Namespace) -> bool:
    states = {state for state, asked in ((LATE, arguments.late), (SILENT, arguments.silent)) if asked}
    return (not states or row["state"] in states) and (arguments.stale is None or row["stale"] != "")


def _row(node: NodeSummary, now_s: float, age_s: float | None, settings: Settings) -> dict[str, Any]:
    """``age_s``: which age of a key to tell of, instead of what is stale."""
    silent_s = None if node.heard_at is None else now_s - parse_timestamp(node.heard_at)
    found = state(node, now_s, settings)
    old = stale(node, now_s, settings) if age_s is None else stale_keys(node.checked, {}, now_s, age_s)
    return {
        "node": node.node,
        "heard_at": node.heard_at,
        "silent_for": None if silent_s is None else format_duration(silent_s),
        "state": found,
        "since": node.started_at if found == ONLINE else node.heard_at,
        "version": node.version,
        "groups": ",".join(node.groups),
        "problems": ",".join(node.problems),
        "stale": ",".join(old),
    }
