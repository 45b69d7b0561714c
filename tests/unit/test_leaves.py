"""A record as flat facts, and a value without what changes all the time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vogeler.leaves import leaves, plain, record_leaves, without

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=4)),
    max_leaves=12,
)


def test_the_leaves_of_a_record_are_what_plugins_put_into_it() -> None:
    ours = {"_id": "web01", "_rev": "1-x", "system_name": "web01", "vogeler": {"keys": {}}}
    assert list(record_leaves({**ours, "": 0, "a": {"b": [1, [{}]]}})) == [("", 0), ("a.b", 1), ("a.b", None)]
    assert list(record_leaves({**ours, "ab": 0, "c": {"b": 1}}, "a")) == [("ab", 0)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (None, None),
        ("1.0", "1.0"),
        (1.0, 1),
        (-0.0, 0),
        (0.5, 0.5),
        (2**53 - 1, 2**53 - 1),
        (2**53, float(2**53)),
        (-(2**70), -float(2**70)),
        (1e300, 1e300),
        (10**400, None),
    ],
)
def test_numbers_are_as_every_index_gives_them_back(value: Any, expected: Any) -> None:
    assert (plain(value), type(plain(value))) == (expected, type(expected))


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["up"], {"disks": {"a": {"free": 1, "size": 2}, "b": {"free": 3}}, "ps": [{"id": 1, "cpu": 2}], "x.y": 4}),
        (["disks.*.free"], {"up": 9, "disks": {"a": {"size": 2}, "b": {}}, "ps": [{"id": 1, "cpu": 2}], "x.y": 4}),
        (["disks", "x.y"], {"up": 9, "ps": [{"id": 1, "cpu": 2}]}),
        (["ps.cpu", "x.*", "d*.a"], {"up": 9, "disks": {"b": {"free": 3}}, "ps": [{"id": 1}]}),
        (["cpu", "nothing", "disks.a.size.more"], None),
        (["*"], {}),
    ],
)
def test_without_leaves_out_what_is_at_the_paths(paths: list[str], expected: Any) -> None:
    value = {"up": 9, "disks": {"a": {"free": 1, "size": 2}, "b": {"free": 3}}, "ps": [{"id": 1, "cpu": 2}], "x.y": 4}
    assert without(value, paths) == (value if expected is None else expected)


def test_without_passes_through_a_list_at_the_top_and_leaves_a_scalar_alone() -> None:
    assert without([{"a": 1, "b": 2}, "a", [{"a": 3}]], ["a"]) == [{"b": 2}, "a", [{}]]
    assert without("a", ["a", "*"]) == "a"


@given(VALUES)
def test_without_no_path_is_the_value_itself(value: Any) -> None:
    assert without(value, []) is value
    assert without(value, ["no such path"]) == value


@given(VALUES, st.lists(st.text(max_size=3), min_size=1, max_size=3))
def test_no_leaf_is_left_at_a_path_that_was_left_out(value: Any, names: list[str]) -> None:
    paths = [name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]") for name in names]
    left = {path for path, _ in leaves(without(value, paths), "")}
    assert not left & {f".{name}" for name in names} or not isinstance(value, (dict, list))
