"""Who has what, who is out of line, who is behind, and what has had its time: the decisions, without a store."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vogeler.cli.admin._versions import described
from vogeler.history import difference
from vogeler.leaves import record_leaves
from vogeler.persistence import NodeSummary
from vogeler.retention import Absentees, Housekeeping, Limits, Recurring
from vogeler.summary import (
    DIFFERS,
    EXTRA,
    LATE,
    MISSES,
    ONLINE,
    SILENT,
    Deviation,
    Leaf,
    count_values,
    deviations,
    nodes_having,
    stale_keys,
    state_of,
)
from vogeler.units import to_timestamp

SCALARS = st.sampled_from([None, True, False, 0, 1, 1.5, "", "1", "3.0.11", "3.0.13"])
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from("abc"), SCALARS, max_size=3)
RECORDS = st.dictionaries(
    st.sampled_from([f"node{number}" for number in range(7)]),
    st.dictionaries(st.sampled_from(["key", "other"]), VALUES, max_size=2),
)


def leaves_of(records: dict[str, Any]) -> list[Leaf]:
    """As an index gives them: sorted by path, then node."""
    found = [(path, node, value) for node, record in records.items() for path, value in record_leaves(record, "key")]
    return sorted(found, key=lambda leaf: leaf[:2])


def facts_of(records: dict[str, Any]) -> dict[str, set[tuple[str, str]]]:
    """By node: (path, value) pairs, with the value as something that tells true from 1."""
    facts: dict[str, set[tuple[str, str]]] = {node: set() for node in records}
    for path, node, value in leaves_of(records):
        facts[node].add((path, repr(value)))
    return facts


# --- summary ----------------------------------------------------------------------------------------


@given(RECORDS)
def test_every_value_is_counted_once_for_each_node_that_has_it(records: dict[str, Any]) -> None:
    counts, having = count_values(leaves_of(records))
    facts = facts_of(records)
    expected = Counter(chain.from_iterable(facts.values()))
    assert {(row.path, repr(row.value)): row.nodes for row in counts} == expected
    assert having == {node for node, found in facts.items() if found}
    assert [row.nodes for row in counts] == sorted((row.nodes for row in counts), reverse=True)


@given(RECORDS, st.randoms())
def test_the_order_of_nodes_and_values_below_a_path_does_not_matter(
    records: dict[str, Any], rng: random.Random
) -> None:
    by_node = leaves_of(records)
    by_value = sorted(by_node, key=lambda leaf: (leaf[0], repr(leaf[2]), leaf[1]))
    assert count_values(by_value) == count_values(by_node)
    nodes = list(records)
    rng.shuffle(nodes)
    assert set(map(repr, deviations(by_value, nodes))) == set(map(repr, deviations(by_node, records)))


# --- outliers ---------------------------------------------------------------------------------------


@given(RECORDS)
def test_a_deviation_is_what_more_than_half_of_the_nodes_have_otherwise(records: dict[str, Any]) -> None:
    """Against the definition, fact by fact, over all nodes at once."""
    found = leaves_of(records)
    nodes = nodes_having(found, set(records))
    assert nodes == {node for node, facts in facts_of(records).items() if facts}
    listed = [(node, _comparable(deviation)) for node, deviation in deviations(found, nodes)]
    assert len(set(listed)) == len(listed)
    facts = {node: those for node, those in facts_of(records).items() if node in nodes}
    assert set(listed) == set(by_definition(facts))


def _comparable(deviation: Deviation) -> tuple[str, str, str, str]:
    return deviation.path, deviation.how, repr(deviation.value), repr(deviation.usual)


def by_definition(facts: dict[str, set[tuple[str, str]]]) -> Iterator[tuple[str, tuple[str, str, str, str]]]:
    def most(count: int) -> bool:
        return count > len(facts) / 2

    def holders(path: str, value: str) -> int:
        return sum((path, value) in those for those in facts.values())

    for path in {path for those in facts.values() for path, _ in those}:
        values = {node: {value for at, value in those if at == path} for node, those in facts.items()}
        usual = {value for value in set().union(*values.values()) if most(holders(path, value))}
        present = sum(map(bool, values.values()))
        a_list = any(len(those) > 1 for those in values.values())
        for node, those in values.items():
            if not those and not usual and most(present):
                yield node, (path, MISSES, "None", "None")
            for value in usual - those:
                if a_list or not those:
                    yield node, (path, MISSES, "None", value)
                else:
                    yield node, (path, DIFFERS, *those, value)
            for value in those - usual:
                if most(len(facts) - (holders(path, value) if a_list else present)):
                    yield node, (path, EXTRA, value, "None")


def test_outliers_are_told_in_what_they_differ() -> None:
    usual = {"packages": {"openssl": "3.0.13", "curl": "7.88"}, "ports": [22, 80], "id": "n"}
    fleet: dict[str, Any] = {f"web{number}": {**usual, "id": f"n{number}"} for number in range(5)}
    fleet["old"] = {"packages": {"openssl": "3.0.11", "telnetd": "0.17"}, "ports": [22, 23], "id": "nx"}
    found = sorted((path, node, value) for node, record in fleet.items() for path, value in record_leaves(record))
    listed = list(deviations(found, fleet))
    assert listed == [
        ("old", Deviation("packages.curl", MISSES, usual="7.88")),
        ("old", Deviation("packages.openssl", DIFFERS, "3.0.11", "3.0.13")),
        ("old", Deviation("packages.telnetd", EXTRA, "0.17")),
        ("old", Deviation("ports", MISSES, usual=80)),
        ("old", Deviation("ports", EXTRA, 23)),
    ]  # nobody's id is usual, so that nobody's differs


def test_who_has_a_key_is_known_without_reading_on() -> None:
    def found() -> Iterator[Leaf]:
        yield from (("key.a", node, 1) for node in ("a", "x", "b"))
        pytest.fail("read on")

    assert nodes_having(found(), {"a", "b"}) == {"a", "b"}


# --- who is behind ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_s", "state"),
    [(-5, ONLINE), (0, ONLINE), (150, ONLINE), (151, LATE), (600, LATE), (601, SILENT), (None, SILENT)],
)
def test_the_state_of_a_node_follows_from_when_it_was_heard(age_s: float | None, state: str) -> None:
    heard_at = None if age_s is None else to_timestamp(1_800_000_000 - age_s)
    assert state_of(heard_at, 1_800_000_000, 150.0, 600.0) == state


def test_stale_are_the_keys_checked_longer_ago() -> None:
    checked = {key: to_timestamp(1_800_000_000 - age_s) for key, age_s in (("new", 5), ("old", 70), ("at", 60))}
    assert stale_keys(checked, {}, 1_800_000_000, 60) == ["old"]
    assert stale_keys(checked, {}, 1_800_000_000, 1e12) == []


def test_a_key_with_an_interval_is_stale_after_three_of_them() -> None:
    checked = {key: to_timestamp(1_800_000_000 - age_s) for key, age_s in (("daily", 250), ("often", 31), ("new", 29))}
    intervals = {"daily": 100.0, "often": 10.0, "new": 10.0, "unknown": 1.0}
    assert stale_keys(checked, intervals, 1_800_000_000, 60) == ["often"]
    assert stale_keys(checked, {**intervals, "daily": 80.0}, 1_800_000_000, 1e9) == ["daily", "often"]


# --- retention: what is due -------------------------------------------------------------------------


@given(st.floats(0.1, 1e6), st.floats(0, 1e9), st.randoms(use_true_random=False))
def test_a_check_is_due_within_the_interval_and_then_about_every_interval(
    every_s: float, now_s: float, rng: random.Random
) -> None:
    schedule = Recurring(every_s, now_s, rng)
    assert schedule.due_in_s(now_s) <= every_s * 1.001
    assert schedule.due_in_s(now_s + every_s + 1) == 0.0
    schedule.begun(now_s)
    assert every_s * 0.89 - 1e-6 <= schedule.due_in_s(now_s) <= every_s * 1.11 + 1e-6


def heard(**ages_s: float) -> dict[str, str]:
    return {node: to_timestamp(1_800_000_000 - age_s) for node, age_s in ages_s.items()}


def test_a_node_is_forgotten_when_it_was_silent_too_long_at_two_checks() -> None:
    absentees = Absentees(60)
    fleet = heard(web01=0, web02=59, gone=61)
    assert [absentees.check(fleet), absentees.check(fleet)] == [[], ["gone"]]


def test_a_node_that_spoke_in_between_begins_anew() -> None:
    absentees = Absentees(60)
    absentees.check(heard(web01=0, web02=100))
    assert absentees.check(heard(web01=0, web02=90)) == []
    assert absentees.check(heard(web01=0, web02=90)) == ["web02"]


def test_nobody_is_forgotten_because_broker_or_server_were_away() -> None:
    """Everybody was last heard long ago; then the first few are heard again, then all."""
    absentees = Absentees(60)
    assert absentees.check(heard(web01=5000, web02=5030, db01=5010)) == []
    assert absentees.check(heard(web01=0, web02=5030, db01=5010)) == []
    assert absentees.check(heard(web01=0, web02=1, db01=5)) == []


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1000), max_size=4), max_size=6))
def test_whoever_is_forgotten_was_silent_and_the_last_to_speak_never_is(checks: list[dict[str, float]]) -> None:
    absentees = Absentees(60)
    before: dict[str, str] = {}
    for ages_s in checks:
        fleet = heard(**ages_s)
        for node in absentees.check(fleet):
            assert before[node] == fleet[node]
            assert ages_s[node] - min(ages_s.values()) > 59.99
        before = fleet


def test_nothing_is_no_reason_to_fail() -> None:
    assert Absentees(60).check({}) == []
    assert list(deviations([], [])) == []
    assert count_values([]) == ([], set())


# --- retention: doing it ----------------------------------------------------------------------------


class Shelf:
    """Of a store, what housekeeping needs: a pile of history, and nodes with when each was heard."""

    def __init__(self, piles: list[int], nodes: dict[str, str]):
        self.piles = piles
        self.known = nodes
        self.calls: list[str] = []

    def prune(self, before: str, keep: int, limit: int) -> Iterator[int]:
        while self.piles:
            assert self.piles[0] <= limit
            self.calls.append("prune")
            yield self.piles.pop(0)

    def prune_audit(self, before: str, limit: int) -> Iterator[int]:
        return iter(())

    def nodes(self) -> Iterator[NodeSummary]:
        self.calls.append("nodes")
        for node, heard_at in self.known.items():
            yield NodeSummary(node, heard_at, None, None, (), ())

    def status(self, node: str) -> dict[str, Any] | None:
        return {"heard_at": self.known[node]} if node in self.known else None

    def forget(self, node: str, requested_by: str, at: str) -> bool:
        self.calls.append(f"forget {node} for {requested_by}")
        return self.known.pop(node, None) is not None


def steps_of(keeper: Housekeeping, shelf: Shelf) -> list[list[str]]:
    """What each step of one check did."""
    steps = []
    for _ in range(100):
        shelf.calls = []
        keeper.step(1000.0)
        steps.append(shelf.calls)
        if keeper.due_in_s(1000.0) > 0:
            return steps
    pytest.fail("no end")


def test_a_check_is_made_of_small_steps() -> None:
    shelf = Shelf([500, 0, 200], heard(web01=0, gone=1000))
    keeper = Housekeeping(shelf, Limits(), Recurring(60, 0.0), Absentees(60))  # type: ignore[arg-type]
    assert keeper.due_in_s(1000.0) == 0.0
    assert steps_of(keeper, shelf) == [["prune"], ["prune"], ["prune"], [], ["nodes"]]
    assert steps_of(keeper, shelf) == [[], ["nodes"], ["forget gone for retention"]]
    assert shelf.known.keys() == {"web01"}


def test_without_a_time_for_it_no_node_is_looked_at() -> None:
    shelf = Shelf([0], heard(gone=1e9))
    keeper = Housekeeping(shelf, Limits(), Recurring(60, 0.0), None)  # type: ignore[arg-type]
    assert steps_of(keeper, shelf) == [["prune"], []]


def test_a_node_that_speaks_while_the_check_goes_on_stays() -> None:
    shelf = Shelf([], heard(web01=0, gone=1000))
    keeper = Housekeeping(shelf, Limits(), Recurring(60, 0.0), Absentees(60))  # type: ignore[arg-type]
    steps_of(keeper, shelf)
    keeper.step(1000.0)
    keeper.step(1000.0)
    shelf.known.update(heard(gone=0))
    steps_of(keeper, shelf)
    assert shelf.known.keys() == {"web01", "gone"}


def test_after_an_error_the_next_check_begins_anew() -> None:
    shelf = Shelf([500, 500, 200], {})
    schedule = Recurring(60, 0.0)
    broken = Housekeeping(None, Limits(), schedule, None)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        broken.step(1000.0)
    keeper = Housekeeping(shelf, Limits(), schedule, None)  # type: ignore[arg-type]
    assert 50 < keeper.due_in_s(1000.0) < 70
    assert steps_of(keeper, shelf) == [["prune"]] * 3 + [[]]


# --- watch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ({"openssl": "3.0.11", "a": 1}, {"openssl": "3.0.13", "telnetd": "0.17"}, "+telnetd 0.17, -a 1, openssl 3.0.11 → 3.0.13"),
        (["a"], ["a", "b"], "+b"),
        ("6.1", "6.2", "6.1 → 6.2"),
        ({}, {str(number): number for number in range(9)}, "9 added"),
        (None, "x" * 100, "null → " + "x" * 39 + "…"),
    ],
)  # fmt: skip
def test_a_small_change_is_told_in_full_and_a_large_one_in_numbers(old: Any, new: Any, text: str) -> None:
    assert described(difference(old, new)) == text
