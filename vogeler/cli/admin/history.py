"""vogeler-admin history NODE [KEY]."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any

from vogeler.cli._output import add_format
from vogeler.cli._program import talk
from vogeler.cli.admin._connect import open_store
from vogeler.cli.admin._held import history_of, require_history
from vogeler.cli.admin._unseal import Unsealing, add_unseal
from vogeler.cli.admin._versions import add_period, row, write
from vogeler.config import Settings
from vogeler.errors import ExitCode
from vogeler.history import stored_at, versions

if TYPE_CHECKING:
    from vogeler.persistence import Document, Store

HELP = "list the changes of a node: when, what, which run, and who asked"
_COLUMNS = ("stored_at", "changed_at", "key", "requested_by", "run", "what")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NODE, KEY, the period, and how much to show."""
    parser.add_argument("node", metavar="NODE")
    parser.add_argument("key", metavar="KEY", nargs="?", help="only what concerns this key, with details")
    add_period(parser)
    parser.add_argument("--details", action="store_true", help="below each change, everything that differs")
    add_unseal(parser)
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """Newest first; works for nodes that were forgotten, too."""
    unsealing = Unsealing(arguments.unseal)
    with closing(open_store(settings)) as store:
        require_history(store, arguments.node, arguments.key)
        rows = islice(_rows(store, arguments, unsealing), arguments.limit)
        details = arguments.details or arguments.key is not None
        columns = [name for name in _COLUMNS if name != "key" or arguments.key is None]
        if not write(rows, columns, arguments.format, details):
            talk("no changes in that time")
    return unsealing.tell()


def _rows(store: Store, arguments: argparse.Namespace, unsealing: Unsealing) -> Iterator[dict[str, Any]]:
    since, until = arguments.since or "", arguments.until or "~"

    def view(entry: Document, previous: Document | None) -> tuple[str, dict[str, Any] | None]:
        at = stored_at(entry)
        if not since <= at < until:
            return at, None
        return at, row(unsealing.change(entry), unsealing.before(previous), arguments.format)

    node, key = arguments.node, arguments.key
    for at, found in versions(store.history(node) if key is None else history_of(store, node, key), view):
        if found is not None:
            yield found
        elif at < since:
            return
