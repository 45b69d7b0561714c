"""The expression language: what it reads, what it refuses and where, what it means for one node."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vogeler.persistence import NodeSummary
from vogeler.query import (
    Age,
    And,
    Compare,
    Expression,
    Has,
    Identity,
    NodeView,
    Not,
    Or,
    Present,
    QueryError,
    matches,
    parse,
    written,
)

NOW_S = 1_800_000_000.0
RECORD: dict[str, Any] = {
    "_id": "web01", "_rev": "1-x", "system_name": "web01", "vogeler": {"keys": {"packages": {}}},
    "packages": {"openssl": "3.0.11-1~deb12u2", "python3.11": "3.11.2-6", "libc6": "2.36-9+deb12u4"},
    "system": {"memory": {"total": 17179869184}, "os": {"id": "debian"}, "virtual": True, "swap": None, "load": 0.5},
    "rpms": ["openssl-3.0.7-27.el9.x86_64", "bash-5.1.8-6.el9.x86_64"],
    "jmx": [{"port": 9999, "name": "a"}, {"port": 9998, "name": "b"}],
    "empty": [],
}  # fmt: skip
SUMMARY = NodeSummary(
    "web01", "2027-01-15T07:59:00.000Z", "0.1.0", None, ("web", "prod"), (), {"packages": "2027-01-07T08:00:00.000Z"}
)


def holds(text: str, record: dict[str, Any] = RECORD) -> bool:
    return matches(parse(text), NodeView(record, SUMMARY, NOW_S))


@pytest.mark.parametrize(
    "text",
    [
        "packages.openssl",
        "packages",
        "empty",
        "packages.python3.11",
        "packages.python3.11 = 3.11.2-6",
        "packages.python3*",
        "packages.openssl < 3.0.12",
        "packages.openssl < 3.0.11-1",
        "packages.openssl >= 3.0.9",
        "packages.libc6 > 2.4",
        "packages.libc6 = 2.36-*",
        "system.memory.total >= 8GiB",
        "system.memory.total = 16GiB",
        "system.load < 1",
        "system.virtual = true",
        "system.swap = null",
        "rpms ~ ^openssl",
        "(rpms ~ ^(openssl|nss))",
        'rpms ~ "el9[.]x86_64$"',
        "jmx has 9999",
        "jmx.port = 9998",
        "jmx.port != 1234",
        "jmx has b",
        "system has debian",
        "*.openssl",
        "system.os.id = debian and not packages.telnetd",
        "packages.telnetd or packages.openssl",
        "not (packages.telnetd or packages.rsh)",
        "packages.telnetd or system.os.id = debian and jmx",
        "checked(packages) > 7d",
        "checked(users) > 7d",
        "seen < 5m",
        "name = web*",
        "name != db*",
        "group = prod and group != db",
        "group ~ ^pr",
        "packages.openssl ~ deb12",
    ],
)
def test_what_holds(text: str) -> None:
    assert holds(text)
    assert not holds(f"not ({text})")


@pytest.mark.parametrize(
    "text",
    [
        "packages.openss",
        "package",
        "packages.openssl.x",
        "packages.openssl < 3.0.11",
        "packages.openssl != 3.0.11-1~deb12u2",
        "packages.missing != 1",
        "packages.missing < 1",
        "system.memory.total < 8GiB",
        "system.memory.total < soon",
        "system.virtual = 1",
        "system.virtual < 2",
        "jmx.port != 9999",
        "jmx has 999",
        "vogeler",
        "_rev",
        "system_name = web01",
        "checked(packages) < 7d",
        "seen > 5m",
        "name = web",
        "group = web*01",
    ],
)
def test_what_does_not(text: str) -> None:
    assert not holds(text)


@pytest.mark.parametrize(
    ("os", "holds_"), [({"id": "debian"}, True), ({"id": "rocky", "id_like": "rhel centos fedora"}, False)]
)
def test_versions_are_ordered_as_the_nodes_package_manager_does(os: dict[str, str], holds_: bool) -> None:
    record = {"system": {"os": os}, "packages": {"x": "1.0.a"}}
    assert holds("packages.x > 1.0.1", record) is holds_


def test_a_value_with_the_release_of_a_red_hat_is_ordered_as_rpm_does_whatever_else_is_known() -> None:
    assert holds("packages.x < 1.0.1", {"packages": {"x": "1.0.a-1.el9"}})


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("", 0, "expected a path"),
        ("and", 0, "expected a path"),
        ("packages.openssl <", 18, "expected a value after '<'"),
        ("packages.a packages.b", 11, "expected 'and', 'or' or the end"),
        ("(packages.a", 0, "expected ')'"),
        ("packages.a)", 10, "expected 'and'"),
        ("packages ~ [", 11, "not a regular expression"),
        ("packages ~ a{99999999999999999999}", 11, "not a regular expression"),
        ("seen < soon", 7, "not a duration"),
        ("seen", 4, "expected a comparison"),
        ("seen ~ 5", 7, "a time is compared"),
        ("checked(x", 9, "expected ')'"),
        ("checked x", 8, "expected a key in parentheses"),
        ("name < a", 7, "compared with"),
        ('packages = "open', 11, "a quote that is not closed"),
        ("not " * 200 + "x", 400, "nested too deeply"),
        ("(" * 200 + "x", 100, "nested too deeply"),
    ],
)
def test_an_error_points_at_the_place(text: str, position: int, problem: str) -> None:
    with pytest.raises(QueryError, match=problem.replace("(", r"\(").replace(")", r"\)")) as caught:
        parse(text)
    assert caught.value.position == position
    assert caught.value.message.splitlines()[-1] == "  " + " " * position + "^"


WORDS = st.text(min_size=1, max_size=8)
OPERATORS = st.sampled_from(["=", "!=", "<", ">", "<=", ">="])
AGES = st.integers(0, 10**6).map(float)
ATOMS: st.SearchStrategy[Expression] = st.one_of(
    st.builds(Present, WORDS),
    st.builds(Has, WORDS, WORDS),
    st.builds(Compare, WORDS, OPERATORS, WORDS),
    st.builds(Age, st.none() | WORDS, OPERATORS, AGES),
    st.builds(Identity, st.sampled_from(["name", "group"]), st.sampled_from(["=", "!="]), WORDS),
)
TREES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


@given(TREES)
def test_what_is_written_is_read_back_as_the_same(tree: Expression) -> None:
    assert parse(written(tree)) == tree


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from([*"()<>=!~\"' ab.*", "and", "or", "not", "has", "seen", "checked"]), max_size=12).map(
        " ".join
    )
)
def test_any_text_is_an_expression_or_an_error_within_it(text: str) -> None:
    try:
        tree = parse(text)
    except QueryError as error:
        position = error.position
    else:
        position = 0
        assert isinstance(matches(tree, NodeView(RECORD, SUMMARY, NOW_S)), bool)
    assert 0 <= position <= len(text)


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("a = " + "9" * 5000, {"a": 1}),
        ("a < " + "9" * 400 + "GB", {"a": 1}),
        ("a < " + "9" * 5000, {"a": "8" * 5000}),
        ("a ~ [[x]", {"a": "x"}),  # Python warns of it
        ("a = [z-a]", {"a": "x"}),
        ("a.[z-a] = 1", {"a": {"b": 1}}),
        ("name = [z-a] or group != [z-a]", {}),
        ("*" + "[" * 5000, {"a": 1}),
    ],
)
def test_what_is_odd_is_asked_all_the_same(text: str, record: dict[str, Any]) -> None:
    assert isinstance(holds(text, record), bool)
    assert parse(written(parse(text))) == parse(text)


def test_a_very_short_age_is_written_as_it_is_read() -> None:
    assert written(parse("seen < 0.00001")) == "seen < 0.00001s"
    assert parse("seen < 0.00001s") == Age(None, "<", 0.00001)


def test_the_place_in_a_long_expression_is_shown_with_what_is_around_it() -> None:
    with pytest.raises(QueryError) as caught:
        parse("a and " * 2000 + "<" + " and b" * 2000)
    _, shown, mark = caught.value.message.splitlines()
    assert caught.value.position == 12_000
    assert shown[mark.index("^")] == "<"
    assert len(shown) < 1000
