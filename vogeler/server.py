"""The server: takes results off the queue, stores them in batches, acknowledges after.

This thread talks to the broker, the writers talk to the store, so that a slow store never makes the broker think
that the server is gone. The life of a result::

    delivered ─▶ batch ─▶ decoded ─▶ (a writer) history, record, status ─▶ receipt ─▶ acked
                             │                      │
                             └─▶ dead letter        └─▶ refused for good: dead letter

What waits for its turn is kept as it came, compressed: a value can be many times larger unpacked.

Until it is acked it belongs to the broker. A server that dies anywhere in between has its results
delivered to another, and storing twice is storing once. Several servers may run side by side.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vogeler import messages, topology
from vogeler.backoff import Backoff, keep_trying
from vogeler.batch import Batch
from vogeler.errors import MessageError
from vogeler.messages import Decision, Envelope, Heartbeat, Known, Receipt, Result, decode_stored, encode
from vogeler.messaging import Consumer, Delivery, Transport
from vogeler.persistence import Outcome, Storable, Store
from vogeler.retention import Absentees, Housekeeping, Limits, Recurring
from vogeler.units import parse_timestamp
from vogeler.writer import Entry, Writer, Written, weight_of

if TYPE_CHECKING:
    from vogeler.signing import TrustedKeys

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 30.0
_HEARTBEATS_EVERY_S = 0.5  # they are stored, where nothing else is: one by one they would cost several times as much
# Python hands the interpreter to a waiting thread after this time, 5 ms by default: so long the writer would wait
# after every answer of the store while the other thread decodes.
_SWITCH_S = 0.0005


@dataclass(frozen=True)
class Options:
    """What a server is told about itself. Durations in seconds."""

    prefetch: int = 1000
    batch_count: int = 500
    batch_bytes: int = 4_000_000
    batch_age_s: float = 0.01
    writers: int = 1  # as many as the store can serve at once
    stop_timeout_s: float = 30.0
    clock_skew_s: float = 300.0
    designs: Path | None = None  # a folder with design documents; None: as shipped
    retention: Limits = Limits()


class Server:
    """The daemon between the results queue and the store. ``stop`` may be called from any thread."""

    def __init__(
        self,
        options: Options,
        connect: Callable[[], Transport],
        open_store: Callable[[], Store],
        keys: TrustedKeys | None = None,
    ):
        """``keys``: those of the nodes, each by its node's name, if what they send is to be signed."""
        self._options = options
        self._keys = keys
        self._connect = connect
        self._stopping = threading.Event()
        self._consumer: Consumer | None = None
        schedule = Recurring(options.retention.check_every_s, time.monotonic())
        absentees = None if options.retention.decommission_s is None else Absentees(options.retention.decommission_s)

        def keep_house(store: Store) -> Housekeeping:
            return Housekeeping(store, options.retention, schedule, absentees)

        self._writers = [
            Writer(
                open_store,
                self._wake,
                options.batch_count,
                options.batch_bytes,
                options.designs,
                keep_house if number == 0 else None,
            )
            for number in range(options.writers)
        ]
        self._batch: Batch[Delivery] = self._new_batch()
        self._known = Known()
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        """Serve until ``stop``."""
        sys.setswitchinterval(_SWITCH_S)
        for writer in self._writers:
            writer.start()
        try:
            keep_trying(self._session, self._stopping, lambda error: False)
        finally:
            for writer in self._writers:
                writer.end()
            for writer in self._writers:
                if writer.bug is not None:
                    raise writer.bug
            log.info("stopped; %s", _summary(self.counts), extra={"event": "stopped", "counts": dict(self.counts)})

    def stop(self) -> None:
        """Take no more results, store and acknowledge what was taken within the limit, then return from ``run``."""
        self._stopping.set()
        self._wake()

    def _wake(self) -> None:
        if any(writer.bug for writer in self._writers):
            self._stopping.set()
        consumer = self._consumer
        if consumer is not None:
            consumer.wake()

    # --- the broker's side ------------------------------------------------------------------------

    def _session(self, backoff: Backoff) -> None:
        with closing(self._connect()) as transport:
            for line in transport.setup():
                log.info("%s", line, extra={"event": "setup"})
            consumer = transport.consume_results(self._options.prefetch)
            self._consumer = consumer
            self._batch = self._new_batch()  # what an earlier connection delivered comes again
            for writer in self._writers:
                writer.forget_waiting()
            log.info("ready for results", extra={"event": "ready"})
            try:
                while not self._stopping.is_set():
                    self._turn(transport, consumer)
                    backoff.reset()
                self._drain(transport, consumer)
            finally:
                self._consumer = None

    def _new_batch(self) -> Batch[Delivery]:
        most = min(self._options.prefetch, self._options.batch_count * len(self._writers))
        return Batch(most, self._room(), self._options.batch_age_s, _HEARTBEATS_EVERY_S)

    def _room(self) -> int:
        """The weight of the messages that are stored at once, as things are."""
        return sum(writer.room for writer in self._writers)

    def _turn(self, transport: Transport, consumer: Consumer) -> None:
        delivery = consumer.receive(self._wait_s())
        if delivery is not None:
            awaited = delivery.envelope.type != Heartbeat.TYPE
            self._batch.add(delivery, weight_of(delivery), time.monotonic(), awaited)
        self._settle_written(transport, consumer)
        if self._may_decode():
            self._decode(transport, consumer)
        for writer in self._writers:
            writer.hand_over()

    def _may_decode(self) -> bool:
        """A batch is decoded for a writer that has nothing to do; or, while all write, if it is full."""
        if self._any_holds_up():
            return False
        return self._batch.is_full() or (self._any_takes() and self._batch.due_in_s(time.monotonic()) == 0.0)

    def _wait_s(self) -> float:
        due_in_s = self._batch.due_in_s(time.monotonic())
        if due_in_s is None or self._any_holds_up() or not self._any_takes():  # a writer wakes us when it is done
            return _LONGEST_WAIT_S
        return due_in_s

    def _any_takes(self) -> bool:
        return any(writer.takes_any for writer in self._writers)

    def _any_holds_up(self) -> bool:
        return any(writer.holds_up for writer in self._writers)

    def _decode(self, transport: Transport, consumer: Consumer) -> None:
        """One batch, each message for the writer of its node."""
        for delivery in self._batch.take(time.monotonic()):
            try:
                message = decode_stored(delivery.envelope, self._known)
                _check_sender(message, delivery.user)
                self._check_signature(message, delivery.envelope)
                self._check_clock(message)
            except MessageError as error:
                fields = error.fields
                self._refuse(delivery, error.message, fields.get("run"), fields.get("node"), transport, consumer)
            else:
                if self._is_stale(message):
                    self.counts["stale"] += 1
                    consumer.ack([delivery])
                    continue
                self._writer_of(message.node).add(Entry(delivery, _sent_by(delivery.user, message)))

    def _writer_of(self, node: str) -> Writer:
        return self._writers[zlib.crc32(node.encode()) % len(self._writers)]

    def _check_signature(self, message: Storable | Decision, envelope: Envelope) -> None:
        if self._keys is not None:
            try:
                owner = self._keys.owner(envelope, Result.TYPE).name
            except MessageError as error:
                raise MessageError(f"a {message.TYPE} of {message.node}: {error.message}", vars(message)) from None
            if owner != message.node:
                raise MessageError(f"a {message.TYPE} of {message.node}, but signed by {owner}", vars(message))

    def _is_stale(self, message: Storable | Decision) -> bool:
        """Whether it is a signed heartbeat of long ago: its node may be gone, and the broker have kept it."""
        if self._keys is None or not isinstance(message, Heartbeat):
            return False
        stale = parse_timestamp(message.at) < time.time() - self._options.clock_skew_s
        if stale:
            log.warning(
                "a heartbeat of %s from %s is passed over: delivered late, or its clock is behind",
                message.node, message.at, extra={"event": "stale", "node": message.node},
            )  # fmt: skip
        return stale

    def _check_clock(self, message: Storable | Decision) -> None:
        """A result from the future would keep all later ones out of the record: they would be older."""
        if isinstance(message, Result):
            latest_s = time.time() + self._options.clock_skew_s
            if parse_timestamp(message.collected_at) > latest_s or message.seq > latest_s * 1_000_000:
                raise MessageError(
                    f"collected at {message.collected_at} by the clock of {message.node}, ahead of this server's",
                    vars(message),
                )

    def _settle_written(self, transport: Transport, consumer: Consumer) -> None:
        for writer in self._writers:
            for written in writer.settle():
                self._settle(written, transport, consumer)
        self._batch.max_bytes = self._room()

    def _settle(self, written: Written, transport: Transport, consumer: Consumer) -> None:
        """Receipts before the ack: should we die in between, they are sent again rather than never."""
        stored, receipts = [], []
        for entry, outcome in zip(written.entries, written.outcomes):
            self.counts[_kind(entry.message, outcome)] += 1
            if outcome.refused:
                run, node = getattr(entry.message, "run", None), entry.message.node
                self._refuse(entry.delivery, str(outcome.reason), run, node, transport, consumer)
                continue
            stored.append(entry.delivery)
            if outcome.wanted:
                log.info("%s: %s", entry.message.node, outcome.reason, extra={"event": "wanted"})
            if isinstance(entry.message, Result) and entry.message.run is not None:
                receipts.append((entry.message.run, encode(_receipt(entry.message, outcome))))
        transport.publish_receipts(receipts)
        consumer.ack(stored)

    def _refuse(
        self, delivery: Delivery, reason: str, run: object, node: object, transport: Transport, consumer: Consumer
    ) -> None:
        """To the dead letters; the runner that may wait for it is told, if the message says which.

        Not so what somebody said in another node's name: that node's answer to the run is still to come.
        """
        log.error("dead letter: %s", reason, extra={"event": "dead_letter", "user": delivery.user})
        self.counts["dead"] += 1
        consumer.dead_letter(delivery, reason)
        with suppress(ValueError):
            messages.check_node_name(node)
            messages.check_id(run)
            if not topology.speaks_for(delivery.user, str(node)):
                return
            receipt = Receipt(str(run), str(node), messages.FAILED, {"reason": f"not stored: {reason[:1000]}"})
            transport.publish_receipts([(str(run), encode(receipt))])

    def _drain(self, transport: Transport, consumer: Consumer) -> None:
        """Store and acknowledge what was taken, within the limit. The rest is delivered to another server."""
        deadline_s = time.monotonic() + self._options.stop_timeout_s
        while len(self._batch) or not all(writer.is_idle for writer in self._writers):
            if any(writer.bug for writer in self._writers) or time.monotonic() > deadline_s:
                return
            if len(self._batch) and self._any_takes():
                self._decode(transport, consumer)
            for writer in self._writers:
                writer.hand_over()
            if not all(writer.is_idle for writer in self._writers):
                consumer.receive(min(0.1, max(0.0, deadline_s - time.monotonic())))
            self._settle_written(transport, consumer)


def _check_sender(message: Storable | Decision, user: str | None) -> None:
    """A node speaks for itself alone, where the broker tells the nodes apart."""
    if not topology.speaks_for(user, message.node):
        log.error(
            "a %s in the name of %s comes from %s", message.TYPE, message.node, topology.sender(user),
            extra={"event": "wrong_sender", "node": message.node, "user": user},
        )  # fmt: skip
        raise MessageError(f"a {message.TYPE} in the name of {message.node}, sent by {topology.sender(user)}")


def _sent_by(user: str | None, message: Storable | Decision) -> Storable | Decision:
    """The message; in a heartbeat with whose login sent it, whatever the node may say of that itself."""
    if not isinstance(message, Heartbeat):
        return message
    agent = {name: value for name, value in message.agent.items() if name != "user"}
    return replace(message, agent=agent if user is None else {**agent, "user": user})


def _kind(message: Storable | Decision, outcome: Outcome) -> str:
    """What it is counted as."""
    if not isinstance(message, Result):
        return message.TYPE
    return "wanted" if outcome.wanted else outcome.stage


def _receipt(result: Result, outcome: Outcome) -> Receipt:
    detail: dict[str, object] = {"key": result.key, "duration_s": result.duration_s}
    if outcome.reason:
        detail["reason"] = outcome.reason[:1000]
    if outcome.wanted:
        detail["wanted"] = True
    return Receipt(str(result.run), result.node, outcome.stage, detail)


def _summary(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {stage}" for stage, count in sorted(counts.items())) or "nothing was stored"
