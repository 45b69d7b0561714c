"""vogeler-admin forget NODE."""

from __future__ import annotations

import argparse
from contextlib import closing

from vogeler import messages
from vogeler.cli._program import talk
from vogeler.cli.admin._connect import open_store
from vogeler.cli.runner import requester
from vogeler.config import Settings
from vogeler.errors import ExitCode, NotFoundError

HELP = "remove a node's record and status; its history stays, and it comes back when it speaks again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NODE, one or more."""
    parser.add_argument("nodes", metavar="NODE", nargs="+")


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """Forget each; those that were not known are named at the end."""
    unknown = []
    with closing(open_store(settings)) as store:
        for node in arguments.nodes:
            if store.forget(node, requester(), messages.now()):
                talk(f"forgot {node}; its history stays")
            else:
                unknown.append(node)
    if unknown:
        raise NotFoundError(f"the store knows no node {', '.join(unknown)}", "vogeler-admin nodes lists them")
    return ExitCode.OK
