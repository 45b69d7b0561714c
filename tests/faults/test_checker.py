"""The checker finds each kind of broken promise: a world that is in order, and one thing in it that is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.checker import BROKER, DeadLetter, Seen, violations
from tests.faults.load import Asked
from tests.faults.stored import Stored
from tests.faults.truth import PluginRun

AT = 1_000_000.0
STORED_AT = "1970-01-12T13:46:41.000Z"  # a second later


def in_order() -> Seen:
    """Two nodes, a run of ``quick`` on each, one of ``moody`` that failed, and a message that nobody could store."""
    asked = Asked("quick", ["a", "b"], 15.0, AT - 1, AT + 9, 0, {n: row(n, "stored") for n in "ab"}, run="run1")
    moody = Asked("moody", ["a"], 15.0, AT - 1, AT + 9, 3, {"a": row("a", "failed", "exit code 3: a3")}, run="run2")
    runs = [PluginRun("a", "quick", "a1", 11, 1, AT, AT), PluginRun("b", "quick", "b1", 12, 2, AT, AT)]
    runs.append(PluginRun("a", "moody", "a3", 11, 3, AT, AT, failed=True))
    stored = Stored({n: record(n, f"{n}1") for n in "ab"}, {}, [change(n, f"{n}1") for n in "ab"])
    dead = [DeadLetter("poison1", "can't be read")]
    return Seen({run.value: run for run in runs}, stored, [asked, moody], dead, {"poison1"}, {"poison1"})


def row(node: str, stage: str, reason: str = "") -> dict[str, Any]:
    return {"node": node, "stage": stage, "key": "quick", "reason": reason}


def change(node: str, value: str, seq: int = 1, run: str = "run1") -> dict[str, Any]:
    return {"node": node, "key": "quick", "value": value, "seq": seq, "run": run, "stored_at": STORED_AT}


def record(node: str, value: str) -> dict[str, Any]:
    return {"_id": node, "quick": value, "vogeler": {"keys": {"quick": {"run": "run1"}}}}


def test_a_world_in_order_has_no_violations() -> None:
    assert violations(in_order()) == []


def lose_value(seen: Seen) -> None:
    del seen.stored.history[0], seen.stored.records["a"]


def invent(seen: Seen) -> None:
    del seen.runs["a1"]


def store_steady_twice(seen: Seen) -> None:
    seen.stored.history.extend({**change("a", "as ever on a", n, f"run{n}"), "key": "steady"} for n in (5, 6))
    seen.stored.records["a"]["steady"] = "as ever on a"
    seen.stored.records["a"]["vogeler"]["keys"]["steady"] = {"run": "run6"}


def store_twice(seen: Seen) -> None:
    seen.stored.history.append(dict(seen.stored.history[0]))


def run_twice(seen: Seen) -> None:
    seen.runs["a2"] = replace(seen.runs["a1"], value="a2")
    seen.stored.history.append(change("a", "a2", seq=2))
    seen.stored.records["a"]["quick"] = "a2"


def keep_old(seen: Seen) -> None:
    seen.runs["a2"] = replace(seen.runs["a1"], value="a2")
    seen.stored.history.append(change("a", "a2", seq=2, run="run9"))


def forget_history(seen: Seen) -> None:
    seen.stored.history[:] = [change for change in seen.stored.history if change["node"] == "b"]
    seen.runs["a1"] = replace(seen.runs["a1"], ended_at=None)


def lie_stored(seen: Seen) -> None:
    seen.stored.history[0]["run"] = seen.stored.records["a"]["vogeler"]["keys"]["quick"]["run"] = "run9"


def lie_silent(seen: Seen) -> None:
    seen.asked[0].rows["a"] = row("a", "silent")
    seen.asked[0].exit_code = 4


def lie_code(seen: Seen) -> None:
    seen.asked[1].exit_code = 0


def lie_failure(seen: Seen) -> None:
    seen.asked[1].rows["a"]["reason"] = "exit code 3: something"


def give_no_reason(seen: Seen) -> None:
    seen.asked[1].rows["a"]["reason"] = None


def leave_out_node(seen: Seen) -> None:
    del seen.asked[0].rows["b"]


def name_none(seen: Seen) -> None:
    seen.asked[1].rows.clear()
    seen.asked[1].exit_code = BROKER


def crash(seen: Seen) -> None:
    seen.asked[0].talk = "Traceback (most recent call last):"


def lose_poison(seen: Seen) -> None:
    seen.dead.clear()  # type: ignore[attr-defined]


def add_dead(seen: Seen) -> None:
    seen.dead.append(DeadLetter("another", "why not"))  # type: ignore[attr-defined]


def drop_reason(seen: Seen) -> None:
    seen.dead[0] = DeadLetter("poison1", None)  # type: ignore[index]


@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        (lose_value, ["lost without a word: a1", "nothing of this run was stored on a"]),
        (invent, ["in the history, but no plugin made it: a1"]),
        (store_twice, ["2 times in the history: a1", "run run1 had more than one effect on a"]),
        (store_steady_twice, ["2 times in the history: what is steady on a"]),
        (run_twice, ["run run1 had more than one effect on a"]),
        (keep_old, ["the record of a holds a1 of run run1, not a2 of run run9"]),
        (forget_history, ["the record of a holds a1, of which the history knows nothing", "nothing of this run"]),
        (lie_stored, ["nothing of this run was stored on a"]),
        (lie_silent, ["but it was stored on a before the runner ended"]),
        (lie_code, ["its rows mean exit code 3"]),
        (lie_failure, ["no plugin failed so on a"]),
        (give_no_reason, ["no reason is given for a"]),
        (leave_out_node, ["it named ['a'], and was for ['a', 'b']"]),
        (name_none, ["it named no node"]),
        (crash, ["it crashed"]),
        (lose_poison, ["neither stored nor a dead letter: message poison1"]),
        (add_dead, ["a dead letter that nobody expects"]),
        (drop_reason, ["a dead letter without a reason"]),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_one_broken_promise_is_found_and_named(breaks: Callable[[Seen], None], told: list[str]) -> None:
    seen = copy.deepcopy(in_order())
    breaks(seen)
    # As it is built from what was seen: the changes of each run are found anew.
    found = violations(replace(seen))
    assert len(found) == len(told), found
    assert all(words in line for words, line in zip(told, found)), found


def test_what_is_lost_is_excused_by_a_runner_that_names_it_and_each_excuse_counts_once() -> None:
    seen = in_order()
    lose_value(seen)
    seen.asked[0].rows["a"] = row("a", "unfinished")
    seen.asked[0].exit_code = 4
    assert violations(replace(seen)) == []
    seen.runs["a2"] = replace(seen.runs["a1"], value="a2")
    assert [line[:26] for line in violations(replace(seen))] == ["lost without a word: a2 of"]


def test_a_node_to_which_nothing_was_done_may_not_be_called_unfinished() -> None:
    seen = in_order()
    lose_value(seen)
    del seen.runs["a1"]
    seen.asked[0].rows["a"] = row("a", "unfinished")
    seen.asked[0].exit_code = 4
    assert violations(replace(seen, suspects={"a"})) == []
    assert len(violations(replace(seen, suspects={"b"}))) == 1


def test_two_effects_of_one_command_are_right_after_a_client_was_killed() -> None:
    seen = in_order()
    run_twice(seen)
    seen.runs["a2"] = replace(seen.runs["a2"], client_pid=99)
    assert violations(replace(seen, killed={11})) == []
    assert len(violations(replace(seen))) == 1


def test_what_a_killed_client_had_is_excused_but_nothing_that_ended_before_what_it_sent() -> None:
    seen = in_order()
    seen.runs["a2"] = replace(seen.runs["a1"], value="a2", ended_at=AT + 2)
    assert violations(replace(seen, killed={11})) == []
    seen.runs["a2"] = replace(seen.runs["a1"], value="a2", begun_at=AT - 4, ended_at=AT - 3)
    assert len(violations(replace(seen, killed={11}))) == 1
