"""Names and URLs: what people type into flags and files."""

from __future__ import annotations

from typing import Callable, Optional

from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.fuzz.examples import NASTY_TEXTS, check_error, fuzzed, limited, mutated, tried
from vogeler import messages, persistence, targets, topology, urls
from vogeler.errors import UsageError
from vogeler.messaging import _amqp_url
from vogeler.persistence._couch_http import Couch
from vogeler.units import format_duration, format_size, parse_duration, parse_size, parse_timestamp, to_timestamp

TEXTS = st.one_of(NASTY_TEXTS, st.text())


def refused(check: Callable[[], object]) -> bool:
    """Whether it is a ValueError, which says something."""
    said = None
    with limited():
        try:
            check()
        except ValueError as error:
            said = str(error)
    assert said is None or said.strip()
    return said is not None


@fuzzed
@given(mutated(st.sampled_from(["web01.example.com", "a-b_c"]), TEXTS) | TEXTS)
def test_a_node_name_is_fit_for_ids_and_queues_or_refused(name: str) -> None:
    if not refused(lambda: messages.check_node_name(name)):
        assert len(topology.node_queue(name).encode()) <= 253 + len("vogeler.node.")
        assert targets.parse(name) in ({"nodes": [name]}, None)
    refused(lambda: messages.check_key(name))
    refused(lambda: messages.check_id(name))


WORDS = st.one_of(
    TEXTS, st.sampled_from(["all", "group:", "group:a", "[z-a]", "[", "[!", "*" * 30 + "b", "?", "web*", ","])
)


@fuzzed
@given(st.lists(WORDS, max_size=4).map(",".join), st.sampled_from(["web01", "a", "a" * 250]))
@example("[z-a]", "web01")
def test_any_list_of_nodes_means_somebody_or_is_a_usage_error(text: str, node: str) -> None:
    meant = tried(lambda: (targets.parse(text),), UsageError)
    if meant is not None:
        with limited():
            assert isinstance(targets.matches(meant[0], node, ("g",)), bool)
            assert targets.broadcast_keys(meant[0])
            targets.exact_names(meant[0])


NUMBERS = st.one_of(
    st.builds("{}{}".format, st.integers() | st.floats() | st.just("9" * 400), st.sampled_from(["", "s", "d", "GB", " TiB", "ms"])),
    TEXTS,
)  # fmt: skip


@fuzzed
@given(NUMBERS)
@example("9" * 400 + "GB")
def test_a_duration_or_size_is_a_number_or_a_value_error(text: str) -> None:
    if not refused(lambda: parse_duration(text)):
        assert 0 <= parse_duration(text) < 1e9
        assert format_duration(parse_duration(text))
    if not refused(lambda: parse_size(text)):
        assert parse_size(text) >= 0
        assert format_size(parse_size(text))


@fuzzed
@given(
    mutated(st.sampled_from(["2026-01-31T08:00:00.000Z", "0001-01-01T00:00:00Z"]), st.sampled_from("0129٣²Z.T- "))
    | TEXTS
)
def test_a_timestamp_is_a_time_or_a_value_error(text: str) -> None:
    if not refused(lambda: parse_timestamp(text)):
        assert text.isascii()
        assert abs(parse_timestamp(to_timestamp(parse_timestamp(text))) - parse_timestamp(text)) < 0.002


# --- URLs -----------------------------------------------------------------------------------------

SECRET = "hunter2"
URLS = st.sampled_from(
    [
        f"amqp://alice:{SECRET}@mq1:5672/vogeler?heartbeat=30",
        f"amqps://alice:{SECRET}@[::1]/%2F?cafile=/x.pem",
        f"couch://admin:{SECRET}@db1:5984/system_records",
        f"couchs://admin:{SECRET}@db1/sub/path/system_records?cafile=/x",
        "sqlite:///var/lib/vogeler/vogeler.db",
        "local:///var/lib/vogeler/bus.db",
    ]
)
URL_PIECES = st.one_of(
    st.text(max_size=3),
    st.sampled_from(["@", ":", "/", "//", "://", "[", "]", "%", "%00", "%zz", "%ff", "?", "#", "&", "=", ",", " ", "\n", "\x00",
                     "..", "a" * 70, "℀", "99999", "-1", "\ud800", "é", "heartbeat=x", "heartbeat=²"]),
)  # fmt: skip


def split(text: str) -> Optional[urls.Url]:
    return tried(lambda: urls.parse(text), UsageError)


@fuzzed
@given(mutated(URLS, URL_PIECES) | TEXTS | TEXTS.map("amqp://{}".format))
def test_any_url_is_split_or_a_usage_error(text: str) -> None:
    url = split(text)
    if url is not None:
        str(url).encode()
        assert split(str(url)) is not None
        url.option("heartbeat", "")
    tried(lambda: urls.parse_many(text), UsageError)
    tried(lambda: urls.has_password(text), UsageError)


PASSWORDS = st.text(st.sampled_from("ab1/:?#[]@%,℀ é\\&="), min_size=1, max_size=10).map(
    lambda text: f"{SECRET}{text}{SECRET}"
)


@fuzzed
@given(
    PASSWORDS,
    st.sampled_from(["mq1", "mq1:5672", "[::1]:1", "mq1:x", "a,b"]),
    st.sampled_from(["", "/", "/vh", "/a@b"]),
)
@example("hunter2/hunter2", "mq1", "/vogeler")
@example("hunter2℀hunter2", "mq1", "")
@example("hunter2,hunter2", "mq1", "")
def test_a_password_is_never_shown_whatever_is_in_it(password: str, host: str, path: str) -> None:
    text = f"amqp://alice:{password}@{host}{path}"
    for read in (lambda: (urls.parse(text),), lambda: urls.parse_many(text)):
        try:
            shown = " ".join(map(str, read()))
        except UsageError as error:
            check_error(error)
            shown = f"{error} {error.remedy}"
        assert SECRET not in shown


@fuzzed
@given(mutated(URLS, URL_PIECES))
@example("couch://a b/db")
@example("couch://a..b/db")
@example("amqp://a..b/")
@example("amqp://h/?heartbeat=²")
def test_any_url_of_an_engine_is_understood_or_a_usage_error(text: str) -> None:
    """As far as an engine goes before it connects."""
    url = split(text)
    assume(url is not None and url.password != "")
    assert url is not None
    if url.scheme in ("amqp", "amqps"):
        tried(lambda: _amqp_url._parameters(url, 1.0, "test"), UsageError)
    elif url.scheme in ("couch", "couchs"):
        tried(lambda: Couch(url, "", 1.0).close(), UsageError)
        tried(lambda: persistence.connect(text).close(), UsageError)
