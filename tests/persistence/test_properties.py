"""Whatever is stored and forgotten: the index is that of the records, the history tells every time, stores agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.persistence.examples import at, held, result
from vogeler import persistence
from vogeler.leaves import record_leaves, without
from vogeler.messages import FAILED
from vogeler.persistence import Document, Store

KEYS = ("alpha", "alpha.a")  # whose paths may be the same
VOLATILE = ["u", "*.u"]
_number = itertools.count()

_names = st.sampled_from(["a", "b", "a.b", "u", "", "É", "*"])
_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.5, 1.0, 2**53 - 1, -(2**53) + 1, 1e300, "1", "x", "ß"]),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_names, inner, max_size=3)),
    max_leaves=6,
)
_results = st.tuples(
    st.integers(0, 1),
    st.sampled_from(KEYS),
    st.integers(0, 9),
    _values,
    st.sampled_from(["ok", "ok", "volatile", FAILED]),
)
# (milliseconds since the step before, batch) or (milliseconds, node to forget)
_steps = st.lists(
    st.tuples(st.integers(5, 50), st.one_of(st.lists(_results, min_size=1, max_size=4), st.integers(0, 1))), max_size=8
)
often = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
seldom = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


class Play:
    """A run of the steps on a store, on nodes of its own."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.store = store
        self.nodes = [f"{prefix}-a", f"{prefix}-b"]
        self.times = [0]
        self.snapshots: list[dict[str, Document]] = [{}]  # after each step: the records by node

    def run(self, steps: Any) -> list[Any]:
        """What the store answered to each step."""
        return [self._step(*step) for step in steps]

    def _step(self, milliseconds: int, what: Any) -> Any:
        self.times.append(self.times[-1] + milliseconds)
        now = at(self.times[-1])
        if isinstance(what, int):
            answer: Any = self.store.forget(self.nodes[what], "alice", now)
        else:
            batch = [
                result(seq, None if how == FAILED else value, self.nodes[node], key, status=FAILED)
                if how == FAILED
                else result(seq, value, self.nodes[node], key, volatile=VOLATILE if how == "volatile" else None)
                for node, key, seq, value, how in what
            ]
            answer = [(outcome.stage, outcome.reason) for outcome in self.store.apply(batch, now)]
        self.snapshots.append({record["_id"]: record for record in self.store.records(self.nodes)})
        return answer

    def leaves(self) -> list[Any]:
        """Of its nodes, as the index has them."""
        return typed(row for row in self.store.leaves("alpha") if row[1] in self.nodes)

    def histories(self, key: str) -> dict[str, list[Document]]:
        """By node: what is of the key, and when the node was forgotten."""
        return {
            node: [change for change in self.store.history(node) if change["key"] in (key, None)] for node in self.nodes
        }

    def held(self, key: str, milliseconds: int) -> dict[str, Any]:
        """By node, what the history says of a time."""
        return {node: held(changes, at(milliseconds)) for node, changes in self.histories(key).items()}


def typed(found: Any) -> list[Any]:
    return sorted((path, node, type(value).__name__, repr(value)) for path, node, value in found)


def stable(value: Any) -> Any:
    """Volatile or not, as not every result of a key need name the same paths here."""
    return without(value, VOLATILE)


def play_on(store: Store) -> Play:
    return Play(store, f"node{next(_number)}")


def check_leaves(play: Play, steps: Any) -> None:
    play.run(steps)
    expected = {
        (path, record["_id"], type(value).__name__, repr(value))
        for record in play.snapshots[-1].values()
        for path, value in record_leaves(record)
    }
    assert play.leaves() == sorted(expected)


def check_times(play: Play, steps: Any) -> None:
    play.run(steps)
    for key in KEYS:
        histories = play.histories(key)
        for time, snapshot in zip(play.times, play.snapshots):
            for node, changes in histories.items():
                for moment in (time, time + 1):
                    assert stable(held(changes, at(moment))) == stable(snapshot.get(node, {}).get(key))
    for node in play.nodes:
        events = [entry["event"] for entry in play.store.absences(node)][::-1]
        assert events == ["forgotten", "returned"] * (len(events) // 2) + ["forgotten"] * (len(events) % 2)
        if events:
            assert (play.store.status(node) is None) is (events[-1] == "forgotten")


def check_prune(play: Play, steps: Any, horizon: int, keep: int) -> None:
    play.run(steps)
    moments = sorted({horizon, *(time for time in play.times if time >= horizon), play.times[-1]} - set(range(horizon)))
    before = {(key, moment): play.held(key, moment) for key in KEYS for moment in moments}
    whole = {node: list(play.store.history(node)) for node in play.nodes}
    counts = list(play.store.prune(at(horizon), keep, 2))
    assert all(count <= 2 for count in counts)
    assert {(key, moment): play.held(key, moment) for key in KEYS for moment in moments} == before
    for node in play.nodes:
        left = list(play.store.history(node))
        gone = [change for change in whole[node] if change not in left]
        assert all(change["stored_at"] < at(horizon) for change in gone)
        forgotten_at = max(
            (c["stored_at"] for c in whole[node] if c["event"] == "forgotten" and c["stored_at"] < at(horizon)),
            default="",
        )
        for key in KEYS:
            newest = [c for c in whole[node] if c["key"] == key and c["stored_at"] > forgotten_at][:keep]
            assert not [change for change in newest if change in gone]
            kept_for_age = [c for c in left if c["key"] == key and c["stored_at"] < at(horizon)]
            assert len(kept_for_age) <= max(keep, 0) + 1


@often
@given(steps=_steps)
def test_the_index_is_that_of_the_records(sqlite_store, steps):
    check_leaves(play_on(sqlite_store), steps)


@seldom
@given(steps=_steps)
def test_the_index_is_that_of_the_records_in_couchdb(couch_store, steps):
    check_leaves(play_on(couch_store), steps)


@often
@given(steps=_steps)
def test_the_history_tells_what_the_record_held_at_any_time(sqlite_store, steps):
    check_times(play_on(sqlite_store), steps)


@seldom
@given(steps=_steps)
def test_the_history_tells_what_the_record_held_at_any_time_in_couchdb(couch_store, steps):
    check_times(play_on(couch_store), steps)


@often
@given(steps=_steps, horizon=st.integers(0, 400), keep=st.integers(0, 3))
def test_after_pruning_every_time_since_the_horizon_is_told_as_before(sqlite_store, steps, horizon, keep):
    check_prune(play_on(sqlite_store), steps, horizon, keep)


@seldom
@given(steps=_steps, horizon=st.integers(0, 400), keep=st.integers(0, 3))
def test_after_pruning_every_time_since_the_horizon_is_told_as_before_in_couchdb(couch_store, steps, horizon, keep):
    check_prune(play_on(couch_store), steps, horizon, keep)


@seldom
@given(steps=_steps, horizon=st.integers(0, 400), keep=st.integers(0, 3))
def test_all_stores_agree(sqlite_store, couch_store, steps, horizon, keep):
    name = f"node{next(_number)}"
    plays = [Play(store, name) for store in (sqlite_store, couch_store)]
    answers = [
        (
            play.run(steps),
            [{node: _plain(record) for node, record in snapshot.items()} for snapshot in play.snapshots],
            play.leaves(),
            [_in_order(play.store.history(node)) for node in play.nodes],
            [_in_order(play.store.history(node, key)) for node in play.nodes for key in KEYS],
            [_in_order(play.store.absences(node)) for node in play.nodes],
            _in_order(change for change in play.store.changes(at(20), at(300)) if change["node"] in play.nodes),
            [summary for summary in play.store.nodes() if summary.node in play.nodes],
            sum(play.store.prune(at(horizon), keep, 50)) >= 0,
            [_in_order(play.store.history(node)) for node in play.nodes],
        )
        for play in plays
    ]
    assert answers[0] == answers[1]


def _in_order(history: Iterable[Document]) -> list[Document]:
    """A history; its entries of one time and seq, whose order no store promises, by their ids."""
    found = [_plain(change) for change in history]
    places = [(change["stored_at"], change["seq"]) for change in found]
    assert places == sorted(places, reverse=True)
    return sorted(found, key=lambda change: (change["stored_at"], change["seq"], change["_id"]))


def _plain(document: Document) -> Document:
    return {name: value for name, value in document.items() if name != "_rev"}


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[Store]:
    with closing(persistence.connect(sqlite_url)) as store:
        yield store
