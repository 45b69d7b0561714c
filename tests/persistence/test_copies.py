"""What a server remembers of documents is never taken for what is stored, whoever has changed that meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given

from tests.persistence.examples import at, heartbeat, held, result
from tests.persistence.proxy import Exchange
from tests.persistence.test_couch import between
from tests.persistence.test_properties import KEYS, Play, _in_order, _plain, _steps, seldom, sqlite_store
from tests.servers.couchdb import CouchServer
from vogeler import persistence
from vogeler.errors import StoreUnavailable
from vogeler.messages import STORED, UNCHANGED, Heartbeat
from vogeler.persistence import LATE, Document, Store
from vogeler.persistence._couch_copies import Copies, packed, without_values
from vogeler.persistence._texts import LEFT_OUT, Texts, unpacked

__all__ = ["sqlite_store"]  # the fixture
LARGE = {f"package{number}": f'{number}.ä "quoted" \\ 🐧' for number in range(100)}
ALSO_LARGE = [f"line {number}" for number in range(200)]
_number = itertools.count()


Edit = Callable[[str, Callable[[Document], Document]], None]


@pytest.fixture
def edit(couchdb_server: CouchServer, couch_url: str) -> Edit:
    """Somebody with Fauxton puts another document in the place of web01's."""

    def put(database: str, change: Callable[[Document], Document]) -> None:
        path = f"{urlsplit(couch_url).path}{database}/web01"
        couchdb_server.api("PUT", path, change(couchdb_server.api("GET", path)))

    return put


@pytest.fixture
def delete(couchdb_server: CouchServer, couch_url: str) -> Callable[[str], None]:
    """Somebody with Fauxton deletes web01's document."""

    def gone(database: str) -> None:
        path = f"{urlsplit(couch_url).path}{database}/web01"
        couchdb_server.api("DELETE", f"{path}?rev={couchdb_server.api('GET', path)['_rev']}")

    return gone


def values(store: Store, key: str = "rpms") -> list[Any]:
    """Newest first."""
    return [change["value"] for change in store.history("web01", key)]


@pytest.mark.parametrize("warm", [1, 2, 3])
def test_a_record_edited_by_hand_is_read_before_a_result_is_called_unchanged(couch_store, edit, warm):
    for seq in range(warm):
        couch_store.apply([result(seq, LARGE), result(seq, "x", key="dpkg")], at(seq))
    edit("", lambda record: {name: value for name, value in record.items() if name != "rpms"})
    (outcome,) = couch_store.apply([result(10, LARGE)], at(10))
    assert outcome.stage == STORED
    assert couch_store.record("web01")["rpms"] == LARGE


def test_what_a_hand_wrote_beside_the_values_stays(couch_store, edit):
    couch_store.apply([result(1, LARGE), result(1, ALSO_LARGE, key="dpkg")], at(1))
    edit("", lambda record: {**record, "note": "mine", "dpkg": "edited"})
    assert couch_store.apply([result(2, "new")], at(2))[0].stage == STORED
    edit("_status", lambda status: {**status, "note": "mine, too"})
    assert couch_store.apply([result(3, "new"), heartbeat()], at(3))[0].stage == UNCHANGED
    record, status = couch_store.record("web01"), couch_store.status("web01")
    assert (record["note"], record["dpkg"], record["rpms"]) == ("mine", "edited", "new")
    assert (status["note"], status["agent"]["version"], status["keys"]["rpms"]["seq"]) == ("mine, too", "2.0", 3)


def test_a_digest_edited_by_hand_counts(couch_store, edit):
    couch_store.apply([result(1, LARGE)], at(1))
    couch_store.apply([result(2, LARGE)], at(2))

    def no_digest(record: Document) -> Document:
        del record["vogeler"]["keys"]["rpms"]["digest"]
        return record

    edit("", no_digest)
    assert couch_store.apply([result(3, LARGE)], at(3))[0].stage == STORED
    assert values(couch_store) == [LARGE, LARGE]


@pytest.mark.parametrize("databases", [[""], ["_status"], ["", "_status"]])
def test_a_document_deleted_by_hand_is_made_again(couch_store, delete, databases):
    couch_store.apply([result(1, LARGE), heartbeat()], at(1))
    couch_store.apply([result(2, LARGE)], at(2))
    for database in databases:
        delete(database)
    (outcome,) = couch_store.apply([result(3, LARGE)], at(3))
    assert outcome.stage == (STORED if "" in databases else UNCHANGED)
    assert couch_store.record("web01")["rpms"] == LARGE
    assert couch_store.status("web01")["heard_at"] == at(3)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [([result(3, LARGE)], LARGE), ([heartbeat()], None), ([result(3, status="failed")], None)],
    ids=["result", "heartbeat", "failure"],
)
def test_a_node_that_another_server_forgot_returns(couch_store, other, batch, expected):
    couch_store.apply([result(1, LARGE), heartbeat()], at(1))
    couch_store.apply([result(2, LARGE)], at(2))
    assert other.forget("web01", "alice", at(10))
    couch_store.apply(batch, at(20))
    assert [entry["event"] for entry in couch_store.absences("web01")] == ["returned", "forgotten"]
    assert couch_store.status("web01")["heard_at"] == at(20)
    assert (couch_store.record("web01") or {}).get("rpms") == expected
    assert held(couch_store.history("web01"), at(30)) == expected


@pytest.mark.parametrize("databases", [["", "_status", "_history"], [""], ["_status"]])
def test_databases_deleted_and_made_again_are_filled_again(couch_store, couchdb_server, couch_url, databases):
    batch = [message for n in range(5) for message in (result(1, LARGE, f"web0{n}"), heartbeat(f"web0{n}"))]
    couch_store.apply(batch, at(1))
    couch_store.apply([result(2, LARGE, f"web0{n}") for n in range(5)], at(2))
    for database in databases:
        couchdb_server.api("DELETE", f"{urlsplit(couch_url).path}{database}")
    couch_store.setup()
    outcomes = couch_store.apply([result(3, LARGE, f"web0{n}") for n in range(5)], at(3))
    assert {outcome.stage for outcome in outcomes} == {STORED if "" in databases else UNCHANGED}
    for node in (f"web0{n}" for n in range(5)):
        assert couch_store.record(node)["rpms"] == LARGE
        assert couch_store.status(node)["heard_at"] == at(3)
        assert held(couch_store.history(node, "rpms"), at(3)) == LARGE


def test_two_servers_that_take_turns_with_a_node_lose_nothing(couch_store, other):
    for seq in range(1, 20, 2):
        assert couch_store.apply([result(seq, {**LARGE, "n": seq})], at(seq))[0].stage == STORED
        batch = [result(seq + 1, {**LARGE, "n": seq}), result(seq + 1, [seq] * 200, key="dpkg")]
        assert [outcome.stage for outcome in other.apply(batch, at(seq))] == [UNCHANGED, STORED]
    record = couch_store.record("web01")
    assert (record["rpms"], record["dpkg"]) == ({**LARGE, "n": 19}, [19] * 200)
    assert values(couch_store) == [{**LARGE, "n": seq} for seq in range(19, 0, -2)]
    assert couch_store.status("web01")["keys"]["rpms"]["ok_seq"] == 20


def test_that_another_server_confirmed_a_value_makes_an_older_one_late(couch_store, other):
    """Its confirmation is in the status alone."""
    couch_store.apply([result(1, "a")], at(1))
    other.apply([result(10, "a")], at(2))
    (outcome,) = couch_store.apply([result(8, "b")], at(3))
    assert outcome.reason == LATE
    assert couch_store.record("web01")["rpms"] == "a"


@pytest.mark.parametrize("database", ["_history", "", "_status"])
def test_what_another_server_writes_behind_a_copy_is_kept(couch_url, other, database):
    """Both have copies; the other one writes just before our write."""
    meanwhile: list[Any] = []

    def interfere(exchange: Exchange) -> None:
        if meanwhile and exchange.path == f"{urlsplit(couch_url).path}{database}/_bulk_docs":
            other.apply(meanwhile.pop(), at(9))
        exchange.pass_on()

    with between(couch_url, interfere) as (store, _):
        for seq in (1, 2):
            for each in (store, other):
                each.apply([result(seq, LARGE), result(seq, LARGE, key="dpkg"), heartbeat()], at(seq))
        meanwhile.append([result(8, status="failed"), result(7, ALSO_LARGE, key="dpkg"), heartbeat(version="3")])
        outcomes = store.apply([result(5, "mine"), result(5, LARGE, key="dpkg")], at(8))
        assert [outcome.stage for outcome in outcomes] in ([STORED, UNCHANGED], [STORED, STORED])
        record, status = store.record("web01"), store.status("web01")
        assert (record["rpms"], record["dpkg"]) == ("mine", ALSO_LARGE)
        assert (status["keys"]["rpms"]["seq"], status["agent"]["version"], meanwhile) == (8, "3", [])


def test_values_that_were_not_read_are_written_as_they_were(couch_store, couch_url):
    """A server that was just started reads without values; the next change of another key needs them."""
    written = {"rpms": LARGE, "dpkg": ALSO_LARGE, "text": "ü" * 5000, "none": None, "empty": {}}
    couch_store.apply([result(1, value, key=key) for key, value in written.items()], at(1))
    with closing(persistence.connect(couch_url)) as fresh:
        assert fresh.apply([result(2, LARGE)], at(2))[0].stage == UNCHANGED
        fresh.apply([result(2, "x", key="facter")], at(3))
        fresh.apply([result(3, "y", key="facter"), result(3, {**LARGE, "new": 1})], at(4))
        record = couch_store.record("web01")
    assert {key: record[key] for key in written} == {**written, "rpms": {**LARGE, "new": 1}}
    assert record["facter"] == "y"


@pytest.mark.parametrize("database", ["", "_status", "_history"])
@pytest.mark.parametrize("kind", ["result", "heartbeat"])
def test_a_write_that_fails_for_now_leaves_no_half_of_a_document(couch_url, database, kind):
    """What was read is not all kept; what is written next must be whole."""
    broken: list[str] = []

    def refuse(exchange: Exchange) -> None:
        if exchange.path in broken:
            exchange.reply(503, b'{"error":"busy","reason":"later"}')
        else:
            exchange.pass_on()

    with between(couch_url, refuse) as (store, _):
        store.setup()
        agent = {"version": "1", "started_at": at(0), "plugins": [{"name": f"p{n}", "key": "k"} for n in range(99)]}
        store.apply([Heartbeat("web01", agent), result(1, LARGE), result(1, ALSO_LARGE, key="dpkg")], at(0))
    with between(couch_url, refuse) as (store, _):  # one that was just started
        for seq, value in ((2, LARGE), (3, "x"), (4, LARGE)):
            batch = [heartbeat("web02"), Heartbeat("web01", agent) if kind == "heartbeat" else result(seq, value)]
            broken.append(f"{urlsplit(couch_url).path}{database}/_bulk_docs")
            with suppress(StoreUnavailable):
                store.apply(batch, at(seq))
            broken.clear()
            store.apply(batch, at(seq))
        record, status = store.record("web01"), store.status("web01")
        assert (record["rpms"], record["dpkg"], status["agent"]) == (LARGE, ALSO_LARGE, agent)


def test_volatile_paths_are_compared_with_the_value_that_is_stored(couch_store):
    value = {**LARGE, "free": 1}
    about = {"volatile": ["free"]}
    couch_store.apply([result(1, value, **about)], at(1))
    for seq in (2, 3, 4):
        value = {**LARGE, "free": seq // 2}
        rev = couch_store.record("web01")["_rev"]
        assert couch_store.apply([result(seq, value, **about)], at(seq))[0].stage == UNCHANGED
        assert couch_store.record("web01")["rpms"] == value
        assert (couch_store.record("web01")["_rev"] == rev) is (seq < 4)


# --- the copies themselves ------------------------------------------------------------------------


def test_copies_are_the_documents_last_used_and_never_more_than_the_limit():
    copies, texts = Copies(100_000), Texts()
    for number in range(1000):
        noise = [hash((number, n)) for n in range(50)]
        document = {"_id": f"web{number}", "rpms": noise, "vogeler": {"keys": {"rpms": {"seq": 1}}}}
        copies.keep("1-x", packed(document, texts))
        copies.get("web0")
        assert copies.size_bytes <= 100_000
    assert copies.rev("web0") == copies.rev("web999") == "1-x"
    assert copies.rev("web1") is None
    assert 10 < len(copies) < 1000
    copies.keep("1-x", packed({"_id": "huge", "rpms": [hash((1, n)) for n in range(100_000)]}, texts))
    assert (len(copies), copies.size_bytes) == (0, 0)


def test_a_copy_is_the_document():
    document = {"_id": "web01", "_rev": "1-x", "rpms": LARGE, "note": "\ud800", "n": 0.5, "vogeler": {"keys": LARGE}}
    copies = Copies(100_000)
    copies.keep("2-x", packed(document, Texts()))
    copy = copies.get("web01")
    assert {name: unpacked(value) for name, value in copy.items()} == {**document, "_rev": "2-x"}
    assert copy["vogeler"] == {"keys": LARGE}
    copies.keep("1-x", without_values(document))
    assert copies.get("web01") == {**document, "rpms": LEFT_OUT}
    copies.drop(["web01", "nobody"])
    assert copies.rev("web01") is None
    assert copies.size_bytes == 0


def test_a_node_with_a_long_name_is_stored(couch_store):
    name = "n" * 253
    for seq, stage in ((1, STORED), (2, UNCHANGED)):
        assert couch_store.apply([result(seq, LARGE, name), heartbeat(name)], at(seq))[0].stage == stage
    couch_store.apply([result(3, "x", name, key="dpkg")], at(3))
    assert couch_store.record(name)["rpms"] == LARGE


@pytest.mark.parametrize("limit_bytes", [0, 2_000, 20_000])
def test_a_store_without_room_for_copies_stores_the_same(couch_url, monkeypatch, limit_bytes):
    monkeypatch.setattr("vogeler.persistence.couch._COPIES_BYTES", limit_bytes)
    with closing(persistence.connect(couch_url)) as store:
        store.setup()
        for seq, stage in ((1, STORED), (2, UNCHANGED), (3, STORED)):
            batch = [
                result(seq, {**LARGE, "n": seq > 2}, f"web{n}", key) for n in range(30) for key in ("rpms", "dpkg")
            ]
            assert {outcome.stage for outcome in store.apply(batch, at(seq))} == {stage}
        assert store.record("web7")["rpms"] == store.record("web29")["dpkg"] == {**LARGE, "n": True}


class Turns:
    """Several servers, which take turns."""

    def __init__(self, *stores: Store) -> None:
        self._stores = itertools.cycle(stores)

    def __getattr__(self, name: str) -> Any:
        return getattr(next(self._stores), name)


# A node that never had a record is forgotten; what comes of it after that is of another life.
_FORGOTTEN_WITHOUT_A_RECORD = [
    (5, [(0, "alpha", 0, None, "ok"), (1, "alpha", 0, None, "failed")]),
    (5, 1),
    (5, [(0, "alpha", 0, None, "ok"), (0, "alpha", 0, None, "ok"), (1, "alpha", 0, None, "failed")]),
    (5, [(1, "alpha", 0, None, "ok")]),
]


@pytest.mark.parametrize("large", [0, 200])
@seldom
@example(steps=_FORGOTTEN_WITHOUT_A_RECORD)
@given(steps=_steps)
def test_servers_that_take_turns_store_what_one_without_copies_does(
    sqlite_store, couch_store, couch_url, monkeypatch, large, steps
):
    monkeypatch.setattr("vogeler.persistence._couch_copies._LARGE", large)
    monkeypatch.setattr("vogeler.persistence._texts._COMPRESSED_FROM", 20 * large)
    monkeypatch.setattr("vogeler.persistence._texts._AS_TEXT", range(large or 1, 10**6))
    name = f"turns{next(_number)}"
    with closing(persistence.connect(couch_url)) as another:
        plays = [Play(store, name) for store in (sqlite_store, Turns(couch_store, couch_store, another))]
        answers = [
            (
                play.run(steps),
                [{node: _plain(record) for node, record in snapshot.items()} for snapshot in play.snapshots],
                [_plain(play.store.status(node) or {}) for node in play.nodes],
                [_in_order(play.store.history(node, key)) for node in play.nodes for key in KEYS],
                [_in_order(play.store.absences(node)) for node in play.nodes],
            )
            for play in plays
        ]
    assert answers[0] == answers[1]


# --- large values in the history ------------------------------------------------------------------


def test_a_large_value_is_one_text_in_the_history(couch_store, couchdb_server, couch_url):
    couch_store.apply([result(1, LARGE), result(1, {"small": 1}, key="dpkg"), result(1, "x" * 5000, key="text")], at(1))
    rows = couchdb_server.api("GET", f"{urlsplit(couch_url).path}_history/_all_docs?include_docs=true")["rows"]
    stored = {row["doc"]["key"]: row["doc"] for row in rows if "key" in row["doc"]}
    assert {key: [name for name in document if name.startswith("value")] for key, document in stored.items()} == {
        "rpms": ["value_json"],
        "dpkg": ["value"],
        "text": ["value"],
    }
    for change in (*couch_store.history("web01", "rpms"), *couch_store.changes_named([stored["rpms"]["_id"]]).values()):
        assert change["value"] == LARGE
        assert "value_json" not in change


def test_large_values_of_versions_before_are_read_and_corrected(couch_store, couchdb_server, couch_url):
    """And a text that somebody edited by hand is shown as it is."""
    couch_store.apply([result(1, LARGE), result(2, ALSO_LARGE)], at(1))
    path = f"{urlsplit(couch_url).path}_history"
    newer, older = (change["_id"] for change in couch_store.history("web01", "rpms"))
    for name, edited in ((newer, {"value": ALSO_LARGE}), (older, {"value_json": "{oops"})):
        document = couchdb_server.api("GET", f"{path}/{name}")
        del document["value_json"]
        couchdb_server.api("PUT", f"{path}/{name}", {**document, **edited})
    assert values(couch_store) == [ALSO_LARGE, "{oops"]
