"""What differs between two values, what a node's record was at a time, and each change beside the one before. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from heapq import merge
from typing import Any, Generic, TypeVar

from vogeler.messages import canonical_json
from vogeler.sealed import is_sealed

Document = dict[str, Any]  # a history document, as docs/formats.rst has it
Operation = dict[str, Any]  # of a JSON Patch: op, path, value
View = TypeVar("View")

FORGOTTEN, RETURNED = "forgotten", "returned"  # the events that are of no key


# --- for people: what was added, removed, changed -------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """What has to be added, removed and changed to come from the old value to the new one.

    Mappings are compared by key, at every depth, but sealed values as a whole; lists by their entries, and texts of
    several lines by their lines, both without regard to order. A name is the keys that lead there, joined by dots;
    entries have the name of their list, and the value itself has an empty one.
    """

    added: tuple[tuple[str, Any], ...] = ()  # name, value
    removed: tuple[tuple[str, Any], ...] = ()
    changed: tuple[tuple[str, Any, Any], ...] = ()  # name, old, new
    reordered: tuple[str, ...] = ()  # names of lists and texts that hold the same in another order

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.reordered)

    def __str__(self) -> str:
        counts = (
            ("added", self.added), ("removed", self.removed), ("changed", self.changed), ("reordered", self.reordered),
        )  # fmt: skip
        return ", ".join(f"{len(found)} {word}" for word, found in counts if found) or "nothing"


def difference(old: Any, new: Any) -> Difference:
    """From ``old`` to ``new``; either may be any JSON value."""
    found = _Found()
    found.compare("", old, new)
    return Difference(tuple(found.added), tuple(found.removed), tuple(found.changed), tuple(found.reordered))


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: true is not 1, and 1 is not 1.0, as their digests differ."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other) if isinstance(one, float) else bool(one == other)


@dataclass
class _Found:
    """A difference while it is collected."""

    added: list[tuple[str, Any]] = field(default_factory=list)
    removed: list[tuple[str, Any]] = field(default_factory=list)
    changed: list[tuple[str, Any, Any]] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)

    def compare(self, name: str, old: Any, new: Any) -> None:
        if isinstance(old, dict) and isinstance(new, dict) and not (is_sealed(old) or is_sealed(new)):
            below = f"{name}." if name else ""
            self.added += ((below + key, new[key]) for key in new if key not in old)
            self.removed += ((below + key, old[key]) for key in old if key not in new)
            for key in old:
                if key in new:
                    self.compare(below + key, old[key], new[key])
        elif same(old, new):
            return
        elif isinstance(old, list) and isinstance(new, list):
            self._compare_entries(name, old, new)
        elif isinstance(old, str) and isinstance(new, str) and ("\n" in old or "\n" in new):
            self._compare_entries(name, old.split("\n"), new.split("\n"))
        else:
            self.changed.append((name, old, new))

    def _compare_entries(self, name: str, old: list[Any], new: list[Any]) -> None:
        added, removed = list(_surplus(new, old)), list(_surplus(old, new))
        self.added += ((name, entry) for entry in added)
        self.removed += ((name, entry) for entry in removed)
        if not added and not removed:
            self.reordered.append(name)


def _surplus(entries: list[Any], others: list[Any]) -> Iterator[Any]:
    """The entries that the others have not, or not as often."""
    there = Counter(map(canonical_json, others))
    for entry in entries:
        text = canonical_json(entry)
        there[text] -= 1
        if there[text] < 0:
            yield entry


# --- for programs: JSON Patch (RFC 6902) ----------------------------------------------------------


def patch(old: Any, new: Any) -> list[Operation]:
    """The operations that make ``new`` of ``old``, in order; none when they are the same."""
    return list(_operations("", old, new))


def apply_patch(value: Any, operations: Iterable[Operation]) -> Any:
    """The value after the operations ``add``, ``remove`` and ``replace``; the one given is left as it is.

    Raises ValueError for another operation, and for a path that is not there.
    """
    result = deepcopy(value)
    for operation in operations:
        try:
            result = _applied(result, operation)
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"the operation {canonical_json(operation)} does not fit the value") from error
    return result


def _operations(path: str, old: Any, new: Any) -> Iterator[Operation]:
    if isinstance(old, dict) and isinstance(new, dict):
        yield from ({"op": "remove", "path": _below(path, key)} for key in old if key not in new)
        for key in new:
            if key in old:
                yield from _operations(_below(path, key), old[key], new[key])
            else:
                yield {"op": "add", "path": _below(path, key), "value": new[key]}
    elif same(old, new):
        return
    elif isinstance(old, list) and isinstance(new, list):
        yield from _list_operations(path, old, new)
    else:
        yield {"op": "replace", "path": path, "value": new}


def _below(path: str, key: str) -> str:
    """RFC 6901, 3: ``~`` is written ``~0``, and ``/`` is written ``~1``."""
    return f"{path}/{key.replace('~', '~0').replace('/', '~1')}"


def _list_operations(path: str, old: list[Any], new: list[Any]) -> Iterator[Operation]:
    """Between two entries that stay: replace in place as long as both have some, then remove or add the rest.

    What is in front of an index is as in the new list already, so that the index is that of the new list.
    """
    done_old, done_new = 0, 0
    for stays_old, stays_new in [*_common(old, new), (len(old), len(new))]:
        pairs = min(stays_old - done_old, stays_new - done_new)
        for shift in range(pairs):
            yield from _operations(f"{path}/{done_new + shift}", old[done_old + shift], new[done_new + shift])
        for _ in range(done_old + pairs, stays_old):
            yield {"op": "remove", "path": f"{path}/{done_new + pairs}"}
        for index in range(done_new + pairs, stays_new):
            yield {"op": "add", "path": f"{path}/{index}", "value": new[index]}
        done_old, done_new = stays_old + 1, stays_new + 1


def _common(old: list[Any], new: list[Any]) -> list[tuple[int, int]]:
    """Positions, in both lists, of entries that are in both, in the order of both; as many as are soon found.

    Each entry is paired with its like in the other list, the first with the first; of these pairs the longest
    increasing sequence is taken. O(n log n), which a night's list of 5,000 processes needs.
    """
    one, other = list(map(canonical_json, old)), list(map(canonical_json, new))
    head = _equal_at_start(one, other)
    tail = _equal_at_start(one[head:][::-1], other[head:][::-1])
    middle = _increasing(_paired(one, other, head, tail))
    ends = [(len(one) - back, len(other) - back) for back in range(tail, 0, -1)]
    return [(index, index) for index in range(head)] + middle + ends


def _equal_at_start(one: Sequence[str], other: Sequence[str]) -> int:
    shorter = min(len(one), len(other))
    return next((index for index in range(shorter) if one[index] != other[index]), shorter)


def _paired(one: Sequence[str], other: Sequence[str], head: int, tail: int) -> list[tuple[int, int]]:
    places: defaultdict[str, deque[int]] = defaultdict(deque)
    for index in range(head, len(other) - tail):
        places[other[index]].append(index)
    return [(i, places[one[i]].popleft()) for i in range(head, len(one) - tail) if places[one[i]]]


def _increasing(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest sequence of pairs, first member rising, whose second member rises, too."""
    ends: list[int] = []  # for each length: the smallest second member that a sequence of it ends with
    last: list[int] = []  # ... and the pair with it
    before: list[int] = []  # for each pair: the one in front of it in its sequence, or -1
    for position, (_, second) in enumerate(pairs):
        length = bisect_left(ends, second)
        before.append(last[length - 1] if length else -1)
        ends[length : length + 1] = [second]
        last[length : length + 1] = [position]
    found = []
    position = last[-1] if last else -1
    while position >= 0:
        found.append(pairs[position])
        position = before[position]
    return found[::-1]


def _applied(document: Any, operation: Operation) -> Any:
    name, path = operation["op"], operation["path"]
    if name not in ("add", "remove", "replace"):
        raise ValueError(f"the operation {name!r} is not add, remove or replace")
    if path == "":
        return None if name == "remove" else deepcopy(operation["value"])
    empty, *steps = path.split("/")
    if empty:
        raise ValueError(f"the path {path!r} does not begin with '/'")
    *way, last = (step.replace("~1", "/").replace("~0", "~") for step in steps)
    target = document
    for step in way:
        target = target[_index(target, step)]
    _change(target, name, last, operation)
    return document


def _change(target: Any, name: str, last: str, operation: Operation) -> None:
    if name == "add" and isinstance(target, list):
        index = len(target) if last == "-" else _index(target, last)
        if index > len(target):
            raise IndexError(index)
        target.insert(index, deepcopy(operation["value"]))
        return
    place = _index(target, last)
    if name != "add":
        target[place]  # must be there
    if name == "remove":
        del target[place]
    else:
        target[place] = deepcopy(operation["value"])


def _index(target: Any, step: str) -> Any:
    """A step of a path as what the target is indexed with."""
    if isinstance(target, dict):
        return step
    if not isinstance(target, list) or not (step.isascii() and step.isdigit()) or (step[0] == "0" and step != "0"):
        raise IndexError(step)
    return int(step)


# --- the history as it is stored ------------------------------------------------------------------


def stored_at(entry: Document) -> str:
    """Since when the record held it, by the server's clock; by the node's for what was stored before there was that."""
    at: str = entry.get("stored_at") or entry["changed_at"]
    return at


def was_held(entry: Document) -> bool:
    """Whether the record ever held its value: not if it came late, and what is of no key has none."""
    return entry["key"] is not None and not entry.get("late")


def record_at(history: Iterable[Document], at: str) -> dict[str, Document]:
    """By key, the changes whose values a node's record held at a time, from its history, newest first.

    Reads no further than to where the node was forgotten.
    """
    held: dict[str, Document] = {}
    for entry in history:
        if stored_at(entry) <= at:
            if entry["event"] == FORGOTTEN:
                break
            if was_held(entry):
                held.setdefault(entry["key"], entry)
    return dict(sorted(held.items()))


def value_at(changes: Iterable[Document], at: str) -> Document | None:
    """The change whose value the record held at a time, from the changes of one key, newest first. None: no value.

    Reads no further than that. Entries that are of no key may be among them.
    """
    for entry in changes:
        if stored_at(entry) <= at and (was_held(entry) or entry["event"] == FORGOTTEN):
            return entry if was_held(entry) else None
    return None


def newest_first(*histories: Iterable[Document]) -> Iterator[Document]:
    """Several parts of a node's history as one; each is in that order already."""
    return merge(*histories, key=lambda entry: (stored_at(entry), entry["seq"]), reverse=True)


@dataclass(frozen=True)
class Version:
    """A change beside the one before it of the same key; without the values themselves.

    ``difference`` and ``patch`` are None for what never was in the record; so is ``patch`` where none was asked for.
    The first value of a key is all new: its patch adds it at the path "".
    """

    entry: Document  # as it is in the history, without the value
    first: bool
    difference: Difference | None
    patch: list[Operation] | None


def version(entry: Document, previous: Document | None, patches: bool = True) -> Version:
    """The change beside the previous one, None for the first of its key."""
    about = {name: item for name, item in entry.items() if name != "value"}
    if not was_held(entry):
        return Version(about, False, None, None)
    new = entry["value"]
    if previous is None:
        return Version(about, True, _whole(new), [{"op": "add", "path": "", "value": new}] if patches else None)
    old = previous["value"]
    return Version(about, False, difference(old, new), patch(old, new) if patches else None)


def _whole(value: Any) -> Difference:
    """From nothing at all: what a value consists of."""
    if isinstance(value, (dict, list)) and not is_sealed(value):
        return difference(type(value)(), value)
    return Difference(added=(("", value),))


def versions(history: Iterable[Document], view: Callable[[Document, Document | None], View]) -> Iterator[View]:
    """``view(entry, previous)`` of each entry of a node's history, newest first, in that order.

    ``previous`` is the next older change of the same key that was in the record, since the node was forgotten;
    what came late and what is of no key have none, and are no previous one. A value is let go of as soon as it
    was viewed beside its neighbours, so that memory holds views and one value per key.
    """
    queue: deque[_Slot[View]] = deque()
    newest: dict[str, _Slot[View]] = {}  # by key: the one that waits for its previous
    for entry in history:
        slot: _Slot[View] = _Slot(view, entry)
        queue.append(slot)
        if was_held(entry):
            if entry["key"] in newest:
                newest[entry["key"]].settle(entry)
            newest[entry["key"]] = slot
        else:
            slot.settle(None)
            if entry["event"] == FORGOTTEN:
                for waiting in newest.values():
                    waiting.settle(None)
                newest.clear()
        while queue and queue[0].settled:
            yield queue.popleft().views[0]
    while queue:
        slot = queue.popleft()
        if not slot.settled:
            slot.settle(None)
        yield slot.views[0]


class _Slot(Generic[View]):
    """A place in the order, filled when the previous change is known."""

    def __init__(self, view: Callable[[Document, Document | None], View], entry: Document) -> None:
        self._view = view
        self._entry: Document | None = entry
        self.views: list[View] = []

    @property
    def settled(self) -> bool:
        return self._entry is None

    def settle(self, previous: Document | None) -> None:
        if self._entry is not None:
            self.views.append(self._view(self._entry, previous))
            self._entry = None
