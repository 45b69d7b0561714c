"""The runner's accounting: receipts in any order, lost or doubled, end in one true answer per node."""

from __future__ import annotations

import random

import pytest

from vogeler.errors import ExitCode
from vogeler.messages import Receipt
from vogeler.runner import Tally


def tally(expected: str = "", *receipts: tuple[str, str]) -> Tally:
    made = Tally(set(expected.split()))
    for node, stage in receipts:
        made.take(Receipt("run", node, stage, {"key": "k", "reason": stage}))
    return made


def stages(made: Tally) -> dict[str, str]:
    return {row.node: row.stage for row in made.rows()}


def test_who_was_expected_and_did_not_answer_is_silent_with_when_it_was_last_heard() -> None:
    made = tally("a b", ("a", "stored"))
    made.heard = {"b": "2026-01-01T00:00:00.000Z"}
    row = made.rows()[1]
    assert (row.node, row.stage, row.heard_at) == ("b", "silent", "2026-01-01T00:00:00.000Z")


def test_who_accepted_and_did_not_end_is_unfinished() -> None:
    made = tally("a", ("a", "accepted"))
    assert stages(made) == {"a": "unfinished"}
    assert not made.all_ended
    assert made.missing() == ["a"]


def test_a_value_that_is_wanted_is_not_the_end_of_it_however_often_that_is_said() -> None:
    wanted = Receipt("run", "a", "failed", {"key": "k", "reason": "not stored", "wanted": True})
    made = tally("a b", ("b", "stored"))
    made.take(wanted)
    assert (made.wanted, made.all_ended, made.missing()) == ({"a"}, False, ["a"])
    assert stages(made) == {"a": "unfinished", "b": "stored"}
    made.asked_in_full, made.wanted = made.wanted, set()
    made.take(wanted)
    assert made.wanted == set()
    made.take(Receipt("run", "a", "stored"))
    made.take(wanted)
    assert stages(made) == {"a": "stored", "b": "stored"}
    assert made.wanted == set()


def test_nodes_that_nobody_knew_are_counted_too() -> None:
    assert stages(tally("", ("new", "accepted"), ("new", "stored"))) == {"new": "stored"}


def test_the_order_and_the_number_of_receipts_do_not_matter() -> None:
    receipts = [("a", "accepted"), ("a", "stored"), ("b", "accepted"), ("b", "failed"), ("c", "refused")] * 2
    for seed in range(20):
        random.Random(seed).shuffle(receipts)
        made = tally("a b c", *receipts)
        assert stages(made) == {"a": "stored", "b": "failed", "c": "refused"}
        assert made.done == made.total == 3
        assert made.everybody_answered


def test_a_redelivered_result_does_not_turn_stored_into_unchanged() -> None:
    assert stages(tally("a", ("a", "stored"), ("a", "unchanged"))) == {"a": "stored"}


def test_expecting_nobody_is_not_everybody_answered() -> None:
    assert not tally("").everybody_answered


@pytest.mark.parametrize(
    ("expected", "receipts", "code"),
    [
        ("a b", [("a", "stored"), ("b", "unchanged")], ExitCode.OK),
        ("a b", [("a", "stored"), ("b", "unavailable")], ExitCode.OK),
        ("a b", [("a", "stored"), ("b", "failed")], ExitCode.SOME_FAILED),
        ("a b", [("a", "stored"), ("b", "refused")], ExitCode.SOME_FAILED),
        ("a b c", [("a", "stored"), ("b", "failed")], ExitCode.SOME_FAILED),
        ("a b", [("a", "stored")], ExitCode.SOME_SILENT),
        ("a b", [("a", "stored"), ("b", "accepted")], ExitCode.SOME_SILENT),
        ("a", [], ExitCode.NOBODY_ANSWERED),
        ("", [], ExitCode.NOBODY_ANSWERED),
        ("a b", [("a", "unavailable"), ("b", "unavailable")], ExitCode.NOWHERE_AVAILABLE),
    ],
)
def test_the_exit_code_is_the_worst_that_happened(
    expected: str, receipts: list[tuple[str, str]], code: ExitCode
) -> None:
    assert tally(expected, *receipts).exit_code() == code
