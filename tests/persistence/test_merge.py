"""What a node's messages do to its documents, without any store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.persistence.examples import EARLIER, LATER, at, deep, heartbeat, held, result
from vogeler.messages import FAILED, OK, REFUSED, STORED, TIMEOUT, UNAVAILABLE, UNCHANGED, Result
from vogeler.persistence import Document, NodeSummary, Storable
from vogeler.persistence._merge import LATE, Merged, corrected, forgotten, merge


class Shelf:
    """The documents of one node, as a store would keep them."""

    def __init__(self) -> None:
        self.record: Optional[Document] = None
        self.status: Optional[Document] = None
        self.history: dict[str, Document] = {}
        self.forgotten_at: Optional[str] = None

    def apply(self, *messages: Storable, at: str = EARLIER, dies_after: int = 3) -> Merged:
        """Merge and write; ``dies_after`` writes (history, record, status) the server is gone."""
        return self.write(self.read(*messages, at=at), dies_after)

    def read(self, *messages: Storable, at: str = EARLIER) -> Merged:
        """Merge only: somebody else may write before ``write`` does."""
        return merge("web01", self.record, self.status, messages, at, None if self.record else self.forgotten_at)

    def write(self, merged: Merged, dies_after: int = 3) -> Merged:
        """Write what was merged."""
        if dies_after > 0:
            there = {name: {**change, "_rev": "1-x"} for name, change in self.history.items()}
            for change in merged.history:
                self.history.setdefault(change["_id"], change)
            self.history.update((change["_id"], change) for change in corrected(merged, there))
        if dies_after > 1 and merged.record is not None:
            self.record = merged.record
        if dies_after > 2 and merged.status is not None:
            self.status = merged.status
        return merged

    def forget(self, at: str) -> None:
        """As a store does."""
        if self.record or self.status:
            entry = forgotten("web01", self.record, "alice", at)
            self.history[entry["_id"]] = entry
            self.record, self.status, self.forgotten_at = None, None, entry["stored_at"]

    def held(self, key: str, when: str) -> Any:
        """What the history says."""
        return held([change for change in self.history.values() if change["key"] in (key, None)], when)


def stages(merged: Merged) -> list[str]:
    return [outcome.stage for outcome in merged.outcomes]


def test_the_first_result_makes_the_three_documents_of_design():
    shelf = Shelf()
    first = result(1, ["bash"], duration_s=0.5, exit_code=0)
    assert stages(shelf.apply(first, at=LATER)) == [STORED]
    assert shelf.record == {
        "_id": "web01",
        "system_name": "web01",
        "created_at": LATER,
        "updated_at": LATER,
        "rpms": ["bash"],
        "vogeler": {
            "schema": 1,
            "keys": {
                "rpms": {
                    "changed_at": first.collected_at,
                    "stored_at": LATER,
                    "digest": first.digest,
                    "run": "run-1",
                    "requested_by": "alice@ops1",
                    "seq": 1,
                }
            },
        },
    }
    assert shelf.status == {
        "_id": "web01",
        "node": "web01",
        "heard_at": LATER,
        "agent": {},
        "keys": {
            "rpms": {
                "alias": "facts",
                "checked_at": first.collected_at,
                "run": "run-1",
                "requested_by": "alice@ops1",
                "duration_s": 0.5,
                "status": "ok",
                "exit_code": 0,
                "error": None,
                "seq": 1,
                "ok_seq": 1,
                "ok_digest": first.digest,
            }
        },
    }
    (change,) = shelf.history.values()
    assert change == {
        "_id": f"web01:rpms:00000000000000000001:{first.digest[7:23]}",
        "node": "web01",
        "key": "rpms",
        "value": ["bash"],
        "digest": first.digest,
        "changed_at": first.collected_at,
        "stored_at": LATER,
        "run": "run-1",
        "requested_by": "alice@ops1",
        "seq": 1,
        "event": "change",
    }


def test_what_is_given_is_left_as_it_was():
    """A store that reads once and merges twice must not find the first merge in its documents."""
    shelf = Shelf()
    shelf.apply(result(1, "a"), heartbeat())
    record, status = shelf.record, shelf.status
    before = repr((record, status))
    merge("web01", record, status, [result(2, "b"), result(3, status=FAILED), heartbeat(version="3")], LATER)
    assert repr((record, status)) == before


def test_an_equal_result_touches_only_the_status():
    shelf = Shelf()
    shelf.apply(result(1, {"a": 1, "b": 2}))
    merged = shelf.apply(result(2, {"b": 2, "a": 1}), at=LATER)
    assert stages(merged) == [UNCHANGED]
    assert merged.record is None
    assert merged.history == []
    assert shelf.status["heard_at"] == LATER
    assert shelf.status["keys"]["rpms"]["seq"] == 2


def test_the_very_result_that_is_stored_is_stored_when_it_comes_again():
    """The server died between the store and the ack: the runner's summary must still be true."""
    shelf = Shelf()
    shelf.apply(result(1, "a"))
    merged = shelf.apply(result(1, "a"))
    assert stages(merged) == [STORED]
    assert merged.record is None
    assert merged.history == []


def test_an_older_result_goes_to_the_history_only():
    shelf = Shelf()
    shelf.apply(result(5, "new"))
    merged = shelf.apply(result(4, "old"))
    assert merged.outcomes[0].stage == STORED
    assert merged.outcomes[0].reason == LATE
    assert merged.record is None
    assert merged.history[0]["late"] is True
    assert shelf.status["keys"]["rpms"]["seq"] == 5


def test_a_result_older_than_one_that_confirmed_the_record_is_late_too():
    """The confirming one left its seq in the status only."""
    shelf = Shelf()
    shelf.apply(result(1, "a"))
    shelf.apply(result(6, "a"))
    assert shelf.apply(result(5, "b")).outcomes[0].reason == LATE
    assert shelf.record["rpms"] == "a"


def test_a_late_good_result_counts_although_a_later_one_failed():
    """A failure says nothing about the value: the newest good one must win in any order."""
    shelf = Shelf()
    shelf.apply(result(1, "a"), result(3, status=FAILED))
    assert shelf.apply(result(2, "b")).outcomes[0].reason is None
    assert shelf.record["rpms"] == "b"
    assert shelf.status["keys"]["rpms"]["status"] == FAILED


def test_of_two_results_with_one_seq_the_first_stays_and_the_history_has_both():
    """A node that was cloned, or lost its clock."""
    shelf = Shelf()
    assert shelf.apply(result(1, "a"), result(1, "b")).outcomes[1].reason == LATE
    assert shelf.record["rpms"] == "a"
    assert sorted(change["value"] for change in shelf.history.values()) == ["a", "b"]


def test_a_change_that_comes_twice_in_one_batch_is_no_late_one():
    merged = Shelf().apply(result(2, "b"), result(3, "c"), result(2, "b"))
    assert [change.get("late") for change in merged.history] == [None, None]


@pytest.mark.parametrize(
    ("fields", "stage", "reason"),
    [
        ({"status": FAILED, "exit_code": 3}, FAILED, "failed: exit code 3"),
        ({"status": FAILED, "exit_code": 3, "error": "no rpm database"}, FAILED, "failed: no rpm database"),
        ({"status": TIMEOUT}, FAILED, "timeout"),
        ({"status": UNAVAILABLE, "error": "rpm is not on the PATH"}, UNAVAILABLE, "rpm is not on the PATH"),
    ],
)
def test_a_result_without_a_value_never_touches_the_record(fields, stage, reason):
    shelf = Shelf()
    shelf.apply(result(1, "good"))
    merged = shelf.apply(result(2, **fields))
    assert merged.record is None
    assert merged.history == []
    assert (merged.outcomes[0].stage, merged.outcomes[0].reason) == (stage, reason)
    assert shelf.status["keys"]["rpms"]["status"] == fields["status"]


def test_keys_don_t_disturb_each_other():
    shelf = Shelf()
    merged = shelf.apply(result(1, "a"), result(2, "b", key="facter"), result(1, "c", key="dpkg"))
    assert stages(merged) == [STORED] * 3
    assert (shelf.record["rpms"], shelf.record["facter"], shelf.record["dpkg"]) == ("a", "b", "c")


def test_a_missing_digest_is_computed_and_a_given_one_is_trusted():
    shelf = Shelf()
    shelf.apply(result(1, "a", digest=None))
    assert shelf.apply(result(2, "a")).outcomes[0].stage == UNCHANGED
    assert shelf.apply(result(3, "b", digest=result(1, "a").digest)).outcomes[0].stage == UNCHANGED


def test_a_record_of_another_hand_is_kept_and_completed():
    """A record of the first Vogeler, or edited in the browser, has no, or odd, facts about its keys."""
    for odd in ({}, {"vogeler": None}, {"vogeler": {"keys": 3}}):
        shelf = Shelf()
        shelf.record = {"_id": "web01", "system_name": "Web One", "created_at": "2010", "note": "mine", **odd}
        shelf.apply(result(1, "a"))
        assert (shelf.record["note"], shelf.record["created_at"], shelf.record["rpms"]) == ("mine", "2010", "a")


def test_a_key_that_was_taken_out_of_the_record_by_hand_comes_back():
    shelf = Shelf()
    shelf.apply(result(1, "a"))
    del shelf.record["rpms"]
    assert stages(shelf.apply(result(2, "a"))) == [STORED]
    assert shelf.record["rpms"] == "a"


def test_a_heartbeat_says_what_the_agent_offers_and_keeps_the_checks():
    shelf = Shelf()
    shelf.apply(result(1, "a"))
    assert stages(shelf.apply(heartbeat(version="2.1"), at=LATER)) == [STORED]
    assert shelf.status["agent"]["version"] == "2.1"
    assert shelf.status["heard_at"] == LATER
    assert "rpms" in shelf.status["keys"]


@pytest.mark.parametrize("seq", [-1, 2**53])
def test_a_seq_that_not_every_reader_can_compare_is_refused(seq):
    merged = Shelf().apply(result(seq, "a"))
    assert merged.outcomes[0].refused
    assert str(seq) in merged.outcomes[0].reason
    assert merged.status is None


@pytest.mark.parametrize(
    "message", [result(1, deep(201)), result(1, deep(201), digest=None), heartbeat(groups=deep(200))]
)
def test_what_is_nested_too_deep_to_be_read_again_is_refused(message):
    merged = Shelf().apply(message, result(2, deep(200), key="facter"))
    assert stages(merged) == [REFUSED, STORED]


def test_half_a_surrogate_pair_without_a_digest_is_refused():
    assert Shelf().apply(result(1, "\ud800", digest=None)).outcomes[0].refused


def test_history_ids_are_unambiguous_whatever_the_key():
    """A ':' or '%' in a key must not make it look like another key's."""
    shelf = Shelf()
    for key in ("a", "a:b", "a%3Ab", "a b", "ä"):
        shelf.apply(result(1, "v", key=key))
    assert len(shelf.history) == 5
    assert all(len(name.split(":")) == 4 for name in shelf.history)
    assert forgotten("web01", None, "alice", EARLIER)["_id"].startswith("web01::")


def test_a_summary_names_what_did_not_end_well():
    shelf = Shelf()
    failed, absent = result(1, key="z", status=FAILED), result(1, key="b", status=UNAVAILABLE)
    shelf.apply(failed, absent, result(1, key="a", status=TIMEOUT), result(1, "v", key="c"), heartbeat())
    found = NodeSummary.of(shelf.status)
    assert found.problems == ("a", "z")
    assert (found.node, found.version, found.groups, found.heard_at) == ("web01", "2.0", ("web",), EARLIER)


# --- whatever comes, in whatever order -------------------------------------------------------------

_RESULTS = st.lists(
    st.tuples(st.sampled_from(["rpms", "facter"]), st.sampled_from([OK, OK, OK, FAILED]), st.sampled_from("abc")),
    min_size=1,
    max_size=8,
).map(
    lambda drawn: [
        result(seq, value, key=key) if status == OK else result(seq, key=key, status=status)
        for seq, (key, status, value) in enumerate(drawn)
    ]
)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Result], list[tuple[list[Result], int]]]:
    """The results of a node, and batches of them: shuffled, repeated, each cut short by a crash or not."""
    results = draw(_RESULTS)
    again = draw(st.lists(st.sampled_from(results), max_size=4))
    left: Sequence[Result] = draw(st.permutations(results + again))
    batches = []
    while left:
        size = draw(st.integers(1, len(left)))
        batches.append((list(left[:size]), draw(st.integers(0, 3))))
        left = left[size:]
    return results, batches


@given(deliveries())
def test_any_order_repetition_and_crash_ends_in_the_newest_good_value(drawn):
    """A batch whose server died before the end comes again after the others; nothing is lost by it."""
    results, batches = drawn
    shelf = Shelf()
    for batch, dies_after in batches:
        shelf.apply(*batch, dies_after=dies_after)
    for batch, dies_after in batches:
        if dies_after < 3:
            shelf.apply(*batch)
    newest: dict[str, Any] = {message.key: message.value for message in results if message.status == OK}
    record = shelf.record or {}
    assert {key: record.get(key) for key in newest} == newest
    kept = {(change["key"], change["value"]) for change in shelf.history.values()}
    assert kept == {(message.key, message.value) for message in results if message.status == OK}
    assert shelf.status is not None
    for message in results:  # in order: the last of each key remains
        check = shelf.status["keys"][message.key]
        assert check["seq"] >= message.seq
        assert check["status"] == next(m.status for m in results if m.seq == check["seq"])


@given(deliveries())
def test_applying_everything_once_more_writes_nothing_but_the_status(drawn):
    _, batches = drawn
    shelf = Shelf()
    for _ in range(2):
        for batch, _ in batches:
            shelf.apply(*batch)
    record = shelf.record
    for batch, _ in batches:
        merged = shelf.apply(*batch)
        assert merged.record is None
    assert shelf.record is record


# --- the history tells what the record held -------------------------------------------------------


def test_a_result_whose_server_died_is_stored_when_it_is_delivered_again():
    """Until then the history says what the record does not hold yet."""
    shelf = Shelf()
    shelf.apply(result(1, "a"), result(2, "b"), at=at(0), dies_after=1)
    shelf.apply(result(1, "a"), result(2, "b"), at=at(50))
    assert [change["stored_at"] for change in shelf.history.values()] == [at(50), at(50)]
    assert shelf.record["vogeler"]["keys"]["rpms"]["stored_at"] == at(50)


def test_of_two_servers_the_one_that_came_too_late_says_so_in_the_history():
    """Its clock is ahead: its result would look newer than the one that is in the record."""
    shelf = Shelf()
    shelf.apply(result(1, "a"), at=at(0))
    slow = shelf.read(result(2, "b"), at=at(100))
    quick = shelf.read(result(3, "c"), at=at(50))
    shelf.write(slow, dies_after=1)
    shelf.write(quick)
    shelf.apply(result(2, "b"), at=at(100))  # again, after the conflict or the crash
    assert (shelf.record["rpms"], shelf.held("rpms", at(1000))) == ("c", "c")


def test_of_two_servers_the_one_that_is_overtaken_stores_after_the_other():
    shelf = Shelf()
    shelf.apply(result(1, "a"), at=at(0))
    slow = shelf.read(result(3, "c"), at=at(10))
    quick = shelf.read(result(2, "b"), at=at(20))
    shelf.write(slow, dies_after=1)
    shelf.write(quick)
    shelf.apply(result(3, "c"), at=at(10))
    assert (shelf.record["rpms"], shelf.held("rpms", at(1000))) == ("c", "c")


def test_a_record_that_was_written_while_the_node_was_forgotten_is_written_anew():
    """There was no record yet, so that its writing is no conflict; that of the status is."""
    shelf = Shelf()
    shelf.apply(heartbeat(), at=at(0))
    meanwhile = shelf.read(result(1, "a"), at=at(10))
    shelf.forget(at(20))
    shelf.write(meanwhile, dies_after=2)
    merged = merge("web01", {**shelf.record, "_rev": "1-x"}, None, [result(1, "a")], at(10), shelf.forgotten_at)
    assert merged.record["_rev"] == "1-x"
    shelf.write(merged)
    assert shelf.held("rpms", at(1000)) == "a"


@pytest.mark.parametrize(
    "odd", [None, 3, "soon", {"keys": 3}, {"keys": {"rpms": {"stored_at": 7}}, "forgotten_at": []}]
)
def test_odd_times_in_a_record_stop_nothing(odd):
    shelf = Shelf()
    shelf.record = {"_id": "web01", "rpms": "a", "vogeler": odd}
    shelf.apply(result(1, "b"), at=at(0))
    assert shelf.record["rpms"] == shelf.held("rpms", at(0)) == "b"
    shelf.forget(at(1))


def returns(shelf: Shelf) -> list[str]:
    return [entry["stored_at"] for entry in shelf.history.values() if entry["event"] == "returned"]


@pytest.mark.parametrize("message", [heartbeat(), result(1, "a"), result(1, status=FAILED)])
def test_a_forgotten_node_returns_with_its_first_message_and_once(message):
    shelf = Shelf()
    shelf.apply(result(7, "old"), at=at(0))
    shelf.forget(at(10))
    for milliseconds, dies_after in ((20, 0), (30, 1), (40, 2), (50, 3), (60, 3)):
        shelf.apply(message, result(8, "b", key="facter"), at=at(milliseconds), dies_after=dies_after)
    assert returns(shelf) == [at(30)]
    assert [entry["key"] for entry in merge("web01", None, None, [message], at(1), at(0)).history][:1] == [None]


def test_a_node_returned_before_its_first_change_was_stored_whatever_the_clocks_say():
    """The server that heard of it first has a clock that is ahead, and dies."""
    shelf = Shelf()
    shelf.apply(heartbeat(), at=at(0))
    shelf.forget(at(10))
    shelf.apply(result(1, "a"), at=at(5000), dies_after=1)
    shelf.apply(result(1, "a"), at=at(50))
    assert returns(shelf) == [at(50)]
    shelf.forget(at(100))
    shelf.apply(heartbeat(), at=at(90))
    assert returns(shelf) == [at(50), at(101)]


def test_a_node_that_was_never_forgotten_has_not_returned():
    shelf = Shelf()
    shelf.apply(heartbeat(), result(1, "a"))
    assert returns(shelf) == []


@pytest.mark.parametrize("odd", ["x", None, [], {"seq": "x", "ok_seq": None}, {"seq": [], "ok_seq": {}}])
def test_odd_checks_in_a_status_and_odd_facts_in_a_record_stop_nothing(odd):
    shelf = Shelf()
    shelf.record = {"_id": "web01", "rpms": "a", "vogeler": {"keys": {"rpms": odd}}}
    shelf.status = {"_id": "web01", "heard_at": 3, "agent": [], "keys": {"rpms": odd}}
    assert stages(shelf.apply(result(1, "b"), heartbeat())) == [STORED, STORED]
    assert shelf.record["rpms"] == "b"
    assert shelf.status["keys"]["rpms"]["status"] == OK


@st.composite
def servers_at_work(draw: st.DrawFn, skew: int) -> list[tuple[Any, ...]]:
    """What happens to one key: results by several servers that die, and forgets."""
    steps: list[tuple[Any, ...]] = []
    for turn in range(1, draw(st.integers(1, 8)) + 1):
        time = at(20 * turn + draw(st.integers(-skew, skew)))
        if not skew and draw(st.integers(0, 5)) == 0:
            steps.append(("forget", time))
        else:
            batch = draw(st.lists(st.integers(0, 7), min_size=1, max_size=3))
            steps.append(("apply", time, batch, draw(st.integers(0, 3))))
    return steps


def play(steps: list[tuple[Any, ...]]) -> Shelf:
    """A batch whose server died is delivered again after the others."""
    shelf, again = Shelf(), []
    for kind, time, *rest in steps:
        if kind == "forget":
            shelf.forget(time)
            continue
        batch, dies_after = rest
        messages = [result(seq, "abc"[seq % 3]) for seq in batch]
        shelf.apply(*messages, at=time, dies_after=dies_after)
        again += [messages] if dies_after < 3 else []
    for messages in again:
        shelf.apply(*messages, at=at(500))
    return shelf


@given(servers_at_work(skew=0))
def test_whatever_servers_do_the_newest_of_the_history_is_in_the_record(steps):
    shelf = play(steps)
    assert (shelf.record or {}).get("rpms") == shelf.held("rpms", at(10_000))


@given(servers_at_work(skew=100))
def test_whatever_clocks_say_the_highest_seq_of_the_history_is_in_the_record(steps):
    shelf = play(steps)
    stayed = [change for change in shelf.history.values() if not change.get("late")]
    newest = max(stayed, key=lambda change: change["seq"], default={"value": None})
    assert (shelf.record or {}).get("rpms") == newest["value"]
