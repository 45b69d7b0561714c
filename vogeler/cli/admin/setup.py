"""vogeler-admin setup."""

from __future__ import annotations

import argparse
from contextlib import closing

from vogeler.cli._program import talk
from vogeler.cli.admin._connect import open_store, open_transport
from vogeler.config import Settings
from vogeler.errors import ExitCode

HELP = "make the exchanges, queues, databases and design documents that are missing"
_MOST_QUEUES = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--result-queues``."""
    parser.add_argument(
        "--result-queues", type=_queues, metavar="N",
        help="spread results by node over N queues, each for one server at a time; 1: one queue that servers share",
    )  # fmt: skip


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """Set up both; can be run again at any time."""
    with closing(open_transport(settings)) as transport:
        done = transport.setup()
        if arguments.result_queues is not None:
            done += transport.spread_results(arguments.result_queues)
    with closing(open_store(settings)) as store:
        done += store.setup(settings.design_docs)
    for line in done or ["everything was there already"]:
        talk(line)
    return ExitCode.OK


def _queues(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= _MOST_QUEUES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {_MOST_QUEUES}")
    return int(text)
