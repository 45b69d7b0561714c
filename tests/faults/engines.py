"""A world on RabbitMQ and CouchDB, a world on the local engines: each with data of its own, gone in the end."""

from __future__ import annotations

import base64
import gzip
import json
import os
import random
import secrets
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from tests.faults.world import Queues, World
from tests.servers.couchdb import CouchServer
from tests.servers.processes import Fleet
from tests.servers.rabbitmq import RabbitMQ
from vogeler import topology

DISK_BYTES = 64 * 1024 * 1024


class FleetWorld(World):
    """A world that knows its broker."""

    broker: RabbitMQ
    vhost: str
    user: str
    password: str

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


def _value(message: dict[str, Any]) -> Any:
    body = base64.b64decode(message["payload"])
    if message["properties"].get("content_encoding") == "gzip":
        body = gzip.decompress(body)
    return json.loads(body).get("value") if body.startswith(b'{"') else None


@contextmanager
def fleet_world(
    broker: RabbitMQ, couchdb: CouchServer, folder: Path, chance: random.Random, clients: int
) -> Iterator[FleetWorld]:
    """On RabbitMQ and CouchDB, not started yet."""
    name, password = "faults_" + secrets.token_hex(4), secrets.token_hex(8)
    qhost = f"amqp://{name}:{password}@{broker.host}:{broker.port}/{name}"
    world = FleetWorld(Fleet(qhost, couchdb.url(name), folder), chance, queues_of(broker, name), clients)
    world.broker, world.vhost, world.user, world.password = broker, name, name, password
    broker.ensure_running()
    world.admit()
    try:
        yield world
    finally:
        world.stop()
        couchdb.delete(name)
        broker.ensure_running()
        broker.delete_vhost(name)
        broker.delete_user(name)


class MachineWorld(World):
    """A world that knows its files, ``bus`` and ``database``, which are in a folder of their own."""

    bus: Path
    database: Path


@contextmanager
def machine_world(folder: Path, chance: random.Random, clients: int) -> Iterator[MachineWorld]:
    """On the local engines, not started yet."""
    bus, database = folder / "data" / "bus.db", folder / "data" / "vogeler.db"
    fleet = Fleet(f"local://{bus}", f"sqlite://{database}", folder)
    if os.geteuid() == 0:  # root may write what is read-only, but for this capability
        fleet.prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    world = MachineWorld(fleet, chance, lambda: local_queues(bus), clients)
    world.bus, world.database = bus, database
    with small_disk(bus.parent):
        try:
            yield world
        finally:
            world.stop()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A folder on a disk of its own, where we may mount one; else it is a folder like others."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "vogeler-test", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=True)


def queues_of(broker: RabbitMQ, vhost: str) -> Queues:
    """As the management API has them, about a second ago. A queue it has not counted yet is not empty."""
    return lambda: {name: int(queue.get("messages", 1)) for name, queue in broker.queues(vhost).items()}


def local_queues(bus: Path) -> dict[str, int]:
    """All queues of a bus, with what is handed out."""
    with closing(sqlite3.connect(f"file:{bus}?mode=ro", uri=True, timeout=30)) as db:
        return dict(db.execute("SELECT name, (SELECT count(*) FROM messages WHERE queue = name) FROM queues"))
