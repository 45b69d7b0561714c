"""vogeler-admin setup."""

from __future__ import annotations

import argparse
from contextlib import closing

from vogeler.cli._program import talk
from vogeler.cli.admin._connect import open_store, open_transport
from vogeler.config import Settings
from vogeler.errors import ExitCode

HELP = "make the exchanges, queues, databases and design documents that are missing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """Set up both; can be run again at any time."""
    with closing(open_transport(settings)) as transport:
        done = transport.setup()
    with closing(open_store(settings)) as store:
        done += store.setup(settings.design_docs)
    for line in done or ["everything was there already"]:
        talk(line)
    return ExitCode.OK
