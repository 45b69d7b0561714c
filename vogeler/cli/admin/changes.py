"""vogeler-admin changes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any

from vogeler import targets
from vogeler.cli._output import add_format
from vogeler.cli._program import talk
from vogeler.cli.admin._connect import open_store
from vogeler.cli.admin._held import beside_previous, require_history
from vogeler.cli.admin._unseal import Unsealing, add_unseal
from vogeler.cli.admin._versions import add_period, row, write
from vogeler.cli.admin.nodes import add_nodes
from vogeler.config import Settings
from vogeler.errors import ExitCode

if TYPE_CHECKING:
    from vogeler.persistence import Store

HELP = "list what changed on the fleet: when, where, what, and who asked"
_COLUMNS = ("stored_at", "node", "key", "requested_by", "what")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The period, the nodes, the key, and how much to show."""
    add_period(parser, since="1d")
    add_nodes(parser)
    parser.add_argument("--key", metavar="KEY", help="only changes of this key")
    parser.add_argument("--details", action="store_true", help="below each change, everything that differs")
    add_unseal(parser)
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """Newest first; JSON, CSV and details as they are found."""
    meant, unsealing = targets.parse(arguments.nodes), Unsealing(arguments.unseal)
    with closing(open_store(settings)) as store:
        rows = islice(_rows(store, arguments, _selection(store, meant), unsealing), arguments.limit)
        count = write(rows, _COLUMNS, arguments.format, arguments.details)
    talk(f"{count} change{'' if count == 1 else 's'}")
    return unsealing.tell()


def _selection(store: Store, meant: targets.Targets) -> Callable[[str], bool]:
    """Whether a node is meant. One that was forgotten has its name, but no groups.

    Raises NotFoundError for a node that was named and never existed.
    """
    if meant is None:
        return lambda node: True
    known = {node.node: targets.matches(meant, node.node, node.groups) for node in store.nodes()}
    for node in sorted(targets.exact_names(meant) - known.keys()):
        require_history(store, node)
    return lambda node: known.get(node) or targets.matches(meant, node, ())


def _rows(
    store: Store, arguments: argparse.Namespace, is_meant: Callable[[str], bool], unsealing: Unsealing
) -> Iterator[dict[str, Any]]:
    """What came late never was in the record, and is no change; ``history`` shows it."""
    found = (
        change
        for change in store.changes(arguments.since, arguments.until)
        if arguments.key in (None, change["key"]) and is_meant(change["node"]) and not change.get("late")
    )
    for change, previous in beside_previous(store, found):
        yield row(unsealing.change(change), unsealing.before(previous), arguments.format)
