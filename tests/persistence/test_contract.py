"""What every store must do. A new store is tested by all of this as soon as its file is there."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tests.persistence.examples import EARLIER, LATER, deep, heartbeat, result
from vogeler import persistence
from vogeler.messages import FAILED, REFUSED, STORED, UNAVAILABLE, UNCHANGED, digest_of
from vogeler.persistence import NodeSummary, Store


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
    assert changes(store) == ["new", "old"]


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
    web01 = NodeSummary("web01", EARLIER, "2.0", EARLIER, ("web", "dmz"), ("zz",))
    web02 = NodeSummary("web02", EARLIER, None, None, (), ())
    assert list(store.nodes()) == [web01, web02]


def test_a_batch_of_300_nodes_and_listings_of_several_pages(store, monkeypatch):
    """Nothing is missing or double at the edge of a page."""
    monkeypatch.setattr(f"{type(store).__module__}._PAGE", 100)
    names = [f"node{number:03d}" for number in range(300)]
    batch = [message for name in names for message in (result(1, name, name), heartbeat(name))]
    assert set(stages(store.apply(batch, EARLIER))) == {STORED}
    assert [summary.node for summary in store.nodes()] == names
    assert store.record("node299")["rpms"] == "node299"


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
