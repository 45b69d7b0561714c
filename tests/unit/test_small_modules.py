"""Units, URLs, targets, batches, backoff, the registry, differences: the small pure things."""

from __future__ import annotations

import math
import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vogeler import formats, globs, registry, targets, topology, urls
from vogeler.backoff import Backoff
from vogeler.batch import Batch, Lull, Pace
from vogeler.errors import MOST_CHARACTERS, UsageError
from vogeler.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    parse_timestamp,
    to_timestamp,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("250ms", 0.25), ("1.5h", 5400), ("7d", 604800), ("3", 3), (" 2 m ", 120)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("4MB", 4_000_000), ("4MiB", 4 << 20), ("512kB", 512_000), ("7", 7), ("1.5KiB", 1536)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "soon", "-1s", "5 parsecs", "1e3s", "nan"])
def test_what_is_no_duration_says_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match="90s"):
        parse_duration(text)


def test_a_size_beyond_all_numbers_is_no_size() -> None:
    with pytest.raises(ValueError, match="more than can be counted"):
        parse_size("9" * 400 + "GB")


def test_durations_and_sizes_for_people() -> None:
    assert [format_duration(s) for s in (0.44, 12, 119, 120, 7200, 172800)] == ["0.4s", "12s", "119s", "2m", "2h", "2d"]
    assert [format_size(n) for n in (12, 2048, 5 << 20)] == ["12 B", "2.0 KiB", "5.0 MiB"]


@given(st.integers(0, 4_000_000_000_000))
def test_a_timestamp_survives_to_the_millisecond_and_sorts_as_text(milliseconds: int) -> None:
    text = to_timestamp(milliseconds / 1000)
    assert round(parse_timestamp(text) * 1000) == pytest.approx(milliseconds, abs=1)
    assert text < to_timestamp(milliseconds / 1000 + 0.002)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31",
        "2026-01-31T08:00:00",
        "2026-01-31T08:00:00+01:00",
        "2026-13-01T00:00:00Z",
        "x",
        "٢٠٢٦-01-31T08:00:00Z",
    ],
)
def test_what_is_no_timestamp(text: str) -> None:
    with pytest.raises(ValueError, match="time|match"):
        parse_timestamp(text)


def test_a_timestamp_of_long_ago_has_four_digits_too() -> None:
    assert to_timestamp(parse_timestamp("0001-01-01T00:00:00Z")) == "0001-01-01T00:00:00.000Z"


def test_a_url_shows_everything_but_its_password() -> None:
    url = urls.parse("amqps://al%40ice:s3%2Fcret@mq1:5671/ops%2Fx?heartbeat=10")
    assert (url.user, url.password, url.host, url.port, url.path) == ("al@ice", "s3/cret", "mq1", 5671, "/ops/x")
    assert url.option("heartbeat", "30") == "10"
    assert url.secure
    assert "s3" not in str(url)
    assert "s3" not in repr(url)


@pytest.mark.parametrize(
    "text",
    [
        "amqp://alice:s3/cret@mq1/",
        "amqp://alice:12/s3cret@mq1/",
        "amqp://alice:s3#cret@mq1/",
        "amqp://alice:12#s3cret@mq1/",
        "amqp://alice:s3?cret@mq1/",
        "amqp://alice:12?s3cret@mq1/",
        "amqp://alice:s3[cret@mq1/",
        "amqp://alice:s3℀cret@mq1/",
        "amqp://alice:s3,cret@mq1/",
        "amqp://alice:@/s3cret@mq1",
        "amqp:amqp://alice:s3cret@mq1/",
    ],
)
def test_a_password_with_what_has_a_meaning_in_urls_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        urls.parse_many(text)
    assert not {"s3", "cret"} & set(re.findall("s3|cret", f"{caught.value}"))


@pytest.mark.parametrize(
    "text",
    ["couch://a b/db", "amqp://a..b/", f"amqp://{'a' * 64}/", "sqlite:///a%00b", "sqlite:///a#b", "amqp://\ud800/"],
)
def test_what_no_engine_could_use_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        urls.parse(text)


@pytest.mark.parametrize(
    "text", ["sqlite:///home/me@corp/v.db", "amqp://[::1]:5672/", "amqp://mq_1/", "amqps://mq1/?cafile=/a%40b"]
)
def test_what_looks_odd_and_is_right(text: str) -> None:
    assert str(urls.parse(text)) == text.partition("?")[0]


def test_a_cluster_is_a_comma_list_of_one_scheme() -> None:
    cluster = urls.parse_many("amqp://a@mq1,amqp://a@mq2:5673", password="p")
    assert [(url.host, url.password) for url in cluster] == [("mq1", "p"), ("mq2", "p")]
    with pytest.raises(UsageError, match="share a scheme"):
        urls.parse_many("amqp://mq1,local:///bus.db")
    with pytest.raises(UsageError, match="empty"):
        urls.parse_many(" , ")


@pytest.mark.parametrize(
    ("text", "node", "groups", "meant"),
    [
        ("all", "web01", (), True),
        ("web01", "web01", (), True),
        ("web0", "web01", (), False),
        ("web*,db01", "web17", (), True),
        ("web*,db01", "db01", (), True),
        ("web[12]", "web2", (), True),
        ("WEB*", "web01", (), False),
        ("[z-a]", "web01", (), False),
        ("[z-a],web*", "web01", (), True),
        ("*[", "web01", (), False),
        ("group:jboss", "x", ("jboss", "prod"), True),
        ("group:jboss", "jboss", (), False),
    ],
)
def test_who_is_meant(text: str, node: str, groups: tuple[str, ...], meant: bool) -> None:
    assert targets.matches(targets.parse(text), node, groups) is meant


def test_a_command_takes_the_shortest_way() -> None:
    assert targets.broadcast_keys(targets.parse("all")) == ["all"]
    assert targets.broadcast_keys(targets.parse("web*,db01")) == ["all"]
    assert targets.broadcast_keys(targets.parse("db01,group:jboss")) == ["node.db01", "group.jboss"]


@pytest.mark.parametrize("text", ["", " , ", "a/b", "group:", "group:a/b"])
def test_targets_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError):
        targets.parse(text)


def test_a_batch_is_due_by_count_by_bytes_or_by_age() -> None:
    batch: Batch[str] = Batch(max_count=2, max_bytes=100, max_age_s=5.0)
    assert batch.due_in_s(0.0) is None
    batch.add("a", 10, now_s=1.0)
    assert batch.due_in_s(2.0) == 4.0
    assert batch.due_in_s(6.0) == 0.0
    batch.add("b", 10, now_s=2.0)
    assert batch.due_in_s(2.0) == 0.0
    assert batch.take(3.0) == ["a", "b"]
    batch.add("c", 100, now_s=3.0)
    assert batch.due_in_s(3.0) == 0.0


def test_what_nobody_awaits_is_due_some_time_after_the_last_batch() -> None:
    batch: Batch[str] = Batch(max_count=3, max_bytes=100, max_age_s=1.0, pause_s=10.0)
    batch.add("first", 1, 100.0, awaited=False)
    assert batch.due_in_s(101.0) == 0.0
    assert batch.take(101.0) == ["first"]
    batch.add("second", 1, 102.0, awaited=False)
    assert batch.due_in_s(102.0) == 9.0
    batch.add("awaited", 1, 104.0)
    assert batch.due_in_s(104.0) == 0.0
    assert batch.take(104.0) == ["second", "awaited"]
    for _ in range(3):
        batch.add("as many as it holds", 1, 105.0, awaited=False)
    assert batch.due_in_s(105.0) == 0.0


@given(st.lists(st.integers(1, 200)), st.integers(1, 5), st.integers(1, 300))
def test_a_batch_gives_everything_once_in_order_within_its_limits(sizes: list[int], count: int, bytes_: int) -> None:
    batch: Batch[tuple[int, int]] = Batch(count, bytes_, 1.0)
    for number, size in enumerate(sizes):
        batch.add((number, size), size, 0.0)
    taken = []
    while len(batch):
        part = batch.take(0.0)
        assert 1 <= len(part) <= count
        assert len(part) == 1 or sum(size for _, size in part) <= bytes_
        taken += part
    assert taken == list(enumerate(sizes))
    assert batch.due_in_s(9.0) is None


def test_batches_become_as_large_as_fits_into_the_time() -> None:
    """A store that takes 10 ms for a batch and 1 ms for an item of it stores 40 in 50 ms."""
    pace = Pace(20, 500)
    assert pace.size == 20
    for item_s, fitting in ((0.001, 40), (0.0001, 400), (0.00001, 500), (0.02, 20), (0.001, 40)):
        for _ in range(12):
            pace.note(pace.size, 0.01 + pace.size * item_s, 0.05)
        assert fitting * 0.9 <= pace.size <= fitting
    pace.note(1, 0.011, 0.05)
    assert pace.size > 30  # one alone tells nothing
    pace.note(1, 2.0, 0.05)
    assert pace.size == 20
    pace.note(20, 0.02, 0.1)
    assert pace.size == 40  # it may take longer: no more than twice as many the next time
    assert Pace(20, 5).size == 5


def test_what_can_wait_is_done_when_it_is_quiet_and_in_the_end_in_any_case() -> None:
    lull = Lull(quiet_s=2.0, latest_s=60.0)
    assert lull.due_in_s(0.0) == math.inf
    lull.call_for(10.0)
    assert (lull.due_in_s(11.0), lull.due_in_s(12.0)) == (1.0, 0.0)
    for now_s in range(11, 70):
        lull.call_for(now_s)
        assert lull.due_in_s(now_s) == min(2.0, 70.0 - now_s)
    assert lull.due_in_s(70.0) == 0.0
    lull.done()
    assert lull.due_in_s(100.0) == math.inf


def test_delays_grow_to_the_cap_stay_above_zero_and_start_over() -> None:
    backoff = Backoff(0.5, 8.0, random.Random(1))
    delays = [backoff.next_s() for _ in range(50)]
    assert all(0.05 <= delay <= 8.0 for delay in delays)
    assert max(delays[:2]) <= 1.0
    assert max(delays) > 4.0
    backoff.reset()
    assert backoff.next_s() <= 0.5


def test_the_registry_finds_by_name_and_suggests_for_a_slip() -> None:
    assert registry.load("vogeler.formats", "json", "result_format").__name__ == "vogeler.formats.json"
    with pytest.raises(UsageError, match="unknown result_format 'jsno'") as caught:
        registry.load("vogeler.formats", "jsno", "result_format")
    assert "did you mean 'json'?" in str(caught.value.remedy)
    assert "yaml" in registry.names(formats.__name__)


def test_a_module_that_is_added_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "added_later").mkdir()
    (tmp_path / "added_later" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="unknown kind 'one'"):
        registry.load("added_later", "one", "kind")
    (tmp_path / "added_later" / "one.py").touch()
    assert registry.load("added_later", "one", "kind").__name__ == "added_later.one"
    assert registry.load("added_later", "ones", "kind").__name__ == "added_later.one"


@pytest.mark.parametrize("pattern", ["[" * 50_000, "[]" * 20_000, "*[" * 3_000, "*a" * 100 + "b", "*" * 100_000])
def test_no_pattern_takes_long(pattern: str) -> None:
    started_s = time.monotonic()
    globs.matcher(pattern)("a" * 253)
    assert time.monotonic() - started_s < 10


def test_a_range_that_goes_backwards_matches_nothing_and_keeps_nobody_from_matching() -> None:
    assert globs.matcher("x[z-a]", "y")("y")
    assert not globs.matcher("x[z-a]", "y")("xz")
    assert not globs.matcher("x[z-a]")("x[z-a]")


def test_an_error_is_cut_in_its_middle_and_is_utf8() -> None:
    error = UsageError("begin " + "x" * 10_000 + " \udcff end", "\ud800")
    assert (error.message[:6], error.message[-10:]) == ("begin ", "\\udcff end")
    assert len(error.message) <= MOST_CHARACTERS
    assert error.remedy == "\\ud800"
    assert str(error) == error.message


@pytest.mark.parametrize(
    ("user", "node", "speaks"),
    [
        ("vogeler.node.web01", "web01", True),
        ("vogeler.node.web01", "web02", False),
        ("vogeler.node.web01", "web01.example", False),
        ("vogeler.node.web01", "WEB01", False),
        ("vogeler.node.", "web01", False),
        ("vogeler-node", "web01", True),
        ("vogeler.server", "web01", True),
        ("", "web01", False),
        (None, "web01", True),
        ("vogeler.node.web01", None, False),
        ("vogeler.runner", None, True),
        ("", None, False),
        (None, None, True),
    ],
)
def test_a_nodes_login_speaks_for_that_node_and_nobody_for_one_that_sends_no_name(
    user: str | None, node: str | None, speaks: bool
) -> None:
    assert topology.speaks_for(user, node) is speaks
