"""Who may read and write the databases, with logins: CouchDB itself refuses the rest."""

from __future__ import annotations

import json
import os
import urllib.error
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from tests.persistence.examples import at, heartbeat, result
from tests.servers.couchdb import VARIABLE, CouchServer
from vogeler import persistence
from vogeler.errors import StoreError
from vogeler.persistence._couch_access import READER, WRITER, Access
from vogeler.persistence.couch import CouchStore

IS_COUCHDB = bool(os.environ.get(VARIABLE))
PASSWORD = "s3cret-of-a-test"
LOGINS = {"vogeler.test-writer": WRITER, "vogeler.test-reader": READER, "vogeler.test-stranger": "other"}


@dataclass
class Protected:
    """A store that is set up and protected, and its server as somebody sees it."""

    server: CouchServer
    database: str

    def by(self, user: str) -> CouchServer:
        login = f"{user}:{PASSWORD}@" if user else ""
        return CouchServer(f"http://{login}{self.server.host}:{self.server.port}")

    def store(self, user: str) -> CouchStore:
        store = persistence.connect(self.by(user).url(self.database))
        assert isinstance(store, CouchStore)
        return store

    def answer(self, user: str, method: str, path: str, content: object = None) -> tuple[int, Any]:
        """The status of HTTP, and what it says."""
        try:
            return 200, self.by(user).api(method, path, content)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")


@pytest.fixture
def access(couch_url_with_logins: str) -> Iterator[Access]:
    """Of a store that is set up, and not protected yet."""
    with closing(persistence.connect(couch_url_with_logins)) as store:
        store.setup()
        assert isinstance(store, CouchStore)
        yield store.access()


@pytest.fixture
def protected(couchdb_with_logins: CouchServer, couch_url_with_logins: str, access: Access) -> Protected:
    access.protect()
    for user, role in LOGINS.items():
        if not access.has_user(user):
            access.make_user(user, PASSWORD, role)
    return Protected(couchdb_with_logins, couch_url_with_logins.rpartition("/")[2])


def test_a_writer_who_is_no_administrator_does_all_that_a_server_does(protected: Protected) -> None:
    with closing(protected.store("vogeler.test-writer")) as store:
        assert store.setup() == []
        store.ping()
        outcomes = store.apply([heartbeat("web01"), result(1, {"a": 1})], at(0))
        assert [outcome.stage for outcome in outcomes[1:]] == ["stored"]
        assert store.apply([result(2, {"a": 2})], at(1))[0].stage == "stored"
        assert len(list(store.history("web01"))) == 2
        assert sum(store.prune(at(100), 1, 100)) == 1
        assert store.forget("web01", "alice", at(2))
        assert list(store.nodes()) == []


def test_a_reader_reads_everything(protected: Protected) -> None:
    with closing(protected.store("vogeler.test-writer")) as writer:
        writer.apply([heartbeat("web01"), result(1, {"a": 1})], at(0))
    with closing(protected.store("vogeler.test-reader")) as store:
        store.ping()
        assert store.record("web01") is not None
        assert [node.node for node in store.nodes()] == ["web01"]
        assert [status["_id"] for status in store.statuses(["web01"])] == ["web01"]
        assert [record["_id"] for record in store.records()] == ["web01"]
        assert len(list(store.history("web01"))) == len(list(store.changes(at(-10)))) == 1
        assert list(store.leaves("rpms"))
        assert next(store.follow())[1] is None


@pytest.mark.parametrize("user", ["vogeler.test-reader", "vogeler.test-stranger"])
def test_what_others_would_store_is_refused_and_not_taken_for_a_bad_result(protected: Protected, user: str) -> None:
    """A server with the wrong login keeps its results, and tries again: none of them is a dead letter."""
    with closing(protected.store(user)) as store, pytest.raises(StoreError) as caught:
        store.apply([heartbeat("web01"), result(1, {"a": 1})], at(0))
    assert not caught.value.retryable
    with closing(protected.store("vogeler.test-writer")) as store:
        assert list(store.nodes()) == []


FORBIDDEN = {
    "write a document": ("PUT", "{db}/mine", {"a": 1}),
    "write a document over another": ("PUT", "{db}/web01?rev={rev}", {"a": 1}),
    "delete a document": ("DELETE", "{db}/web01?rev={rev}", None),
    "write in bulk": ("POST", "{db}/_bulk_docs", {"docs": [{"_id": "mine"}]}),
    "write in bulk as a replication": (
        "POST",
        "{db}/_bulk_docs",
        {"docs": [{"_id": "mine", "_rev": "1-a", "_revisions": {"start": 1, "ids": ["a"]}}], "new_edits": False},
    ),
    "write a design document": ("PUT", "{db}/_design/mine", {"views": {}}),
    "take the validation away": ("DELETE", "{db}/_design/access?rev={access}", None),
    "change who may what": ("PUT", "{db}/_security", {}),
    "compact": ("POST", "{db}/_compact", {}),
}
# pouchdb-server guards less: it lets members make indexes, and everybody logins and replications; and it ends itself where
# somebody who is no administrator makes or deletes a database.
FORBIDDEN_BY_COUCHDB = {
    "purge": ("POST", "{db}/_purge", {"web01": ["{rev}"]}),
    "limit the revisions": ("PUT", "{db}/_revs_limit", 1),
    "make an index": ("POST", "{db}/_index", {"index": {"fields": ["a"]}}),
    "delete the database": ("DELETE", "{db}", None),
    "make a database": ("PUT", "{db}_mine", None),
    "read the logins of others": ("GET", "_users/org.couchdb.user:vogeler.test-writer", None),
    "make a login that writes": (
        "PUT",
        "_users/org.couchdb.user:vogeler.mine",
        {"name": "vogeler.mine", "password": "mine", "roles": ["vogeler"], "type": "user"},
    ),
    "give oneself a role": ("PUT", "_users/org.couchdb.user:vogeler.test-reader", {"roles": ["_admin", "vogeler"]}),
    "read the configuration": ("GET", "_node/_local/_config", None),
}


@pytest.mark.parametrize("user", ["vogeler.test-reader", "vogeler.test-stranger", ""])
@pytest.mark.parametrize("part", ["", "_status", "_history", "_audit"])
def test_others_than_writers_write_nothing(protected: Protected, user: str, part: str) -> None:
    db = f"/{protected.database}{part}"
    admin = protected.server
    written = admin.api("PUT", f"{db}/web01", {"here": True})
    names = {"db": db[1:], "rev": written["rev"], "access": admin.api("GET", f"{db}/_design/access")["_rev"]}
    before = [admin.api("GET", f"{db}/{what}") for what in ("_all_docs", "_security")]
    forbidden = {**FORBIDDEN, **(FORBIDDEN_BY_COUCHDB if IS_COUCHDB else {})}
    done = []
    for what, (method, path, content) in forbidden.items():
        body = json.loads(json.dumps(content).replace("{rev}", names["rev"]))
        status, said = protected.answer(user, method, "/" + path.format(**names), body)
        if status < 400 and not (isinstance(said, list) and all("error" in row for row in said)):
            done.append((what, status, said))
    assert done == []
    assert [admin.api("GET", f"{db}/{what}") for what in ("_all_docs", "_security")] == before


@pytest.mark.parametrize("user", ["vogeler.test-stranger", ""])
def test_who_is_no_member_reads_nothing(protected: Protected, user: str) -> None:
    for part in ("", "_status", "_history", "_audit"):
        for path in ("_all_docs", "_changes", "web01", "_security", "_design/access"):
            status, _ = protected.answer(user, "GET", f"/{protected.database}{part}/{path}")
            assert status in (401, 403), path


def test_a_writer_changes_no_rights(protected: Protected) -> None:
    for what in ("write a design document", "change who may what"):
        method, path, content = FORBIDDEN[what]
        status, _ = protected.answer("vogeler.test-writer", method, "/" + path.format(db=protected.database), content)
        assert status >= 400, what  # CouchDB 3.5 answers 500 for the latter


def test_who_was_let_in_before_stays_and_reads(
    access: Access, couchdb_with_logins: CouchServer, couch_url_with_logins: str
) -> None:
    database = couch_url_with_logins.rpartition("/")[2]
    theirs = {"admins": {"names": ["carol"], "roles": []}, "members": {"names": ["dave"], "roles": ["ops"]}}
    couchdb_with_logins.api("PUT", f"/{database}/_security", theirs)
    assert len(access.protect()) == 8  # of each database who may read, and who may write
    now = couchdb_with_logins.api("GET", f"/{database}/_security")
    assert now["admins"] == theirs["admins"]
    assert now["members"] == {"names": ["dave"], "roles": ["ops", WRITER, READER]}
    assert access.protect() == []


def test_a_login_is_made_and_deleted_once(access: Access) -> None:
    assert not access.has_user("vogeler.test-new")
    access.make_user("vogeler.test-new", PASSWORD, READER)
    assert access.has_user("vogeler.test-new")
    assert access.delete_user("vogeler.test-new")
    assert not access.delete_user("vogeler.test-new")
