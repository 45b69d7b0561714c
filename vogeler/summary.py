"""Many nodes in few lines: who has which value, who differs from the majority, who is behind.

Pure: no clock, no store. What is counted comes as leaves, path by path, as ``Store.leaves`` gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from vogeler.leaves import Scalar
from vogeler.units import parse_timestamp, to_timestamp

Leaf = tuple[str, str, Scalar]  # path, node, value

# --- which values there are -----------------------------------------------------------------------


@dataclass(frozen=True)
class Count:
    """How many nodes have the value at the path."""

    path: str
    value: Scalar
    nodes: int


def count_values(found: Iterable[Leaf]) -> tuple[list[Count], set[str]]:
    """A count for every value, most common first; and the nodes that have any.

    A node with several values is counted for each, with the same one twice (in a list) once.
    """
    counts: dict[tuple[str, bool, Scalar], int] = {}
    latest: dict[tuple[str, bool, Scalar], str] = {}
    having: set[str] = set()
    for path, node, value in found:
        this = (path, *_identity(value))
        if latest.get(this) != node:
            latest[this] = node
            counts[this] = counts.get(this, 0) + 1
            having.add(node)
    rows = [Count(path, value, nodes) for (path, _, value), nodes in counts.items()]
    return sorted(rows, key=lambda row: (-row.nodes, row.path, str(row.value), repr(row.value))), having


def _identity(value: Scalar) -> tuple[bool, Scalar]:
    """In Python ``True == 1``; in a record they are different values."""
    return isinstance(value, bool), value


# --- who differs from the majority ----------------------------------------------------------------

DIFFERS = "differs"  # has another value than more than half of the nodes
MISSES = "misses"  # has not what more than half have
EXTRA = "extra"  # has what more than half have not


@dataclass(frozen=True)
class Deviation:
    """In what a node differs. ``value``: what it has; ``usual``: what more than half have. None: nothing."""

    path: str
    how: str
    value: Scalar = None
    usual: Scalar = None


def nodes_having(found: Iterable[Leaf], among: Collection[str]) -> set[str]:
    """The nodes of ``among`` that have any of the leaves. Reads no further than until that is all of them."""
    having: set[str] = set()
    for _, node, _ in found:
        if node in among:
            having.add(node)
            if len(having) == len(among):
                break
    return having


def deviations(found: Iterable[Leaf], nodes: Collection[str]) -> Iterator[tuple[str, Deviation]]:
    """Where each of ``nodes`` differs from more than half of them, path by path.

    In memory are the leaves of one path. Where a node has several values at a path (a list), every
    value is a fact of its own, that a node has or has not.
    """
    known = {node: node for node in nodes}
    for path, leaves in groupby(found, key=itemgetter(0)):
        holders: dict[tuple[bool, Scalar], list[str]] = {}
        for _, name, value in leaves:
            node = known.get(name)  # one text per node, however many rows name it
            if node is not None:
                those = holders.setdefault(_identity(value), [])
                if not those or those[-1] != node:
                    those.append(node)
        having = set().union(*holders.values())
        if len(having) == sum(map(len, holders.values())):
            yield from _of_scalar(path, holders, having, known)
        else:
            yield from _of_list(path, holders, having, known)


_Holders = Mapping[tuple[bool, Scalar], list[str]]


def _of_scalar(
    path: str, holders: _Holders, having: set[str], nodes: Collection[str]
) -> Iterator[tuple[str, Deviation]]:
    """One value a node: it may differ from the usual one, if there is such."""
    usual = next((value for value, those in holders.items() if 2 * len(those) > len(nodes)), None)
    if usual is not None:
        others = {value: those for value, those in holders.items() if value != usual}
        yield from _each(others, lambda value: Deviation(path, DIFFERS, value, usual[1]))
    if 2 * len(having) > len(nodes):
        missing = Deviation(path, MISSES, usual=None if usual is None else usual[1])
        yield from ((node, missing) for node in nodes if node not in having)
    elif 2 * len(having) < len(nodes):
        yield from _each(holders, lambda value: Deviation(path, EXTRA, value))


def _of_list(path: str, holders: _Holders, having: set[str], nodes: Collection[str]) -> Iterator[tuple[str, Deviation]]:
    """Several values a node: each is usual, or unusual, or neither."""
    usual = {value: those for value, those in holders.items() if 2 * len(those) > len(nodes)}
    for (_, value), those in usual.items():
        missing, holding = Deviation(path, MISSES, usual=value), set(those)
        yield from ((node, missing) for node in nodes if node not in holding)
    if not usual and 2 * len(having) > len(nodes):
        yield from ((node, Deviation(path, MISSES)) for node in nodes if node not in having)
    unusual = {value: those for value, those in holders.items() if 2 * len(those) < len(nodes)}
    yield from _each(unusual, lambda value: Deviation(path, EXTRA, value))


def _each(holders: _Holders, deviation: Callable[[Scalar], Deviation]) -> Iterator[tuple[str, Deviation]]:
    """The deviation of each value, one object for all that have it."""
    for (_, value), those in holders.items():
        shared = deviation(value)
        yield from ((node, shared) for node in those)


# --- who is behind --------------------------------------------------------------------------------

ONLINE, LATE, SILENT = "online", "late", "silent"
_MISSED_INTERVALS = 3.0  # one run may fall on a restart, or wait for its turn


def state_of(heard_at: str | None, now_s: float, late_after_s: float, silent_after_s: float) -> str:
    """``online``, ``late`` or ``silent``: by when a node was last heard. Never heard is silent."""
    age_s = float("inf") if heard_at is None else now_s - parse_timestamp(heard_at)
    if age_s > silent_after_s:
        return SILENT
    return LATE if age_s > late_after_s else ONLINE


def stale_keys(
    checked: Mapping[str, str], intervals: Mapping[str, float], now_s: float, stale_after_s: float
) -> list[str]:
    """The keys whose last check is too long ago, sorted. ``checked``: key → when its last check was.

    Too long is three times the interval of a key that is in ``intervals``, and ``stale_after_s`` for the others.
    """
    oldest_at = to_timestamp(max(0.0, now_s - stale_after_s))
    oldest = {key: to_timestamp(max(0.0, now_s - _MISSED_INTERVALS * every_s)) for key, every_s in intervals.items()}
    return sorted(key for key, checked_at in checked.items() if checked_at < oldest.get(key, oldest_at))
