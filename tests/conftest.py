"""The fixtures every test may ask for; the servers among them are started once, on first use."""

from __future__ import annotations

import signal

import pytest

pytest_plugins = [
    "tests.servers.rabbitmq",
    "tests.servers.couchdb",
    "tests.servers.processes",
    "tests.servers.cluster",  # after those it imports from
    "tests.faults.options",
    "tests.workers",
]

SERVER_FIXTURES = {"rabbitmq", "vhost", "amqp_url", "cluster", "couchdb_server", "couch_url", "broker_to_break"}
SERVER_FIXTURES |= {"demanding", "logins", "nobodys", "couchdb_with_logins", "couch_url_with_logins"}
SERVER_ENGINES = {"amqp", "couch"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--local-only", action="store_true", help="leave out what needs RabbitMQ or CouchDB")


def pytest_configure() -> None:
    """What was started in the background ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--local-only"):
        left_out = [item for item in items if _needs_server(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _needs_server(item: pytest.Item) -> bool:
    """By the fixtures it asks for, or the engine it is parametrised with."""
    if SERVER_FIXTURES.intersection(getattr(item, "fixturenames", ())):
        return True
    parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
    engines = [name for value in parameters for name in (value if isinstance(value, tuple) else (value,))]
    return any(isinstance(engine, str) and engine in SERVER_ENGINES for engine in engines)
