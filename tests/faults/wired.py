"""A world whose every connection leads over a link, and whose store's every answer through a proxy.

::

    clients ──── clients ────▶ RabbitMQ
    servers ──── servers ────▶ RabbitMQ
            ── servers-store ─▶ (proxy) ─▶ CouchDB
    runners ──── runners ────▶ RabbitMQ
            ── runners-store ─▶ CouchDB

The world itself, which looks at broker and store, goes by none of them.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.faults.engines import FleetWorld, queues_of
from tests.faults.network import Link, most_within
from tests.faults.strict import StrictWorld
from tests.faults.world import ATTEMPTS_A_DAEMON_A_SECOND
from tests.persistence.proxy import Exchange, Proxy, running
from tests.servers.couchdb import CouchServer
from tests.servers.processes import Daemon, Fleet, wait_until
from tests.servers.rabbitmq import RabbitMQ

log = logging.getLogger(__name__)

# Short, so that a silent connection is noticed while a test waits. vogeler/messaging/_amqp_url.py has the default.
HEARTBEAT_S = 2
# docs/reference.rst, heartbeat: pika looks every heartbeat + 5 s whether anything came, and gives up when nothing did.
WE_NOTICE_WITHIN_S = 2 * (HEARTBEAT_S + 5.0)
BROKER_NOTICES_WITHIN_S = 3.0 * HEARTBEAT_S
STORE_TIMEOUT_S = 8.0
CONNECT_TIMEOUT_S = 5.0

BROKER_LINKS = ("clients", "servers", "runners")
STORE_LINKS = ("servers-store", "runners-store")


class WiredWorld(StrictWorld, FleetWorld):
    """``links`` by name, as above. ``answers`` is the proxy: its ``behave`` may be replaced, and put back."""

    links: dict[str, Link]
    answers: Proxy
    couchdb: CouchServer
    database: str

    def start_client(self, node: str, *flags: str, **environment: str) -> Daemon:
        """By the link ``clients``."""
        return super().start_client(node, *flags, **{"VOGELER_QHOST": self.broker_url("clients"), **environment})

    def start_server(self, *flags: str, **environment: str) -> Daemon:
        """By the links ``servers`` and ``servers-store``."""
        ours = {"VOGELER_QHOST": self.broker_url("servers"), "VOGELER_DBHOST": self.store_url("servers-store")}
        return super().start_server(*flags, **{**ours, **environment})

    def broker_url(self, link: str) -> str:
        """The broker by way of a link."""
        return f"{self.links[link].url(self.broker.url(self.vhost))}?heartbeat={HEARTBEAT_S}"

    def store_url(self, link: str) -> str:
        """The store by way of a link."""
        return self.links[link].url(self.couchdb.url(self.database))

    @contextmanager
    def answering(self, behave: Callable[[Exchange], None]) -> Iterator[None]:
        """Until the end of the block the store answers the servers so."""
        self.answers.behave = behave
        try:
            yield
        finally:
            self.answers.behave = Exchange.pass_on
            self.fault_ended()

    @contextmanager
    def broken(self, *names: str) -> Iterator[list[Link]]:
        """The links of these names, to be broken; whole again at the end of the block."""
        chosen = [self.links[name] for name in names]
        try:
            yield chosen
        finally:
            for link in chosen:
                link.heal()
            self.fault_ended()

    def rushes(self, *names: str) -> list[str]:
        """Links over which more was tried in a second than so many daemons may."""
        daemons = {"clients": len(self.clients), "servers": len(self.servers), "servers-store": len(self.servers)}
        worst = {name: most_within(self.links[name].attempts(), 1.0) for name in names if name in daemons}
        return [
            f"{most} attempts to connect within a second over {name!r}, of {daemons[name]} daemons"
            for name, most in worst.items()
            if most > ATTEMPTS_A_DAEMON_A_SECOND * daemons[name]
        ]


@contextmanager
def said_by_all(daemons: Sequence[Daemon], event: str, limit_s: float) -> Iterator[None]:
    """What is done in the block makes every one of the daemons log the event, within so many seconds of its end."""
    before = {daemon: len(daemon.events(event)) for daemon in daemons}

    def silent() -> list[Daemon]:
        return [daemon for daemon, count in before.items() if len(daemon.events(event)) <= count]

    yield
    started_s = time.monotonic()
    wait_until(
        lambda: not silent(),
        f"{event!r} in every log",
        lambda: "\n".join(f"{daemon.process.args}\n{daemon.log[-2000:]}" for daemon in silent()),
        limit_s,
    )
    log.warning("%d daemons said %r within %.1f s", len(before), event, time.monotonic() - started_s)


@contextmanager
def wired_world(
    broker: RabbitMQ, couchdb: CouchServer, folder: Path, chance: random.Random, clients: int
) -> Iterator[WiredWorld]:
    """On RabbitMQ and CouchDB, not started yet."""
    vhost, database = "wired-" + secrets.token_hex(4), "wired_" + secrets.token_hex(4)
    broker.ensure_running()
    broker.create_vhost(vhost)
    fleet = Fleet(broker.url(vhost), couchdb.url(database), folder)
    world = WiredWorld(fleet, chance, queues_of(broker, vhost), clients)
    world.broker, world.vhost, world.couchdb, world.database = broker, vhost, couchdb, database
    with ExitStack() as stack:
        stack.callback(broker.delete_vhost, vhost)
        stack.callback(couchdb.delete, database)
        world.answers = stack.enter_context(running(Exchange.pass_on, (couchdb.host, couchdb.port)))
        targets = {**dict.fromkeys(BROKER_LINKS, broker.port), "servers-store": world.answers.port}
        targets["runners-store"] = couchdb.port
        world.links = {name: Link(port, chance.randrange(10**6)) for name, port in targets.items()}
        for link in world.links.values():
            stack.callback(link.close)
        stack.callback(world.stop)
        limits = {"STORE_TIMEOUT": f"{STORE_TIMEOUT_S}s", "CONNECT_TIMEOUT": f"{CONNECT_TIMEOUT_S}s"}
        runners: dict[str, Any] = {"QHOST": world.broker_url("runners"), "DBHOST": world.store_url("runners-store")}
        fleet.environment.update({f"VOGELER_{name}": value for name, value in {**limits, **runners}.items()})
        yield world
