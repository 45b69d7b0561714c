"""vogeler-admin show NODE [KEY] [--at TIME] [--unseal FILE]."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from vogeler.cli._output import add_format, as_json, write_rows, write_value
from vogeler.cli._time import moment
from vogeler.cli.admin._connect import open_store
from vogeler.cli.admin._held import facts, held_at, no_key, no_node, require_history
from vogeler.cli.admin._unseal import Unsealing, add_unseal
from vogeler.cli.admin._versions import holds
from vogeler.config import Settings
from vogeler.errors import ExitCode, NotFoundError
from vogeler.history import stored_at

if TYPE_CHECKING:
    from vogeler.persistence import Document, Store

HELP = "show what is known of a node, or was at a time: its keys, or the value of one"
_COLUMNS = ("key", "holds", "changed_at", "requested_by", "checked_at", "status")
_COLUMNS_AT = ("key", "holds", "stored_at", "changed_at", "requested_by")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NODE, KEY, ``--at`` and ``--format``."""
    parser.add_argument("node", metavar="NODE")
    parser.add_argument("key", metavar="KEY", nargs="?")
    parser.add_argument("--at", type=moment, metavar="TIME", help="as it was then, such as yesterday or 2h (ago)")
    add_unseal(parser)
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """The keys of the record as rows, or one value."""
    unsealing = Unsealing(arguments.unseal)
    if arguments.at is not None:
        return _run_at(arguments, settings, unsealing)
    with closing(open_store(settings)) as store:
        record, status = store.record(arguments.node), store.status(arguments.node)
        if record is None and status is None:
            raise no_node(store, arguments.node)
    record, status = record or {}, status or {}
    if arguments.key is not None:
        value = _value(record, arguments.key, arguments.node)
        write_value(unsealing.value(arguments.node, arguments.key, value), arguments.format)
    elif arguments.format == "json":
        print(as_json(unsealing.record(arguments.node, record), indent=2))
    else:
        write_rows(_rows(unsealing.record(arguments.node, record), status), _COLUMNS, arguments.format)
    return unsealing.tell()


def _value(record: Document, key: str, node: str) -> Any:
    if key not in record:
        raise no_key(f"{node} has no key {key!r}", key, facts(record))
    return record[key]


def _rows(record: Document, status: Document) -> Iterator[dict[str, Any]]:
    from vogeler.persistence import checks_of, stored_keys

    changes, checks = stored_keys(record), checks_of(status)
    for key in sorted(facts(record).keys() | checks.keys()):
        change, check = changes.get(key, {}), checks.get(key, {})
        yield {
            "key": key,
            "holds": holds(record[key]) if key in record else None,
            "changed_at": change.get("changed_at"),
            "requested_by": change.get("requested_by") or ("schedule" if change else None),
            "checked_at": check.get("checked_at"),
            "status": check.get("status"),
        }


def _run_at(arguments: argparse.Namespace, settings: Settings, unsealing: Unsealing) -> ExitCode:
    with closing(open_store(settings)) as store:
        held = held_at(store, arguments.node, arguments.at, arguments.key)
        if not held:
            raise _nothing_at(store, arguments.node, arguments.at, arguments.key)
    held = {key: unsealing.change(change) for key, change in held.items()}
    if arguments.key is not None:
        write_value(held[arguments.key]["value"], arguments.format)
    elif arguments.format == "json":
        print(as_json(_record_at(arguments.node, held), indent=2))
    else:
        write_rows(_rows_at(held), _COLUMNS_AT, arguments.format)
    return unsealing.tell()


def _nothing_at(store: Store, node: str, at: str, key: str | None) -> NotFoundError:
    """Why there was nothing then: another name is meant, or it is about another time."""
    require_history(store, node, key)
    there = held_at(store, node, at) if key is not None else {}
    if there:
        return no_key(f"{node} had no key {key!r} at {at}", str(key), there)
    return NotFoundError(f"nothing was known of {node} at {at}", f"vogeler-admin history {node} shows since when")


def _record_at(node: str, held: dict[str, Document]) -> dict[str, Any]:
    """The record as far as the history tells it."""
    names = ("changed_at", "stored_at", "digest", "run", "requested_by", "seq")
    keys = {key: {name: change.get(name) for name in names} for key, change in held.items()}
    values = {key: change["value"] for key, change in held.items()}
    return {"_id": node, "system_name": node, **values, "vogeler": {"keys": keys}}


def _rows_at(held: dict[str, Document]) -> Iterator[dict[str, Any]]:
    for key, change in held.items():
        yield {
            "key": key,
            "holds": holds(change["value"]),
            "stored_at": stored_at(change),
            "changed_at": change["changed_at"],
            "requested_by": change.get("requested_by") or "schedule",
        }
