"""A world whose broker is a cluster of three."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.faults.world import BACK_WITHIN_S, World
from tests.servers.cluster import Cluster
from tests.servers.couchdb import CouchServer
from tests.servers.processes import Fleet
from tests.servers.rabbitmq import RabbitMQ
from vogeler import topology


class ClusterWorld(World):
    """A world that knows its cluster."""

    cluster: Cluster
    vhost: str

    def at_home_on(self, member: RabbitMQ) -> list[str]:
        """The nodes whose queue is on that member."""
        return [n for n in self.nodes if self.cluster.member_of(self.vhost, topology.node_queue(n)) is member]

    def chosen(self, who: str) -> RabbitMQ:
        """The member that leads the results queue (``leader``), or that one ``server`` or ``client`` is on."""
        if who == "leader":
            return self.cluster.member_of(self.vhost, topology.RESULTS_QUEUE)
        name = "vogeler-server" if who == "server" else f"vogeler-client {self.chance.choice(self.nodes)}"
        return self.cluster.connected_to(self.vhost, name)

    def all_answer(self, nodes: Sequence[str]) -> float:
        """Seconds until each of these nodes has answered a runner; fails after too many."""
        started_s = time.monotonic()
        while nodes and (asked := self.runners.ask("probe", nodes)).exit_code:
            assert time.monotonic() - started_s < BACK_WITHIN_S, f"{asked.talk}\n{self.fleet.logs()}"
        return time.monotonic() - started_s


@contextmanager
def cluster_world(
    cluster: Cluster, couchdb: CouchServer, folder: Path, chance: random.Random, clients: int
) -> Iterator[ClusterWorld]:
    """On the cluster and CouchDB, not started yet."""
    vhost, database = "cluster-" + secrets.token_hex(4), "cluster_" + secrets.token_hex(4)
    cluster.start()
    cluster.any().create_vhost(vhost)

    def queues() -> dict[str, int]:
        return {name: int(queue.get("messages", 1)) for name, queue in cluster.queues(vhost).items()}

    world = ClusterWorld(Fleet(cluster.url(vhost), couchdb.url(database), folder), chance, queues, clients)
    world.cluster, world.vhost = cluster, vhost
    try:
        yield world
    finally:
        world.stop()
        couchdb.delete(database)
        cluster.start()
        cluster.any().delete_vhost(vhost)
