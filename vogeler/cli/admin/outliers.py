"""vogeler-admin outliers KEY."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from vogeler import targets
from vogeler.cli._output import add_format, write_rows
from vogeler.cli._program import talk
from vogeler.cli.admin._connect import open_store
from vogeler.cli.admin.nodes import add_nodes, nodes_meant
from vogeler.cli.admin.summary import add_top, leaves_at, shown
from vogeler.config import Settings
from vogeler.errors import ExitCode, NotFoundError
from vogeler.summary import EXTRA, MISSES, Deviation, deviations, nodes_having

HELP = "list the nodes that differ from the majority, and in what"
_COLUMNS = ("node", "deviations", "path", "how", "value", "usual")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """KEY, among which nodes, how many of them."""
    parser.add_argument("key", metavar="KEY", help="the key to compare, or a path below it")
    add_nodes(parser)
    add_top(parser, "the nodes that differ most")
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """A row for each difference. The nodes that differ most come first."""
    meant = targets.parse(arguments.nodes)
    found: dict[str, list[Deviation]] = {}
    with closing(open_store(settings)) as store:
        known = {node.node for node in nodes_meant(store, meant)}
        nodes = nodes_having(leaves_at(store, arguments.key), known)
        if not nodes:
            raise NotFoundError(
                f"none of {len(known)} nodes has anything at {arguments.key}", "vogeler-admin show NODE lists its keys"
            )
        for node, deviation in deviations(leaves_at(store, arguments.key), nodes):
            found.setdefault(node, []).append(deviation)
    order = sorted(found, key=lambda node: (-len(found[node]), node))[: arguments.top]
    rows = (row for node in order for row in _rows(node, found[node]))
    write_rows(map(_for_eyes, rows) if arguments.format == "table" else rows, _COLUMNS, arguments.format)
    talk(f"{len(found)} of the {len(nodes)} nodes that have {arguments.key} differ from the majority")
    return ExitCode.OK


def _rows(node: str, found: list[Deviation]) -> Iterator[dict[str, Any]]:
    order = sorted(found, key=lambda one: (one.path, one.how, str(one.value), str(one.usual)))
    return ({"node": node, "deviations": len(found), **vars(deviation)} for deviation in order)


def _for_eyes(row: dict[str, Any]) -> dict[str, Any]:
    """In a table null is a word, and what is not there is empty."""
    value = None if row["how"] == MISSES else shown(row["value"])
    usual = None if row["how"] == EXTRA or (row["how"] == MISSES and row["usual"] is None) else shown(row["usual"])
    return {**row, "value": value, "usual": usual}
