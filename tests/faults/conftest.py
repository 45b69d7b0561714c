"""Worlds on either pair of engines, and a broker of the faults' own: nobody else's tests suffer from it.

Starting a fleet takes longer than most faults. So the tests of one kind of world share it, as long as they pass, which
also shows what many faults in a row leave behind; after a failure the next test gets a new one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, Callable, Optional

import pytest

from tests.faults.clustered import ClusterWorld, cluster_world
from tests.faults.fleet import FleetWorld, fleet_world
from tests.faults.machine import MachineWorld, machine_world
from tests.faults.world import WORLDS, World
from tests.servers.cluster import Cluster
from tests.servers.couchdb import CouchServer
from tests.servers.rabbitmq import RabbitMQ, running_rabbitmq

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, None]:
    """Remember for the fixtures that a test has failed."""
    report = (yield).get_result()
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed


class Shared:
    """The one world that there is at a time."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._kind = ""
        self._world: Optional[World] = None

    @contextmanager
    def lend(self, request: pytest.FixtureRequest, make: Callable[..., AbstractContextManager[Any]]) -> Iterator[Any]:
        """A world under load, of the kind that the fixture has: the one that there is, else a new one."""
        chance = request.getfixturevalue("chance")
        if self._world is not None and self._kind == request.fixturename:
            self._world.again(chance)
        else:
            self.end()
            clients = request.config.getoption("--faults-clients")
            made = self._open.enter_context(make(request.getfixturevalue("tmp_path"), chance, clients))
            request.config.stash.setdefault(WORLDS, []).append(made)
            made.start()
            self._kind, self._world = str(request.fixturename), made
        try:
            yield self._world
        finally:
            if request.node.stash.get(_FAILED, False):
                self.end()

    def end(self) -> None:
        self._world = None
        self._open.pop_all().close()


@pytest.fixture(scope="package")
def shared() -> Iterator[Shared]:
    made = Shared()
    yield made
    made.end()


@pytest.fixture(scope="session")
def broker_to_break() -> Iterator[RabbitMQ]:
    """A RabbitMQ for the faults alone."""
    yield from running_rabbitmq()


@pytest.fixture
def world(
    request: pytest.FixtureRequest, shared: Shared, broker_to_break: RabbitMQ, couchdb_server: CouchServer
) -> Iterator[FleetWorld]:
    """A fleet on RabbitMQ and CouchDB whose connections a test can break, under load."""
    with shared.lend(request, partial(fleet_world, broker_to_break, couchdb_server)) as lent:
        yield lent


@pytest.fixture
def local_world(request: pytest.FixtureRequest, shared: Shared) -> Iterator[MachineWorld]:
    """A fleet of one machine, under load."""
    with shared.lend(request, machine_world) as lent:
        yield lent


@pytest.fixture
def clustered(
    request: pytest.FixtureRequest, shared: Shared, cluster: Cluster, couchdb_server: CouchServer
) -> Iterator[ClusterWorld]:
    """A fleet whose broker is a cluster of three, under load."""
    with shared.lend(request, partial(cluster_world, cluster, couchdb_server)) as lent:
        yield lent
