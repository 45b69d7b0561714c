"""``yaml``: one YAML document, as the JSON value it means. The only module that imports PyYAML.

Built from the parser's events and not by PyYAML's constructors, which call themselves for every
level, would run an alias bomb, and give dates, sets and bytes that JSON has no words for. A plain word is a
number, true, false or null only where YAML 1.1 and 1.2 agree that it is, so ``no``, ``0755``, ``12e5`` and
``52:54:00:12:34:56`` stay the texts that they were printed as.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from vogeler.errors import FormatError
from vogeler.formats import MAX_DEPTH, MAX_DIGITS, check_encodable, too_deep

# libyaml where PyYAML was built with it: ten times as fast.
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# How much aliases may blow a document up, in characters and values beyond its own length.
MAX_EXPANSION = 4_000_000

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_TOO_DEEP = "maximum nesting depth"  # libyaml's words, which reads ahead: it may be there before us
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = tuple(_TAG + name for name in ("int", "float", "bool", "null"))
_MERGE = object()
_NO_KEY = object()


def parse(text: str) -> Any:
    """The value. Raises FormatError with line and column where the syntax breaks.

    Unknown tags (``!ruby/object:...``) are dropped and their content kept; ``!!set`` is a list of its members.
    """
    try:
        value = _document(_PARSER(text), limit=len(text) * 2 + MAX_EXPANSION)
    except yaml.MarkedYAMLError as error:
        raise _syntax(error) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise FormatError(f"not YAML: {reason}", "print one YAML document to stdout, the rest to stderr") from None
    check_encodable(text, value)
    return value


def _syntax(error: yaml.MarkedYAMLError) -> FormatError:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    reason = error.problem or error.context
    if _TOO_DEEP in str(reason):
        return too_deep()
    return FormatError(f"not YAML: {where}{reason}", "print one YAML document to stdout, the rest to stderr")


def _document(loader: Any, limit: int) -> Any:
    builder = _Builder(limit)
    while True:
        event = loader.get_event()
        if isinstance(event, yaml.StreamEndEvent):
            break
        if isinstance(event, yaml.DocumentStartEvent):
            builder.start_document(event)
        elif isinstance(event, yaml.NodeEvent):
            builder.start_node(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            builder.end_collection(event)
    if builder.result is None:
        raise FormatError("the command printed nothing, and nothing is no YAML document", "print {} or []")
    return builder.result.value


@dataclass(frozen=True)
class _Built:
    """A finished value, how much it weighs with all its aliases written out, and how deep it is."""

    value: Any
    weight: int
    height: int


@dataclass
class _Open:
    """A list or mapping whose end has not come."""

    event: Any
    items: list[Any] = field(default_factory=list)
    mapping: dict[str, Any] = field(default_factory=dict)
    merged: list[dict[str, Any]] = field(default_factory=list)
    key: Any = _NO_KEY
    weight: int = 1
    height: int = 0


class _Builder:
    """Puts values together from events, with a stack of its own instead of recursion."""

    def __init__(self, limit: int) -> None:
        self.result: _Built | None = None
        self._limit = limit
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Built] = {}

    def start_document(self, event: Any) -> None:
        if self.result is not None:
            raise _refused(event, "a second document", "print one document, a list if need be")

    def start_node(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._add(event, self._aliased(event))
        elif isinstance(event, yaml.ScalarEvent):
            built = _Built(_scalar(event), len(event.value) + 1, 0)
            self._remember(event, built)
            self._add(event, built)
        else:
            if len(self._stack) >= MAX_DEPTH:
                raise too_deep()
            self._stack.append(_Open(event))

    def end_collection(self, event: Any) -> None:
        done = self._stack.pop()
        built = _Built(_collected(done), done.weight, done.height + 1)
        self._remember(done.event, built)
        self._add(event, built)

    def _aliased(self, event: Any) -> _Built:
        if event.anchor not in self._anchors:
            raise _refused(event, f"the alias *{event.anchor} stands for nothing before it", "print it without aliases")
        return self._anchors[event.anchor]

    def _remember(self, event: Any, built: _Built) -> None:
        if event.anchor is not None:
            self._anchors[event.anchor] = built

    def _add(self, event: Any, built: _Built) -> None:
        if not self._stack:
            self.result = built
            return
        parent = self._stack[-1]
        parent.weight += built.weight
        parent.height = max(parent.height, built.height)
        if parent.weight > self._limit:
            raise _refused(event, "aliases make it too large", "print it without aliases")
        if len(self._stack) + built.height > MAX_DEPTH:
            raise too_deep()
        _put(parent, event, built.value)


def _put(parent: _Open, event: Any, value: Any) -> None:
    if isinstance(parent.event, yaml.SequenceStartEvent):
        parent.items.append(value)
    elif parent.key is _NO_KEY:
        parent.key = _MERGE if _is_merge(event) else _key(event, value)
        if parent.key in parent.mapping:
            raise _refused(event, f"the key {parent.key!r} twice in one mapping", "print every key once")
    elif parent.key is _MERGE:
        parent.merged += _mappings(event, value)
        parent.key = _NO_KEY
    else:
        parent.mapping[parent.key] = value
        parent.key = _NO_KEY


def _is_merge(event: Any) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.value == "<<" and _is_plain(event)


def _is_plain(event: Any) -> bool:
    return event.style in (None, "")


def _mappings(event: Any, value: Any) -> list[dict[str, Any]]:
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(item, dict) for item in found):
        raise _refused(event, "'<<' can only take mappings in", "quote it where it is a key like others")
    return found


def _collected(done: _Open) -> dict[str, Any] | list[Any]:
    if isinstance(done.event, yaml.SequenceStartEvent):
        return done.items
    for other in done.merged:
        for key, value in other.items():
            done.mapping.setdefault(key, value)
    return list(done.mapping) if done.event.tag == _TAG + "set" else done.mapping


def _key(event: Any, value: Any) -> str:
    """A key as JSON would write it: ``1`` is "1", ``true`` "true", ``null`` "null"."""
    if isinstance(value, str):
        return value
    if isinstance(value, (dict, list)):
        raise _refused(event, "a list or mapping as a key", "use texts as keys")
    return json.dumps(value)


def _scalar(event: Any) -> Any:
    """What a scalar means: by its tag, else as it is quoted, else as a plain word reads."""
    if event.tag == _TAG + "binary":
        raise _refused(event, "!!binary is not text", "print it as text, in base64 for example")
    if event.tag in _PLAIN_TAGS or (event.tag is None and _is_plain(event)):
        return _plain(event, event.value)
    return event.value


def _plain(event: Any, text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        if len(text.lstrip("+-")) > MAX_DIGITS:
            raise _refused(event, f"a number of {len(text)} digits; at most {MAX_DIGITS}", "print it as a text")
        return int(text)
    if _NOT_FINITE.fullmatch(text):
        raise _refused(event, f"{text} is not JSON", "print null or a text instead")
    return _float(event, text) if _FLOAT.fullmatch(text) else text


def _float(event: Any, text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _refused(event, f"the number {text[:40]} is beyond what a double holds", "print it as a text")
    return number


def _refused(event: Any, what: str, remedy: str) -> FormatError:
    mark = event.start_mark
    return FormatError(f"line {mark.line + 1}, column {mark.column + 1}: {what}", remedy)
