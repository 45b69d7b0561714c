"""A CouchDB for the tests: a private pouchdb-server in memory, or the one that VOGELER_TEST_COUCHDB_URL names.

Started once per session, on first use. Every test gets databases of its own, deleted after it. Without
pouchdb-server in .servers (see tests/servers/install) the tests are skipped, but where ``CI`` is set they fail.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional
from urllib.parse import unquote, urlsplit

import pytest

from tests.servers.ports import HOST, free_ports

VARIABLE = "VOGELER_TEST_COUCHDB_URL"
START_LIMIT_S = 240.0
STOP_LIMIT_S = 10.0
_PROGRAM = Path(__file__).resolve().parents[2] / ".servers/node_modules/.bin/pouchdb-server"


class CouchServer:
    """A running server: where it is, and its HTTP API."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or HOST, parts.port or 5984
        self.user, self.password = unquote(parts.username or ""), unquote(parts.password or "")
        self._login = f"{parts.username}:{parts.password}@" if parts.username else ""

    def url(self, database: str) -> str:
        """The URL of the store in this database, with the login."""
        return f"couch://{self._login}{self.host}:{self.port}/{database}"

    def api(self, method: str, path: str, content: object = None) -> Any:
        """One call of the HTTP API; the decoded JSON of the answer. Raises urllib's HTTPError."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.user:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"http://{self.host}:{self.port}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def answers(self) -> bool:
        """Whether it answers at all."""
        try:
            self.api("GET", "/")
        except OSError:
            return False
        return True

    def delete(self, database: str) -> None:
        """Delete the three databases of a store, those that there are."""
        for name in (database, f"{database}_status", f"{database}_history", f"{database}_audit"):
            try:
                self.api("DELETE", f"/{name}")
            except urllib.error.HTTPError as error:
                error.close()
                if error.code != 404:
                    raise

    def delete_logins(self) -> None:
        """Delete those of Vogeler's."""
        for row in self.api("GET", "/_users/_all_docs")["rows"]:
            if row["id"].startswith("org.couchdb.user:vogeler."):
                self.api("DELETE", f"/_users/{row['id']}?rev={row['value']['rev']}")


class _PouchServer(CouchServer):
    """pouchdb-server, whose data are gone when it stops."""

    def __init__(self, folder: Path, login: str = "") -> None:
        """``login``: ``name:password`` of its administrator; without one everybody is."""
        super().__init__(f"http://{login and login + '@'}{HOST}:{free_ports(1)[0]}")
        self._folder = folder  # it leaves a log and a configuration where it is started
        if login:
            (folder / "config.json").write_text(json.dumps({"admins": {self.user: self.password}}))
        self._process: Optional[subprocess.Popen[bytes]] = None

    def start(self) -> None:
        with (self._folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [str(_PROGRAM), "--in-memory", "--host", self.host, "--port", str(self.port)],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_LIMIT_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail("pouchdb-server did not start:\n" + (self._folder / "output").read_text()[-4000:])
            time.sleep(0.05)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def private_server(folder: Path, login: str = "") -> Iterator[CouchServer]:
    """A pouchdb-server, running, and its end."""
    server = _PouchServer(folder, login)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def couchdb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CouchServer]:
    """The session's CouchDB, running."""
    with _named_or_private(tmp_path_factory.mktemp("couchdb")) as server:
        yield server


@contextmanager
def _named_or_private(folder: Path, login: str = "") -> Iterator[CouchServer]:
    if os.environ.get(VARIABLE):
        yield CouchServer(os.environ[VARIABLE])
        return
    if not os.access(_PROGRAM, os.X_OK):
        if os.environ.get("CI"):
            pytest.fail("pouchdb-server is not installed, and CI must not skip its tests")
        pytest.skip("pouchdb-server is not installed: run tests/servers/install")
    with private_server(folder, login) as server:
        yield server


@pytest.fixture(scope="session")
def couchdb_with_logins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CouchServer]:
    """A CouchDB with an administrator, so that others are none."""
    with _named_or_private(tmp_path_factory.mktemp("couchdb-logins"), "admin:secret") as server:
        yield server


@pytest.fixture
def couch_url_with_logins(couchdb_with_logins: CouchServer) -> Iterator[str]:
    """As ``couch_url``, with the login of the administrator; logins of Vogeler's are deleted after."""
    database = f"vogeler_{secrets.token_hex(6)}"
    yield couchdb_with_logins.url(database)
    couchdb_with_logins.delete(database)
    couchdb_with_logins.delete_logins()


@pytest.fixture
def couch_url(couchdb_server: CouchServer) -> Iterator[str]:
    """The URL of a store that nobody else uses, without databases yet; what the test makes is deleted after."""
    database = f"vogeler_{secrets.token_hex(6)}"
    yield couchdb_server.url(database)
    couchdb_server.delete(database)
