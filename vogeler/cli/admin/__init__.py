"""vogeler-admin: look at the store and the broker, and keep them in order.

A sub-command is a module in this package: ``HELP``, ``add_arguments(parser)`` and
``run(arguments, settings) -> ExitCode``.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

from vogeler import registry
from vogeler.cli._program import brief, guarded, parser_for, settings_flags, settings_from

_HELP = re.compile(r'^HELP = "([^"\\]*)"$', re.MULTILINE)


def main() -> int:
    """The command line. Returns the exit code."""
    brief()
    return guarded("admin", _run)


def _run() -> int:
    parser = parser_for("admin", "Look at what is known of the nodes, and keep broker and store in order.")
    flags = settings_flags("admin")
    acts = parser.add_subparsers(title="sub-commands", dest="act", metavar="SUB-COMMAND", required=True)
    modules = {}
    for name in registry.names(__name__):
        if name not in sys.argv:  # then it isn't meant, and what it imports would only be waited for
            acts.add_parser(name, help=help_of(name))
            continue
        module = modules[name] = import_module(f"{__name__}.{name}")
        description = module.HELP[:1].upper() + module.HELP[1:] + "."
        act = acts.add_parser(name, help=module.HELP, description=description, parents=[flags])
        module.add_arguments(act)
    arguments = parser.parse_args()
    settings = settings_from("admin", arguments)

    from vogeler.cli._log import start_logging

    start_logging(settings)
    return int(modules[arguments.act].run(arguments, settings))


def help_of(name: str) -> str:
    """The ``HELP`` of a sub-command, read from its file: to import all of them takes longer than all else here."""
    found = _HELP.search(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
    return found[1] if found else str(import_module(f"{__name__}.{name}").HELP)
