"""What every store must do. A new store is tested by all of this as soon as its file is there."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Optional

import pytest

from tests.persistence.examples import EARLIER, LATER, at, deep, heartbeat, held, result
from vogeler import persistence
from vogeler.leaves import record_leaves
from vogeler.messages import FAILED, OMITTED, REFUSED, STORED, UNAVAILABLE, UNCHANGED, Heartbeat, Result, digest_of
from vogeler.persistence import Document, NodeSummary, Store
from vogeler.units import to_timestamp

Feed = Iterator[tuple[str, Optional[Document]]]


def stages(outcomes: list[persistence.Outcome]) -> list[str]:
    return [outcome.stage for outcome in outcomes]


def changes(store: Store, node: str = "web01", key: str = "rpms") -> list[object]:
    return [change["value"] for change in store.history(node, key)]


# --- one node -------------------------------------------------------------------------------------


def test_the_first_result_makes_record_status_and_history(store):
    assert stages(store.apply([result(1, ["bash"])], EARLIER)) == [STORED]
    record, status = store.record("web01"), store.status("web01")
    assert record["_id"] == record["system_name"] == "web01"
    assert record["created_at"] == record["updated_at"] == EARLIER
    assert record["rpms"] == ["bash"]
    assert record["vogeler"]["keys"]["rpms"]["requested_by"] == "alice@ops1"
    assert status["node"] == "web01"
    assert status["heard_at"] == EARLIER
    assert status["keys"]["rpms"]["status"] == "ok"
    (change,) = store.history("web01", "rpms")
    assert (change["node"], change["key"], change["value"], change["seq"]) == ("web01", "rpms", ["bash"], 1)


def test_the_statuses_of_some_nodes_are_those_that_there_are_by_name(store):
    names = [f"n{number:03}" for number in range(120)]  # more than a page
    store.apply([result(1, ["bash"], node) for node in reversed(names)], EARLIER)
    assert list(store.statuses([])) == []
    asked = ["n007", "nobody", "n119", "n007", "n000"]
    assert list(store.statuses(asked)) == [store.status(node) for node in ("n000", "n007", "n119")]
    assert [status["_id"] for status in store.statuses(set(names))] == names


def omitting(seq: int, value: object, **fields: object) -> Result:
    return replace(result(seq, value, **fields), value=OMITTED)


def test_a_value_that_is_left_out_is_the_stored_one_by_its_digest(store):
    store.apply([result(1, ["bash"])], EARLIER)
    record = store.record("web01")
    assert stages(store.apply([omitting(2, ["bash"])], LATER)) == [UNCHANGED]
    assert store.record("web01") == record
    assert store.status("web01")["keys"]["rpms"]["run"] == "run-2"
    assert changes(store) == [["bash"]]


@pytest.mark.parametrize("stored", [None, ["zsh"]])
def test_a_value_that_is_left_out_and_is_not_the_stored_one_is_wanted_and_no_check(store, stored):
    """It has to be sent in full, and counts then, also under the number it had."""
    if stored is not None:
        store.apply([result(1, stored)], EARLIER)
    record, checks = store.record("web01"), (store.status("web01") or {}).get("keys", {})
    (outcome,) = store.apply([omitting(2, ["bash"])], LATER)
    assert (outcome.stage, outcome.wanted, outcome.refused) == (FAILED, True, False)
    assert "ask for it in full" in outcome.reason
    assert store.record("web01") == record
    assert store.status("web01")["heard_at"] == LATER
    assert store.status("web01")["keys"] == checks
    assert stages(store.apply([result(2, ["bash"])], LATER)) == [STORED]
    assert store.record("web01")["rpms"] == ["bash"]


def test_a_value_that_is_left_out_after_the_node_was_forgotten_is_wanted(store):
    store.apply([result(1, ["bash"])], EARLIER)
    assert store.forget("web01", "alice@ops1", LATER)
    assert store.apply([omitting(2, ["bash"])], at(4_000_000))[0].wanted
    assert store.record("web01") is None


def test_a_value_that_is_left_out_leaves_the_volatile_paths_as_they_are(store):
    store.apply([result(1, {"a": 1, "free": 5}, volatile=["free"])], EARLIER)
    outcomes = store.apply([omitting(2, {"a": 1, "free": 6}, volatile=["free"])], LATER)
    assert stages(outcomes) == [UNCHANGED]
    assert store.record("web01")["rpms"] == {"a": 1, "free": 5}


def test_an_equal_result_does_not_rewrite_the_record(store):
    store.apply([result(1, ["bash"])], EARLIER)
    before = store.record("web01")
    assert stages(store.apply([result(2, ["bash"])], LATER)) == [UNCHANGED]
    assert store.record("web01") == before  # in CouchDB with its _rev
    assert store.status("web01")["heard_at"] == LATER
    assert changes(store) == [["bash"]]


def test_the_same_facts_in_another_order_are_the_same_facts(store):
    store.apply([result(1, {"os": "Debian", "net": {"a": 1, "b": 2}})], EARLIER)
    assert stages(store.apply([result(2, {"net": {"b": 2, "a": 1}, "os": "Debian"})], LATER)) == [UNCHANGED]


@pytest.mark.parametrize(
    ("status", "stage"),
    [
        ("failed", FAILED),
        ("timeout", FAILED),
        ("too_large", FAILED),
        ("unparsable", FAILED),
        ("unavailable", UNAVAILABLE),
    ],
)
def test_a_plugin_that_fails_keeps_the_last_good_value_and_the_status_says_so(store, status, stage):
    store.apply([result(1, "good")], EARLIER)
    assert stages(store.apply([result(2, status=status, error="why")], LATER)) == [stage]
    assert store.record("web01")["rpms"] == "good"
    check = store.status("web01")["keys"]["rpms"]
    assert (check["status"], check["error"], check["seq"]) == (status, "why", 2)


def test_a_node_whose_first_plugin_fails_has_a_status_and_no_record(store):
    assert stages(store.apply([result(1, status="failed")], EARLIER)) == [FAILED]
    assert store.record("web01") is None
    assert [node.node for node in store.nodes()] == ["web01"]


def test_a_redelivered_batch_changes_nothing_and_says_what_it_said(store):
    batch = [result(1, "a"), heartbeat(), result(2, "b", key="facter"), result(3, status="failed", key="dpkg")]
    first = store.apply(batch, EARLIER)
    before = store.record("web01"), store.status("web01")["keys"], list(store.history("web01"))
    assert store.apply(batch, LATER) == first
    assert (store.record("web01"), store.status("web01")["keys"], list(store.history("web01"))) == before


def test_an_older_result_goes_to_the_history_only(store):
    store.apply([result(5, "new")], EARLIER)
    (outcome,) = store.apply([result(4, "old")], LATER)
    assert outcome.stage == STORED
    assert "older" in outcome.reason
    assert store.record("web01")["rpms"] == "new"
    assert store.status("web01")["keys"]["rpms"]["seq"] == 5
    assert [(change["value"], change.get("late")) for change in store.history("web01")] == [
        ("old", True),
        ("new", None),
    ]


def test_outcomes_are_in_the_order_of_the_batch(store):
    batch = [
        result(1, "a", "web01"),
        result(1, "a", "web02"),
        result(2, "a", "web01"),
        heartbeat("web03"),
        result(2, status="failed", node="web02"),
        result(-1, "refused", "web02"),
        result(1, status="unavailable", node="web01", key="zfs"),
    ]
    expected = [STORED, STORED, UNCHANGED, STORED, FAILED, REFUSED, UNAVAILABLE]
    assert stages(store.apply(batch, EARLIER)) == expected


def test_several_changes_of_a_key_in_one_batch_are_all_in_the_history(store):
    store.apply([result(seq, f"v{seq}") for seq in (1, 2, 3)], EARLIER)
    assert store.record("web01")["rpms"] == "v3"
    assert changes(store) == ["v3", "v2", "v1"]


def test_an_empty_batch_is_no_matter(store):
    assert store.apply([], EARLIER) == []


# --- values, keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "",
        None,
        False,
        0,
        [],
        {},
        "Grüße, Жизнь, 你好, 🐧, \u0000, \u2028, \\, \"",
        {"ключ": "значение", "🔑": 1, "": 2, "_id": "x", "_rev": "y", "a.b": 3, "a/b": 4},
        2**53 - 1,
        -1,
        [0.1, 1e-7, 1.5e300, -2.5],
        deep(100),
        ["x" * 1000] * 200,
    ],
    ids=lambda value: ascii(value)[:30],
)  # fmt: skip
def test_a_value_comes_back_as_it_was(store, value):
    assert stages(store.apply([result(1, value)], EARLIER)) == [STORED]
    found = store.record("web01")["rpms"]
    assert found == value
    assert digest_of(found) == digest_of(value)
    assert changes(store) == [value]


@pytest.mark.parametrize("key", ["a b", "net:eth0", "a+b@c", "größe", "x.y-z"])
def test_any_key_can_be_stored_and_looked_up(store, key):
    store.apply([result(1, "v", key=key), result(1, "other", key=key[:-1]), result(1, "x", key=key + "x")], EARLIER)
    assert store.record("web01")[key] == "v"
    assert changes(store, key=key) == ["v"]
    assert key in store.status("web01")["keys"]


@pytest.mark.parametrize("node", ["_all_docs", "_design", "", "no such node", "a/b", "../x", "web01?x=1"])
def test_asking_for_what_is_not_there_gives_nothing(store, node):
    """Whatever somebody types after ``show``."""
    store.apply([heartbeat()], EARLIER)
    assert store.record(node) is None
    assert store.status(node) is None
    assert list(store.history(node)) == []
    assert list(store.history(node, "rpms")) == []


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(result(2, deep(300), key="facter"), id="nested too deep"),
        pytest.param(result(2, float("nan"), key="facter", digest="sha256:0"), id="no JSON"),
    ],
)
def test_one_message_that_is_refused_stops_neither_its_node_nor_the_batch(store, bad):
    batch = [result(1, "a"), bad, result(3, "b", key="dpkg"), result(1, "c", "web02")]
    outcomes = store.apply(batch, EARLIER)
    assert stages(outcomes) == [STORED, REFUSED, STORED, STORED]
    assert [outcome.refused for outcome in outcomes] == [False, True, False, False]
    assert outcomes[1].reason
    assert [change["value"] for change in store.history("web01", "facter")] == []
    assert sorted(store.record("web01").keys() & {"rpms", "facter", "dpkg"}) == ["dpkg", "rpms"]
    assert store.record("web02")["rpms"] == "c"


# --- many nodes -----------------------------------------------------------------------------------


def test_nodes_tells_of_each_node_what_the_listings_show(store):
    failed, absent = result(1, status="failed", key="zz"), result(1, status="unavailable", key="yy")
    store.apply([heartbeat(groups=("web", "dmz")), failed, absent, result(2, "x", "web02")], EARLIER)
    checked = {"zz": failed.collected_at, "yy": absent.collected_at}
    web01 = NodeSummary("web01", EARLIER, "2.0", EARLIER, ("web", "dmz"), ("zz",), checked)
    web02 = NodeSummary("web02", EARLIER, None, None, (), (), {"rpms": to_timestamp(2)})
    assert list(store.nodes()) == [web01, web02]


def test_nodes_tells_how_often_a_key_is_collected_by_itself(store):
    offers = [("a", 60.0), ("b", None), ("twice", 3600), ("twice", 0.5), ("c", 86400.0)]
    plugins = [{"name": f"p{number}", "key": key, "interval_s": s} for number, (key, s) in enumerate(offers)]
    store.apply([Heartbeat("web01", {"plugins": plugins}), heartbeat("web02")], EARLIER)
    assert [dict(node.intervals) for node in store.nodes()] == [{"a": 60.0, "twice": 0.5, "c": 86400.0}, {}]


def test_a_batch_of_300_nodes_and_listings_of_several_pages(store, monkeypatch):
    """Nothing is missing or double at the edge of a page."""
    monkeypatch.setattr(f"{type(store).__module__}._PAGE", 100)
    monkeypatch.setattr(f"{type(store).__module__}._DOCUMENTS_PAGE", 100)
    monkeypatch.setattr(f"{type(store).__module__}._ROWS_PAGE", 70, raising=False)
    names = [f"node{number:03d}" for number in range(300)]
    batch = [message for name in names for message in (result(1, name, name), heartbeat(name))]
    assert set(stages(store.apply(batch, EARLIER))) == {STORED}
    assert [summary.node for summary in store.nodes()] == list(store.names()) == names
    assert store.record("node299")["rpms"] == "node299"
    assert [(record["_id"], record["rpms"]) for record in store.records()] == [(name, name) for name in names]
    asked = [*names[250:], "nobody", *names[:20], names[3]]
    assert [record["_id"] for record in store.records(asked)] == sorted([*names[250:], *names[:20]])
    assert list(store.records([])) == []
    assert [(change["node"], change["value"]) for change in store.changes(EARLIER)] == [(n, n) for n in names[::-1]]


def test_the_history_of_all_keys_is_sorted_by_time_newest_first(store, monkeypatch):
    monkeypatch.setattr(f"{type(store).__module__}._PAGE", 3)
    batch = [result(seq, seq, key="rpms" if seq % 2 else "facter") for seq in range(1, 11)]
    store.apply([*batch, result(5, "of another node", "web011"), result(5, "of another node", "web0")], EARLIER)
    assert [change["value"] for change in store.history("web01")] == list(range(10, 0, -1))
    assert changes(store, key="rpms") == [9, 7, 5, 3, 1]


def test_writing_while_a_listing_is_read_disturbs_neither(store, monkeypatch):
    monkeypatch.setattr(f"{type(store).__module__}._PAGE", 2)
    store.apply([heartbeat(f"node{number}") for number in range(6)], EARLIER)
    seen = []
    for summary in store.nodes():
        store.apply([heartbeat(summary.node)], LATER)
        seen.append(summary.node)
    assert seen == [f"node{number}" for number in range(6)]


# --- leaves: the index of what is in the records --------------------------------------------------

VALUES = {
    "text": "ü", "quoted": '"1"', "one": 1, "true": True, "digits": "1", "float": 0.5, "whole": 2.0, "huge": 2**70,
    "minus": -3, "nothing": None, "empty": {}, "list": [], "zero": 0, "no": False, "a.b": {"c.d": "dots"},
    "twice": ["x", "x", ["y", ["x"]]], "ports": [{"port": 1}, {"port": 2, "open": []}], "": "no name",
}  # fmt: skip


def typed(found):
    """In Python ``True == 1 == 1.0``; in a record they differ."""
    return sorted((path, node, type(value).__name__, repr(value)) for path, node, value in found)


def test_the_index_holds_every_leaf_of_every_record(store):
    store.apply([result(1, VALUES, node, key) for node in ("web01", "web02") for key in ("facter", "fac")], EARLIER)
    every = set(record_leaves({"fac": VALUES, "facter": VALUES}))
    expected = [(path, node, value) for path, value in every for node in ("web01", "web02")]
    assert typed(store.leaves("f")) == typed(expected)
    assert typed(store.leaves("facter.p")) == typed(leaf for leaf in expected if leaf[0].startswith("facter.p"))
    for path in ("facter", "facter.ports", "facter.a", "facter.a.b", "facter.o", "fac", "nothing"):
        within = [leaf for leaf in expected if leaf[0] == path or leaf[0].startswith(f"{path}.")]
        assert typed(store.leaves_within(path)) == typed(within)
    assert [row[:2] for row in store.leaves("facter.one", exact=True)] == [
        ("facter.one", n) for n in ("web01", "web02")
    ]
    assert list(store.leaves("facter", exact=True)) == []
    assert list(store.leaves("system_name")) == list(store.leaves("vogeler")) == []


def test_the_index_follows_the_record(store):
    store.apply([result(1, {"bash": "5.1", "zsh": "5.9"}), result(1, ["a", "b"], key="jmx")], EARLIER)
    store.apply(
        [result(2, {"bash": "5.2", "dash": "0.5"}), result(2, "down", key="jmx"), result(1, 0, "web02")], EARLIER
    )
    assert sorted(store.leaves("rpms."), key=str) == [("rpms.bash", "web01", "5.2"), ("rpms.dash", "web01", "0.5")]
    assert list(store.leaves("jmx")) == [("jmx", "web01", "down")]
    store.apply([result(1, "late"), result(3, status="failed")], LATER)
    assert sorted(store.leaves("rpms"), key=str)[0] == ("rpms", "web02", 0)
    store.forget("web01", "alice", LATER)
    assert list(store.leaves("rpms")) == [("rpms", "web02", 0)]
    assert list(store.leaves("jmx")) == []


def test_a_path_is_found_as_it_is_written_and_no_other(store):
    """CouchDB's order is that of people: upper and lower case, accents, dashes side by side."""
    names = [
        "a",
        "A",
        "ab",
        "aB",
        "Ab",
        "ä",
        "a-b",
        "a_b",
        "a b",
        "b",
        "á",
        "a.",
        "z",
        "Z",
        "ab\u0301",
        "æ",
        "ａ",
        "字",
        "🐧",
        "🐧🐧",
        "l",
        "li",
        "lib",
        "lib.x",
        "libs",
        "libssl3",
        "libx",
        "lib🐧",
        "limit",
    ]
    store.apply([result(1, {name: position for position, name in enumerate(names)}, key="k")], EARLIER)
    for prefix in names:
        found = [path[2:] for path, _, _ in store.leaves("k." + prefix)]
        assert sorted(found) == sorted(name for name in names if name.startswith(prefix))
        assert [path for path, _, _ in store.leaves("k." + prefix, exact=True)] == ["k." + prefix]


@pytest.mark.parametrize("name", ["constructor", "toString", "hasOwnProperty"])
def test_a_name_that_means_something_in_javascript_is_a_name(store, name):
    below = {name: 1, f"{name}.x": 2, "more": {name: [3, {name: 4}]}}
    store.apply([result(1, below, key=name), result(2, "text", "web02", name)], EARLIER)
    expected = [(path, "web01", value) for path, value in record_leaves({name: below})]
    assert typed(store.leaves(name)) == typed([*expected, (name, "web02", "text")])
    assert typed(store.leaves(f"{name}.{name}", exact=True)) == typed([(f"{name}.{name}", "web01", 1)])


@pytest.mark.parametrize("page", [1, 2, 3, 7, 1000])
def test_leaves_of_several_pages(store, monkeypatch, page):
    """Many nodes with one path, and many values of one node at one path: nothing is missing or double."""
    for name in ("_PAGE", "_GROUPS_PAGE"):
        monkeypatch.setattr(f"{type(store).__module__}.{name}", page, raising=False)
    values = {
        "lines": [f"line {number}" for number in range(9)],
        "os": "Debian",
        "rows": [{"a": 1}, {"a": 1}, {"a": 2}],
    }
    store.apply([result(1, values, f"web{number}", "k") for number in range(5)], EARLIER)
    expected = [(path, f"web{number}", value) for number in range(5) for path, value in {*record_leaves({"k": values})}]
    assert typed(store.leaves("k")) == typed(expected)
    for path in ("k.lines", "k.os", "k.rows.a"):
        assert typed(store.leaves(path, exact=True)) == typed(leaf for leaf in expected if leaf[0] == path)


# --- volatile: stored, but no change --------------------------------------------------------------


def test_what_is_volatile_is_stored_and_makes_no_history(store):
    volatile = ["uptime", "memory.free", "disks.*.free"]

    def facts(seq, uptime, free, os="Debian"):
        memory, disks = {"free": free, "total": 8}, {"sda": {"free": free, "size": 9}}
        return result(seq, {"os": os, "uptime": uptime, "memory": memory, "disks": disks}, volatile=volatile)

    store.apply([facts(1, 10, 5)], EARLIER)
    before = store.record("web01")
    assert stages(store.apply([facts(3, 30, 4)], LATER)) == [UNCHANGED]
    record = store.record("web01")
    assert record["rpms"] == facts(3, 30, 4).value
    assert record["vogeler"] == before["vogeler"]
    assert record["updated_at"] == EARLIER
    assert ("rpms.uptime", "web01", 30) in store.leaves("rpms.")
    assert ("rpms.uptime", "web01", 10) not in store.leaves("rpms.")
    assert stages(store.apply([facts(2, 20, 4)], LATER)) == [UNCHANGED]  # late
    assert store.record("web01") == record
    store.apply([facts(4, 40, 4, "Rocky")], LATER)
    stable = {"memory": {"total": 8}, "disks": {"sda": {"size": 9}}}
    assert changes(store) == [{"os": "Rocky", **stable}, {"os": "Debian", **stable}]
    assert store.record("web01")["rpms"]["uptime"] == 40


# --- time -----------------------------------------------------------------------------------------


def test_a_change_is_stored_when_the_record_began_to_hold_it(store):
    store.apply([result(1, "a"), result(2, "b")], at(0))
    store.apply([result(3, "b")], at(10))
    store.apply([result(4, "a"), result(4, "x", key="dpkg")], at(20))
    store.apply([result(4, "a")], at(30))
    found = [(change["value"], change["stored_at"]) for change in store.history("web01", "rpms")]
    assert found == [("a", at(20)), ("b", at(0)), ("a", at(0))]
    assert store.record("web01")["vogeler"]["keys"]["rpms"]["stored_at"] == at(20)


def test_a_server_whose_clock_is_behind_stores_after_what_it_follows(store):
    store.apply([result(1, "a"), result(1, "a", key="dpkg")], at(100))
    store.apply([result(2, "b")], at(50))
    store.apply([result(3, "c")], at(60))
    assert [(c["value"], c["stored_at"]) for c in store.history("web01", "rpms")] == [(v, at(100)) for v in "cba"]
    assert store.forget("web01", "alice", at(70))
    store.apply([result(1, "a"), result(2, "d")], at(80))
    history = list(store.history("web01"))
    assert [change["stored_at"] for change in history] == [at(102), at(102), at(102), at(101), *[at(100)] * 4]
    assert held(history, at(101)) is None
    assert (held(history, at(100)), held(history, at(200))) == ("c", "d")


def test_a_server_whose_clock_is_wrong_is_not_followed(store):
    store.apply([result(1, "a")], "2099-01-01T00:00:00.000Z")
    store.apply([result(2, "b")], EARLIER)
    assert held(store.history("web01", "rpms"), LATER) == "b"


def test_a_result_that_is_delivered_again_after_its_node_was_forgotten_is_stored_again(store):
    """The server died with it, the node was forgotten, another server gets it."""
    store.apply([result(5, "a")], at(0))
    store.forget("web01", "alice", at(10))
    for milliseconds in (20, 30):
        store.apply([result(5, "a")], at(milliseconds))
    assert store.record("web01")["vogeler"]["forgotten_at"] == at(10)
    found = [(change["event"], change["stored_at"]) for change in store.history("web01")]
    assert found == [("change", at(20)), ("returned", at(20)), ("forgotten", at(10)), ("change", at(0))]


def test_changes_are_those_of_the_whole_fleet_from_a_time_to_a_time(store, monkeypatch):
    monkeypatch.setattr(f"{type(store).__module__}._PAGE", 2)
    for number in range(6):
        store.apply([result(number, number, f"web{number % 2}"), result(number, number, "db", "x")], at(number))
    store.forget("db", "alice", at(6))
    every = [(change["node"], change["value"]) for change in store.changes(at(0))]
    assert every == [("db", None), *((node, n) for n in range(5, -1, -1) for node in (f"web{n % 2}", "db"))]
    assert [c["stored_at"] for c in store.changes(at(2), at(4))] == [at(3), at(3), at(2), at(2)]
    assert list(store.changes(at(7))) == list(store.changes(at(3), at(3))) == []


def told(feed: Feed, count: int) -> list[tuple[str, Document]]:
    """The next changes, each with the position behind it."""
    found = ((position, change) for position, change in feed if change is not None)
    return list(itertools.islice(found, count))


def test_follow_tells_of_changes_as_they_are_stored(store, dbhost):
    store.apply([result(1, "before")], at(0))
    feed = store.follow()
    with closing(persistence.connect(dbhost)) as other:
        other.apply([result(2, "a"), result(3, "a")], at(1))
        assert next(feed)[1] is None
        assert next(feed)[1]["value"] == "a"
        before_s = time.monotonic()
        assert next(feed)[1] is None
        assert 0.5 < time.monotonic() - before_s < 5
        other.forget("web01", "alice", at(2))
        other.apply([result(4, "b")], at(3))
        list(other.prune(at(1), 1, 100))
    assert sorted(change["event"] for _, change in told(feed, 3)) == ["change", "forgotten", "returned"]
    assert next(feed)[1] is None


def test_follow_goes_on_behind_any_position_over_any_connection(store, dbhost):
    """Nothing is told twice, nothing is left out, wherever it was broken off."""
    store.apply([result(1, "before")], at(0))
    begin, _ = next(store.follow())
    for seq in range(2, 6):
        store.apply([result(seq, seq), result(seq, seq, "web02")], at(seq))
    store.forget("web02", "alice", at(10))
    whole = told(store.follow(begin), 9)
    ids = [change["_id"] for _, change in whole]
    assert sorted(ids) == sorted(c["_id"] for c in [*store.history("web01"), *store.history("web02")] if c["seq"] != 1)
    for count, (position, _) in enumerate(whole, 1):
        with closing(persistence.connect(dbhost)) as other:
            feed = other.follow(position)
            assert sorted(change["_id"] for _, change in told(feed, 9 - count)) == sorted(ids[count:])
            if count in (4, 9):
                assert [change for _, change in itertools.islice(feed, 2)] == [None] * 2
    position, _ = next(store.follow())
    store.apply([result(6, 6)], at(20))
    assert [change["value"] for _, change in told(store.follow(position), 1)] == [6]


# --- retention ------------------------------------------------------------------------------------


def pruned(store: Store, before: str, keep: int, limit: int) -> int:
    return sum(store.prune(before, keep, limit))


def left(store: Store, node: str = "web01", key: str | None = None) -> list[object]:
    return [change["value"] for change in store.history(node, key)]


def test_prune_keeps_the_newest_and_what_was_held_at_the_horizon(store):
    for number in range(10):
        store.apply([result(10 * number, number), result(10 * number, number, "web02", "x")], at(number))
    assert pruned(store, at(5), 2, 1000) == 2 * 4
    assert left(store) == left(store, "web02") == [9, 8, 7, 6, 5, 4]
    assert pruned(store, at(100), 8, 1000) == 0
    assert pruned(store, at(100), 3, 1000) == 2 * 3
    assert pruned(store, at(100), 0, 1000) == 2 * 2
    assert left(store) == [9]
    assert store.record("web01")["rpms"] == 9


def test_prune_takes_the_oldest_first_and_no_more_than_it_is_told(store):
    for number in range(6):
        store.apply([result(number, number), result(number, number, "web02", "x")], at(number))
    counts = []
    for count in store.prune(at(100), 1, 3):
        counts.append(count)
        for node in ("web01", "web02"):
            assert left(store, node) == list(range(5, 5 - len(left(store, node)), -1))
    assert counts == [3, 3, 3, 1]


def test_prune_looks_at_every_node_however_little_time_a_step_has(store, monkeypatch):
    """Many nodes with nothing to remove, and then some that have: steps that find nothing are not the end."""
    store.apply([result(number, number, f"web{number}") for number in range(20)], at(0))
    store.apply([result(number, number, "zz") for number in range(5)], at(0))
    monkeypatch.setattr("vogeler.persistence._prune._STEP_S", 0.0)
    counts = list(store.prune(at(100), 1, 3))
    assert counts[:20] == [0] * 20
    assert sum(counts) == 4
    assert max(counts) == 3
    assert left(store, "zz") == [4]


def test_prune_may_be_broken_off_and_begun_again(store):
    store.apply([result(seq, seq, f"web{node}") for node in range(5) for seq in range(10)], at(0))
    assert next(store.prune(at(1), 1, 3)) == 3
    assert pruned(store, at(1), 1, 3) == 5 * 9 - 3
    assert pruned(store, at(1), 1, 3) == 0


def test_what_came_late_is_no_answer_to_what_was_held(store):
    store.apply([result(5, "a")], at(0))
    store.apply([result(4, "late")], at(1))
    store.apply([result(6, "b")], at(2))
    assert pruned(store, at(2), 1, 100) == 1
    assert left(store) == ["b", "a"]


def test_of_a_node_forgotten_before_the_horizon_nothing_stays(store):
    store.apply([result(1, "a"), result(1, "x", key="dpkg")], at(0))
    store.forget("web01", "alice", at(10))
    assert pruned(store, at(10), 5, 100) == 0
    store.apply([result(2, "b")], at(20))
    events = lambda: [change["event"] for change in store.history("web01")]  # noqa: E731
    assert next(store.prune(at(15), 5, 2)) == 2
    assert events() == ["change", "returned", "forgotten"]  # that it was forgotten goes last
    assert pruned(store, at(15), 5, 100) == 1
    assert events() == ["change", "returned"]
    assert pruned(store, at(20), 5, 100) == 0
    assert pruned(store, at(21), 5, 100) == 1
    assert events() == ["change"]
    assert left(store) == ["b"]


def test_that_a_node_returned_is_no_reason_to_remove_what_was_there_before(store):
    """The entry that says so has no key either."""
    store.forget("web01", "alice", at(0))
    store.apply([heartbeat()], at(1))
    store.forget("web01", "alice", at(2))
    store.apply([result(1, "a")], at(3))
    store.apply([result(2, "b")], at(4))
    assert pruned(store, at(4), 5, 100) == 2
    assert left(store) == ["b", "a"]


def test_several_may_prune_at_once(store, dbhost):
    store.apply([result(seq, seq, f"web{node}") for node in range(5) for seq in range(60)], at(0))
    barrier = threading.Barrier(3)

    def prune(_: int) -> int:
        with closing(persistence.connect(dbhost)) as mine:
            barrier.wait(timeout=20)
            return sum(mine.prune(at(1), 4, 7))

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(prune, range(3))) == 5 * 56
    assert left(store, "web3") == [59, 58, 57, 56]


# --- who asked what -------------------------------------------------------------------------------


def audited(milliseconds: int, *nodes: str, mark: str = "a", **fields: object) -> Document:
    about = {"run": f"run-{milliseconds}", "alias": "rpms", "requested_by": "alice", "stage": "accepted", **fields}
    stored_at = at(milliseconds)
    return {"_id": f"{stored_at}-{mark}", "stored_at": stored_at, **about, "nodes": dict.fromkeys(nodes, stored_at)}


def test_audit_gives_back_the_entries_of_a_period_newest_first(store):
    entries = [audited(number, "web01", mark=mark) for number in range(300) for mark in "ab"]
    store.add_audit(entries[:200])
    store.add_audit(entries[200:])
    assert list(store.audit(at(0))) == entries[::-1]
    assert list(store.audit(at(10), at(12))) == entries[20:24][::-1]
    assert list(store.audit(at(300))) == []
    store.add_audit([])


def test_an_entry_that_is_added_twice_is_there_once(store, dbhost):
    store.add_audit([audited(1, "web01"), audited(2, "web01", "web02")])
    with closing(persistence.connect(dbhost)) as other:
        other.add_audit([audited(2, "web01", "web02"), audited(3, "db01")])
        assert [entry["run"] for entry in other.audit(at(0))] == ["run-3", "run-2", "run-1"]


def test_prune_audit_removes_what_was_stored_before_in_steps(store):
    store.add_audit([audited(number, "web01") for number in range(25)])
    assert list(store.prune_audit(at(20), 8)) == [8, 8, 4]
    assert [entry["stored_at"] for entry in store.audit(at(0))] == [at(number) for number in range(24, 19, -1)]
    assert sum(store.prune_audit(at(20), 8)) == 0


def test_the_audit_is_no_history_and_knows_no_node(store):
    store.add_audit([audited(1, "web01")])
    assert list(store.changes(at(0))) == list(store.nodes()) == []


# --- several servers ------------------------------------------------------------------------------


def test_two_servers_on_the_same_nodes_lose_nothing(dbhost):
    """Each server takes every other result of each key: all values end in the history, the newest in the record."""
    nodes, rounds, servers = ["web01", "web02", "web03"], 8, 3
    barrier = threading.Barrier(servers)

    def serve(server: int) -> list[str]:
        found = []
        with closing(persistence.connect(dbhost)) as store:
            barrier.wait(timeout=20)
            for turn in range(rounds):
                seq = turn * servers + server
                batch = [result(seq, f"v{seq}", node, key) for node in nodes for key in ("shared", f"own{server}")]
                found += stages(store.apply(batch, EARLIER))
        return found

    with ThreadPoolExecutor(servers) as pool:
        assert {stage for found in pool.map(serve, range(servers)) for stage in found} == {STORED}
    newest = rounds * servers - 1
    with closing(persistence.connect(dbhost)) as store:
        for node in nodes:
            record = store.record(node)
            assert record["shared"] == f"v{newest}"
            assert [record[f"own{server}"] for server in range(servers)] == [f"v{newest - 2 + s}" for s in range(3)]
            assert changes(store, node, "shared") == [f"v{seq}" for seq in range(newest, -1, -1)]
            assert store.status(node)["keys"]["shared"]["seq"] == newest


def test_servers_that_start_at_once_set_up_once(new_dbhost):
    """``setup`` may be called by several at once, and again at any time."""
    barrier = threading.Barrier(4)

    def set_up(server: int) -> None:
        barrier.wait(timeout=20)
        with closing(persistence.connect(new_dbhost)) as store:
            store.setup()
            store.apply([heartbeat(f"web{server}")], EARLIER)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(set_up, range(4)))
    with closing(persistence.connect(new_dbhost)) as store:
        assert store.setup() == []
        assert [summary.node for summary in store.nodes()] == ["web0", "web1", "web2", "web3"]


# --- the rest -------------------------------------------------------------------------------------


def test_a_forgotten_node_leaves_its_history_and_may_come_back(store):
    store.apply([result(5, "a"), heartbeat(), result(1, "b", "web02")], EARLIER)
    assert store.forget("web01", "alice@ops1", "2026-02-01T00:00:00.000Z") is True
    assert store.record("web01") is None
    assert store.status("web01") is None
    assert [summary.node for summary in store.nodes()] == ["web02"]
    entry, *rest = store.history("web01")
    assert (entry["event"], entry["key"], entry["requested_by"]) == ("forgotten", None, "alice@ops1")
    assert [change["value"] for change in rest] == ["a"]
    assert store.forget("web01", "alice@ops1", "2026-02-01T00:00:01.000Z") is False
    assert len(list(store.history("web01"))) == 2

    assert stages(store.apply([result(1, "anew")], LATER)) == [STORED]  # a lower seq: it was installed again
    assert store.record("web01")["rpms"] == "anew"
    assert store.record("web01")["created_at"] == LATER


def test_a_forgotten_node_that_speaks_again_has_returned(store):
    """By whatever message it is known again, and once."""
    store.apply([result(5, "a"), heartbeat(), result(1, "b", "web02"), result(1, "c", "web03")], at(0))
    for node in ("web01", "web02", "web03"):
        store.forget(node, "alice@ops1", at(10))
    batch = [heartbeat("web01"), result(2, status="failed", node="web02"), result(2, "d", "web03"), result(-1, "x")]
    for milliseconds in (20, 30):
        store.apply(batch, at(milliseconds))
    store.apply([result(6, "a"), heartbeat("web01"), heartbeat("web04"), result(-1, "x", "web05")], at(40))
    for node, events in (
        ("web01", ["change", "returned", "forgotten", "change"]), ("web02", ["returned", "forgotten", "change"]),
        ("web03", ["change", "returned", "forgotten", "change"]), ("web04", []), ("web05", []),
    ):  # fmt: skip
        assert [entry["event"] for entry in store.history(node)] == events
        absences = [entry for entry in store.history(node) if entry["key"] is None]
        assert list(store.absences(node)) == absences
        assert [entry["stored_at"] for entry in absences] == [at(20), at(10)][: len(absences)]
    returned = next(store.absences("web01"))
    assert (returned["key"], returned["value"], returned["requested_by"], returned["run"]) == (None,) * 4
    assert returned in list(store.changes(at(20), at(21)))


def test_each_time_that_a_node_was_forgotten_and_returned_is_on_record(store):
    for number in range(3):
        store.apply([heartbeat(), result(1, "a", "web011")], at(10 * number))
        store.forget("web01", f"user{number}", at(10 * number + 5))
    found = [(entry["event"], entry["requested_by"], entry["stored_at"]) for entry in store.absences("web01")]
    assert found == [
        ("forgotten", "user2", at(25)), ("returned", None, at(20)), ("forgotten", "user1", at(15)),
        ("returned", None, at(10)), ("forgotten", "user0", at(5)),
    ]  # fmt: skip


def test_a_node_of_which_nothing_can_be_stored_has_not_returned(store):
    store.apply([heartbeat()], at(0))
    store.forget("web01", "alice", at(10))
    assert stages(store.apply([result(-1, "x")], at(20))) == [REFUSED]
    assert [entry["event"] for entry in store.absences("web01")] == ["forgotten"]


def test_a_node_without_a_record_can_be_forgotten(store):
    store.apply([heartbeat()], EARLIER)
    assert store.forget("web01", "alice@ops1", LATER) is True
    assert list(store.nodes()) == []


def test_ping_names_the_product_and_its_version(store):
    assert any(character.isdigit() for character in store.ping())


def test_close_may_be_called_twice(dbhost):
    store = persistence.connect(dbhost)
    store.ping()
    store.close()
    store.close()


def test_a_change_names_the_one_before_it(store):
    """Not one that came late; and a node that was forgotten begins anew."""
    store.apply([result(1, "a"), result(3, "b"), result(2, "late")], at(0))
    store.apply([result(4, "b"), result(5, "c")], at(10))
    newest, *older = store.history("web01", "rpms")
    before = [store.changes_named([one["previous"]])[one["previous"]]["value"] for one in (newest, older[0])]
    assert [newest["value"], *before] == ["c", "b", "a"]
    assert ["previous" in one for one in older] == [True, False, False]
    store.forget("web01", "alice", at(20))
    store.apply([result(6, "d")], at(30))
    assert "previous" not in next(store.history("web01", "rpms"))
    assert store.changes_named([]) == store.changes_named(["nothing:of:that:name"]) == {}
