"""The runner: publishes one command and accounts for every node that it was for.

``Tally`` is the accounting, and knows neither broker nor clock; ``Runner`` feeds it with receipts
until everybody who accepted is done, and then looks into the store for whatever no receipt told:
receipts may get lost, what is stored is the truth.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from vogeler import messages, targets, topology
from vogeler.backoff import LONGEST_S, Backoff
from vogeler.errors import ExitCode, MessageError, StoreError, TransportError, TransportUnavailable
from vogeler.messages import Command, Envelope, Receipt, decode, encode
from vogeler.messaging import Consumer, Transport
from vogeler.persistence import LATE, NodeSummary, Store, checks_of, stored_keys
from vogeler.units import to_timestamp

log = logging.getLogger(__name__)

SILENT = "silent"  # expected, and nothing came
UNFINISHED = "unfinished"  # accepted, and not done when the time was up

_FINAL = frozenset({messages.STORED, messages.UNCHANGED, messages.FAILED, messages.UNAVAILABLE, messages.REFUSED})
_DRAW_EVERY_S = 0.1
_GATHER_S = 0.01  # receipts come in a burst: one by one each would take as much time as all that came meanwhile
_NAMES_AT_ONCE = 200  # in a command: every node that it is for reads them all
_FEW_NODES = 200  # are asked for by name, not looked for among all
_ASK_STORE_AFTER_S = 10.0  # without a receipt
_ASKING_S = 1.0
_CLOCKS_APART_S = 300.0  # at most, this machine's and the server's


@dataclass(frozen=True)
class Answer:
    """How far one node has come. ``heard_at``: when the store last heard of one that is not done; None: never."""

    node: str
    stage: str
    key: str | None = None
    reason: str | None = None
    duration_s: float | None = None
    heard_at: str | None = None


@dataclass
class Tally:
    """Who was expected, who accepted, how each ended.

    It counts as it goes: its numbers are asked for after every few receipts.
    """

    expected: set[str] = field(default_factory=set)
    heard: dict[str, str | None] = field(default_factory=dict)  # of who is missing: when, as far as the store was asked
    answers: dict[str, Answer] = field(init=False, default_factory=dict)
    done: int = field(init=False, default=0)  # how many nodes have ended, one way or the other
    wanted: set[str] = field(default_factory=set)  # nodes whose value was left out, and the store has another
    asked_in_full: set[str] = field(default_factory=set)
    _awaited: set[str] = field(init=False)  # expected, and nothing came yet

    def __post_init__(self) -> None:
        self._awaited = set(self.expected)

    def take(self, receipt: Receipt) -> None:
        """Account for a receipt. In any order, any number of times; the first final one counts."""
        known = self.answers.get(receipt.node)
        if known is not None and (known.stage in _FINAL or receipt.stage == messages.ACCEPTED):
            return
        detail, stage = receipt.detail, receipt.stage
        if detail.get("wanted"):  # which is not the end of it
            stage, detail = messages.ACCEPTED, {"key": detail.get("key")}
            self.wanted |= {receipt.node} - self.asked_in_full
        self._awaited.discard(receipt.node)
        self.done += stage in _FINAL
        self.answers[receipt.node] = Answer(
            receipt.node,
            stage,
            detail.get("key"),
            detail.get("reason"),
            detail.get("duration_s"),
        )

    @property
    def total(self) -> int:
        """How many nodes this is about: expected, or not known before and answered."""
        return len(self.answers) + len(self._awaited)

    @property
    def all_ended(self) -> bool:
        """Whether nobody who accepted is still at it."""
        return self.done == len(self.answers)

    @property
    def everybody_answered(self) -> bool:
        """Whether nobody expected is missing; False when nobody was expected."""
        return bool(self.expected) and not self._awaited

    def missing(self) -> list[str]:
        """The nodes without a final answer, by name."""
        return sorted(
            node
            for node in self.expected | self.answers.keys()
            if node not in self.answers or self.answers[node].stage not in _FINAL
        )

    def rows(self) -> list[Answer]:
        """An answer per node, by name: the unfinished and the silent ones among them."""
        rows = {node: Answer(node, SILENT, heard_at=self.heard.get(node)) for node in self.expected}
        for node, answer in self.answers.items():
            ended = answer.stage in _FINAL
            rows[node] = answer if ended else Answer(node, UNFINISHED, answer.key, heard_at=self.heard.get(node))
        return [rows[node] for node in sorted(rows)]

    def exit_code(self) -> ExitCode:
        """How the command line ends: the worst that happened to any node."""
        stages = Counter(answer.stage for answer in self.rows())
        if not self.answers:
            return ExitCode.NOBODY_ANSWERED
        if stages[messages.FAILED] or stages[messages.REFUSED]:
            return ExitCode.SOME_FAILED
        if stages[SILENT] or stages[UNFINISHED]:
            return ExitCode.SOME_SILENT
        if not stages[messages.STORED] and not stages[messages.UNCHANGED]:
            return ExitCode.NOWHERE_AVAILABLE
        return ExitCode.OK


@dataclass(frozen=True)
class Limits:
    """How long a runner waits, in seconds."""

    timeout_s: float = 60.0
    discovery_s: float = 2.0
    ttl_s: float = 60.0


class Runner:
    """One run. ``watch`` is called with the tally now and then while it waits; ``sign`` is done to each command."""

    def __init__(
        self,
        connect: Callable[[], Transport],
        store: Store,
        limits: Limits,
        watch: Callable[[Tally], None] = lambda tally: None,
        sign: Callable[[Envelope], Envelope] = lambda envelope: envelope,
    ):
        self._connect = connect
        self._store = store
        self._limits = limits
        self._watch = watch
        self._sign = sign

    def publish(self, command: Command) -> bool:
        """Send the command and don't wait. False when no node's queue takes it."""
        with closing(self._connect()) as transport:
            return self._send(command, transport)

    def run(self, command: Command) -> Tally:
        """Send the command and wait for its receipts. Raises TransportError if it can't be sent.

        ``at`` and ``expires_at`` of the command are those of the moment it is sent.
        """
        tally = Tally(self._expected(command.targets))
        with closing(self._connect()) as transport:
            receipts = transport.consume_receipts(command.id)
            if not self._send(command, transport):
                self._reconcile(command, tally)
                return tally
            until = _Until.from_now(self._limits, command.splay_s)
            lost = self._listen(receipts, transport, command, tally, until)
        if lost:
            self._listen_again(command, tally, until)
        self._reconcile(command, tally)
        return tally

    def _send(self, command: Command, transport: Transport) -> bool:
        now_s = time.time()
        sent = replace(command, at=to_timestamp(now_s), expires_at=to_timestamp(now_s + self._limits.ttl_s))
        envelope = self._sign(encode(sent))
        return transport.publish_command(envelope, targets.broadcast_keys(command.targets), self._limits.ttl_s)

    def _expected(self, meant: targets.Targets) -> set[str]:
        """The nodes that ought to answer: those known to the store that are meant, and those named exactly."""
        named = targets.exact_names(meant)
        if (meant or {}).get("groups"):
            return named | {n.node for n in self._store.nodes() if targets.matches(meant, n.node, n.groups)}
        if meant is None or named != set(meant["nodes"]):
            return named | {node for node in self._store.names() if targets.matches(meant, node, ())}
        return named

    def _summaries(self, names: Collection[str]) -> Iterable[NodeSummary]:
        """Of these nodes, and maybe of others: a fleet has many."""
        few = len(names) <= _FEW_NODES
        return map(NodeSummary.of, self._store.statuses(names)) if few else self._store.nodes()

    def _listen_again(self, command: Command, tally: Tally, until: _Until) -> None:
        """The connection was lost, but the command is out: go on over new ones. The store tells what was missed."""
        backoff = Backoff()
        while until.left_s() > 0:
            time.sleep(min(backoff.next_s(), until.left_s()))
            try:
                with closing(self._connect()) as transport:
                    receipts = transport.consume_receipts(command.id)
                    self._reconcile(command, tally, _ASKING_S)
                    until = until.discovering(max(self._limits.discovery_s, LONGEST_S))  # clients come back as well
                    if not self._listen(receipts, transport, command, tally, until):
                        return
            except TransportError as error:
                log.warning("%s: still waiting", error, extra={"event": "retry"})
                self._reconcile(command, tally)

    def _listen(self, receipts: Consumer, transport: Transport, command: Command, tally: Tally, until: _Until) -> bool:
        """Take receipts until it is over. True when the connection was lost before."""
        told_s = time.monotonic()
        try:
            while not until.over(tally):
                self._watch(tally)
                self._ask_in_full(transport, command, tally)
                if _take_waiting(receipts, tally, until):
                    told_s = time.monotonic()
                    if not until.over(tally):
                        time.sleep(_GATHER_S)
                elif time.monotonic() - told_s > _ASK_STORE_AFTER_S:
                    self._reconcile(command, tally, _ASKING_S)
                    told_s = time.monotonic()
        except TransportUnavailable:
            return True
        return False

    def _ask_in_full(self, transport: Transport, command: Command, tally: Tally) -> None:
        """The same command once more, for the nodes that believed the store to have their value.

        Of those that it was for: whoever can send receipts must not choose whom a command is for, and have it signed.
        """
        wanted = sorted(
            node for node in tally.wanted if node in tally.expected or targets.matches(command.targets, node, ())
        )
        for start in range(0, len(wanted), _NAMES_AT_ONCE):
            nodes = wanted[start : start + _NAMES_AT_ONCE]
            self._send(replace(command, targets={"nodes": nodes}, full=True, splay_s=0.0), transport)
            tally.asked_in_full.update(nodes)
        tally.wanted.clear()

    def _reconcile(self, command: Command, tally: Tally, within_s: float = math.inf) -> None:
        """Ask the store about the nodes that no receipt told the end of. Without it, the receipts have to do.

        ``within_s``: ask for no more histories after that time, as each takes a moment and nobody takes receipts then.
        """
        try:
            self._ask_store(command, tally, time.monotonic() + within_s)
        except StoreError as error:
            log.warning("%s: the nodes below that have not answered may be done", error, extra={"event": "reconcile"})

    def _ask_store(self, command: Command, tally: Tally, until_s: float) -> None:
        """Of the nodes that are missing, only those that were heard since can have answered."""
        missing = set(tally.missing())
        if not missing:
            return
        since = to_timestamp(time.time() - self._limits.timeout_s - command.splay_s - _CLOCKS_APART_S)
        known = {n.node: n.heard_at for n in self._summaries(missing) if n.node in missing}
        tally.heard = {**dict.fromkeys(missing), **known}
        heard = [node for node, heard_at in known.items() if (heard_at or "") >= since]
        for status in self._store.statuses(heard):
            node = status["_id"]
            key_of_ours = tally.answers[node].key if node in tally.answers else None
            for key, check in checks_of(status).items():
                if key_of_ours not in (None, key):
                    continue
                if check.get("run") == command.id:
                    stage = self._stored_stage(node, key, check, command.id)
                    detail = {"key": key, "reason": check.get("error"), "duration_s": check.get("duration_s")}
                    tally.take(Receipt(command.id, node, stage, detail))
                elif str(check.get("checked_at") or "") >= since and time.monotonic() < until_s:
                    self._ask_history(node, key, since, command, tally)

    def _ask_history(self, node: str, key: str, since: str, command: Command, tally: Tally) -> None:
        """The status tells of the latest run only, which may have come after ours: what ours changed is here."""
        for change in takewhile(lambda change: change["stored_at"] >= since, self._store.history(node, key)):
            if change["run"] == command.id:
                detail = {"key": key, "reason": LATE if change.get("late") else None}
                tally.take(Receipt(command.id, node, messages.STORED, detail))
                return

    def _stored_stage(self, node: str, key: str, check: dict[str, Any], run: str) -> str:
        if check.get("status") != messages.OK:
            return messages.UNAVAILABLE if check.get("status") == messages.UNAVAILABLE else messages.FAILED
        record = self._store.record(node) or {}
        changed_by = stored_keys(record).get(key, {}).get("run")
        return messages.STORED if changed_by == run else messages.UNCHANGED


@dataclass(frozen=True)
class _Until:
    """When a wait is over, on the monotonic clock."""

    deadline_s: float
    discovered_s: float

    @classmethod
    def from_now(cls, limits: Limits, splay_s: float) -> _Until:
        now_s = time.monotonic()
        return cls(now_s + splay_s + limits.timeout_s, now_s + limits.discovery_s)

    def discovering(self, discovery_s: float) -> _Until:
        """The same deadline, and time to discover nodes from now on."""
        return replace(self, discovered_s=time.monotonic() + discovery_s)

    def left_s(self) -> float:
        return max(0.0, self.deadline_s - time.monotonic())

    def over(self, tally: Tally) -> bool:
        """Whether the time is up, or nobody is still at it and nobody more will turn up."""
        now_s = time.monotonic()
        discovered = now_s >= self.discovered_s or tally.everybody_answered
        return now_s >= self.deadline_s or (tally.all_ended and discovered)


def _take_waiting(receipts: Consumer, tally: Tally, until: _Until) -> bool:
    """Take what is there, after waiting for it a moment. Whether there was anything."""
    delivery = receipts.receive(min(_DRAW_EVERY_S, until.left_s()))
    came = delivery is not None
    while delivery is not None:
        with suppress(MessageError):  # of another version: the store will tell
            receipt = decode(delivery.envelope, Receipt)
            if topology.speaks_for(delivery.user, receipt.node):
                tally.take(receipt)
            else:
                log.warning(
                    "a receipt in the name of %s comes from %s: not taken", receipt.node,
                    topology.sender(delivery.user), extra={"event": "wrong_sender", "node": receipt.node},
                )  # fmt: skip
        delivery = receipts.receive(0)
    return came
