"""vogeler-admin setup."""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import TYPE_CHECKING

from vogeler.cli._program import talk
from vogeler.cli.admin._connect import open_store, open_transport
from vogeler.config import Settings
from vogeler.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from vogeler.cli.admin._logins import Logins

HELP = "make the exchanges, queues, databases and design documents that are missing; with --roles logins as well"
_FOR_ROLES = ("node", "shared", "runner", "remove", "passwords", "print")
_MOST_QUEUES = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--result-queues``, and which logins to make."""
    parser.add_argument(
        "--result-queues", type=_queues, metavar="N",
        help="spread results by node over N queues, each for one server at a time; 1: one queue that servers share",
    )  # fmt: skip
    parser.add_argument(
        "--roles", action="store_true", help="make logins for server, admin and runner, with the rights that each needs"
    )
    logins = parser.add_argument_group("with --roles")
    logins.add_argument(
        "--node",
        action="append",
        default=[],
        metavar="NAME[:GROUPS]",
        help="make a login for this node, which may be in these groups (default: in any)",
    )
    logins.add_argument(
        "--shared", action="store_true", help="make one login for all nodes that have none of their own"
    )
    logins.add_argument("--runner", action="append", default=[], metavar="NAME", help="make one for this operator")
    logins.add_argument(
        "--remove", action="append", default=[], metavar="LOGIN", help="remove a login, by its full name"
    )
    logins.add_argument("--passwords", metavar="FILE", help="where to write the passwords of new logins; - for stdout")
    logins.add_argument("--print", action="store_true", help="print the commands for rabbitmqctl, and do nothing")


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """Set up both; can be run again at any time."""
    if not arguments.roles:
        for name in _FOR_ROLES:
            if getattr(arguments, name):
                raise UsageError(f"--{name} is about logins", "add --roles")
    logins = _logins(arguments, settings) if arguments.roles else None
    if logins and arguments.print:
        print(*logins.commands(), sep="\n")
        return ExitCode.OK
    with closing(open_transport(settings)) as transport:
        done = transport.setup()
        if arguments.result_queues is not None:
            done += transport.spread_results(arguments.result_queues)
    with closing(open_store(settings)) as store:
        done += store.setup(settings.design_docs)
    for line in done or ["everything was there already"]:
        talk(line)
    if logins:
        for line in logins.make() or ["every login was there already"]:
            talk(line)
    return ExitCode.OK


def _logins(arguments: argparse.Namespace, settings: Settings) -> Logins:
    """Imported only where logins are asked for."""
    from vogeler.cli.admin._logins import Logins

    return Logins(arguments, settings)


def _queues(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= _MOST_QUEUES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {_MOST_QUEUES}")
    return int(text)
