"""A RabbitMQ cluster of three private nodes on one machine, for the tests; gone when they are done.

Any node may be killed, stopped and started again. Started once per session, on first use.
"""

from __future__ import annotations

import tempfile
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.servers.processes import wait_until
from tests.servers.rabbitmq import RabbitMQ, server_script

MEMBERS = 3
_LIMIT_S = 240.0
_JOINING = """
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = {first}
cluster_formation.classic_config.nodes.2 = {own}
"""


class Cluster:
    """Three nodes that know each other. Ask whichever is up."""

    def __init__(self, script: str, folder: Path) -> None:
        self.members: list[RabbitMQ] = []
        for number in range(MEMBERS):
            (folder / str(number)).mkdir()
            like = self.members[0] if self.members else None
            self.members.append(RabbitMQ(script, folder / str(number), like))
        first, *others = self.members
        for member in others:
            member.configure(_JOINING.format(first=first.name, own=member.name))

    def make(self) -> None:
        """Start it for the first time: who joins a member that is about to be set up itself may fail."""
        self.members[0].start()
        self.start()

    def start(self) -> None:
        """Start the nodes that are down, and return when all are one cluster."""
        down = [member for member in self.members if not member.up]
        for member in down:
            member.begin()
        for member in down:
            member.wait_up()
        wait_until(lambda: len(self.running()) == MEMBERS, "one cluster", limit_s=_LIMIT_S)

    def any(self) -> RabbitMQ:
        """A member that is up."""
        return next(member for member in self.members if member.up)

    def running(self) -> list[RabbitMQ]:
        """The members that the others see."""
        names = {node["name"] for node in self.any().api("GET", "/api/nodes") if node["running"]}
        return [member for member in self.members if member.name in names]

    def end(self) -> None:
        """Done with it."""
        for member in self.members:
            member.end()

    # --- who has what ----------------------------------------------------------------------------

    def url(self, vhost: str) -> str:
        """The URLs of all members, as ``qhost`` takes them."""
        return ",".join(member.url(vhost) for member in self.members)

    def member_of(self, vhost: str, queue: str) -> RabbitMQ:
        """The node that leads a quorum queue, or has a classic one."""

        def found() -> Any:
            state = self._queue(vhost, queue)
            return state.get("leader") or state.get("node")

        return self._member(wait_until(found, f"{queue} is somewhere"))

    def in_sync(self, vhost: str, queue: str) -> bool:
        """Whether all members of a quorum queue are there."""
        return len(self._queue(vhost, queue).get("online", ())) == MEMBERS

    def connected_to(self, vhost: str, name: str) -> RabbitMQ:
        """The node that the connection of that name is on: ``vogeler-client web01``."""

        def found() -> list[str]:
            return [
                str(connection["node"])
                for connection in self.any().connections(vhost)
                if connection.get("client_properties", {}).get("connection_name") == name
            ]

        return self._member(wait_until(found, f"{name} is connected")[-1])

    def queues(self, vhost: str) -> dict[str, dict[str, Any]]:
        """As of ``RabbitMQ.queues``."""
        return self.any().queues(vhost)

    def _queue(self, vhost: str, queue: str) -> dict[str, Any]:
        path = f"/api/queues/{quote(vhost, safe='')}/{quote(queue, safe='')}"
        try:
            found: dict[str, Any] = self.any().api("GET", path)
        except urllib.error.HTTPError as error:
            error.close()
            return {}
        return found

    def _member(self, name: str) -> RabbitMQ:
        return next(member for member in self.members if member.name == name)


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="vogeler-cluster-") as folder:
        made = Cluster(server_script(), Path(folder))
        try:
            made.make()
            yield made
        finally:
            made.end()


@pytest.fixture
def cluster(_cluster: Cluster) -> Iterator[Cluster]:
    """The session's cluster, all of its nodes up; whoever is killed in a test is started again after it."""
    yield _cluster
    _cluster.start()
