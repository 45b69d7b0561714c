"""Moments on the command line."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vogeler.cli._time import moment, parse_moment
from vogeler.units import parse_timestamp, to_timestamp

NOW_S = parse_timestamp("2026-03-29T12:30:00.250Z")  # a day that has 23 hours in Berlin


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T08:00:00Z", "2026-01-31T08:00:00.000Z"),
        ("2026-01-31t08:00:00.5z", "2026-01-31T08:00:00.500Z"),
        ("2026-01-31 08:00:00.123456789Z", "2026-01-31T08:00:00.123Z"),
        ("2026-01-31T08:00:00+05:30", "2026-01-31T02:30:00.000Z"),
        ("2026-01-31T08:00-0100", "2026-01-31T09:00:00.000Z"),
        ("2026-01-31 08:00", "2026-01-31T07:00:00.000Z"),
        ("2026-07-31 08:00:30", "2026-07-31T06:00:30.000Z"),
        ("2026-01-31", "2026-01-30T23:00:00.000Z"),
        (" now ", "2026-03-29T12:30:00.250Z"),
        ("today", "2026-03-28T23:00:00.000Z"),
        ("yesterday", "2026-03-27T23:00:00.000Z"),
        ("1d", "2026-03-28T12:30:00.250Z"),
        ("1.5h", "2026-03-29T11:00:00.250Z"),
        ("250ms", "2026-03-29T12:30:00.000Z"),
    ],
)
def test_a_moment_is_read(text: str, expected: str) -> None:
    assert to_timestamp(parse_moment(text, NOW_S)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "later", "tomorrow", "1 parsec", "-1d", "90000w", "20260131", "5", "2026-02-30", "2026-01-31 25:00",
     "2026-01-31T08", "26-01-31", "0001-01-01", "1969-12-31T00:00:00Z", "9999-12-31T23:59:59-23:59", "2026-01-31Z"],
)  # fmt: skip
def test_what_is_no_moment_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a time such as 2026-01-31T08:00:00Z.* or a duration"):
        moment(text)


@given(st.integers(0, 4 * 10**12))
def test_a_timestamp_as_it_is_shown_is_read_as_that_moment(milliseconds: int) -> None:
    shown = to_timestamp(milliseconds / 1000)
    assert moment(shown) == shown
