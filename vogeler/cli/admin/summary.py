"""vogeler-admin summary PATH."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from vogeler import targets
from vogeler.cli._output import add_format, write_rows
from vogeler.cli._program import talk
from vogeler.cli.admin._connect import open_store
from vogeler.cli.admin.nodes import add_nodes, nodes_meant
from vogeler.config import Settings
from vogeler.errors import ExitCode, UsageError
from vogeler.globs import literal_prefix
from vogeler.leaves import Scalar
from vogeler.summary import Count, Leaf, count_values

if TYPE_CHECKING:
    from collections.abc import Collection

    from vogeler.persistence import Store

HELP = "count how many nodes have which value, most common first"
ABSENT = "(absent)"
_COLUMNS = ("path", "value", "nodes", "share")
_BAR_WIDTH = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PATH, which nodes, how many values."""
    parser.add_argument("path", metavar="PATH", help="a key, or what is below it: packages.openssl; with globs")
    add_nodes(parser)
    add_top(parser, "the most common values")
    add_format(parser)


def add_top(parser: argparse.ArgumentParser, what: str) -> None:
    """The ``--top`` flag."""
    parser.add_argument("--top", type=_count, metavar="N", help=f"only so many of {what}")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """A row for each value, and one for the nodes without any."""
    meant = targets.parse(arguments.nodes)
    with closing(open_store(settings)) as store:
        nodes = {node.node for node in nodes_meant(store, meant)}
        counts, having = count_values(leaf for leaf in leaves_at(store, arguments.path) if leaf[1] in nodes)
    _write(_rows(counts[: arguments.top], nodes, having), arguments.format)
    if nodes and not having:
        talk(f"no node has anything at {arguments.path}; vogeler-admin show NODE lists the keys of one")
    elif len(counts) > len(counts[: arguments.top]):
        talk(f"and {len(counts) - arguments.top} more values")
    return ExitCode.OK


def leaves_at(store: Store, path: str) -> Iterator[Leaf]:
    """The leaves at a path, which may have globs, and below it. Raises UsageError where no index helps."""
    from vogeler import query

    prefix = literal_prefix(path)
    if not prefix:
        raise UsageError(f"{path!r} begins with a glob", "begin with a key: packages.*, or packages*")
    wanted = query.leaf_test(query.Present(path), rpm=False)
    return (leaf for leaf in store.leaves(prefix) if wanted(leaf[0], leaf[2]))


def _rows(counts: list[Count], nodes: Collection[str], having: Collection[str]) -> list[dict[str, Any]]:
    absent = len(nodes) - len(having)
    rows: list[tuple[str | None, Scalar, int]] = [(row.path, row.value, row.nodes) for row in counts]
    rows += [(None, ABSENT, absent)] if absent else []
    return [dict(zip(_COLUMNS, (*row, round(row[2] / len(nodes), 4)))) for row in rows]


def _write(rows: list[dict[str, Any]], format: str) -> None:
    """A table is for eyes: percent and bars, and the path only where there are several."""
    if format != "table":
        write_rows(rows, _COLUMNS, format)
        return
    paths = {row["path"] for row in rows} - {None}
    columns = ("value", "nodes", "share", "bar") if len(paths) < 2 else ("path", "value", "nodes", "share", "bar")
    write_rows(({**row, "value": shown(row["value"]), **_drawn(row["share"])} for row in rows), columns, "table")


def shown(value: Any) -> str:
    """A value in a table: null and empty texts are something, too."""
    from vogeler.query import as_text

    return as_text(value) or '""'


def _drawn(share: float) -> dict[str, str]:
    bar = "█" * round(_BAR_WIDTH * share) or "▏"
    return {"share": f"{100 * share:.1f} %", "bar": bar}
