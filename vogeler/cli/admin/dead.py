"""vogeler-admin dead list | show | requeue | drop."""

from __future__ import annotations

import argparse
import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from vogeler import topology
from vogeler.cli._output import add_format, as_json, printable, write_rows
from vogeler.cli._program import talk
from vogeler.cli.admin._connect import open_transport
from vogeler.config import Settings
from vogeler.errors import ExitCode, NotFoundError, UsageError, VogelerError
from vogeler.messages import Decision, Heartbeat, Result, decode

if TYPE_CHECKING:
    from vogeler.messaging import Consumer, Delivery, Transport

HELP = "look at the dead letters, put them back into the results queue, or drop them for good"
_COLUMNS = ("id", "type", "source", "user", "size_bytes", "reason")
_ANSWER_WITHIN_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The action and the ids."""
    parser.add_argument("action", choices=("list", "show", "requeue", "drop"))
    parser.add_argument("ids", metavar="ID", nargs="*", help="as shown by list")
    parser.add_argument("--all", action="store_true", help="requeue or drop every dead letter")
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """What is neither requeued nor dropped stays where it was."""
    if arguments.action != "list" and not arguments.ids and not (arguments.all and arguments.action != "show"):
        raise UsageError(f"dead {arguments.action}: which one?", "name its id, as shown by vogeler-admin dead list")
    with closing(open_transport(settings)) as transport:
        letters = _letters(transport)
        if arguments.action == "list":
            write_rows((_row(letter) for _, letter in letters), _COLUMNS, arguments.format)
            return ExitCode.OK
        return _act(arguments, transport, letters)


def _letters(transport: Transport) -> Iterator[tuple[Consumer, Delivery]]:
    """Every dead letter that there is now. What is not acked goes back when the transport is closed."""
    depth = transport.depths().get(topology.DEAD_QUEUE)
    with closing(transport.consume_dead()) as consumer:
        for _ in range(depth.messages if depth else 0):
            letter = consumer.receive(_ANSWER_WITHIN_S)
            if letter is None:
                return
            yield consumer, letter


def _act(arguments: argparse.Namespace, transport: Transport, letters: Iterator[tuple[Consumer, Delivery]]) -> ExitCode:
    wanted = set(arguments.ids)
    found, refused = set(), 0
    for consumer, letter in letters:
        identity = _identity(letter)
        if not arguments.all and identity not in wanted:
            continue
        found.add(identity)
        if arguments.action == "show":
            _show(letter)
        elif arguments.action == "drop":
            consumer.ack([letter])
            talk(f"dropped {identity}")
        elif not _requeue(letter, consumer, transport):
            refused += 1
    if wanted - found:
        raise NotFoundError("no dead letter " + ", ".join(sorted(wanted - found)), "vogeler-admin dead list shows them")
    return ExitCode.SOME_FAILED if refused else ExitCode.OK


def _requeue(letter: Delivery, consumer: Consumer, transport: Transport) -> bool:
    identity = _identity(letter)
    try:
        message = decode(letter.envelope, Result, Heartbeat, Decision)
    except VogelerError as error:
        talk(f"not requeued: {identity}: {error.message}; it would come straight back")
        return False
    if not topology.speaks_for(letter.user, message.node):
        talk(f"not requeued: {identity}: in the name of {message.node}, sent by {topology.sender(letter.user)}")
        return False
    transport.publish_result(letter.envelope, message.node)
    consumer.ack([letter])
    talk(f"requeued {identity} of {message.node}")
    return True


def _identity(letter: Delivery) -> str:
    """The message's id; for what came without one, a name made from its content."""
    return letter.envelope.message_id or "sha256:" + hashlib.sha256(letter.envelope.body).hexdigest()[:16]


def _row(letter: Delivery) -> dict[str, Any]:
    return {
        "id": _identity(letter),
        "type": letter.envelope.type,
        "source": letter.source,
        "user": letter.user,
        "size_bytes": len(letter.envelope.body),
        "reason": letter.reason,
    }


def _show(letter: Delivery) -> None:
    """The body as it is when it is JSON, else its first bytes."""
    facts = {"id": _identity(letter), "source": letter.source, "user": letter.user, "reason": letter.reason}
    for name, text in facts.items():
        print(f"{name}: {printable(str(text))}")
    body = letter.envelope.body
    try:
        if letter.envelope.content_encoding == "gzip":
            body = zlib.decompressobj(wbits=31).decompress(body, 1_000_000)
        print(as_json(json.loads(body), indent=2))
    except (ValueError, RecursionError, zlib.error):
        print(f"body: {body[:500]!r}")
