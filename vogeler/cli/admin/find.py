"""vogeler-admin find EXPR."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from vogeler.cli._output import FORMATS, write_rows
from vogeler.cli._program import talk
from vogeler.cli.admin._connect import open_store
from vogeler.config import Settings
from vogeler.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from vogeler.cli._export import Found
    from vogeler.find import Search

HELP = "find the nodes that match an expression, such as 'packages.openssl < 3.0.12'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """EXPR and what to show of the nodes."""
    parser.add_argument("expression", metavar="EXPR", help="see docs/finding.rst; quote it for the shell")
    parser.add_argument(
        "--fields", metavar="PATHS", help="a comma list of paths to show (default: those of the expression)"
    )
    parser.add_argument(
        "--format", choices=(*FORMATS, "jsonl", "ansible", "prometheus"), default="table", help="default: table"
    )
    parser.add_argument("--port", metavar="PORT", help="for prometheus: a port, or the path of one (jmx.port)")
    parser.add_argument("--explain", action="store_true", help="say where the answer comes from, and don't ask")


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """One row a node; NOT_FOUND when there is none."""
    from vogeler import query
    from vogeler.find import Search, explain

    tree = query.parse(arguments.expression)
    if arguments.explain:
        write_rows(map(vars, explain(tree)), ("part", "source", "detail"), "table")
        return ExitCode.OK
    if (arguments.format == "prometheus") != (arguments.port is not None):
        raise UsageError("--format prometheus and --port go together", "--port 9100, or --port jmx.port")
    fields = arguments.fields.split(",") if arguments.fields else query.paths(tree)
    with closing(open_store(settings)) as store:
        search = Search(store, time.time(), _watch)
        names = search.names(tree)
        _end_watch()
        _write(_found(search, names, fields, arguments), fields, arguments.format)
    talk(f"{len(names)} node{'' if len(names) == 1 else 's'}")
    return ExitCode.OK if names else ExitCode.NOT_FOUND


def _watch(count: int) -> None:
    if sys.stderr.isatty() and count % 100 == 0:
        sys.stderr.write(f"\r\x1b[K{count} records read")


def _end_watch() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


def _found(search: Search, names: list[str], fields: list[str], arguments: argparse.Namespace) -> Iterator[Found]:
    """The groups of a node are read for the formats that have them."""
    from vogeler.cli._export import GROUPED, Found

    port = arguments.port
    port_path = [] if port is None or port.isdigit() else [port]
    for name, shown in search.values(names, [*fields, *port_path]):
        groups = search.nodes[name].groups if arguments.format in GROUPED and name in search.nodes else ()
        ports = (port,) if port is not None and not port_path else _ports(shown.get(port_path[0])) if port_path else ()
        yield Found(name, groups, {field: shown.get(field) for field in fields}, ports)


def _ports(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(str(one) for one in values if one is not None)


def _write(found: Iterator[Found], fields: list[str], format: str) -> None:
    from vogeler.cli._export import EXPORTS

    if format in EXPORTS:
        EXPORTS[format](found)
        sys.stdout.flush()
    else:
        write_rows((one.row() for one in found), ["node", *fields], format)
