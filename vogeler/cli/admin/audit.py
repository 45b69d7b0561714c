"""vogeler-admin audit."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any

from vogeler import targets
from vogeler.cli._output import add_format, write_rows
from vogeler.cli.admin._connect import open_store
from vogeler.cli.admin._versions import add_period
from vogeler.cli.admin.nodes import add_nodes
from vogeler.config import Settings
from vogeler.errors import ExitCode
from vogeler.globs import matcher
from vogeler.messages import DECISIONS

if TYPE_CHECKING:
    from vogeler.persistence import Store

HELP = "list who asked what of which node, when, and whether it was accepted"
_COLUMNS = ("at", "node", "alias", "requested_by", "stage", "reason", "key", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The period, the nodes, and what was asked by whom."""
    add_period(parser, since="1d")
    add_nodes(parser)
    parser.add_argument("--alias", metavar="GLOB", default="*", help="only commands for these aliases")
    parser.add_argument("--requested-by", metavar="GLOB", default="*", help="only what these have asked for")
    parser.add_argument("--stage", choices=DECISIONS, help="only what was decided so")
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """A row per command and node, the latest first."""
    meant = targets.parse(arguments.nodes)
    with closing(open_store(settings)) as store:
        rows = _rows(store, arguments, _selection(store, meant))
        write_rows(islice(rows, arguments.limit), _COLUMNS, arguments.format)
    return ExitCode.OK


def _selection(store: Store, meant: targets.Targets) -> Callable[[str], bool]:
    """Whether a node is meant; one that is not known any more has no groups."""
    if meant is None:
        return lambda node: True
    groups = {node.node: node.groups for node in store.nodes()} if meant.get("groups") else {}
    return lambda node: targets.matches(meant, node, groups.get(node, ()))


def _rows(store: Store, arguments: argparse.Namespace, is_meant: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """What was stored again, after a fault, is told once; so is a command that was asked for again in full."""
    told = set()
    is_alias, is_requester = matcher(arguments.alias), matcher(arguments.requested_by)
    for entry in store.audit(arguments.since, arguments.until):
        asked = is_alias(str(entry.get("alias"))) and is_requester(str(entry.get("requested_by")))
        if not asked or arguments.stage not in (None, entry.get("stage")):
            continue
        for node, at in sorted(entry["nodes"].items()):
            name = (entry.get("run"), node, entry.get("stage"))
            if is_meant(node) and name not in told:
                told.add(name)
                yield {**entry, "node": node, "at": at}
