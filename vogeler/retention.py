"""What has had its time: old history, and nodes that nobody will hear again. Decided apart from being done.

The server's writer does a step of it whenever no batch waits.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vogeler import messages
from vogeler.persistence import Store
from vogeler.units import parse_timestamp, to_timestamp

log = logging.getLogger(__name__)

_STEP = 500  # history entries, or nodes: what a batch may have to wait for
_SHORTEST_INTERVAL_S = 0.1
_END = object()


@dataclass(frozen=True)
class Limits:
    """How long what is kept. Durations in seconds; ``decommission_s`` None: no node is ever forgotten."""

    keep_s: float = 90 * 86400.0
    versions: int = 10
    check_every_s: float = 3600.0
    decommission_s: float | None = None
    audit_keep_s: float = 90 * 86400.0


class Recurring:
    """When something is due that is done again and again. Pure: the clock, in seconds, is passed in.

    The interval is a tenth longer or shorter at random, and the first one any part of it, so that
    servers that were started together don't work at the same moment for ever.
    """

    def __init__(self, every_s: float, now_s: float, rng: random.Random | None = None):
        self._every_s = max(every_s, _SHORTEST_INTERVAL_S)
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._due_at_s = now_s + self._rng.uniform(0.0, self._every_s)

    def due_in_s(self, now_s: float) -> float:
        """Seconds until it is due, 0.0 when it is."""
        return max(0.0, self._due_at_s - now_s)

    def begun(self, now_s: float) -> None:
        """It was due, and is being done."""
        self._due_at_s = now_s + self._every_s * self._rng.uniform(0.9, 1.1)


class Absentees:
    """Which nodes are to be forgotten. Pure: who was heard when is passed in.

    Those that have been silent for longer than ``after_s``, at two checks in a row. The silence is counted
    up to the latest word of any node, not up to now: while broker or server are away nobody is heard, and
    that must not cost a fleet its records, neither then nor when the first nodes are heard again.
    """

    def __init__(self, after_s: float):
        self._after_s = after_s
        self._suspects: dict[str, str] = {}

    def check(self, heard: Mapping[str, str]) -> list[str]:
        """``heard``: when each node that there is was last heard. The nodes to forget."""
        latest_s = parse_timestamp(max(heard.values())) if heard else 0.0
        oldest_at = to_timestamp(max(0.0, latest_s - self._after_s))
        before, self._suspects = self._suspects, {node: at for node, at in heard.items() if at < oldest_at}
        return [node for node, at in self._suspects.items() if before.get(node) == at]


class Housekeeping:
    """Removes history and nodes that have had their time from a store, a step at a time.

    Several servers may do so at once. A check looks at everything, however long that takes; what is interrupted
    is done at the next one.
    """

    def __init__(self, store: Store, limits: Limits, schedule: Recurring, absentees: Absentees | None):
        self._store = store
        self._limits = limits
        self._schedule = schedule
        self._absentees = absentees
        self._steps: Iterator[None] | None = None

    def due_in_s(self, now_s: float) -> float:
        """Seconds until the next step is due."""
        return self._schedule.due_in_s(now_s) if self._steps is None else 0.0

    def step(self, now_s: float) -> None:
        """Do the next step of a check, or begin one. After an error the next check begins anew."""
        if self._steps is None:
            self._schedule.begun(now_s)
            self._steps = self._check()
        if next(self._steps, _END) is _END:
            self._steps = None

    def _check(self) -> Iterator[None]:
        yield from self._prune()
        for _ in self._store.prune_audit(_ago(self._limits.audit_keep_s), _STEP):
            yield
        if self._absentees is not None:
            yield
            yield from self._decommission(self._absentees)

    def _prune(self) -> Iterator[None]:
        before, pruned = _ago(self._limits.keep_s), 0
        for removed in self._store.prune(before, self._limits.versions, _STEP):
            pruned += removed
            yield
        if pruned:
            log.info("history stored before %s: %d removed", before, pruned, extra={"event": "pruned"})

    def _decommission(self, absentees: Absentees) -> Iterator[None]:
        heard = {}
        for count, node in enumerate(self._store.nodes(), 1):
            if node.heard_at is not None:
                heard[node.node] = node.heard_at
            if count % _STEP == 0:
                yield
        for name in absentees.check(heard):
            yield
            self._forget_unless_heard(name, heard[name])

    def _forget_unless_heard(self, node: str, heard_at: str) -> None:
        status = self._store.status(node) or {}  # it may have spoken while the check went on
        if status.get("heard_at") == heard_at and self._store.forget(node, "retention", messages.now()):
            log.info("forgot %s, last heard %s", node, heard_at, extra={"event": "forgotten", "node": node})


def _ago(duration_s: float) -> str:
    return to_timestamp(max(0.0, time.time() - duration_s))
