"""A fresh, set-up store of every kind there is. A new store needs a fixture ``<scheme>_url`` to be tested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from vogeler import persistence, registry
from vogeler.persistence import Store


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a file that is not there yet."""
    return f"sqlite://{tmp_path}/store/vogeler.db"


@pytest.fixture(params=registry.names("vogeler.persistence"))
def new_dbhost(request: pytest.FixtureRequest) -> str:
    """The URL of a store that is not set up yet, of each kind in turn."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def dbhost(new_dbhost: str) -> str:
    """The URL of an empty store, set up, of each kind in turn."""
    with closing(persistence.connect(new_dbhost)) as store:
        store.setup()
    return new_dbhost


@pytest.fixture
def store(dbhost: str) -> Iterator[Store]:
    """An open store of each kind in turn."""
    with closing(persistence.connect(dbhost)) as opened:
        yield opened


@pytest.fixture
def couch_store(couch_url: str) -> Iterator[Store]:
    """An open store in CouchDB."""
    with closing(persistence.connect(couch_url)) as opened:
        opened.setup()
        yield opened


@pytest.fixture
def other(couch_store: Store, couch_url: str) -> Iterator[Store]:
    """Another server's connection to the same CouchDB."""
    with closing(persistence.connect(couch_url)) as opened:
        yield opened
