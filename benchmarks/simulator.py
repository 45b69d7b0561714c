"""Simulated nodes: hundreds of real clients in one process, each with a thread and a connection of its own.

All that runs is Vogeler's own, from the client's loop down to the socket; but a plugin is a function in here, which
makes a value of the size that a real one would print, and no process. What each node has collected is
remembered as digests, to be compared with the store.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.fleet import ROLES, SITES, Fleet
from vogeler import messaging
from vogeler.client import Client, Options
from vogeler.collect import Collected
from vogeler.messages import OK, digest_of
from vogeler.messaging import Transport
from vogeler.plugins import Loaded, Plugin

KEYS = ("packages", "system", "listening")
_STACK_BYTES = 256 * 1024
# Every thread that waits for the interpreter asks for it so often. They let go of it when they wait for the network.
_SWITCH_S = 1.0
_CONNECTING_AT_ONCE = 8  # per process
_CONNECT_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_TEMPLATES = 8  # nodes of the generated fleet whose values the nodes of a process are made from
_UNTIL_S = 1_763_683_200.0
_CHANGES = 0.02  # the share of scheduled runs that find something new
_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8

_spawning = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Slice:
    """The nodes of one process."""

    qhost: str
    names: tuple[str, ...]
    seed: int
    heartbeat_s: float


def node_name(number: int) -> str:
    """Its role and its site follow from its number."""
    return f"{ROLES[number % len(ROLES)].name}{number:05d}.{SITES[number % len(SITES)]}"


def groups_of(node: str) -> tuple[str, ...]:
    """The role and the site."""
    role, _, site = node.partition(".")
    return (role.rstrip("0123456789"), site)


class Simulator:
    """The handle of a process with simulated nodes. Each call returns when the process has done it."""

    def __init__(self, nodes: Slice) -> None:
        self.nodes = nodes
        self.connected = _spawning.Value("i", 0)
        self.collected = _spawning.Value("i", 0)
        self._pipe, theirs = _spawning.Pipe()
        arguments = (nodes, theirs, self.connected, self.collected)
        self._process = _spawning.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def ask(self, what: str, *values: Any) -> Any:
        """Do what a method of ``_Nodes`` says. Raises EOFError when the process has died."""
        self._pipe.send((what, values))
        return self._pipe.recv()

    def kill(self) -> None:
        """At once, if it is there."""
        self._process.kill()
        self._process.join()


def _serve(nodes: Slice, pipe: Connection, connected: Any, collected: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark stops us
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)  # else glibc makes one for each of the first threads
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(asctime)s %(message)s")
    threading.stack_size(_STACK_BYTES)
    sys.setswitchinterval(_SWITCH_S)
    ours = _Nodes(nodes, connected, collected)
    with suppress(EOFError):
        while True:
            what, values = pipe.recv()
            pipe.send(getattr(ours, what)(*values))
    os._exit(0)  # the benchmark is gone, or done with us; nodes that hang are not waited for


@dataclass
class _Nodes:
    """The nodes of this process."""

    about: Slice
    connected: Any
    collected: Any
    sent: dict[str, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def __post_init__(self) -> None:
        fleet = Fleet(_TEMPLATES, 30, self.about.seed, _UNTIL_S)
        self._values = [{key: fleet.value(node, key, _UNTIL_S) for key in KEYS} for node in fleet.nodes]
        self._plugins = tuple(_plugin(key) for key in KEYS)
        self._versions: dict[tuple[str, str], int] = defaultdict(int)
        self._loaded = Loaded(self._plugins, ())
        self._chance = random.Random(self.about.seed)
        self._interval_s: float | None = None
        self._lock = threading.Lock()
        self._connecting = threading.Semaphore(_CONNECTING_AT_ONCE)
        self._clients: dict[str, Client] = {}
        self._threads: list[threading.Thread] = []

    # --- what the benchmark asks for --------------------------------------------------------------

    def start(self) -> None:
        """Start the clients, and don't wait until they are connected."""
        for number, node in enumerate(self.about.names):
            self._clients[node] = client = self._client(node, self._values[number % _TEMPLATES])
            thread = threading.Thread(target=client.run, name=node, daemon=True)
            thread.start()
            self._threads.append(thread)

    def change(self, keys: Sequence[str]) -> None:
        """From now on the plugins of these keys find something else on every node."""
        with self._lock:
            for node in self.about.names:
                for key in keys:
                    self._versions[node, key] += 1

    def schedule(self, interval_s: float | None) -> None:
        """Run all plugins by schedule, at random offsets in the interval; None: no more."""
        self._interval_s = interval_s
        self._loaded = Loaded(tuple(replace(p, interval_s=interval_s, splay_s=interval_s) for p in self._plugins), ())
        for client in self._clients.values():
            client.reload()

    def stop(self) -> dict[str, dict[str, list[str]]]:
        """Stop the clients as SIGTERM would. What was collected: node → key → digests, each unlike the one before."""
        for client in self._clients.values():
            client.stop()
        for thread in self._threads:
            thread.join(_STOP_TIMEOUT_S * 2)
        return {node: {key: list(digests) for key, digests in keys.items()} for node, keys in self.sent.items()}

    # --- a node -----------------------------------------------------------------------------------

    def _client(self, node: str, values: dict[str, Any]) -> Client:
        options = Options(node, groups_of(node), 1, self.about.heartbeat_s, stop_timeout_s=_STOP_TIMEOUT_S)

        def collect(plugin: Plugin, stop: threading.Event) -> Collected:
            del stop
            return self._collect(node, plugin.key, values[plugin.key])

        return Client(options, lambda: self._loaded, lambda: self._connect(node), collect)

    def _connect(self, node: str) -> Transport:
        with self._connecting:
            transport = messaging.connect(self.about.qhost, None, _CONNECT_TIMEOUT_S, f"vogeler-client {node}")
        with self.connected.get_lock():
            self.connected.value += 1
        return transport

    def _collect(self, node: str, key: str, template: Any) -> Collected:
        with self._lock:
            if self._interval_s is not None and self._chance.random() < _CHANGES:
                self._versions[node, key] += 1
            value = _marked(template, node, self._versions[node, key])
        digest = digest_of(value)
        digests = self.sent[node][key]
        if digests[-1:] != [digest]:
            digests.append(digest)
        with self.collected.get_lock():
            self.collected.value += 1
        return Collected(OK, value, digest, 0, 0.001)


def _marked(value: Any, node: str, version: int) -> Any:
    """The value of the template, unlike that of any other node and of any other version."""
    if isinstance(value, list):
        return [*value, {"process": node, "port": version}]
    return {**value, "node": node, "version": str(version)}


def _plugin(key: str) -> Plugin:
    return Plugin(
        key, f"The {key} of this node", ("true",), "json", f"get_{key}", key, 60.0, 4_000_000, (), None, None, None, {},
        False, (), "/", "simulated",
    )  # fmt: skip
