"""vogeler-admin watch [EXPR]."""

from __future__ import annotations

import argparse
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from vogeler.backoff import Backoff, describe
from vogeler.cli._output import FORMATS, as_json, as_text, csv_line, printable
from vogeler.cli._program import talk
from vogeler.cli.admin._connect import open_store
from vogeler.config import Settings
from vogeler.errors import ExitCode, StoreUnavailable

if TYPE_CHECKING:
    from vogeler.persistence import Document, Store
    from vogeler.query import Expression

HELP = "print changes as they are stored, until Ctrl-C"
_COLUMNS = ("stored_at", "node", "key", "requested_by", "what")  # of a table
_REMEMBERED = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """EXPR and a key: what to leave out."""
    parser.add_argument(
        "expression", metavar="EXPR", nargs="?", help="only nodes that match, with the change in their record"
    )
    parser.add_argument("--key", metavar="KEY", help="only changes of this key")
    parser.add_argument("--format", choices=FORMATS, default="table", help="json: an object a line (default: table)")


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """A line for each change, written out at once. Ends with INTERRUPTED."""
    from vogeler import query
    from vogeler.cli.admin._held import beside_previous
    from vogeler.cli.admin._versions import CSV_COLUMNS, row

    tree = query.parse(arguments.expression) if arguments.expression else None

    def show(change: Document) -> None:
        if arguments.key in (None, change["key"]) and (tree is None or _matches(tree, store, change)):
            _write(row(*next(beside_previous(store, [change])), arguments.format), arguments.format)

    if arguments.format == "csv":
        print(csv_line(CSV_COLUMNS), flush=True)
    with closing(open_store(settings)) as store:
        _follow(store, show)
    return ExitCode.OK


def _follow(store: Store, show: Callable[[Document], None]) -> None:
    """Show what is stored from now on, each once. A store that goes away is waited for."""
    backoff, shown = Backoff(), _Shown()
    position, is_away = None, False
    while True:
        try:
            for count, (here, change) in enumerate(store.follow(position)):
                if change is not None and change["_id"] not in shown:
                    show(change)
                    shown.add(change["_id"])
                if position is None:
                    talk("watching; Ctrl-C ends it")
                elif count and is_away:  # the first says where to go on, and no more
                    talk("the store is back")
                    is_away = False
                    backoff.reset()
                position = here
        except StoreUnavailable as error:
            if position is None:
                raise
            delay_s = backoff.next_s()
            if not is_away:
                talk(f"{describe(error)}; trying again in {delay_s:.1f} s")
            is_away = True
            time.sleep(delay_s)


class _Shown(OrderedDict[str, None]):
    """The ids of the latest changes: what a server stores anew after another has died is told again."""

    def add(self, name: str) -> None:
        self[name] = None
        if len(self) > _REMEMBERED:
            self.popitem(last=False)


def _matches(tree: Expression, store: Store, change: Document) -> bool:
    """Whether the node matches once the change is in its record: the history is written first."""
    from vogeler.history import was_held
    from vogeler.persistence import NodeSummary
    from vogeler.query import NodeView, matches

    node = change["node"]
    record, status = store.record(node) or {}, store.status(node) or {"_id": node}
    if was_held(change):
        record = {**record, change["key"]: change["value"]}
    return matches(tree, NodeView(record, NodeSummary.of(status), time.time()))


def _write(row: Mapping[str, Any], format: str) -> None:
    from vogeler.cli.admin._versions import COLUMNS, CSV_COLUMNS

    if format == "json":
        print(as_json({name: row.get(name) for name in COLUMNS}))
    elif format == "csv":
        print(csv_line([row.get(name) for name in CSV_COLUMNS]))
    else:
        print("  ".join(printable(as_text(row.get(name)) or "-") for name in _COLUMNS))
    sys.stdout.flush()
