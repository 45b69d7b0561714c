"""Records and status documents that somebody edited by hand: every question has an answer, and results are stored."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.persistence.examples import at, heartbeat, result
from tests.servers.couchdb import CouchServer
from vogeler import persistence
from vogeler.cli import admin
from vogeler.errors import ExitCode
from vogeler.messages import STORED
from vogeler.persistence import Document, Store
from vogeler.retention import Absentees

# Names for what somebody did to the node's documents: (record, status)
EDITED: dict[str, tuple[Document, Document]] = {
    "vogeler-3": ({"vogeler": 3}, {}),
    "vogeler-null": ({"vogeler": None, "created_at": 3, "updated_at": []}, {}),
    "keys-x": ({"vogeler": {"keys": "x"}}, {"keys": "x"}),
    "keys-null": ({"vogeler": {"keys": {"rpms": None}}}, {"keys": {"rpms": None, "dpkg": [], "x": 3}}),
    "keys-odd": (
        {"vogeler": {"keys": {"rpms": {"seq": "x", "stored_at": "soon", "digest": []}}}, "created_at": "2010"},
        {"keys": {"rpms": {"seq": "x", "ok_seq": {}, "checked_at": "tomorrow", "status": []}}},
    ),
    "forgotten-odd": ({"vogeler": {"keys": {}, "forgotten_at": []}}, {"keys": []}),
    "heard-yesterday": ({}, {"heard_at": "yesterday"}),
    "heard-never": ({}, {"heard_at": None, "keys": None}),
    "heard-odd": ({"created_at": None}, {"heard_at": {"a": 1}, "agent": None}),
    "agent-list": ({"rpms": None}, {"agent": [], "heard_at": 3}),
    "agent-odd": (
        {"dpkg": {"a": "1"}},
        {"agent": {"groups": {"a": 1}, "plugins": [3, None, {"key": [], "interval_s": 3}, {"interval_s": "x"}]}},
    ),
    "agent-words": ({}, {"agent": {"version": [], "started_at": "now", "groups": [1, None], "plugins": "x"}}),
}
GONE = "value-gone"  # whose value somebody took out


class Hand:
    """Somebody with Fauxton, or the sqlite3 shell."""

    def __init__(self, dbhost: str, couchdb: Callable[[], CouchServer]) -> None:
        self._url, self._couchdb = urlsplit(dbhost), couchdb

    def edit(self, table: str, node: str, change: Callable[[Document], Document]) -> None:
        """Put another document in the place of one; ``table``: records or status."""
        if self._url.scheme == "sqlite":
            with closing(sqlite3.connect(self._url.path)) as file, file:
                (body,) = file.execute(f"SELECT body FROM {table} WHERE node = ?", (node,)).fetchone()
                file.execute(
                    f"UPDATE {table} SET body = ? WHERE node = ?", (json.dumps(change(json.loads(body))), node)
                )
        else:
            path = f"{self._url.path}{'' if table == 'records' else '_status'}/{node}"
            self._couchdb().api("PUT", path, change(self._couchdb().api("GET", path)))


@pytest.fixture
def hand(dbhost: str, request: pytest.FixtureRequest) -> Hand:
    return Hand(dbhost, lambda: request.getfixturevalue("couchdb_server"))


@pytest.fixture
def edited(store: Store, hand: Hand) -> list[str]:
    """A node for each way to edit its documents, and one that nobody touched."""
    nodes = [*EDITED, GONE, "whole"]
    store.apply([message for node in nodes for message in (heartbeat(node), result(5, ["bash"], node))], at(0))
    for node, (record, status) in EDITED.items():
        hand.edit("records", node, lambda document, change=record: {**document, **change})  # type: ignore[misc]
        hand.edit("status", node, lambda document, change=status: {**document, **change})  # type: ignore[misc]
    hand.edit("records", GONE, lambda document: {k: v for k, v in document.items() if k not in ("rpms", "system_name")})
    return nodes


@pytest.fixture
def ask(
    dbhost: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> Iterator[Callable[..., tuple[int, str]]]:
    """vogeler-admin, in this process: its exit code and what it printed."""
    logger = logging.getLogger("vogeler")
    before = logger.handlers[:], logger.level, logger.propagate
    settings = {"DBHOST": dbhost, "QHOST": f"local://{tmp_path}/bus.db", "CONFIG": "/dev/null"}
    for name, value in settings.items():
        monkeypatch.setenv(f"VOGELER_{name}", value)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["vogeler-admin", *arguments])
        code = admin.main()
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    yield run
    logger.handlers[:], logger.level, logger.propagate = before


def test_a_node_is_shown_whatever_stands_in_its_documents(edited, ask):
    for node in edited:
        code, printed = ask("show", node)
        assert (code, printed.splitlines()[0].split()[:2]) == (ExitCode.OK, ["KEY", "HOLDS"]), node
        if node not in (GONE, "agent-list"):
            assert ask("show", node, "rpms") == (ExitCode.OK, "bash\n")
        code, printed = ask("show", node, "rpm")
        assert (code, f"{node} has no key 'rpm'" in printed) == (ExitCode.NOT_FOUND, True)
        assert ask("show", node, "rpms", "--at", "now") == (ExitCode.OK, "bash\n")
        code, printed = ask("show", node, "--at", "now")
        assert (code, printed.splitlines()[1].split()[:3]) == (ExitCode.OK, ["rpms", "1", "entry"])
    code, printed = ask("show", GONE, "rpms")
    assert (code, printed.splitlines()[0]) == (ExitCode.NOT_FOUND, f"vogeler-admin: {GONE} has no key 'rpms'")


def test_the_history_of_a_node_is_told_whatever_stands_in_its_documents(edited, ask):
    for node in edited:
        for key in ([], ["rpms"]):
            code, printed = ask("history", node, *key)
            assert code == ExitCode.OK
            assert "first time: 1 entry" in printed
        code, printed = ask("history", node, "rpm")
        assert (code, "never had a key 'rpm'" in printed) == (ExitCode.NOT_FOUND, True)
    assert len(ask("changes", "--since", "2020-01-01", "--format", "csv")[1].splitlines()) == len(edited) + 2
    assert ask("diff", "whole", GONE, "--format", "csv")[0] == ExitCode.OK


def test_nodes_and_doctor_count_a_node_whatever_stands_in_its_documents(edited, ask):
    code, printed = ask("nodes", "--format", "json")
    found = {row["node"]: row for row in json.loads(printed)}
    assert (code, found.keys()) == (ExitCode.OK, set(edited))
    assert {row["state"] for row in found.values()} == {"silent"}
    assert {node for node, row in found.items() if row["heard_at"] is None} == {
        "heard-yesterday", "heard-never", "heard-odd", "agent-list",
    }  # fmt: skip
    assert found["agent-words"]["groups"] == "1,None"
    assert ask("nodes")[0] == ask("nodes", "--stale", "1s", "--silent")[0] == ExitCode.OK
    _, printed = ask("doctor", "--format", "json")
    finding = next(row["finding"] for row in json.loads(printed) if row["check"] == "nodes")
    assert finding == f"{len(edited)} known, 0 late, {len(edited)} silent"


@pytest.mark.parametrize(
    "expression",
    [
        "rpms has bash",
        "seen > 1s",
        "checked(rpms) > 1s",
        "group = web",
        "name = *",
        "vogeler.keys = x",
        "*pms has bash",
    ],
)
def test_nodes_are_found_whatever_stands_in_their_documents(edited, ask, expression):
    code, printed = ask("find", expression, "--format", "csv", "--fields", "rpms")
    names = {line.partition(",")[0] for line in printed.splitlines()}
    assert ("whole" in names) is (not expression.startswith("vogeler"))
    assert code == (ExitCode.OK if "whole" in names else ExitCode.NOT_FOUND)


def test_results_and_heartbeats_mend_the_documents(edited, store):
    for node in edited:
        outcomes = store.apply([result(9, ["zsh"], node), heartbeat(node), result(9, "d", node, "dpkg")], at(10))
        assert [outcome.stage for outcome in outcomes] == [STORED] * 3
        assert store.record(node)["rpms"] == ["zsh"]
    found = {node.node: (node.heard_at, node.groups, node.problems) for node in store.nodes()}
    assert found.keys() == set(edited)
    assert set(found.values()) == {(at(10), ("web",), ())}
    assert Absentees(60.0).check({node.node: str(node.heard_at) for node in store.nodes()}) == []
    assert all(store.forget(node, "alice", at(20)) for node in edited)


def test_a_body_that_is_no_json_object_is_an_empty_document(sqlite_url):
    with closing(persistence.connect(sqlite_url)) as store:
        store.apply([heartbeat(node) for node in ("a", "b", "c")], at(0))
        store.apply([result(1, "x", "a"), result(1, "x", "b")], at(0))
        with closing(sqlite3.connect(sqlite_url.partition("://")[2])) as file, file:
            for table, body in (("records", "{oops"), ("status", "[1]")):
                file.execute(f"UPDATE {table} SET body = ? WHERE node = 'a'", (body,))
        assert (store.record("a"), store.status("a")) == ({"_id": "a"}, {"_id": "a"})
        assert [node.node for node in store.nodes()] == ["a", "b", "c"]
        assert [record["_id"] for record in store.records()] == ["a", "b"]
        store.apply([result(2, "y", "a")], at(10))
        assert store.record("a")["rpms"] == "y"
