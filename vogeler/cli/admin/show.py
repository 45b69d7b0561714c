"""vogeler-admin show NODE [KEY]."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from vogeler.cli._output import add_format, write_rows, write_value
from vogeler.cli.admin._connect import open_store
from vogeler.config import Settings
from vogeler.errors import ExitCode, NotFoundError
from vogeler.registry import did_you_mean

HELP = "show what is known of a node: its keys, or the value of one"
_COLUMNS = ("key", "holds", "changed_at", "requested_by", "checked_at", "status")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NODE, KEY and ``--format``."""
    parser.add_argument("node", metavar="NODE")
    parser.add_argument("key", metavar="KEY", nargs="?")
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """The keys of the record as rows, or one value."""
    with closing(open_store(settings)) as store:
        record, status = store.record(arguments.node), store.status(arguments.node)
        if record is None and status is None:
            known = [node.node for node in store.nodes()]
            raise NotFoundError(f"the store knows no node {arguments.node!r}", did_you_mean(arguments.node, known[:50]))
    record, status = record or {}, status or {}
    if arguments.key is not None:
        write_value(_value(record, arguments.key, arguments.node), arguments.format)
    elif arguments.format == "json":
        print(json.dumps(record, ensure_ascii=False, indent=2))
    else:
        write_rows(_rows(record, status), _COLUMNS, arguments.format)
    return ExitCode.OK


def _value(record: dict[str, Any], key: str, node: str) -> Any:
    if key not in record:
        keys = record.get("vogeler", {}).get("keys", {})
        raise NotFoundError(f"{node} has no key {key!r}", did_you_mean(key, keys))
    return record[key]


def _rows(record: dict[str, Any], status: dict[str, Any]) -> Iterator[dict[str, Any]]:
    changes = record.get("vogeler", {}).get("keys", {})
    checks = status.get("keys", {})
    for key in sorted(changes.keys() | checks.keys()):
        change, check = changes.get(key, {}), checks.get(key, {})
        yield {
            "key": key,
            "holds": holds(record.get(key)),
            "changed_at": change.get("changed_at"),
            "requested_by": change.get("requested_by") or ("schedule" if change else None),
            "checked_at": check.get("checked_at"),
            "status": check.get("status"),
        }


def holds(value: Any) -> str:
    """A value in two words: ``900 entries``, ``12 lines``, or itself when it is short."""
    if isinstance(value, (dict, list)):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    text = "" if value is None else str(value)
    return text if len(text) <= 20 else f"{len(text)} characters"
