"""What nodes report is shown, never obeyed; and the three formats hold the same rows."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

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


HOSTILE = "\x1b]52;c;cm0gLXJm\x07\x1b]8;;http://x\x1b\\\x9b2J\x7f\r\u202egpj.\u2066\u200b\u2028end"


@pytest.mark.parametrize("format", ["table", "json", "csv"])
@pytest.mark.parametrize("rows", [[{"node": HOSTILE}], [{"node": [HOSTILE]}], [{"node": {HOSTILE: {HOSTILE: 1}}}]])
def test_no_format_writes_what_a_terminal_obeys(
    format: str, rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(rows, ("node",), format)
    write_value(rows[0]["node"], format)
    write_value([{HOSTILE: HOSTILE}], format)
    out = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in out), ascii(out)
    assert "gpj." in out


def test_json_holds_the_value_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    value = {HOSTILE: [HOSTILE, "\U000e0041 wéb 網"]}
    write_value(value, "json")
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert "wéb 網" in out


def test_newlines_and_returns_make_no_rows_of_their_own_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows([{"node": "web01\nweb99  ok\rweb98\u2029web97\x85web96"}], ("node",), "table")
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1+1",
        "-1+1",
        "@SUM(A1)",
        "=cmd|'/c calc'!A0",
        "\t=1",
        "\r=1",
        "\n=1",
        "  =1",
        "\uff1d1",
        "-",
        "--",
        "\tx",
    ],
)
def test_a_text_that_would_be_a_formula_is_a_text_in_csv(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows([{"node": text, text: 1}], ("node", text), "csv")
    head, row = csv.reader(io.StringIO(capsys.readouterr().out))
    assert row[0].startswith("'")
    assert head[1].startswith("'")


@pytest.mark.parametrize("value", [-5, 1.5, -1e300, "-5", "+1.5e-3", "-.5", "5", "a=b", "", None, "web01"])
def test_numbers_and_other_texts_are_left_alone_in_csv(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows([{"a": value}], ("a", "b"), "csv")
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [["a", "b"], [text, ""]]


@pytest.mark.parametrize("text", ["a;=1+1", 'a"=1', "a,=1", "a\t=1"])
def test_no_separator_of_a_spreadsheet_makes_a_cell_of_a_part(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows([{"node": text}], ("node",), "csv")
    out = capsys.readouterr().out
    assert list(csv.reader(io.StringIO(out))) == [["node"], [text]]
    assert out.splitlines()[1] == '"' + text.replace('"', '""') + '"'
