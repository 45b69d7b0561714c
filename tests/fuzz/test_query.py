"""The expression language: whatever somebody types, asked of whatever is in a record."""

from __future__ import annotations

from typing import Any, Optional

from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.examples import ANYTHING, NASTY_TEXTS, fuzzed, limited, mutated, tried
from vogeler.find import explain
from vogeler.persistence import NodeSummary
from vogeler.query import Expression, NodeView, QueryError, matches, parse, paths, written
from vogeler.versions import compare_deb, compare_rpm

NOW_S = 1_800_000_000.0
VALID = st.sampled_from(
    [
        "packages.openssl < 3.0.11-1~deb12u2 and not packages.telnetd",
        "(rpms ~ ^(openssl|nss)) or system.memory.total >= 8GiB",
        "checked(packages) > 7d and seen < 5m or name = web* and group != db",
        "not (a.b has 9999 or c.*.d = '[x]') and jmx.port != 9998",
        'rpms ~ "el9[.]x86_64$" and x = "a \\" b"',
    ]
)
PIECES = st.one_of(
    st.text(max_size=3),
    st.sampled_from(
        ["(", ")", "<", ">", "<=", "=", "!=", "~", '"', "'", "\\", " and ", " or ", " not ", " has ", " seen ", "checked(",
         "name ", "group ", "*", "[", "]", "[z-a]", "?", "{9999999999}", "(?P<", "(?i)", "[[", "\\1", "**", "²", "1e999",
         "9" * 5000, "9" * 400 + "GB", "9" * 400 + "d", "0.0000001", "\x00", "\n", "\ud800", "(" * 50, "not " * 60]
    ),
)  # fmt: skip
EXPRESSIONS = st.one_of(
    st.lists(PIECES, max_size=10).map("".join), mutated(VALID, PIECES), st.text(), NASTY_TEXTS,
    st.builds("{} {} {}".format, st.sampled_from(["a", "a.*", "name", "group", "*"]), st.sampled_from("~=<>"), PIECES),
)  # fmt: skip
FACTS = st.one_of(
    ANYTHING, st.sampled_from(["3.0.11-1~deb12u2", "1:2-3.el9", "9" * 5000, "0" * 9, "1.²", "٣", "debian"])
)
RECORDS = st.dictionaries(
    st.sampled_from(["a", "c", "packages", "system", "rpms", "jmx", "_id", "vogeler"]),
    st.one_of(FACTS, st.dictionaries(st.sampled_from(["b", "openssl", "os", "id", "*"]), FACTS, max_size=3)),
    max_size=4,
)


def asked(text: str, record: Any) -> Optional[Expression]:
    """The tree of an expression; it can be written, explained and asked of any node."""
    tree = tried(lambda: parse(text), QueryError)
    if tree is not None:
        summary = NodeSummary("web01", None, None, None, ("web", "db"), (), {"packages": "2026-01-31T08:00:00.000Z"})
        with limited():
            assert isinstance(matches(tree, NodeView(record, summary, NOW_S)), bool)
            assert parse(written(tree)) == tree
            assert explain(tree)
            paths(tree)
    return tree


@fuzzed
@given(EXPRESSIONS, RECORDS)
@example("a = " + "9" * 5000, {"a": 1})
@example("a < " + "9" * 400 + "GB", {"a": 1})
@example('"" ~ "a{99999999999999999999}"', {})
@example("seen < 0.00001", {})
def test_any_expression_of_any_record(text: str, record: Any) -> None:
    asked(text, record)


VERSIONS = st.text(st.sampled_from("0129.-~+^:abZ²٣"), max_size=12) | NASTY_TEXTS


@fuzzed
@given(VERSIONS, VERSIONS, VERSIONS)
@example("1" * 5000, "1" * 5001, "1")
def test_any_versions_have_an_order(one: str, two: str, three: str) -> None:
    with limited():
        for compare in (compare_deb, compare_rpm):
            assert compare(one, one) == 0
            assert compare(one, two) == -compare(two, one)
        if compare_deb(one, two) <= 0 and compare_deb(two, three) <= 0:
            assert compare_deb(one, three) <= 0
