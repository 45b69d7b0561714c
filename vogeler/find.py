"""Which nodes match an expression: from the store's index where that can tell, else by reading records.

The expression is worked out as sets of names. What is said about a value comes from the index; what is
said about the node (``seen``, ``checked``, ``name``, ``group``) from the list of nodes; only a path that
begins with a glob means reading records, and then only those of the nodes that are still in question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Any, Optional

from vogeler import query
from vogeler.globs import literal_prefix
from vogeler.leaves import Scalar, at_path
from vogeler.persistence import NodeSummary, Store
from vogeler.query import Age, And, Compare, Expression, Identity, LeafAtom, NodeView, Not, Or

NODES, INDEX, SCAN = "nodes", "index", "scan"  # where an answer comes from
# What is read of the index: what is at a path, and below it, or what begins as a glob does.
_AT, _WITHIN, _PREFIX = "{0}", "{0} and {0}.…", "{0}…"
_LIST_COST = 1
_ORDERED = ("<", ">", "<=", ">=")
Row = tuple[str, str, Scalar]  # of the index: path, node, value
Candidates = Optional[set[str]]  # None: every node there is


@dataclass(frozen=True)
class Step:
    """How one part of an expression is answered: ``source`` is NODES, INDEX or SCAN."""

    part: str
    source: str
    detail: str


def explain(tree: Expression) -> list[Step]:
    """The parts of an expression and where the answer to each comes from. Asks no store."""
    if isinstance(tree, (And, Or)):
        return [step for operand in tree.operands for step in explain(operand)]
    if isinstance(tree, Not):
        return explain(tree.operand)
    source = _source(tree)
    if source == INDEX and not isinstance(tree, (Age, Identity)):
        detail = _part(tree).format(literal_prefix(tree.path))
    else:
        detail = "the list of nodes" if source == NODES else "every record that is still in question"
    return [Step(query.written(tree), source, detail)]


def find(store: Store, tree: Expression, now_s: float) -> list[str]:
    """The names of the nodes that match, sorted."""
    return Search(store, now_s).names(tree)


class Search:
    """One question to one store. What is needed of the store is read once, when it is first needed.

    ``now_s``: seconds since the epoch, for ages. ``watch`` is told how many records were read so far.
    """

    def __init__(self, store: Store, now_s: float, watch: Callable[[int], None] = lambda count: None) -> None:
        self._store = store
        self._now_s = now_s
        self._watch = watch
        self._exact: dict[str, list[Row]] = {}
        self._without_below: set[str] = set()  # paths of these that are known to have nothing below them
        self._read = 0

    @cached_property
    def nodes(self) -> dict[str, NodeSummary]:
        """The list of nodes, by name."""
        return {node.node: node for node in self._store.nodes()}

    def names(self, tree: Expression) -> list[str]:
        """The nodes that match, sorted."""
        return sorted(self._among(tree, None))

    def _among(self, tree: Expression, candidates: Candidates) -> set[str]:
        """Those of the candidates that match."""
        if isinstance(tree, And):
            for operand in sorted(tree.operands, key=_cost):
                candidates = self._among(operand, candidates)
                if not candidates:
                    break
            return candidates or set()
        if isinstance(tree, Or):
            found: set[str] = set()
            for operand in sorted(tree.operands, key=_cost):
                found |= self._among(operand, None if candidates is None else candidates - found)
            return found
        if isinstance(tree, Not):
            return self._all(candidates) - self._among(tree.operand, candidates)
        if isinstance(tree, (Age, Identity)):
            known = (self.nodes[name] for name in self._all(candidates) if name in self.nodes)
            return {node.node for node in known if query.about_node(tree, node, self._now_s)}
        return self._scanned(tree, candidates) if _source(tree) == SCAN else self._indexed(tree, candidates)

    def _all(self, candidates: Candidates) -> set[str]:
        return set(self.nodes) if candidates is None else candidates

    def _indexed(self, atom: LeafAtom, candidates: Candidates) -> set[str]:
        rpm = self._rpm_nodes if isinstance(atom, Compare) and atom.operator in _ORDERED else frozenset()
        tests = {family: query.leaf_test(atom, family) for family in (False, True)}
        rows = self._rows(atom)
        if isinstance(atom, Compare) and atom.operator == "!=":
            found = _unequal(rows, tests[False], atom)
        else:
            found = {node for path, node, value in rows if tests[node in rpm](path, value)}
        return found if candidates is None else found & candidates

    def _rows(self, atom: LeafAtom) -> Iterable[Row]:
        """The part of the index that tells."""
        part = _part(atom)
        if part == _PREFIX:
            return self._store.leaves(literal_prefix(atom.path))
        return self._at(atom.path) if part == _AT else self._within(atom.path)

    def _at(self, path: str) -> Iterable[Row]:
        """Those at one path are kept: their values may be shown as well."""
        if path not in self._exact:
            self._exact[path] = list(self._store.leaves(path, True))
        return self._exact[path]

    def _within(self, path: str) -> Iterator[Row]:
        """Those at a path and below it; kept, too, if they are all at it."""
        if path in self._without_below:
            yield from self._exact[path]
            return
        at: list[Row] = []
        below = False
        for row in self._store.leaves_within(path):
            below = below or row[0] != path
            if not below:
                at.append(row)
            yield row
        if not below:
            self._exact[path] = at
            self._without_below.add(path)

    @cached_property
    def _rpm_nodes(self) -> frozenset[str]:
        rows = (row for path in query.FAMILY_PATHS for row in self._at(path))
        return frozenset(node for _, node, value in rows if query.is_rpm_family([value]))

    def _scanned(self, atom: LeafAtom, candidates: Candidates) -> set[str]:
        found = set()
        for record in self._store.records(candidates):
            self._read += 1
            self._watch(self._read)
            name = record["_id"]
            if query.matches(atom, NodeView(record, NodeSummary.of({"_id": name}), self._now_s)):
                found.add(name)
        return found

    def values(self, names: Sequence[str], fields: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Of each node, what it holds at each of the paths: from the index, or from its record if that is no scalar."""
        if any(path != field for field in fields for path, _, _ in self._within(field)):
            yield from _values_of_records(self._store, names, fields)
            return
        shown: dict[str, dict[str, Any]] = {name: {} for name in names}
        for field in fields:
            for (_, node), rows in groupby(self._at(field), key=itemgetter(0, 1)):
                if node in shown:
                    several = [value for _, _, value in rows]
                    shown[node][field] = several[0] if len(several) == 1 else several
        yield from shown.items()


def _unequal(rows: Iterable[Row], test: Callable[[str, Scalar], bool], atom: Compare) -> set[str]:
    """The nodes that have something at the path, and nothing there that is equal."""
    at = query.leaf_test(Compare(atom.path, "~", ""), rpm=False)
    present, equal = set(), set()
    for path, node, value in rows:
        if at(path, value):
            present.add(node)
            if test(path, value):
                equal.add(node)
    return present - equal


def _source(atom: LeafAtom | Age | Identity) -> str:
    if isinstance(atom, (Age, Identity)):
        return NODES
    return INDEX if literal_prefix(atom.path) else SCAN


def _part(atom: LeafAtom) -> str:
    """The part of the index that tells: _AT, _WITHIN or _PREFIX."""
    if literal_prefix(atom.path) != atom.path:
        return _PREFIX
    return _AT if isinstance(atom, Compare) else _WITHIN


def _cost(tree: Expression) -> int:
    """What to ask first: the leaves of one path, the list of nodes, many leaves, records."""
    if isinstance(tree, (And, Or)):
        return max(map(_cost, tree.operands))
    if isinstance(tree, Not):
        return max(_cost(tree.operand), _LIST_COST)
    source = _source(tree)
    if source == INDEX and not isinstance(tree, (Age, Identity)):
        return 2 if _part(tree) == _PREFIX else 0
    return _LIST_COST if source == NODES else 3


def _values_of_records(
    store: Store, names: Sequence[str], fields: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    waiting = dict.fromkeys(names)
    for record in store.records(names):
        waiting.pop(record["_id"], None)
        yield record["_id"], {field: at_path(record, field) for field in fields}
    for name in waiting:  # known, and without a record yet
        yield name, {}
