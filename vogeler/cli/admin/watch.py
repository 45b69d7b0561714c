"""vogeler-admin watch [EXPR]."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from vogeler.cli._output import FORMATS, as_text, printable
from vogeler.cli._program import talk
from vogeler.cli.admin._connect import open_store
from vogeler.config import Settings
from vogeler.errors import ExitCode

if TYPE_CHECKING:
    from vogeler.history import Difference
    from vogeler.persistence import Document, Store
    from vogeler.query import Expression

HELP = "print changes as they are stored, until Ctrl-C"
_COLUMNS = ("stored_at", "node", "key", "requested_by", "what")  # of a table
_SHOWN = 3


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
    from vogeler.cli.admin._versions import CSV_COLUMNS, row

    tree = query.parse(arguments.expression) if arguments.expression else None
    if arguments.format == "csv":
        _write_csv(CSV_COLUMNS)
    with closing(open_store(settings)) as store:
        for change in _followed(store):
            if arguments.key in (None, change["key"]) and (tree is None or _matches(tree, store, change)):
                _write(row(change, _previous(store, change), arguments.format), arguments.format)
    return ExitCode.OK


def _followed(store: Store) -> Iterator[Document]:
    """The changes that are stored from now on. Says when that begins."""
    for number, change in enumerate(store.follow()):
        if number == 0:
            talk("watching; Ctrl-C ends it")
        if change is not None:
            yield change


def _matches(tree: Expression, store: Store, change: Document) -> bool:
    """Whether the node matches once the change is in its record: the history is written first."""
    from vogeler.history import was_held
    from vogeler.persistence import NodeSummary, _merge
    from vogeler.query import NodeView, matches

    node = change["node"]
    record, status = store.record(node) or {}, store.status(node)
    if was_held(change):
        record = {**record, change["key"]: change["value"]}
    summary = NodeSummary(node, None, None, None, (), ()) if status is None else _merge.summary(status)
    return matches(tree, NodeView(record, summary, time.time()))


def _previous(store: Store, change: Document) -> Document | None:
    """The change of the same key that was in the record before."""
    from vogeler.history import was_held

    if not was_held(change):
        return None
    entries = store.history(change["node"], change["key"])
    return next((entry for entry in entries if was_held(entry) and entry["seq"] < change["seq"]), None)


def described(difference: Difference) -> str:
    """A small difference in full: ``+telnetd 0.17, openssl 3.0.11 → 3.0.13``; a large one in numbers."""
    parts = [f"+{_named(*pair)}" for pair in difference.added]
    parts += [f"-{_named(*pair)}" for pair in difference.removed]
    parts += [f"{_named(name, old)} → {_short(new)}" for name, old, new in difference.changed]
    parts += [f"{name or 'all'} reordered" for name in difference.reordered]
    return ", ".join(parts) if len(parts) <= _SHOWN else str(difference)


def _named(name: str, value: Any) -> str:
    return " ".join(filter(None, (name, _short(value))))


def _short(value: Any) -> str:
    text = "null" if value is None else as_text(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _write(row: Mapping[str, Any], format: str) -> None:
    from vogeler.cli.admin._versions import COLUMNS, CSV_COLUMNS

    if format == "json":
        print(json.dumps({name: row.get(name) for name in COLUMNS}, ensure_ascii=False))
    elif format == "csv":
        _write_csv([as_text(row.get(name)) for name in CSV_COLUMNS])
    else:
        print("  ".join(printable(as_text(row.get(name)) or "-") for name in _COLUMNS))
    sys.stdout.flush()


def _write_csv(cells: Sequence[str]) -> None:
    csv.writer(sys.stdout, lineterminator="\n").writerow(cells)
    sys.stdout.flush()
