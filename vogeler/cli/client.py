"""vogeler-client: the agent of a node; and ``list`` and ``test`` for those who write plugins."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vogeler.cli._output import add_format, write_rows, write_value
from vogeler.cli._program import file_from, guarded, parser_for, settings_flags, settings_from, talk
from vogeler.config import Settings
from vogeler.errors import ExitCode, NotFoundError
from vogeler.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from vogeler.plugins import Loaded, Plugin
    from vogeler.redact import Redaction
    from vogeler.sealing import Sealing

_COLUMNS = ("name", "alias", "key", "format", "available", "description")


def main() -> int:
    """The command line. Returns the exit code."""

    def run() -> int:
        arguments = _parser().parse_args()
        act = {"list": _list, "test": _test}.get(arguments.act, _run)
        return act(arguments, settings_from("client", arguments))

    return guarded("client", run)


def _parser() -> argparse.ArgumentParser:
    parser = parser_for("client", "Run this node's plugins when a runner asks, until stopped.")
    acts = parser.add_subparsers(title="for those who write plugins", dest="act", metavar="")
    settings = settings_flags("client")
    listing = acts.add_parser("list", help="list the plugins, and what is wrong with the bad ones", parents=[settings])
    add_format(listing)
    test = acts.add_parser(
        "test", help="run a plugin and show what would be stored; needs no broker", parents=[settings]
    )
    test.add_argument("alias", metavar="ALIAS", help="the plugin's name or alias")
    test.add_argument(
        "--format", choices=("table", "json"), default="json", help="how the value is shown (default: json)"
    )
    return parser


def _run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    import signal

    from vogeler import messaging
    from vogeler.cli._daemon import LEAVE_AFTER_S, leave_within, on_signals
    from vogeler.cli._log import start_logging
    from vogeler.cli._rights import audit_of, check_paths, gate_of, node_key, sealing_of, signer
    from vogeler.client import Client, Options
    from vogeler.collect import collect
    from vogeler.messages import Result
    from vogeler.processes import Orphans
    from vogeler.rlimits import no_core_dumps

    if os.geteuid() == 0:
        check_paths(settings, file_from(arguments))
    no_core_dumps()
    start_logging(settings)
    options = Options(
        settings.node,
        settings.groups,
        settings.workers,
        settings.heartbeat,
        settings.clock_skew,
        settings.stop_timeout,
        settings.full_every,
    )
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored by some parents: exit codes of plugins would be lost
    orphans, redaction, sealing = Orphans(), _redaction(settings), sealing_of(settings, _is_strict(settings))
    client = Client(
        options,
        lambda: _load_and_log(settings, sealing),
        lambda: messaging.connect(
            settings.qhost, settings.qpassword or None, settings.connect_timeout, f"vogeler-client {settings.node}"
        ),
        lambda plugin, stop: collect(plugin, stop, orphans, redaction, sealing(plugin)),
        gate=gate_of(settings),
        audit=audit_of(settings),
        sign=signer(node_key(settings), Result.TYPE),
    )

    def stop() -> None:
        leave_within(settings.stop_timeout + LEAVE_AFTER_S)
        client.stop()

    on_signals([signal.SIGTERM, signal.SIGINT], stop)
    on_signals([signal.SIGHUP], client.reload)
    client.run()
    return ExitCode.OK


def _load_and_log(settings: Settings, sealing: Callable[[Plugin], Sealing | None]) -> Loaded:
    import logging

    log = logging.getLogger(__name__)
    loaded = _load(settings, sealing)
    for problem in loaded.problems:
        remedy = f" ({problem.remedy})" if problem.remedy else ""
        log.warning("%s%s", problem, remedy, extra={"event": "bad_plugin"})
    log.info("%d plugins from %s", len(loaded.plugins), ", ".join(settings.plugins), extra={"event": "plugins"})
    return loaded


def _load(settings: Settings, sealing: Callable[[Plugin], Sealing | None]) -> Loaded:
    """The plugins of this node; one whose value could not be sealed is not among them, nor is what it has replaced."""
    from vogeler.errors import PluginError
    from vogeler.plugins import Limits, Loaded, load

    limits = Limits(settings.max_memory, settings.max_cpu, settings.max_processes, settings.max_files)
    loaded = load(settings.plugins, _is_strict(settings), limits)
    offered, problems = [], list(loaded.problems)
    for plugin in loaded.plugins:
        try:
            seals = sealing(plugin)
            if seals is not None:
                seals.check(plugin.key, plugin.seal)
            offered.append(plugin)
        except PluginError as error:
            problems.append(PluginError(f"{plugin.source}: [{plugin.name}] {error.message}", error.remedy))
    return Loaded(tuple(offered), tuple(problems))


def _is_strict(settings: Settings) -> bool:
    """Whether what plugins do is worth stealing: root's rights, which others have not."""
    return settings.strict_modes == "yes" and os.geteuid() == 0


def _redaction(settings: Settings) -> Redaction:
    from vogeler.redact import Redaction

    return Redaction(Path(settings.redact_key), settings.redact)


def _list(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    from vogeler.cli._rights import sealing_of
    from vogeler.plugins import unavailable_reason

    loaded = _load(settings, sealing_of(settings, _is_strict(settings)))
    rows = (
        {
            "name": plugin.name,
            "alias": plugin.alias,
            "key": plugin.key,
            "format": plugin.result_format,
            "available": unavailable_reason(plugin) or "yes",
            "description": plugin.description,
        }
        for plugin in loaded.plugins
    )
    write_rows(rows, _COLUMNS, arguments.format)
    _tell_problems(loaded)
    return ExitCode.SOME_FAILED if loaded.problems else ExitCode.OK


def _tell_problems(loaded: Loaded) -> None:
    """What could not be loaded, and what to do about it."""
    for problem in loaded.problems:
        talk(f"{problem}" + (f"\n  {problem.remedy}" if problem.remedy else ""))


def _test(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    import json

    from vogeler.cli._rights import sealing_of
    from vogeler.collect import collect
    from vogeler.messages import OK, UNAVAILABLE
    from vogeler.processes import Orphans
    from vogeler.rlimits import no_core_dumps

    no_core_dumps()
    sealing = sealing_of(settings, _is_strict(settings))
    loaded = _load(settings, sealing)
    plugin = loaded.find(arguments.alias)
    if plugin is None:
        _tell_problems(loaded)
        raise NotFoundError(f"no plugin answers to {arguments.alias!r}", loaded.suggestion(arguments.alias))
    collected = collect(plugin, None, Orphans(), _redaction(settings), sealing(plugin))
    if collected.status != OK:
        talk(f"{arguments.alias}: {collected.status} after {format_duration(collected.duration_s)}: {collected.error}")
        return ExitCode.NOWHERE_AVAILABLE if collected.status == UNAVAILABLE else ExitCode.SOME_FAILED
    write_value(collected.value, arguments.format)
    size = format_size(len(json.dumps(collected.value, ensure_ascii=False).encode()))
    talk(f"{arguments.alias}: ok after {format_duration(collected.duration_s)}; {size} under the key {plugin.key!r}")
    for done, count, paths in (
        ("redacted", collected.redacted, plugin.redact),
        ("sealed", collected.sealed, plugin.seal),
    ):
        if count:
            talk(f"  {done}: {count}")
        elif paths:
            talk(f"  {done}: nothing, there is nothing at {', '.join(paths)}")
    return ExitCode.OK
