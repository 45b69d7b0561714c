"""vogeler-admin nodes."""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from typing import Any

from vogeler.cli._output import add_format, write_rows
from vogeler.cli.admin._connect import open_store
from vogeler.config import Settings
from vogeler.errors import ExitCode
from vogeler.persistence import NodeSummary
from vogeler.units import format_duration, parse_timestamp

HELP = "list the nodes, when each was last heard and what fails on it"
_COLUMNS = ("node", "heard_at", "silent_for", "version", "groups", "problems")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--format``."""
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """One row a node."""
    with closing(open_store(settings)) as store:
        write_rows(map(_row, store.nodes()), _COLUMNS, arguments.format)
    return ExitCode.OK


def _row(node: NodeSummary) -> dict[str, Any]:
    silent_s = None if node.heard_at is None else time.time() - parse_timestamp(node.heard_at)
    return {
        "node": node.node,
        "heard_at": node.heard_at,
        "silent_for": None if silent_s is None else format_duration(silent_s),
        "version": node.version,
        "groups": ",".join(node.groups),
        "problems": ",".join(node.problems),
    }
