"""A world on RabbitMQ and CouchDB whose every connection leads over a link, every answer of the store through a proxy.

::

    clients ──── clients ────▶ RabbitMQ
    servers ──── servers ────▶ RabbitMQ
            ── servers-store ─▶ (proxy) ─▶ CouchDB
    runners ──── runners ────▶ RabbitMQ
            ── runners-store ─▶ CouchDB

The world itself, which looks at broker and store, goes by none of them.
"""

from __future__ import annotations

import base64
import gzip
import json
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from tests.faults.network import Link, most_within
from tests.faults.world import ATTEMPTS_A_DAEMON_A_SECOND, Queues, World
from tests.persistence.proxy import Exchange, Proxy, running
from tests.servers.couchdb import CouchServer
from tests.servers.processes import Daemon, Fleet, wait_until
from tests.servers.rabbitmq import RabbitMQ
from vogeler import topology

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


class FleetWorld(World):
    """``links`` by name, as above. ``answers`` is the proxy: its ``behave`` may be replaced, and put back.

    It has a vhost and a login of its own in the broker.
    """

    broker: RabbitMQ
    vhost: str
    user: str
    password: str
    couchdb: CouchServer
    database: str
    links: dict[str, Link]
    answers: Proxy

    def start_client(self, node: str, *flags: str, **environment: str) -> Daemon:
        """By the link ``clients``."""
        return super().start_client(node, *flags, **{"VOGELER_QHOST": self.broker_url("clients"), **environment})

    def start_server(self, *flags: str, **environment: str) -> Daemon:
        """By the links ``servers`` and ``servers-store``."""
        ours = {"VOGELER_QHOST": self.broker_url("servers"), "VOGELER_DBHOST": self.store_url("servers-store")}
        return super().start_server(*flags, **{**ours, **environment})

    def broker_url(self, link: str) -> str:
        """The broker by way of a link."""
        return f"{self.links[link].url(self.fleet.qhost)}?heartbeat={HEARTBEAT_S}"

    def store_url(self, link: str) -> str:
        """The store by way of a link."""
        return self.links[link].url(self.couchdb.url(self.database))

    def admit(self) -> None:
        """What an operator does for the fleet in a broker that knows nothing of it: a vhost and a login."""
        self.broker.create_vhost(self.vhost)
        self.broker.create_user(self.user, self.password)
        self.broker.set_permissions(self.vhost, self.user)

    def close_connections(self, name: str = "") -> int:
        """Close all there are, or those of one name, as an operator would; how many."""
        connections = [c for c in self.broker.connections(self.vhost) if name in ("", c.get("user_provided_name"))]
        for connection in connections:
            with suppress(HTTPError):  # it has ended by itself
                self.broker.close_connection(connection["name"])
        return len(connections)

    def waiting_results(self) -> list[Any]:
        """The values of the results that wait for a server; they stay where they are."""
        wanted = {"count": 10_000, "ackmode": "ack_requeue_true", "encoding": "base64"}
        messages = self.broker.api("POST", f"/api/queues/{self.vhost}/{topology.RESULTS_QUEUE}/get", wanted)
        return [value for value in map(_value, messages) if value is not None]

    # --- what a test breaks ------------------------------------------------------------------------

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
        tried = {
            name: [s for s in self.links[name].attempts() if s > self.began_s] for name in names if name in daemons
        }
        worst = {name: most_within(moments, 1.0) for name, moments in tried.items()}
        return [
            f"{most} attempts to connect within a second over {name!r}, of {daemons[name]} daemons"
            for name, most in worst.items()
            if most > ATTEMPTS_A_DAEMON_A_SECOND * daemons[name]
        ]


def _value(message: dict[str, Any]) -> Any:
    body = base64.b64decode(message["payload"])
    if message["properties"].get("content_encoding") == "gzip":
        body = gzip.decompress(body)
    return json.loads(body).get("value") if body.startswith(b'{"') else None


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
def fleet_world(
    broker: RabbitMQ, couchdb: CouchServer, folder: Path, chance: random.Random, clients: int
) -> Iterator[FleetWorld]:
    """On RabbitMQ and CouchDB, not started yet."""
    name, password = "faults_" + secrets.token_hex(4), secrets.token_hex(8)
    broker.ensure_running()
    fleet = Fleet(f"amqp://{name}:{password}@{broker.host}:{broker.port}/{name}", couchdb.url(name), folder)
    world = FleetWorld(fleet, chance, queues_of(broker, name), clients)
    world.broker, world.vhost, world.user, world.password = broker, name, name, password
    world.couchdb, world.database = couchdb, name
    world.admit()
    with ExitStack() as stack:
        stack.callback(forget, world)
        world.answers = stack.enter_context(running(Exchange.pass_on, (couchdb.host, couchdb.port)))
        targets = {**dict.fromkeys(BROKER_LINKS, broker.port), "servers-store": world.answers.port}
        targets["runners-store"] = couchdb.port
        world.links = {link: Link(port, chance.randrange(10**6)) for link, port in targets.items()}
        for link in world.links.values():
            stack.callback(link.close)
        stack.callback(world.stop)
        limits = {"STORE_TIMEOUT": f"{STORE_TIMEOUT_S}s", "CONNECT_TIMEOUT": f"{CONNECT_TIMEOUT_S}s"}
        runners: dict[str, Any] = {"QHOST": world.broker_url("runners"), "DBHOST": world.store_url("runners-store")}
        fleet.environment.update({f"VOGELER_{name}": value for name, value in {**limits, **runners}.items()})
        yield world


def forget(world: FleetWorld) -> None:
    """Delete what it had in the store and in the broker."""
    world.couchdb.delete(world.database)
    world.broker.ensure_running()
    world.broker.delete_vhost(world.vhost)
    world.broker.delete_user(world.user)


def queues_of(broker: RabbitMQ, vhost: str) -> Queues:
    """As the management API has them, about a second ago. A queue it has not counted yet is not empty."""
    return lambda: {name: int(queue.get("messages", 1)) for name, queue in broker.queues(vhost).items()}
