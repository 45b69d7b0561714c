"""What plugins print: a value that JSON can hold and a store can take, or a FormatError; for every format there is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.examples import NASTY_TEXTS, fuzzed, mutated, towers, tried
from vogeler import formats
from vogeler.errors import FormatError
from vogeler.messages import canonical_json, digest_of

VALID = st.sampled_from(
    [
        '{"a": [1, 2.5, null, true, "\\u00e9\\ud83d\\ude00"], "b": {"c": []}}',
        "a: 1\nb: [x, {y: 2}]\nc: &anchor {d: e}\nf: *anchor\n<<: *anchor\ng: !!set {h}\n",
        "--- !ruby/object:Puppet::Node::Facts\n  name: web01\n  values: !ruby/hash\n    x: 'y'\n",
        "key: value\nother=thing\n# note\n\nurl = http://x:80/\n",
        "PID TTY CMD\n1 ? init --x\n2 pts/0 sh -c true\n",
    ]
)
PIECES = st.one_of(
    NASTY_TEXTS,
    st.sampled_from(
        ["[", "]", "{", "}", ":", ": ", ",", "- ", "? ", "&a ", "*a", "<<: ", "!!", "!!int ", "!!binary ", "|\n", ">\n",
         "%YAML 9.9\n", "%TAG ! x\n", "---\n", "...\n", "1e999", ".inf", ".nan", "0x1F", "NaN", "-", "'", '"', "\\ud800",
         "\\U0000d800", "\n", "\r\n", "\t", "  ", "#", "=", "9" * 5000, "1_000", "~", "yes", "2001-01-01", "@", "`"]
    ),
)  # fmt: skip
PRINTED = st.one_of(
    st.binary(max_size=80),
    st.lists(PIECES, max_size=12).map("".join).map(_bytes := lambda text: text.encode("utf-8", "surrogatepass")),
    mutated(VALID, PIECES).map(_bytes),
    towers().map(_bytes),
)


@pytest.mark.parametrize("name", formats.names())
def test_whatever_is_printed_is_a_value_or_a_format_error(name: str) -> None:
    @fuzzed
    @given(PRINTED)
    def check(printed: bytes) -> None:
        value: Any = tried(lambda: (formats.parse(name, printed),), FormatError)
        if value is not None:
            assert json.loads(canonical_json(value[0]).encode()) == value[0]
            assert digest_of(value[0]).startswith("sha256:")

    check()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize("ascii_", [True, False])
def test_json_is_read_as_it_was_written(ascii_: bool) -> None:
    @fuzzed
    @given(JSON_VALUES)
    def check(value: Any) -> None:
        assert formats.parse("json", json.dumps(value, ensure_ascii=ascii_).encode()) == value

    check()


@fuzzed
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"))))
def test_lines_are_read_as_they_were_written(lines: list[str]) -> None:
    assert formats.parse("output", "".join(f"{line}\n" for line in lines).encode()) == lines
