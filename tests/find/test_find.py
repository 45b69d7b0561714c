"""What the index answers is what reading every record answers, on every store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vogeler import persistence, query, registry
from vogeler.find import INDEX, NODES, SCAN, Search, explain, find
from vogeler.leaves import at_path
from vogeler.messages import Heartbeat, Result, digest_of
from vogeler.persistence import Store
from vogeler.query import Expression, NodeView, parse
from vogeler.units import to_timestamp

NOW_S = 1_800_000_000.0
AT = to_timestamp(NOW_S - 120)
LONG_AGO = to_timestamp(NOW_S - 10 * 86400)

FLEET: dict[str, dict[str, Any]] = {
    "web01": {
        "packages": {"openssl": "3.0.9-1", "python3.11": "3.11.2-6", "python3": "3.11.2-1"},
        "system": {"os": {"id": "debian"}, "memory": {"total": 8 << 30}, "tags": []},
    },
    "web02": {
        "packages": {"openssl": "3.0.11-1", "telnetd": "0.17"},
        "system": {"os": {"id": "debian"}, "memory": {"total": 4 << 30}},
        "jmx": [{"port": 9999}, {"port": 9998}],
    },
    "db01": {
        "packages": {"openssl": "1:3.0.7-27.el9"},
        "system": {"os": {"id": "rocky", "id_like": "rhel fedora"}, "memory": {"total": 16.5}},
        "rpms": ["openssl-3.0.7-27.el9.x86_64", "bash-5.1"],
        "jmx": [{"port": 9999}],
    },
    "new01": {},
}
GROUPS = {"web01": ["web"], "web02": ["web", "prod"], "db01": ["db"], "new01": []}


@pytest.fixture(params=registry.names("vogeler.persistence"))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of each kind with the fleet in it."""
    sqlite = request.param == "sqlite"
    url = f"sqlite://{tmp_path}/vogeler.db" if sqlite else request.getfixturevalue("couch_url")
    with closing(persistence.connect(url)) as opened:
        opened.setup()
        opened.apply([Heartbeat(node, {"groups": groups}) for node, groups in GROUPS.items()], AT)
        opened.apply(
            [
                Result(node, key, key, 1, "ok", LONG_AGO if key == "jmx" else AT, value=value, digest=digest_of(value))
                for node, record in FLEET.items()
                for key, value in record.items()
            ],
            AT,
        )
        yield opened


def by_reading(store: Store, tree: Expression) -> list[str]:
    """The truth: every record asked for itself."""
    records = {record["_id"]: record for record in store.records()}
    nodes = [NodeView(records.get(node.node, {}), node, NOW_S) for node in store.nodes()]
    return sorted(node.summary.node for node in nodes if query.matches(tree, node))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("packages.openssl", {"web01", "web02", "db01"}),
        ("packages.openssl < 3.0.11", {"web01"}),
        ("packages.openssl < 1:3.0.8", {"web01", "web02", "db01"}),
        ("packages.openssl != 3.0.9-1", {"web02", "db01"}),
        ("not packages.openssl", {"new01"}),
        ("packages.python3", {"web01"}),
        ("packages.python3*", {"web01"}),
        ("packages.python3.11 = 3.11.2-6", {"web01"}),
        ("system.memory.total >= 8GiB", {"web01"}),
        ("system.memory.total < 17", {"db01"}),
        ("system.tags", {"web01"}),
        ("rpms ~ ^openssl", {"db01"}),
        ("jmx has 9998", {"web02"}),
        ("jmx", {"web02", "db01"}),
        ("*.openssl", {"web01", "web02", "db01"}),
        ("system.os.id = debian and not packages.telnetd", {"web01"}),
        ("group = web and packages.openssl < 3.0.11", {"web01"}),
        ("name = web* and *.telnetd", {"web02"}),
        ("checked(jmx) > 7d", set(FLEET)),
        ("checked(jmx) > 7d and jmx", {"web02", "db01"}),
        ("checked(packages) < 7d", {"web01", "web02", "db01"}),
        ("seen < 5m", set(FLEET)),
        ("seen > 5m", set()),
    ],
)
def test_who_matches(store: Store, text: str, names: set[str]) -> None:
    tree = parse(text)
    assert find(store, tree, NOW_S) == sorted(names) == by_reading(store, tree)


PATHS = st.sampled_from(
    ["packages", "packages.openssl", "packages.python3", "packages.python3.11", "packages.python3*", "packages.*", "*.id",
     "system", "system.os.id", "system.os", "system.memory.total", "system.tags", "jmx", "jmx.port", "rpms", "none", "*"]
)  # fmt: skip
WORDS = st.sampled_from(["3.0.9-1", "3.0.11", "1:3.0.7-27.el9", "debian", "8GiB", "9999", "16.5", "rocky", "*", "null"])
OPERATORS = st.sampled_from(["=", "!=", "<", ">", "<=", ">="])
TREES = st.recursive(
    st.one_of(
        st.builds(query.Present, PATHS),
        st.builds(query.Has, PATHS, WORDS),
        st.builds(query.Compare, PATHS, OPERATORS, WORDS),
        st.builds(query.Compare, PATHS, st.just("~"), st.sampled_from(["^3", "el9", "o", "9"])),
        st.builds(query.Age, st.sampled_from([None, "jmx", "none"]), OPERATORS, st.sampled_from([60.0, 86400.0])),
        st.builds(query.Identity, st.sampled_from(["name", "group"]), st.just("="), st.sampled_from(["web*", "web"])),
    ),
    lambda inner: st.one_of(
        st.builds(query.Not, inner),
        st.builds(query.And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(query.Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES)
def test_the_index_answers_what_reading_every_record_does(store: Store, tree: Expression) -> None:
    assert find(store, tree, NOW_S) == by_reading(store, tree)


def test_a_question_for_the_index_reads_no_record(store: Store) -> None:
    read: list[int] = []
    Search(store, NOW_S, read.append).names(parse("packages.openssl < 3.0.11 and not packages.telnetd"))
    assert read == []
    Search(store, NOW_S, read.append).names(parse("name = web* and *.telnetd"))
    assert read == [1, 2]  # the two that are left, not all four


def test_explain_says_where_the_answer_comes_from() -> None:
    steps = explain(parse("packages.openssl < 3 and (*.telnetd or seen > 1d) and not rpms ~ x*"))
    assert [(step.part, step.source) for step in steps] == [
        ("packages.openssl < 3", INDEX), ("*.telnetd", SCAN), ("seen > 86400.0s", NODES), ("rpms ~ x*", INDEX),
    ]  # fmt: skip
    assert steps[0].detail == "packages.openssl"


def test_the_values_of_fields_come_from_the_index_or_the_record(store: Store) -> None:
    names = ["db01", "new01", "web02"]
    scalars = dict(Search(store, NOW_S).values(names, ["packages.openssl", "jmx.port"]))
    assert scalars == {
        "db01": {"packages.openssl": "1:3.0.7-27.el9", "jmx.port": 9999},
        "new01": {},
        "web02": {"packages.openssl": "3.0.11-1", "jmx.port": [9999, 9998]},
    } or scalars["web02"]["jmx.port"] == [9998, 9999]
    whole = dict(Search(store, NOW_S).values(names, ["system.os", "jmx.port"]))
    assert whole["db01"] == {"system.os": {"id": "rocky", "id_like": "rhel fedora"}, "jmx.port": 9999}
    assert whole["new01"] == {}


@pytest.mark.parametrize(
    ("path", "held"),
    [
        ("a.b", 1),
        ("x.y.z", 2),
        ("l.p", [3, 4]),
        ("a", {"b": 1}),
        ("none", None),
        ("a.b.c", None),
        ("_id", None),
        ("vogeler.keys", None),
    ],
)
def test_what_a_record_holds_at_a_path(path: str, held: object) -> None:
    record = {"_id": "n", "a": {"b": 1}, "x.y": {"z": 2}, "l": [{"p": 3}, {"p": 4}, 5], "vogeler": {"keys": 1}}
    assert at_path(record, path) == held
