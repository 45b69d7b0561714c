"""vogeler-admin diff A B [KEY], diff NODE --between T1 T2 [KEY]."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vogeler.cli._output import add_format, as_json, write_rows
from vogeler.cli._program import talk
from vogeler.cli._time import moment
from vogeler.cli.admin._connect import open_store
from vogeler.cli.admin._held import facts, held_at, no_key, no_node, require_history
from vogeler.cli.admin._unseal import Unsealing, add_unseal
from vogeler.cli.admin._versions import as_data, lines
from vogeler.config import Settings
from vogeler.errors import ExitCode, NotFoundError, UsageError
from vogeler.history import Difference, Operation, difference, patch

if TYPE_CHECKING:
    from vogeler.persistence import Store

HELP = "compare two nodes, or a node between two times"
_COLUMNS = ("change", "name", "old", "new")


@dataclass(frozen=True)
class _Side:
    """What is compared: the facts of a node now (``at`` is None), or as they were."""

    node: str
    at: str | None
    facts: dict[str, Any]

    def __str__(self) -> str:
        return self.node if self.at is None else f"{self.node} at {self.at}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two nodes, or one and two times; and KEY."""
    parser.usage = "vogeler-admin diff [-h] A B [KEY] | diff [-h] NODE --between TIME TIME [KEY]"
    parser.add_argument(
        "words", metavar="NODE", nargs="*", help="two nodes, or one with --between; behind them perhaps a KEY"
    )
    parser.add_argument("--between", metavar="TIME", nargs="+", help="compare one node as it was at two times")
    add_unseal(parser)
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """OK, whether they differ or not: ``--format json`` tells it to programs."""
    between = arguments.between or []
    words = [*arguments.words, *between[2:]]  # what is written behind the two times is the key
    nodes = 2 if arguments.between is None else 1
    if not nodes <= len(words) <= nodes + 1 or len(between) == 1:
        raise UsageError("diff compares two nodes, or one between two times", "vogeler-admin diff --help shows how")
    key = words[nodes] if len(words) > nodes else None
    times = [_moment(word) for word in between[:2]]
    unsealing = Unsealing(arguments.unseal)
    with closing(open_store(settings)) as store:
        if times:
            require_history(store, words[0])
            old, new = (_then(store, words[0], at, key) for at in times)
        else:
            old, new = (_now(store, node) for node in words[:2])
    old, new = (replace(side, facts=unsealing.facts(side.node, side.facts)) for side in (old, new))
    if key is None:
        _write(old, new, key, difference(old.facts, new.facts), patch(old.facts, new.facts), arguments.format)
    else:
        _write(old, new, key, *_compare_key(old, new, key), arguments.format)
    return unsealing.tell()


def _moment(word: str) -> str:
    try:
        return moment(word)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--between: {error}") from None


def _now(store: Store, node: str) -> _Side:
    record = store.record(node)
    if record is None and store.status(node) is None:
        raise no_node(store, node)
    return _Side(node, None, facts(record or {}))


def _then(store: Store, node: str, at: str, key: str | None) -> _Side:
    side = _Side(node, at, {one: change["value"] for one, change in held_at(store, node, at, key).items()})
    if not side.facts:
        talk(f"nothing was known of {side}" if key is None else f"there was no {key} on {side}")
    return side


def _compare_key(old: _Side, new: _Side, key: str) -> tuple[Difference, list[Operation]]:
    """Between the values of one key; a value that is there on one side only is added or removed as a whole."""
    if key in old.facts and key in new.facts:
        return difference(old.facts[key], new.facts[key]), patch(old.facts[key], new.facts[key])
    if key in new.facts:
        return Difference(added=((key, new.facts[key]),)), [{"op": "add", "path": "", "value": new.facts[key]}]
    if key in old.facts:
        return Difference(removed=((key, old.facts[key]),)), [{"op": "remove", "path": ""}]
    known = old.facts.keys() | new.facts.keys()
    message = f"neither {old} nor {new} has a key {key!r}"
    raise no_key(message, key, known) if known else NotFoundError(message)


def _write(
    old: _Side, new: _Side, key: str | None, found: Difference, operations: list[Operation], format: str
) -> None:
    if format == "json":
        ends = {"from": {"node": old.node, "at": old.at}, "to": {"node": new.node, "at": new.at}, "key": key}
        print(as_json({**ends, **as_data(found), "patch": operations}, indent=2))
    elif format == "csv":
        write_rows(_rows(found), _COLUMNS, format)
    else:
        for line in lines(found):
            print(line)
    if not found:
        talk("no difference")


def _rows(found: Difference) -> Iterator[dict[str, Any]]:
    yield from ({"change": "added", "name": name, "new": value} for name, value in found.added)
    yield from ({"change": "removed", "name": name, "old": value} for name, value in found.removed)
    yield from ({"change": "changed", "name": name, "old": old, "new": new} for name, old, new in found.changed)
    yield from ({"change": "reordered", "name": name} for name in found.reordered)
