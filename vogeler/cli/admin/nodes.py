"""vogeler-admin nodes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from vogeler import targets
from vogeler.cli._output import add_format, write_rows
from vogeler.cli.admin._connect import open_store
from vogeler.config import Settings
from vogeler.errors import ExitCode, UsageError
from vogeler.summary import (
    LATE,
    LATE_AFTER_S,
    ONLINE,
    SILENT,
    SILENT_AFTER_S,
    STALE_AFTER_S,
    stale_keys,
    state_of,
)
from vogeler.units import format_duration, parse_duration, parse_timestamp

if TYPE_CHECKING:
    from vogeler.persistence import NodeSummary, Store

HELP = "list the nodes: who is online, late or silent, what fails there, and which facts are old"
_COLUMNS = ("node", "heard_at", "silent_for", "state", "since", "version", "groups", "problems", "stale")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which nodes to list, and what counts as late, silent and stale."""
    add_nodes(parser)
    parser.add_argument("--late", action="store_true", help="list only nodes that are late (with --silent: or silent)")
    parser.add_argument("--silent", action="store_true", help="list only nodes that are silent")
    parser.add_argument(
        "--stale", type=duration, metavar="AGE", help="list only nodes with keys not checked for this long, and which"
    )
    for flag, default_s in (("--late-after", LATE_AFTER_S), ("--silent-after", SILENT_AFTER_S)):
        parser.add_argument(
            flag,
            type=duration,
            default=default_s,
            metavar="AGE",
            help=f"how long after its last word a node is {flag.split('-')[2]} (default: {default_s:.0f}s)",
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
    if arguments.silent_after < arguments.late_after:
        raise UsageError("a node can't be silent before it is late", "--silent-after is longer than --late-after")
    with closing(open_store(settings)) as store:
        rows = (_row(node, time.time(), arguments) for node in nodes_meant(store, meant))
        write_rows((row for row in rows if _is_asked_for(row, arguments)), _COLUMNS, arguments.format)
    return ExitCode.OK


def _is_asked_for(row: dict[str, Any], arguments: argparse.Namespace) -> bool:
    states = {state for state, asked in ((LATE, arguments.late), (SILENT, arguments.silent)) if asked}
    return (not states or row["state"] in states) and (arguments.stale is None or row["stale"] != "")


def _row(node: NodeSummary, now_s: float, arguments: argparse.Namespace) -> dict[str, Any]:
    silent_s = None if node.heard_at is None else now_s - parse_timestamp(node.heard_at)
    state = state_of(node.heard_at, now_s, arguments.late_after, arguments.silent_after)
    stale_after_s = STALE_AFTER_S if arguments.stale is None else arguments.stale
    return {
        "node": node.node,
        "heard_at": node.heard_at,
        "silent_for": None if silent_s is None else format_duration(silent_s),
        "state": state,
        "since": node.started_at if state == ONLINE else node.heard_at,
        "version": node.version,
        "groups": ",".join(node.groups),
        "problems": ",".join(node.problems),
        "stale": ",".join(stale_keys(node.checked, now_s, stale_after_s)),
    }
