"""The expression language of ``find``: parse a text, and say whether a node's documents match.

::

    packages.openssl                       there is such a thing
    packages.openssl < 3.0.11              versions as the node's package manager orders them
    system.memory.total >= 8GiB            numbers as numbers, with the units of configuration files
    rpms ~ ^openssl                        a regular expression that is found in a value
    jmx has 9999                           some value at or below the path
    system.os.id = debian and not packages.telnetd
    packages.python3* or (group = web and name = web*)
    checked(packages) > 7d, seen < 5m      how long ago, by the node's and by the server's clock

A path names a key of the record and what is below it; lists are passed through, so that a path may
mean several values: a comparison holds when it holds for one of them, ``!=`` when for none. A ``*``
in a path stands for any characters. Words with spaces or operators in them are written in quotes.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Union

from vogeler.errors import UsageError
from vogeler.globs import literal_prefix, matcher
from vogeler.leaves import Scalar, record_leaves
from vogeler.persistence import NodeSummary
from vogeler.units import parse_duration, parse_size, parse_timestamp
from vogeler.versions import compare_deb, compare_rpm

_RPM_FAMILY = re.compile(r"rhel|fedora|centos|suse|sles|amzn|rocky|alma|mageia|ol\b|oracle")
_RPM_RELEASE = re.compile(r"\.(el|fc|amzn|mga|lp|oe|azl|cm)\d")
_SHOWN_CHARACTERS = 400  # before the place of an error, and behind it
_EXACT_DIGITS = 1000  # more than plugins' values have; Python refuses to read 4,301
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")


class QueryError(UsageError):
    """An expression that can't be read: shows the place."""

    def __init__(self, text: str, position: int, problem: str) -> None:
        start = max(0, position - _SHOWN_CHARACTERS)
        shown = text[start : position + _SHOWN_CHARACTERS]
        where = f"  {shown}\n  {' ' * (position - start)}^"
        super().__init__(f"{problem[:_SHOWN_CHARACTERS]}\n{where}", "docs/finding.rst has the language and examples")
        self.position = position


@dataclass(frozen=True)
class NodeView:
    """What an expression is asked of: a node's record, which may be empty, and what its status says.

    ``now_s``: seconds since the epoch, for ages.
    """

    record: Mapping[str, Any]
    summary: NodeSummary
    now_s: float


# --- the tree -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Present:
    """There is something at the path."""

    path: str


@dataclass(frozen=True)
class Compare:
    """A value at the path compares so with the word."""

    path: str
    operator: str
    word: str


@dataclass(frozen=True)
class Has:
    """A value at the path, or anywhere below it, equals the word."""

    path: str
    word: str


@dataclass(frozen=True)
class Age:
    """``seen`` (key None), or ``checked(key)``, compares so with a number of seconds."""

    key: str | None
    operator: str
    age_s: float


@dataclass(frozen=True)
class Identity:
    """``name`` or ``group`` equals the word, which may be a glob."""

    field: str
    operator: str
    word: str


@dataclass(frozen=True)
class Not:
    """The opposite."""

    operand: Expression


@dataclass(frozen=True)
class And:
    """All of them."""

    operands: tuple[Expression, ...]


@dataclass(frozen=True)
class Or:
    """At least one of them."""

    operands: tuple[Expression, ...]


Expression = Union[Present, Compare, Has, Age, Identity, Not, And, Or]
LeafAtom = Union[Present, Compare, Has]


# --- reading --------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"""|(?P<op><=|>=|!=|=|<|>|~)"""
    r"""|(?P<paren>[()])"""
    r"""|(?P<word>(?:[^\s()<>=!~"']|(?<=\w)~(?=\w))+)"""  # 3.0~rc1 is a word
)
_SPACE = re.compile(r"\s*")
_KEYWORDS = ("and", "or", "not", "has")
_SUBJECTS = ("seen", "checked", "name", "group")
_PLAIN = re.compile(r"[\w.:+@/*?\[\]-]+")


@dataclass(frozen=True)
class _Token:
    kind: str  # word, quoted, op, paren, end, or a keyword
    text: str
    position: int


def parse(text: str) -> Expression:
    """The tree of an expression. Raises QueryError that points at the place."""
    return _Reader(text).whole()


class _Reader:
    """Recursive descent, a token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._depth = 0
        self._next = self._read()

    def whole(self) -> Expression:
        tree = self._or()
        if self._next.kind != "end":
            raise self._error("expected 'and', 'or' or the end")
        return tree

    def _read(self, pattern: bool = False) -> _Token:
        """The next token. A ``pattern`` goes up to the next white space, whatever is in it, unless in quotes."""
        space = _SPACE.match(self._text, self._position)
        start = space.end() if space else self._position
        if start == len(self._text):
            return _Token("end", "", start)
        if pattern and self._text[start] not in "\"'":
            word = _balanced(self._text[start:].split(None, 1)[0])
            self._position = start + len(word)
            return _Token("quoted", word, start)
        match = _TOKEN.match(self._text, start)
        if match is None:
            raise QueryError(self._text, start, "this can't be read: a quote that is not closed?")
        self._position = match.end()
        kind, text = str(match.lastgroup), match.group()
        if kind == "quoted":
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        return _Token(text if kind == "word" and text in _KEYWORDS else kind, text, start)

    def _take(self, pattern: bool = False) -> _Token:
        token, self._next = self._next, self._read(pattern)
        return token

    def _error(self, problem: str, position: int | None = None) -> QueryError:
        return QueryError(self._text, self._next.position if position is None else position, problem)

    def _or(self) -> Expression:
        return self._joined("or", self._and, Or)

    def _and(self) -> Expression:
        return self._joined("and", self._not, And)

    def _joined(
        self, word: str, operand: Callable[[], Expression], tree: Callable[[tuple[Expression, ...]], Expression]
    ) -> Expression:
        operands = [operand()]
        while self._next.kind == word:
            self._take()
            operands.append(operand())
        return operands[0] if len(operands) == 1 else tree(tuple(operands))

    def _not(self) -> Expression:
        self._depth += 1
        if self._depth > 100:
            raise self._error("nested too deeply")
        try:
            if self._next.kind == "not":
                self._take()
                return Not(self._not())
            if self._next.text == "(" and self._next.kind == "paren":
                return self._parenthesis()
            return self._predicate()
        finally:
            self._depth -= 1

    def _parenthesis(self) -> Expression:
        opened = self._take()
        tree = self._or()
        if self._next.text != ")":
            raise self._error("expected ')' for the '(' before", None if self._next.kind != "end" else opened.position)
        self._take()
        return tree

    def _predicate(self) -> Expression:
        if self._next.kind not in ("word", "quoted"):
            raise self._error("expected a path, such as packages.openssl")
        subject = self._take()
        about_node = subject.kind == "word" and subject.text in _SUBJECTS
        if about_node and subject.text == "checked":
            return self._checked()
        if self._next.kind == "op":
            return self._comparison(subject, about_node)
        if about_node:
            raise self._error(f"expected a comparison after {subject.text!r}")
        if self._next.kind == "has":
            self._take()
            return Has(subject.text, self._word("a value after 'has'"))
        return Present(subject.text)

    def _comparison(self, subject: _Token, about_node: bool) -> Expression:
        operator = self._take(pattern=self._next.text == "~").text
        position = self._next.position
        word = self._word(f"a value after {operator!r}")
        if operator == "~":
            try:
                _compiled(word)
            except (re.error, OverflowError, RecursionError) as error:
                raise self._error(f"not a regular expression: {error}", position) from None
        if not about_node:
            return Compare(subject.text, operator, word)
        if subject.text == "seen":
            return Age(None, operator, self._duration(operator, word, position))
        if operator not in ("=", "!=", "~"):
            raise self._error(f"{subject.text} is compared with =, != or ~", position)
        return Identity(subject.text, operator, word)

    def _checked(self) -> Expression:
        if self._next.text != "(":
            raise self._error("expected a key in parentheses, such as checked(packages)")
        self._take()
        key = self._word("a key in checked(...)")
        if self._next.text != ")":
            raise self._error("expected ')' after the key")
        self._take()
        if self._next.kind != "op":
            raise self._error("expected a comparison after checked(...)")
        operator = self._take().text
        position = self._next.position
        return Age(key, operator, self._duration(operator, self._word("a duration"), position))

    def _duration(self, operator: str, word: str, position: int) -> float:
        if operator == "~":
            raise self._error("a time is compared with <, >, <= or >=", position)
        try:
            return parse_duration(word)
        except ValueError as error:
            raise self._error(str(error), position) from None

    def _word(self, what: str) -> str:
        if self._next.kind not in ("word", "quoted", *_KEYWORDS):
            raise self._error(f"expected {what}")
        return self._take().text


def _compiled(pattern: str) -> re.Pattern[str]:
    """Raises what ``re`` does. That it warns of what may mean more some day, as a ``[`` in brackets, is no problem."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return re.compile(pattern)


def _balanced(word: str) -> str:
    """A pattern without the closing parentheses that belong to what is around it."""
    at_its_end = len(word) - len(word.rstrip(")"))
    too_many = max(0, min(at_its_end, word.count(")") - word.count("(")))
    return word[: len(word) - too_many]


# --- values ---------------------------------------------------------------------------------------


def leaf_test(atom: LeafAtom, rpm: bool) -> Callable[[str, Scalar], bool]:
    """Whether one leaf satisfies the atom; ``rpm``: whose order of versions. (``!=`` is tested as ``=``.)"""
    at, below = _path_tests(atom.path)
    if isinstance(atom, Present):
        return lambda path, value: below(path)
    if isinstance(atom, Has):
        same = comparison("=", atom.word, rpm)
        return lambda path, value: below(path) and same(value)
    test = comparison("=" if atom.operator == "!=" else atom.operator, atom.word, rpm)
    return lambda path, value: at(path) and test(value)


def _path_tests(path: str) -> tuple[Callable[[str], bool], Callable[[str], bool]]:
    """Whether a leaf's path is the one meant; whether it is that or below it."""
    if literal_prefix(path) == path:
        return (lambda leaf: leaf == path), (lambda leaf: leaf == path or leaf.startswith(path + "."))
    exact, at_or_below = matcher(path), matcher(path, path + ".*")
    return (lambda leaf: exact(leaf) is not None), (lambda leaf: at_or_below(leaf) is not None)


def comparison(operator: str, word: str, rpm: bool) -> Callable[[Scalar], bool]:
    """A test of one value against a word, read as what the value is: a number, a version, a text."""
    if operator == "~":
        pattern = _compiled(word)
        return lambda value: pattern.search(as_text(value)) is not None
    number = _number(word)
    holds = _HOLDS[operator]
    glob = matcher(word) if operator == "=" and literal_prefix(word) != word else None

    def test(value: Scalar) -> bool:
        if isinstance(value, bool) or value is None:
            return operator == "=" and as_text(value) == word
        if isinstance(value, (int, float)):
            return number is not None and holds((value > number) - (value < number))
        if operator == "=":
            return value == word or (glob is not None and glob(value) is not None)
        compare = compare_rpm if rpm or _RPM_RELEASE.search(value) else compare_deb
        return holds(compare(value, word))

    return test


_HOLDS: dict[str, Callable[[int], bool]] = {
    "=": lambda order: order == 0,
    "<": lambda order: order < 0,
    ">": lambda order: order > 0,
    "<=": lambda order: order <= 0,
    ">=": lambda order: order >= 0,
}


def is_rpm_family(texts: Iterable[Scalar]) -> bool:
    """Whether a node's ``system.os.id`` and ``system.os.id_like`` name a distribution that uses rpm."""
    return any(isinstance(text, str) and _RPM_FAMILY.search(text) for text in texts)


FAMILY_PATHS = ("system.os.id", "system.os.id_like")


def _number(word: str) -> float | None:
    if _NUMBER.fullmatch(word):
        return int(word) if len(word) <= _EXACT_DIGITS and word.lstrip("-").isdecimal() else float(word)
    for parse_unit in (parse_size, parse_duration):
        with suppress(ValueError):
            return parse_unit(word)
    return None


def as_text(value: Scalar) -> str:
    """A value as it is written in an expression."""
    return value if isinstance(value, str) else json.dumps(value)


def paths(tree: Expression) -> list[str]:
    """The paths that an expression speaks of, each once, in order; those with a glob left out."""
    if isinstance(tree, (And, Or)):
        return list(dict.fromkeys(path for operand in tree.operands for path in paths(operand)))
    if isinstance(tree, Not):
        return paths(tree.operand)
    if isinstance(tree, (Age, Identity)) or literal_prefix(tree.path) != tree.path:
        return []
    return [tree.path]


def written(tree: Expression) -> str:
    """The expression as a text again; parsing it gives the same tree."""
    if isinstance(tree, (And, Or)):
        word = " and " if isinstance(tree, And) else " or "
        return word.join(
            f"({written(part)})" if isinstance(part, (And, Or)) else written(part) for part in tree.operands
        )
    if isinstance(tree, Not):
        inner = written(tree.operand)
        return f"not ({inner})" if isinstance(tree.operand, (And, Or)) else f"not {inner}"
    if isinstance(tree, Present):
        return _quoted(tree.path)
    if isinstance(tree, Has):
        return f"{_quoted(tree.path)} has {_quoted(tree.word)}"
    if isinstance(tree, Age):
        subject = "seen" if tree.key is None else f"checked({_quoted(tree.key)})"
        return f"{subject} {tree.operator} {Decimal(repr(tree.age_s)):f}s"
    subject = tree.field if isinstance(tree, Identity) else _quoted(tree.path)
    return f"{subject} {tree.operator} {_quoted(tree.word)}"


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word) and word not in (*_KEYWORDS, *_SUBJECTS):
        return word
    return '"' + re.sub(r'(["\\])', r"\\\1", word) + '"'


# --- asking one node ------------------------------------------------------------------------------


def matches(tree: Expression, node: NodeView) -> bool:
    """Whether a node's documents satisfy the expression."""
    if isinstance(tree, And):
        return all(matches(operand, node) for operand in tree.operands)
    if isinstance(tree, Or):
        return any(matches(operand, node) for operand in tree.operands)
    if isinstance(tree, Not):
        return not matches(tree.operand, node)
    if isinstance(tree, (Age, Identity)):
        return about_node(tree, node.summary, node.now_s)
    found = list(record_leaves(node.record, literal_prefix(tree.path)))
    if isinstance(tree, Compare) and tree.operator == "!=":
        at, _ = _path_tests(tree.path)
        return any(at(path) for path, _ in found) and not _any_leaf(tree, found, node.record)
    return _any_leaf(tree, found, node.record)


def _any_leaf(atom: LeafAtom, found: Iterable[tuple[str, Scalar]], record: Mapping[str, Any]) -> bool:
    family = (value for path, value in record_leaves(record, FAMILY_PATHS[0]) if path in FAMILY_PATHS)
    test = leaf_test(atom, is_rpm_family(family))
    return any(test(path, value) for path, value in found)


def about_node(atom: Age | Identity, node: NodeSummary, now_s: float) -> bool:
    """Whether what is known of a node without its record satisfies the atom."""
    if isinstance(atom, Age):
        at = node.heard_at if atom.key is None else node.checked.get(atom.key)
        age_s = float("inf") if at is None else now_s - parse_timestamp(at)
        if atom.operator == "!=":
            return age_s != atom.age_s
        return _HOLDS[atom.operator]((age_s > atom.age_s) - (age_s < atom.age_s))
    names = (node.node,) if atom.field == "name" else node.groups
    same = comparison("~" if atom.operator == "~" else "=", atom.word, rpm=False)
    return any(map(same, names)) is (atom.operator != "!=")
