"""vogeler-admin changes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any, Optional

from vogeler import targets
from vogeler.cli._output import add_format
from vogeler.cli._program import talk
from vogeler.cli.admin._connect import open_store
from vogeler.cli.admin._held import require_history
from vogeler.cli.admin._versions import add_period, row, write
from vogeler.cli.admin.nodes import add_nodes
from vogeler.config import Settings
from vogeler.errors import ExitCode
from vogeler.history import FORGOTTEN, stored_at, versions, was_held

if TYPE_CHECKING:
    from vogeler.persistence import Document, Store

HELP = "list what changed on the fleet: when, where, what, and who asked"
_COLUMNS = ("stored_at", "node", "key", "requested_by", "what")
_MOST_AHEAD = 20_000  # rows that are known before it is their turn

Seen = tuple[str, str, Optional[dict[str, Any]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The period, the nodes, the key, and how much to show."""
    add_period(parser, since="1d")
    add_nodes(parser)
    parser.add_argument("--key", metavar="KEY", help="only changes of this key")
    parser.add_argument("--details", action="store_true", help="below each change, everything that differs")
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """Newest first; JSON, CSV and details as they are found."""
    meant = targets.parse(arguments.nodes)
    with closing(open_store(settings)) as store:
        rows = islice(_rows(store, arguments, _selection(store, meant)), arguments.limit)
        count = write(rows, _COLUMNS, arguments.format, arguments.details)
    talk(f"{count} change{'' if count == 1 else 's'}")
    return ExitCode.OK


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


def _rows(store: Store, arguments: argparse.Namespace, is_meant: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """What came late never was in the record, and is no change; ``history`` shows it.

    The first change that is seen of a node's key finds those before it, too, so that each history is read
    once and no further than the period begins.
    """
    ahead: dict[str, dict[str, Any]] = {}
    for change in store.changes(arguments.since, arguments.until):
        if arguments.key not in (None, change["key"]) or not is_meant(change["node"]):
            continue
        if change["event"] == FORGOTTEN:
            yield row(change, None, arguments.format)
        elif was_held(change):
            found = ahead.pop(change["_id"], None)
            if found is None:
                found = _look(store, change, arguments, ahead)
            yield found


def _look(
    store: Store, change: Document, arguments: argparse.Namespace, ahead: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The row of a change. Those of the older ones in the period go into ``ahead``, as many as it takes."""
    newest = stored_at(change)
    found = None

    def view(entry: Document, previous: Document | None) -> Seen:
        at = stored_at(entry)
        wanted = arguments.since <= at <= newest and was_held(entry)
        return entry["_id"], at, row(entry, previous, arguments.format) if wanted else None

    for identity, at, one in versions(store.history(change["node"], change["key"]), view):
        if identity == change["_id"]:
            found = one
        elif one is not None and found is not None:
            ahead[identity] = one
        if found is not None and (at < arguments.since or len(ahead) >= _MOST_AHEAD):
            break
    return found or row(change, None, arguments.format)  # pruned while we were reading
