"""vogeler-admin: look at the store and the broker, and keep them in order.

A sub-command is a module in this package: ``HELP``, ``add_arguments(parser)`` and
``run(arguments, settings) -> ExitCode``.
"""

from __future__ import annotations

from importlib import import_module

from vogeler import registry
from vogeler.cli._program import guarded, parser_for, settings_flags, settings_from, start_logging


def main() -> int:
    """The command line. Returns the exit code."""
    return guarded("admin", _run)


def _run() -> int:
    parser = parser_for("admin", "Look at what is known of the nodes, and keep broker and store in order.")
    flags = settings_flags("admin")
    acts = parser.add_subparsers(title="sub-commands", dest="act", metavar="SUB-COMMAND", required=True)
    modules = {name: import_module(f"{__name__}.{name}") for name in registry.names(__name__)}
    for name, module in modules.items():
        description = module.HELP[:1].upper() + module.HELP[1:] + "."
        act = acts.add_parser(name, help=module.HELP, description=description, parents=[flags])
        module.add_arguments(act)
    arguments = parser.parse_args()
    settings = settings_from("admin", arguments)
    start_logging(settings)
    return int(modules[arguments.act].run(arguments, settings))
