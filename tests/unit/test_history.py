"""Differences, JSON Patch, and what a record was at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.persistence.examples import result
from vogeler.history import (
    Difference,
    apply_patch,
    difference,
    patch,
    record_at,
    same,
    stored_at,
    value_at,
    version,
    versions,
)
from vogeler.messages import Result, canonical_json
from vogeler.persistence import Document, _merge
from vogeler.units import to_timestamp

# Few different scalars, among them those that Python takes for equal, so that values often share parts.
SCALARS = st.sampled_from(
    [None, True, False, 0, 1, 2, 0.0, 1.0, -0.0, "", "a", "b", "1", "true", "a\nb", "b\na", "/", "~1"]
)
NAMES = st.sampled_from(["", "a", "b", "a/b", "m~n", "~1", "0", "-", "c.d"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


# --- differences ----------------------------------------------------------------------------------


def test_mappings_are_compared_by_key_at_every_depth() -> None:
    old = {"openssl": "3.0.11", "telnetd": "0.17", "os": {"id": "debian", "version": "12"}}
    new = {"openssl": "3.0.13", "jq": "1.6", "os": {"id": "debian", "version": "13", "name": "trixie"}}
    assert difference(old, new) == Difference(
        added=(("jq", "1.6"), ("os.name", "trixie")),
        removed=(("telnetd", "0.17"),),
        changed=(("openssl", "3.0.11", "3.0.13"), ("os.version", "12", "13")),
    )


def test_lists_are_compared_by_their_entries_each_as_often_as_it_is_there() -> None:
    assert difference(["a", "b", "b"], ["b", "a", "c"]) == Difference(added=(("", "c"),), removed=(("", "b"),))
    rows = [{"port": 22, "at": "0.0.0.0"}, {"port": 80, "at": "::"}]
    assert not difference({"tcp": rows}, {"tcp": [{"at": "0.0.0.0", "port": 22}, rows[1]]})
    assert difference({"tcp": rows}, {"tcp": rows[:1]}) == Difference(removed=(("tcp", rows[1]),))


def test_texts_of_several_lines_are_compared_by_line() -> None:
    assert difference("a\nb\n", "a\nc\n") == Difference(added=(("", "c"),), removed=(("", "b"),))
    assert difference("one", "two") == Difference(changed=(("", "one", "two"),))


def test_another_order_is_a_difference_of_its_own() -> None:
    assert difference({"dns": [1, 2]}, {"dns": [2, 1]}) == Difference(reordered=("dns",))


@pytest.mark.parametrize(("old", "new"), [(True, 1), (1, 1.0), (False, 0), (0.0, -0.0), (None, False), ([1], {"0": 1})])
def test_what_is_not_the_same_json_has_changed(old: Any, new: Any) -> None:
    assert difference(old, new) == Difference(changed=(("", old, new),))
    assert repr(difference(old, new).changed[0][1:]) == repr((old, new))
    assert difference([old], [new])
    assert patch({"a": old}, {"a": new}) == [{"op": "replace", "path": "/a", "value": new}]


def test_a_difference_says_how_much_there_is_of_it() -> None:
    assert str(difference({"a": 1, "b": 1}, {"b": 2, "c": 1, "d": 1})) == "2 added, 1 removed, 1 changed"
    assert str(difference(1, 1)) == "nothing"


@given(VALUES, VALUES)
def test_there_is_a_difference_exactly_if_the_values_are_not_the_same_json(old: Any, new: Any) -> None:
    differ = canonical_json(old) != canonical_json(new)
    assert same(old, new) is not differ
    assert bool(difference(old, new)) is differ
    assert bool(patch(old, new)) is differ


# --- JSON Patch -----------------------------------------------------------------------------------


@given(VALUES, VALUES)
def test_a_patch_applied_to_the_old_value_gives_the_new_one(old: Any, new: Any) -> None:
    before = canonical_json(old)
    operations = json.loads(json.dumps(patch(old, new)))
    assert canonical_json(apply_patch(old, operations)) == canonical_json(new)
    assert canonical_json(old) == before


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
def test_a_patch_of_lists_applied_gives_the_new_list(old: list[int], new: list[int]) -> None:
    assert apply_patch(old, patch(old, new)) == new


@given(st.lists(st.integers(), unique=True, min_size=1), st.data())
def test_what_is_taken_out_or_put_in_is_one_operation(entries: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(entries) - 1))
    less = entries[:place] + entries[place + 1 :]
    assert patch(entries, less) == [{"op": "remove", "path": f"/{place}"}]
    assert patch(less, entries) == [{"op": "add", "path": f"/{place}", "value": entries[place]}]


# RFC 6902, appendix A, what of it is made of add, remove and replace.
@pytest.mark.parametrize(
    ("value", "operation", "expected"),
    [
        ({"foo": "bar"}, {"op": "add", "path": "/baz", "value": "qux"}, {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, {"op": "add", "path": "/foo/1", "value": "q"}, {"foo": ["bar", "q", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, {"op": "remove", "path": "/baz"}, {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, {"op": "remove", "path": "/foo/1"}, {"foo": ["bar", "baz"]}),
        ({"baz": "qux"}, {"op": "replace", "path": "/baz", "value": "boo"}, {"baz": "boo"}),
        ({"foo": "bar"}, {"op": "add", "path": "/child", "value": {"g": {}}}, {"foo": "bar", "child": {"g": {}}}),
        ({"/": 9, "~1": 10}, {"op": "replace", "path": "/~01", "value": 11}, {"/": 9, "~1": 11}),
        ({"foo": ["bar"]}, {"op": "add", "path": "/foo/-", "value": ["abc"]}, {"foo": ["bar", ["abc"]]}),
        ({"foo": 1}, {"op": "add", "path": "", "value": [1]}, [1]),
        ({"foo": 1}, {"op": "replace", "path": "/foo", "value": None}, {"foo": None}),
        ({"foo": 1}, {"op": "remove", "path": ""}, None),
    ],
)
def test_operations_do_what_rfc_6902_says(value: Any, operation: dict[str, Any], expected: Any) -> None:
    assert apply_patch(value, [operation]) == expected


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "add", "path": "/baz/bat", "value": "qux"},  # RFC 6902, A.12
        {"op": "remove", "path": "/none"},
        {"op": "replace", "path": "/none", "value": 1},
        {"op": "remove", "path": "/list/1"},
        {"op": "add", "path": "/list/2", "value": 1},
        {"op": "replace", "path": "/list/-", "value": 1},
        {"op": "replace", "path": "/list/00", "value": 1},
        {"op": "replace", "path": "/list/-1", "value": 1},
        {"op": "replace", "path": "/text/0", "value": 1},
        {"op": "replace", "path": "list", "value": 1},
        {"op": "move", "path": "/list", "from": "/text"},
        {"op": "add", "path": "/list/0"},
        {"path": "/list/0"},
    ],
)
def test_an_operation_that_does_not_fit_is_refused(operation: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"does not fit|is not add|does not begin"):
        apply_patch({"list": [1], "text": "t"}, [operation])


def test_a_long_list_in_another_order_is_patched_soon() -> None:
    old = [f"line {number}" for number in range(5000)]
    new = old[2500:] + old[:2500][::-1]
    assert apply_patch(old, patch(old, new)) == new


# --- the history ----------------------------------------------------------------------------------


def entry(seq: int, value: Any = None, key: str | None = "rpms", at: int | None = None, **more: Any) -> Document:
    """A history document, stored ``at`` seconds after the epoch."""
    event = "change" if key else "forgotten"
    at_text = to_timestamp(seq if at is None else at)
    return {"_id": f"web01:{key}:{seq}", "node": "web01", "key": key, "value": value, "seq": seq, "event": event,
            "changed_at": to_timestamp(seq), "stored_at": at_text, "run": None, "requested_by": None, **more}  # fmt: skip


HISTORY = [
    entry(9, ["d"], at=90),
    entry(0, key=None, at=70),
    entry(3, ["late"], at=55, late=True),
    entry(4, ["c"], at=50),
    entry(2, "up", "jmx", at=30),
    entry(1, ["a"], at=10),
]


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (9, {}), (10, {"rpms": ["a"]}), (49, {"rpms": ["a"], "jmx": "up"}), (50, {"rpms": ["c"], "jmx": "up"}),
        (60, {"rpms": ["c"], "jmx": "up"}), (70, {}), (89, {}), (90, {"rpms": ["d"]}), (10**6, {"rpms": ["d"]}),
    ],
)  # fmt: skip
def test_a_record_at_a_time_is_what_was_stored_by_then_and_not_forgotten_since(
    at: int, expected: dict[str, Any]
) -> None:
    held = record_at(HISTORY, to_timestamp(at))
    assert {key: change["value"] for key, change in held.items()} == expected
    of_rpms = [change for change in HISTORY if change["key"] in ("rpms", None)]
    found = value_at(of_rpms, to_timestamp(at))
    assert (found and found["value"]) == expected.get("rpms")


def test_a_value_that_is_null_is_not_no_value() -> None:
    found = value_at([entry(1, None)], to_timestamp(2))
    assert found is not None
    assert found["value"] is None


def test_no_more_is_read_than_the_answer_needs() -> None:
    def until_forgotten() -> Iterator[Document]:
        yield from HISTORY[:2]
        pytest.fail("read on")

    assert list(record_at(until_forgotten(), to_timestamp(100))) == ["rpms"]
    assert value_at(until_forgotten(), to_timestamp(100)) == HISTORY[0]


def test_what_was_stored_before_there_was_stored_at_goes_by_the_nodes_clock() -> None:
    old = {name: value for name, value in entry(5, ["old"]).items() if name != "stored_at"}
    assert stored_at(old) == to_timestamp(5)
    assert value_at([old], to_timestamp(5)) is old


RESULTS = st.lists(
    st.tuples(st.integers(1, 12), st.sampled_from(["rpms", "jmx"]), st.sampled_from(["a", "b", "c"]))
    | st.just("forget"),
    max_size=20,
)  # fmt: skip


@given(RESULTS)
def test_the_record_at_any_time_is_the_record_that_there_was(events: list[Any]) -> None:
    """Results in any order, twice, late, and forgotten in between: --at gives what record() gave at the time."""
    record: Document | None = None
    status: Document | None = None
    history: dict[str, Document] = {}
    were: list[tuple[str, dict[str, Any]]] = []
    forgotten_at = None
    for minute, event in enumerate(events):
        at = to_timestamp(60.0 * minute + 10**9)
        if event == "forget":
            new = [_merge.forgotten("web01", record, "alice@ops1", at)]
            record, status, forgotten_at = None, None, new[0]["stored_at"]
        else:
            merged = _merge.merge("web01", record, status, [_result(*event)], at, forgotten_at)
            record, status, new = merged.record or record, merged.status or status, merged.history
        for change in new:
            history.setdefault(change["_id"], change)
        were.append((at, {key: (record or {}).get(key) for key in ("rpms", "jmx") if key in (record or {})}))
    newest_first = sorted(history.values(), key=lambda change: (change["stored_at"], change["seq"]), reverse=True)
    for at, was in were:
        assert {key: change["value"] for key, change in record_at(newest_first, at).items()} == was


def _result(seq: int, key: str, value: str) -> Result:
    return result(seq, [value], key=key)


# --- versions -------------------------------------------------------------------------------------


def test_each_change_is_beside_the_one_before_it_newest_first_and_a_forgotten_node_begins_anew() -> None:
    pairs = list(versions(HISTORY, lambda new, old: (new["value"], old and old["value"])))
    assert pairs == [(["d"], None), (None, None), (["late"], None), (["c"], ["a"]), ("up", None), (["a"], None)]


def test_a_pair_is_given_as_soon_as_it_is_known() -> None:
    def endless() -> Iterator[Document]:
        yield from HISTORY[:4]
        pytest.fail("read on")

    assert next(versions(endless(), lambda new, old: new["seq"])) == 9


def test_a_version_has_difference_and_patch_but_for_what_never_was_in_the_record() -> None:
    found = list(versions(HISTORY, version))
    assert [one.first for one in found] == [True, False, False, False, True, True]
    assert [str(one.difference) for one in found] == [
        "1 added", "None", "None", "1 added, 1 removed", "1 added", "1 added",
    ]  # fmt: skip
    assert found[0].patch == [{"op": "add", "path": "", "value": ["d"]}]
    assert found[3].patch == [{"op": "replace", "path": "/0", "value": "c"}]
    assert [found[1].patch, found[2].patch] == [None, None]
    assert "value" not in found[0].entry


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_the_patches_of_a_key_one_after_the_other_lead_from_nothing_to_its_value(values: list[Any]) -> None:
    newest_first = [entry(seq, value) for seq, value in enumerate(values)][::-1]
    value: Any = None
    for one in reversed(list(versions(newest_first, version))):
        assert one.patch is not None
        value = apply_patch(value, one.patch)
        assert canonical_json(value) == canonical_json(values[one.entry["seq"]])
