"""What nodes report is shown, never obeyed; and the three formats hold the same rows."""

from __future__ import annotations

import csv
import io
import json

import pytest

from vogeler.cli._output import printable, write_rows, write_value

ROWS = [{"node": "web01", "value": {"a": 1}}, {"node": "wéb02", "value": None}]


def test_a_table_lines_up(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(ROWS, ("node", "value"), "table")
    assert capsys.readouterr().out == 'NODE   VALUE\nweb01  {"a": 1}\nwéb02\n'


def test_json_is_an_array_also_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(iter(ROWS), ("node", "value"), "json")
    assert json.loads(capsys.readouterr().out) == ROWS
    write_rows([], ("node",), "json")
    assert json.loads(capsys.readouterr().out) == []


def test_csv_has_a_header_and_can_be_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows([{"node": 'a,"b"\nc', "value": [1]}], ("node", "value"), "csv")
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [["node", "value"], ['a,"b"\nc', "[1]"]]


def test_nothing_that_a_terminal_would_obey_gets_through() -> None:
    hostile = "\x1b[2J\x1b]0;title\x07\rroot#\u202e\u2066"
    shown = printable(hostile)
    assert shown.isprintable()
    assert "\\x1b[2J" in shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["a", "b\x1b[0m"], "a\nb\\x1b[0m\n"),
        ({"openssl": "3.0"}, "NAME     VALUE\nopenssl  3.0\n"),
        ([{"port": 1, "user": "x"}, {"port": 22}], "PORT  USER\n1     x\n22\n"),
        ("two\nlines", "two\nlines\n"),
        (7, "7\n"),
        ([], ""),
    ],
)
def test_a_value_is_shown_as_what_it_is(value: object, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_value(value, "table")
    assert capsys.readouterr().out == text
