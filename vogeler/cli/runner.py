"""vogeler-runner: ask nodes to run a plugin, and say how it went."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from vogeler.cli._output import add_format, printable, write_rows, write_value
from vogeler.cli._program import brief, guarded, parser_for, settings_from, talk
from vogeler.config import Settings
from vogeler.errors import ExitCode, NotFoundError, UsageError

if TYPE_CHECKING:
    from vogeler.messages import Command
    from vogeler.persistence import Store
    from vogeler.query import Expression
    from vogeler.runner import Tally
    from vogeler.targets import Targets

_COLUMNS = ("node", "stage", "key", "duration_s", "reason", "heard_at")


def main() -> int:
    """The command line. Returns the exit code."""
    brief()

    def run() -> int:
        arguments = _parser().parse_args()
        return _run(arguments, settings_from("runner", arguments))

    return guarded("runner", run)


def _parser() -> argparse.ArgumentParser:
    parser = parser_for("runner", "Ask nodes to run a plugin and store its result; wait, and say how it went.")
    parser.add_argument("-c", "-x", "--command", required=True, metavar="ALIAS", help="the plugin's name or alias")
    parser.add_argument(
        "-n",
        "--nodes",
        required=True,
        metavar="NODES",
        help="all; a list of names, globs, group:NAME; or 'where EXPR'",
    )
    parser.add_argument("--full", action="store_true", help="have values sent also where they have not changed")
    parser.add_argument("--show", action="store_true", help="print the values that are stored now")
    parser.add_argument("--no-wait", action="store_true", help="send the command, print the run's id, and leave")
    add_format(parser)
    return parser


def _run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    from threading import Thread

    from vogeler import messaging, persistence, targets
    from vogeler.cli._log import start_logging
    from vogeler.cli._progress import Progress
    from vogeler.cli._rights import load_key, signer
    from vogeler.messages import Command, now
    from vogeler.runner import Limits, Runner

    start_logging(settings)
    if not arguments.command.strip():
        raise UsageError("-c names no plugin", "vogeler-client list shows the plugins of a node")
    if arguments.no_wait and arguments.show:
        raise UsageError("--no-wait and --show together make no sense", "leave one of them out")
    where = _where(arguments.nodes)
    meant = targets.parse(arguments.nodes) if where is None else None
    key = load_key(settings.signing_key)
    ttl_s = (settings.timeout if settings.ttl is None else settings.ttl) + settings.splay
    Thread(target=messaging.prepare, args=[settings.qhost], daemon=True).start()  # while the store lists its nodes
    with closing(persistence.connect(settings.dbhost, settings.dbpassword or None, settings.store_timeout)) as store:
        command = Command(
            alias=arguments.command,
            targets=meant if where is None else _matching(where, arguments.nodes, store),
            requested_by=requester() if key is None else key.name,
            expires_at=now(),  # the runner's, once it is sent
            splay_s=settings.splay,
            full=arguments.full or arguments.no_wait,  # nobody is there to ask again where the store lacks a value
        )
        with Progress(command.alias) as progress:
            runner = Runner(
                lambda: messaging.connect(
                    settings.qhost, settings.qpassword or None, settings.connect_timeout, f"vogeler-runner {command.id}"
                ),
                store,
                Limits(settings.timeout, settings.discovery, ttl_s),
                progress.draw,
                signer(key, Command.TYPE),
            )
            if arguments.no_wait:
                return _publish(runner, command)
            tally = runner.run(command)
        code = tally.exit_code()
        with suppress(BrokenPipeError):  # the reader of the table left: the summary and the exit code stay
            _report(tally.rows(), command, arguments, store)
    _sum_up(tally, command, code)
    return code


def _where(nodes: str) -> Expression | None:
    """The expression of ``-n 'where EXPR'``; None for a list of names."""
    word, _, expression = nodes.strip().partition(" ")
    if word != "where":
        return None
    from vogeler import query

    return query.parse(expression)


def _matching(where: Expression, text: str, store: Store) -> Targets:
    """The nodes that match now, by name."""
    from vogeler.find import find

    names = find(store, where, time.time())
    if not names:
        raise NotFoundError(f"no node matches -n {text!r}", "vogeler-admin find shows what does")
    return {"nodes": names}


def requester() -> str:
    """Who asks: ``user@host``; a user without a name, as in some containers, by number."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _publish(runner: Any, command: Command) -> ExitCode:
    reached = runner.publish(command)
    print(command.id)
    if not reached:
        talk("no node listens to this: nobody will ever run it")
        return ExitCode.NOBODY_ANSWERED
    return ExitCode.OK


def _report(rows: list[Any], command: Command, arguments: argparse.Namespace, store: Any) -> None:
    if not arguments.show:
        write_rows(map(vars, rows), _COLUMNS, arguments.format)
    elif arguments.format == "table":
        for row in _with_values(rows, store):
            print(f"== {printable(row['node'])}  {row['stage']}" + (f": {row['reason']}" if row["reason"] else ""))
            if row["value"] is not None:
                write_value(row["value"], "table")
    else:
        write_rows(_with_values(rows, store), (*_COLUMNS, "value"), arguments.format)


def _with_values(rows: Iterable[Any], store: Any) -> Iterator[dict[str, Any]]:
    from vogeler.messages import STORED, UNCHANGED

    for row in rows:
        record = store.record(row.node) if row.stage in (STORED, UNCHANGED) else None
        yield {**vars(row), "value": (record or {}).get(row.key)}


def _sum_up(tally: Tally, command: Command, code: ExitCode) -> None:
    """The summary, to stderr: a count per stage, then the nodes that need attention."""
    from vogeler.messages import FAILED, REFUSED, STORED, UNAVAILABLE, UNCHANGED
    from vogeler.runner import SILENT, UNFINISHED

    by_stage: dict[str, list[Any]] = {}
    for row in tally.rows():
        by_stage.setdefault(row.stage, []).append(row)
    order = (STORED, UNCHANGED, FAILED, REFUSED, UNAVAILABLE, UNFINISHED, SILENT)
    counts = ", ".join(_count(stage, by_stage[stage]) for stage in order if stage in by_stage)
    if sys.stdout.isatty():
        talk("")
    talk(f"{command.alias}: {counts or 'no node answered, and the store knows none'} (run {command.id})")
    for stage in (FAILED, REFUSED, UNFINISHED):
        for row in by_stage.get(stage, []):
            talk(f"  {stage}: {row.node}: {printable(row.reason or 'accepted, but not done when the time was up')}")
    for row in by_stage.get(SILENT, []):
        never = "never heard" if row.node in tally.heard else "the store could not be asked when it was last heard"
        talk(f"  silent: {row.node}: " + (f"last heard {row.heard_at}" if row.heard_at else never))
    if code in (ExitCode.NOBODY_ANSWERED, ExitCode.NOWHERE_AVAILABLE):
        hint = "is a client running?" if code == ExitCode.NOBODY_ANSWERED else _unavailable(by_stage[UNAVAILABLE])
        talk(f"  {hint}")


def _count(stage: str, rows: list[Any]) -> str:
    from vogeler.persistence import LATE

    late = sum(row.reason == LATE for row in rows)
    return f"{len(rows)} {stage}" + (f" ({late} late)" if late else "")


def _unavailable(rows: list[Any]) -> str:
    return f"available nowhere; on {rows[0].node}: {printable(str(rows[0].reason))}"
