"""vogeler-admin doctor."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from vogeler import messages, topology
from vogeler.cli._output import add_format, write_rows
from vogeler.cli.admin._behind import check_limits, stale, state
from vogeler.cli.admin._connect import open_store, open_transport
from vogeler.config import Settings
from vogeler.errors import ExitCode, StoreError, TransportError
from vogeler.messages import Command, encode
from vogeler.messaging import QueueDepth, Transport
from vogeler.persistence import NodeSummary
from vogeler.summary import LATE, SILENT

HELP = "check broker, store, server and queues; each finding with its remedy"
_COLUMNS = ("check", "state", "finding", "remedy")
_MANY_MESSAGES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--format``."""
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """A row per check; UNHEALTHY when any is bad."""
    check_limits(settings)
    findings = [*_broker(settings), *_store(settings)]
    write_rows(findings, _COLUMNS, arguments.format)
    return ExitCode.UNHEALTHY if any(finding["state"] == "bad" for finding in findings) else ExitCode.OK


def _finding(check: str, state: str, finding: str, remedy: str | None = None) -> dict[str, Any]:
    return {"check": check, "state": state, "finding": finding, "remedy": remedy}


def _broker(settings: Settings) -> Iterator[dict[str, Any]]:
    try:
        with closing(open_transport(settings)) as transport:
            yield _finding("broker", "ok", "reachable, and takes the login")
            yield _may_publish(transport)
            yield from _queues(transport)
    except TransportError as error:
        yield _finding("broker", "bad", error.message, error.remedy or "start it, or correct qhost")


def _may_publish(transport: Transport) -> dict[str, Any]:
    """To a key that nobody is bound to."""
    try:
        probe = Command(alias="probe", requested_by="doctor", expires_at=messages.now())
        transport.publish_command(encode(probe), [topology.PROBE_KEY], ttl_s=1.0)
    except TransportError as error:
        remedy = error.remedy or "give this login the right, if runners are to use it"
        return _finding("may publish", "warn", error.message, remedy)
    return _finding("may publish", "ok", "commands are taken")


def _queues(transport: Transport) -> Iterator[dict[str, Any]]:
    depths = transport.depths()
    shared = depths.get(topology.RESULTS_QUEUE)
    if shared is None:
        yield _finding("results queue", "bad", "is not there", "vogeler-admin setup makes it")
        return
    results = {name: depth for name, depth in depths.items() if name != topology.DEAD_QUEUE}
    yield _server(shared, [name for name, depth in results.items() if not depth.consumers])
    yield from (_results(name, depth.messages) for name, depth in results.items())
    dead = depths.get(topology.DEAD_QUEUE, QueueDepth(0, 0)).messages
    remedy = "vogeler-admin dead list shows why; then requeue or drop them" if dead else None
    yield _finding("dead letters", "warn" if dead else "ok", f"{dead} dead letters", remedy)


def _server(shared: QueueDepth, nobodys: list[str]) -> dict[str, Any]:
    """Every server takes from the shared queue, and one at a time from each of the numbered ones."""
    if not shared.consumers:
        return _finding("server", "bad", "none is taking results", "start vogeler-server")
    if nobodys:
        return _finding(
            "server",
            "bad",
            f"none is taking from {', '.join(nobodys)}",
            "run vogeler-admin setup --result-queues again, or restart vogeler-server",
        )
    return _finding("server", "ok", f"{shared.consumers} taking results")


def _results(name: str, messages: int) -> dict[str, Any]:
    check = "results queue" + name[len(topology.RESULTS_QUEUE) :].replace(".", " ")
    many = messages > _MANY_MESSAGES
    remedy = "start more servers, or see whether the store is slow" if many else None
    return _finding(check, "warn" if many else "ok", f"{messages} wait to be stored", remedy)


def _store(settings: Settings) -> Iterator[dict[str, Any]]:
    try:
        with closing(open_store(settings)) as store:
            yield _finding("store", "ok", store.ping())
            nodes = list(store.nodes())
    except StoreError as error:
        yield _finding("store", "bad", error.message, error.remedy or "start it, or correct dbhost")
        return
    yield from _nodes(nodes, settings)


def _nodes(nodes: list[NodeSummary], settings: Settings) -> Iterator[dict[str, Any]]:
    now_s = time.time()
    states = Counter(state(node, now_s, settings) for node in nodes)
    finding = f"{len(nodes)} known, {states[LATE]} late, {states[SILENT]} silent"
    behind = states[LATE] + states[SILENT]
    remedy = "vogeler-admin nodes --late --silent lists them" if behind else None
    yield _finding("nodes", "warn" if behind else "ok", finding, remedy)
    yield from _logins(nodes)
    count = sum(bool(stale(node, now_s, settings)) for node in nodes)
    remedy = "vogeler-admin nodes --stale lists them" if count else None
    yield _finding("keys", "warn" if count else "ok", f"stale on {count} of {len(nodes)} nodes", remedy)


def _logins(nodes: list[NodeSummary]) -> Iterator[dict[str, Any]]:
    """Whether several nodes come with one login: whoever has it could speak for them all."""
    counts = Counter(node.user for node in nodes if node.user is not None)
    shared = [f"{user} is the login of {count} nodes" for user, count in sorted(counts.items()) if count > 1]
    if shared:
        remedy = "vogeler-admin setup --roles --node NAME gives a node a login of its own"
        yield _finding("logins", "warn", f"{', '.join(shared)}: each can speak for the others", remedy)
    elif counts:
        yield _finding("logins", "ok", "no two nodes have the same login")
