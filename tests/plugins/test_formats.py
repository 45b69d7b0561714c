"""Formats: what each means, what each refuses, and that any bytes give a JSON value or a FormatError, soon."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vogeler import formats
from vogeler.errors import FormatError, UsageError
from vogeler.messages import canonical_json, digest_of

NAMES = ["json", "keyvalue", "output", "raw", "string", "table", "yaml"]


def test_the_formats_there_are() -> None:
    assert formats.names() == NAMES


def test_an_unknown_format() -> None:
    with pytest.raises(UsageError, match="unknown result_format 'jason'"):
        formats.parse("jason", b"{}")


@pytest.mark.parametrize(
    ("name", "printed", "value"),
    [
        ("output", "", []),
        ("output", "a", ["a"]),
        ("output", "a\n", ["a"]),
        ("output", "a\n\nb\n\n", ["a", "", "b", ""]),
        ("output", "a\r\nb\r\n", ["a", "b"]),
        ("output", "a\fb\u2028c\x1cd\n", ["a\fb\u2028c\x1cd"]),
        ("string", "", ""),
        ("string", "5.14\n", "5.14"),
        ("string", "5.14\r\n", "5.14"),
        ("string", " a\nb \n\n", " a\nb \n"),
        ("raw", "", ""),
        ("raw", " a\r\n\n", " a\r\n\n"),
        ("json", ' {"a": [1, 2.5, null, true, "\\u00e4\\ud83d\\ude00"]}\n', {"a": [1, 2.5, None, True, "ä😀"]}),
        ("json", "123456789012345678901234567890", 123456789012345678901234567890),
        ("json", '{"__proto__": 1, "": 2}', {"__proto__": 1, "": 2}),
        ("keyvalue", "", {}),
        ("keyvalue", "# c\n\na: 1\n b = x:y \nc=\nd:=\n", {"a": "1", "b": "x:y", "c": "", "d": "="}),
        ("keyvalue", "url: http://x?a=b\nopt=a:b\n", {"url": "http://x?a=b", "opt": "a:b"}),
        ("table", "", []),
        ("table", "NAME STATE\n", []),
        ("table", "\nNAME  STATE\nssh\trunning  as root \n\n", [{"NAME": "ssh", "STATE": "running  as root"}]),
        ("yaml", "a: 1\nb:\n- 2.5\n- ~\n- true\n- text\n", {"a": 1, "b": [2.5, None, True, "text"]}),
        ("yaml", "--- 5\n...\n", 5),
        ("yaml", "[+7, -0, 1.5e+3, .5, 2.]", [7, 0, 1500.0, 0.5, 2.0]),
        ("yaml", "---\n", None),
        ("yaml", "[no, off, y, 0755, 1_000, 0x1f, 12e5, 1.5e3, 52:54:00:12:34:56, 2010-01-31, =, <<]",
         ["no", "off", "y", "0755", "1_000", "0x1f", "12e5", "1.5e3", "52:54:00:12:34:56", "2010-01-31", "=", "<<"]),
        ("yaml", "[!!int '5', !!str 5, ! 5, '5', \"5\", !!bool true, !!timestamp 2010-01-31]",
         [5, "5", "5", "5", "5", True, "2010-01-31"]),
        ("yaml", "{1: a, true: b, ~: c, 1.5: d}", {"1": "a", "true": "b", "null": "c", "1.5": "d"}),
        ("yaml", "--- !ruby/object:Facts\nos: !ruby/sym linux\nlist: !x [!y {a: 1}]\n",
         {"os": "linux", "list": [{"a": 1}]}),
        ("yaml", "!!set {b, a}", ["b", "a"]),
        ("yaml", "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\nd: {<<: [*a, {z: 4}]}\n",
         {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}] * 2, "d": {"x": 1, "y": 2, "z": 4}}),
        ("yaml", "a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
    ],
)  # fmt: skip
def test_what_it_means(name: str, printed: str, value: Any) -> None:
    parsed = formats.parse(name, printed.encode())
    assert parsed == value
    assert canonical_json(parsed) == canonical_json(value)


@pytest.mark.parametrize(
    ("name", "printed", "reason"),
    [
        *((name, b"ab\nc\xe9", "not UTF-8: byte 0xe9 at offset 4, in line 2") for name in NAMES),
        ("json", b"", "printed nothing"),
        ("json", b" \n", "printed nothing"),
        ("json", b'{"a": 1,\n "b" 2}', "line 2, column 6: Expecting ':' delimiter"),
        ("json", b"{}\n{}", "line 2, column 1: Extra data"),
        ("json", b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' twice"),
        ("json", b"[NaN]", "NaN is not JSON"),
        ("json", b"[-Infinity]", "-Infinity is not JSON"),
        ("json", b"[1e999]", "1e999 is beyond"),
        ("json", b"9" * 5000, "a number of 5000 digits"),
        ("json", b'["\\ud800"]', r"\\ud800 is half a surrogate pair"),
        ("json", b'{"\\uDFFFx": 1}', r"\\udfff is half a surrogate pair"),
        ("json", b"[" * 201 + b"]" * 201, "nested more than 200 deep"),
        ("json", b'{"a":' * 100_000, "nested more than 200 deep"),
        ("keyvalue", b"a: 1\n\n# c\na = 2", "line 4: the key 'a' for the second time"),
        ("keyvalue", b"a: 1\nwhat is this", "line 2: 'what is this' is neither"),
        ("keyvalue", b"= 1", "line 1: '= 1' is neither"),
        ("table", b"A B C\n1 2 3\n1 2\n", "line 3: 2 columns, and the header has 3"),
        ("table", b"A B A\n", "line 1: two columns are headed 'A'"),
        ("yaml", b"", "printed nothing"),
        ("yaml", b"# only a comment", "printed nothing"),
        ("yaml", b"a: 1\nb: c: d", "line 2, column 5: mapping values are not allowed"),
        ("yaml", b"--- 1\n--- 2", "line 2, column 1: a second document"),
        ("yaml", b"a: 1\na: 2", "line 2, column 1: the key 'a' twice"),
        ("yaml", b"1: a\n'1': b", "line 2, column 1: the key '1' twice"),
        ("yaml", b"? [a]\n: b", "a list or mapping as a key"),
        ("yaml", b"[.nan]", r"\.nan is not JSON"),
        ("yaml", b"[-.INF]", r"-\.INF is not JSON"),
        ("yaml", b"[1.0e+999]", r"1.0e\+999 is beyond"),
        ("yaml", b"9" * 5000, "a number of 5000 digits"),
        ("yaml", b"!!binary aGk=", "!!binary is not text"),
        ("yaml", b"<<: 1", "'<<' can only take mappings"),
        ("yaml", b"a: &a [*a]", "stands for nothing before it"),
        ("yaml", b"a: *b", "stands for nothing before it"),
        ("yaml", b"a: \x01", "not YAML"),
        ("yaml", b"[" * 100_000, "nested more than 200 deep"),
        ("yaml", b"- " * 100_000, "nested more than 200 deep"),
    ],
)
def test_what_it_refuses_and_why(name: str, printed: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason) as caught:
        formats.parse(name, printed)
    assert caught.value.remedy


def test_json_200_deep_is_allowed() -> None:
    assert digest_of(formats.parse("json", b"[" * 200 + b"]" * 200))


def test_a_row_of_laughs_is_refused_at_once() -> None:
    """Nine aliases on each of twenty lines would be 9^20 values."""
    lines = ["l0: &l0 [ha, ha, ha]", *(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 20))]
    started = time.monotonic()
    with pytest.raises(FormatError, match="aliases make it too large"):
        formats.parse("yaml", "\n".join(lines).encode())
    assert time.monotonic() - started < 1


def test_merged_laughs_are_refused_at_once() -> None:
    """The same with ``<<``, which copies keys and not references."""
    lines = ["l0: &l0 {a: 1, b: 2}"]
    lines += [f"l{i}: &l{i} {{k{i}: 1, <<: [{', '.join([f'*l{i - 1}'] * 9)}]}}" for i in range(1, 20)]
    with pytest.raises(FormatError, match="aliases make it too large"):
        formats.parse("yaml", "\n".join(lines).encode())


def test_a_chain_of_aliases_counts_as_depth() -> None:
    lines = ["l0: &l0 [x]", *(f"l{i}: &l{i} [*l{i - 1}]" for i in range(1, 5000))]
    with pytest.raises(FormatError, match="nested more than 200 deep"):
        formats.parse("yaml", "\n".join(lines).encode())


def test_a_document_that_uses_aliases_as_people_do() -> None:
    text = "base: &base {a: 1}\n" + "".join(f"n{i}: *base\n" for i in range(5000))
    assert len(formats.parse("yaml", text.encode())) == 5001


def test_without_libyaml_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML's own parser is the fallback; it lets half a surrogate pair through."""
    from vogeler.formats import yaml as module

    monkeypatch.setattr(module, "_PARSER", yaml.SafeLoader)
    assert module.parse("a: [1, &x two, *x]\n") == {"a": [1, "two", "two"]}
    for text in ('"\\ud800"', "a: b: c", "a: \x01"):
        with pytest.raises(FormatError):
            module.parse(text)


@pytest.mark.parametrize("repeat", ["a: 1, ", '"a', "{", "&a ", "a:\n", "? ", "- [", "'", "|\n", "%", "! ", "*a "])
@pytest.mark.parametrize("name", ["yaml", "json", "keyvalue", "table"])
def test_no_repetition_takes_long(name: str, repeat: str) -> None:
    started = time.monotonic()
    with contextlib.suppress(FormatError):
        formats.parse(name, (repeat * 20_000).encode())
    assert time.monotonic() - started < 3


def test_a_header_of_many_columns_and_an_object_of_many_keys_do_not_take_long() -> None:
    words = [f"w{i}" for i in range(50_000)] + ["w49999"]
    started = time.monotonic()
    with pytest.raises(FormatError, match="'w49999'"):
        formats.parse("table", " ".join(words).encode())
    with pytest.raises(FormatError, match="'w49999'"):
        formats.parse("json", ("{" + ",".join(f'"{word}":1' for word in words) + "}").encode())
    assert time.monotonic() - started < 3


ALMOST = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text(alphabet='{}[]",:0129.eE-+ \n\\udDtrfalsn&*!<|>#?%', max_size=80).map(str.encode),
)


@pytest.mark.parametrize("name", NAMES)
@given(output=ALMOST)
@example(output=b"\xef\xbb\xbf{}")
@example(output=b"!!int x: 1")
@example(output=b"!!float ''")
@settings(max_examples=150, deadline=1000)
def test_any_bytes_are_a_json_value_or_a_format_error(name: str, output: bytes) -> None:
    try:
        value = formats.parse(name, output)
    except FormatError:
        return
    digest_of(value)
    assert json.loads(canonical_json(value)) == value


FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), FINITE, st.text()),
    lambda children: st.one_of(st.lists(children), st.dictionaries(st.text(), children)),
    max_leaves=12,
)


@given(value=VALUES)
@settings(max_examples=150, deadline=1000)
def test_json_comes_back_as_it_went(value: Any) -> None:
    for ascii_only in (True, False):
        assert formats.parse("json", json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(value=VALUES)
@settings(max_examples=150, deadline=1000)
def test_yaml_comes_back_as_pyyaml_wrote_it(value: Any) -> None:
    back = formats.parse("yaml", yaml.safe_dump(value).encode())
    assert canonical_json(back) == canonical_json(value)
