"""What a plugin gives: its value with a digest, or why there is none."""

from __future__ import annotations

import json

import pytest

from vogeler.collect import collect
from vogeler.messages import FAILED, OK, TIMEOUT, TOO_LARGE, UNAVAILABLE, UNPARSABLE, digest_of

from .conftest import Make


def test_a_value_with_its_digest(make: Make) -> None:
    collected = collect(make("""command = echo '{"b": [2, 1], "a": "ä"}'""", "result_format = json"))
    assert (collected.status, collected.exit_code, collected.error) == (OK, 0, None)
    assert collected.value == {"a": "ä", "b": [2, 1]}
    assert collected.digest == digest_of(collected.value)


def test_exit_code_69_is_a_plugin_that_finds_itself_unavailable_here(make: Make) -> None:
    collected = collect(make("command = sh -c 'echo no systemd here >&2; exit 69'"))
    assert (collected.status, collected.exit_code, collected.value) == (UNAVAILABLE, 69, None)
    assert "no systemd here" in (collected.error or "")


def test_an_unordered_list_is_sorted_before_it_is_compared(make: Make) -> None:
    lines = ("result_format = json", "unordered = true")
    one = collect(make("""command = echo '[{"b": 1}, "x", 3, {"a": 2}]'""", *lines))
    other = collect(make("""command = echo '["x", 3, {"a": 2}, {"b": 1}]'""", *lines))
    assert one.value == ["x", 3, {"a": 2}, {"b": 1}]
    assert one.digest == other.digest
    assert collect(make("command = echo '[2, 1]'", "result_format = json")).value == [2, 1]
    assert collect(make("command = echo '{\"a\": [2, 1]}'", *lines)).value == {"a": [2, 1]}


def test_what_is_volatile_is_in_the_value_and_not_in_its_digest(make: Make) -> None:
    lines = ("result_format = json", "volatile = up, disks.*.free")
    values = [{"os": "Debian", "up": up, "disks": {"sda": {"size": 9, "free": up}}} for up in (1, 2)]
    first, second = (collect(make(f"command = echo '{json.dumps(value)}'", *lines)) for value in values)
    assert (first.value, second.value) == tuple(values)
    assert first.digest == second.digest == digest_of({"os": "Debian", "disks": {"sda": {"size": 9}}})


def test_an_unordered_list_is_not_sorted_by_what_is_volatile(make: Make) -> None:
    lines = ("result_format = json", "unordered = true", "volatile = cpu")
    one = collect(make("""command = echo '[{"name": "b", "cpu": 1}, {"name": "a", "cpu": 2}]'""", *lines))
    other = collect(make("""command = echo '[{"name": "a", "cpu": 1}, {"name": "b", "cpu": 2}]'""", *lines))
    assert one.value == [{"name": "a", "cpu": 2}, {"name": "b", "cpu": 1}]
    assert one.digest == other.digest


@pytest.mark.parametrize(
    ("lines", "status", "exit_code", "error"),
    [
        (["command = x", "requires = no-such-tool"], UNAVAILABLE, None, "needs no-such-tool, which is not on the PATH"),
        (["command = no-such-tool"], FAILED, None, "command not found"),
        (["command = sh -c 'exit 3'"], FAILED, 3, "exit code 3"),
        (["command = sleep 99", "timeout = 100ms"], TIMEOUT, None, "not done after"),
        (["command = yes", "max_output = 10kB"], TOO_LARGE, None, "more than its max_output of 10000"),
        (["command = echo {", "result_format = json"], UNPARSABLE, 0, "json: not JSON: line 2, column 1: "),
        (["command = printf 'a\\351'"], UNPARSABLE, 0, "output: not UTF-8: byte 0xe9 at offset 1, in line 1; let the"),
    ],
)
def test_what_has_no_value_says_why(
    make: Make, lines: list[str], status: str, exit_code: int | None, error: str
) -> None:
    collected = collect(make(*lines))
    assert (collected.status, collected.exit_code) == (status, exit_code)
    assert (collected.value, collected.digest) == (None, None)
    assert error in (collected.error or "")
