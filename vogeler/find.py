"""Which nodes match an expression: from the store's index where that can tell, else by reading records.

The expression is worked out as sets of names. What is said about a value comes from the index; what is
said about the node (``seen``, ``checked``, ``name``, ``group``) from the list of nodes; only a path that
begins with a glob means reading records, and then only those of the nodes that are still in question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from vogeler import query
from vogeler.leaves import Scalar, at_path
from vogeler.persistence import NodeSummary, Store
from vogeler.query import Age, And, Compare, Expression, Identity, LeafAtom, NodeView, Not, Or

NODES, INDEX, SCAN = "nodes", "index", "scan"  # where an answer comes from, the cheapest first
_COSTS = {NODES: 0, INDEX: 1, SCAN: 2}
_ORDERED = ("<", ">", "<=", ">=")


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
        detail = " and ".join(f"{text}{'' if exact else '…'}" for text, exact in _ranges(tree))
    else:
        detail = "the list of nodes" if source == NODES else "every record that is still in question"
    return [Step(query.written(tree), source, detail)]


def find(store: Store, tree: Expression, now_s: float, watch: Callable[[int], None] = lambda count: None) -> list[str]:
    """The names of the nodes that match, sorted. ``watch`` is told how many records were read so far."""
    return sorted(_Search(store, now_s, watch).names(tree))


class _Search:
    """One question to one store. What is needed of the store is read once, when it is first needed."""

    def __init__(self, store: Store, now_s: float, watch: Callable[[int], None]) -> None:
        self._store = store
        self._now_s = now_s
        self._watch = watch
        self._nodes = {node.node: node for node in store.nodes()}
        self._rpm: frozenset[str] | None = None
        self._read = 0

    def names(self, tree: Expression) -> set[str]:
        return self._among(tree, set(self._nodes))

    def _among(self, tree: Expression, candidates: set[str]) -> set[str]:
        """Those of the candidates that match."""
        if not candidates:
            return set()
        if isinstance(tree, And):
            for operand in sorted(tree.operands, key=_cost):
                candidates = self._among(operand, candidates)
            return candidates
        if isinstance(tree, Or):
            found: set[str] = set()
            for operand in sorted(tree.operands, key=_cost):
                found |= self._among(operand, candidates - found)
            return found
        if isinstance(tree, Not):
            return candidates - self._among(tree.operand, candidates)
        if isinstance(tree, (Age, Identity)):
            return {name for name in candidates if query.about_node(tree, self._nodes[name], self._now_s)}
        return self._scanned(tree, candidates) if _source(tree) == SCAN else self._indexed(tree, candidates)

    def _indexed(self, atom: LeafAtom, candidates: set[str]) -> set[str]:
        rpm = self._rpm_nodes() if isinstance(atom, Compare) and atom.operator in _ORDERED else frozenset()
        tests = {family: query.leaf_test(atom, family) for family in (False, True)}
        rows = self._rows(atom)
        if isinstance(atom, Compare) and atom.operator == "!=":
            return _unequal(rows, tests[False], atom, candidates)
        return {node for path, node, value in rows if node in candidates and tests[node in rpm](path, value)}

    def _rows(self, atom: LeafAtom) -> Iterator[tuple[str, str, Scalar]]:
        for text, exact in _ranges(atom):
            yield from self._store.leaves(text, exact)

    def _rpm_nodes(self) -> frozenset[str]:
        if self._rpm is None:
            rows = [row for path in query.FAMILY_PATHS for row in self._store.leaves(path, True)]
            self._rpm = frozenset(node for _, node, value in rows if query.is_rpm_family([value]))
        return self._rpm

    def _scanned(self, atom: LeafAtom, candidates: set[str]) -> set[str]:
        found = set()
        for record in self._store.records(None if len(candidates) == len(self._nodes) else candidates):
            self._read += 1
            self._watch(self._read)
            name = record["_id"]
            if name in candidates and query.matches(atom, NodeView(record, self._nodes[name], self._now_s)):
                found.add(name)
        return found


def _unequal(
    rows: Iterable[tuple[str, str, Scalar]], test: Callable[[str, Scalar], bool], atom: Compare, candidates: set[str]
) -> set[str]:
    """The nodes that have something at the path, and nothing there that is equal."""
    at = query.leaf_test(Compare(atom.path, "~", ""), rpm=False)
    present, equal = set(), set()
    for path, node, value in rows:
        if at(path, value):
            present.add(node)
            if test(path, value):
                equal.add(node)
    return (present - equal) & candidates


def _source(atom: LeafAtom | Age | Identity) -> str:
    if isinstance(atom, (Age, Identity)):
        return NODES
    return INDEX if query.literal_prefix(atom.path) else SCAN


def _cost(tree: Expression) -> int:
    return max(_COSTS[step.source] for step in explain(tree))


def _ranges(atom: LeafAtom) -> list[tuple[str, bool]]:
    """The parts of the index to read, as prefix or whole path: (text, whether exact)."""
    prefix = query.literal_prefix(atom.path)
    if prefix != atom.path:
        return [(prefix, False)]
    return [(prefix, True)] if isinstance(atom, Compare) else [(prefix, True), (prefix + ".", False)]


def values(store: Store, names: list[str], fields: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each node, what it holds at each of the paths: from the index, or from its record if that is no scalar."""
    if any(next(store.leaves(field + "."), None) for field in fields):
        yield from _values_of_records(store, names, fields)
        return
    wanted = set(names)
    shown: dict[str, dict[str, Any]] = {}
    for field in fields:
        held: dict[str, list[Scalar]] = {}
        for _, node, value in store.leaves(field, True):
            if node in wanted:
                held.setdefault(node, []).append(value)
        for node, several in held.items():
            shown.setdefault(node, {})[field] = several[0] if len(several) == 1 else several
    for name in names:
        yield name, shown.get(name, {})


def _values_of_records(store: Store, names: list[str], fields: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    waiting = dict.fromkeys(names)
    for record in store.records(names):
        waiting.pop(record["_id"], None)
        yield record["_id"], {field: at_path(record, field) for field in fields}
    for name in waiting:  # known, and without a record yet
        yield name, {}


def summaries(store: Store, names: Iterable[str]) -> dict[str, NodeSummary]:
    """What is known of these nodes without their records."""
    wanted = set(names)
    return {node.node: node for node in store.nodes() if node.node in wanted}
