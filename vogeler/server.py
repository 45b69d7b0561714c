"""The server: takes results off the queue, stores them in batches, acknowledges after.

Two threads: this one talks to the broker, the writer to the store, so that a slow store never makes
the broker think that the server is gone. The life of a result::

    delivered ─▶ batch ─▶ decoded ─▶ (writer) history, record, status ─▶ receipt ─▶ acked
                             │                      │
                             └─▶ dead letter        └─▶ refused for good: dead letter

What waits for its turn is kept as it came, compressed: a value can be many times larger unpacked.

Until it is acked it belongs to the broker. A server that dies anywhere in between has its results
delivered to another, and storing twice is storing once. Several servers may run side by side.

While there is nothing to write, the writer removes what has had its time, in small steps.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from vogeler import messages
from vogeler.backoff import Backoff, describe, keep_trying
from vogeler.batch import Batch, Pace
from vogeler.errors import MessageError, StoreError
from vogeler.messages import Known, Receipt, Result, decode_stored, encode
from vogeler.messaging import Consumer, Delivery, Transport
from vogeler.persistence import Outcome, Storable, Store
from vogeler.retention import Absentees, Housekeeping, Limits, Recurring
from vogeler.units import parse_timestamp

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 30.0
_WRITER_ENDS_WITHIN_S = 1.0
# How long it should take to store a batch, as who comes next waits for it; and what is stored at once even if it takes
# longer, as every batch takes some time by itself.
_BATCH_TAKES_S, _LEAST_BATCH = 0.08, 40
_BATCHES_AHEAD = 2  # one is being written, the next is decoded meanwhile
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
    stop_timeout_s: float = 30.0
    clock_skew_s: float = 300.0
    designs: Path | None = None  # a folder with design documents; None: as shipped
    retention: Limits = Limits()


@dataclass(frozen=True)
class Entry:
    """A message on its way into the store, with what must be acked after."""

    delivery: Delivery
    message: Storable


@dataclass(frozen=True)
class Written:
    """A batch that is in the store, and what became of each entry."""

    entries: list[Entry]
    outcomes: list[Outcome]
    took_s: float


class Server:
    """The daemon between the results queue and the store. ``stop`` may be called from any thread."""

    def __init__(self, options: Options, connect: Callable[[], Transport], open_store: Callable[[], Store]):
        self._options = options
        self._connect = connect
        self._open_store = open_store
        self._stopping = threading.Event()
        self._abandoning = threading.Event()
        self._consumer: Consumer | None = None
        self._pace = Pace(_BATCH_TAKES_S, _LEAST_BATCH, options.batch_count)
        self._batch: Batch[Delivery] = self._new_batch()
        self._known = Known()
        self._in_flight = 0  # batches that were handed to the writer, and are not written yet
        self._to_write: queue.SimpleQueue[list[Entry] | None] = queue.SimpleQueue()
        self._written: queue.SimpleQueue[Written] = queue.SimpleQueue()
        self._bug: BaseException | None = None  # what ended the writer
        self._schedule = Recurring(options.retention.check_every_s, time.monotonic())
        decommission_s = options.retention.decommission_s
        self._absentees = None if decommission_s is None else Absentees(decommission_s)
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        """Serve until ``stop``."""
        sys.setswitchinterval(_SWITCH_S)
        writer = threading.Thread(target=self._write, name="writer", daemon=True)
        writer.start()
        try:
            keep_trying(self._session, self._stopping, lambda error: False)
        finally:
            self._abandoning.set()
            self._to_write.put(None)
            writer.join(timeout=_WRITER_ENDS_WITHIN_S)  # what it is still at is delivered to another server
            if self._bug is not None:
                raise self._bug
            log.info("stopped; %s", _summary(self.counts), extra={"event": "stopped", "counts": dict(self.counts)})

    def stop(self) -> None:
        """Take no more results, store and acknowledge what was taken within the limit, then return from ``run``."""
        self._stopping.set()
        self._wake()

    def _wake(self) -> None:
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
            log.info("ready for results", extra={"event": "ready"})
            try:
                while not self._stopping.is_set():
                    self._turn(transport, consumer)
                    backoff.reset()
                self._drain(transport, consumer)
            finally:
                self._consumer = None

    def _new_batch(self) -> Batch[Delivery]:
        return Batch(self._pace.count, self._options.batch_bytes, self._options.batch_age_s)

    def _turn(self, transport: Transport, consumer: Consumer) -> None:
        delivery = consumer.receive(self._wait_s())
        if delivery is not None:
            self._batch.add(delivery, delivery.envelope.unpacked_bytes, time.monotonic())
        self._settle_written(transport, consumer)
        if self._may_hand_over():
            self._hand_over(transport, consumer)

    def _may_hand_over(self) -> bool:
        """A batch is decoded while another one is written, if it is full; else it goes on growing."""
        if self._in_flight:
            return self._in_flight < _BATCHES_AHEAD and self._batch.is_full()
        return self._batch.due_in_s(time.monotonic()) == 0.0

    def _wait_s(self) -> float:
        if self._in_flight:  # the writer wakes us when it is done
            return _LONGEST_WAIT_S
        due_in_s = self._batch.due_in_s(time.monotonic())
        return _LONGEST_WAIT_S if due_in_s is None else due_in_s

    def _hand_over(self, transport: Transport, consumer: Consumer) -> None:
        """One batch is written at a time; the next one grows and is decoded meanwhile."""
        entries = []
        for delivery in self._batch.take():
            try:
                message = decode_stored(delivery.envelope, self._known)
                self._check_clock(message)
            except MessageError as error:
                fields = error.fields
                self._refuse(delivery, error.message, fields.get("run"), fields.get("node"), transport, consumer)
            else:
                entries.append(Entry(delivery, message))
        if entries:
            self._in_flight += 1
            self._to_write.put(entries)

    def _check_clock(self, message: Storable) -> None:
        """A result from the future would keep all later ones out of the record: they would be older."""
        if isinstance(message, Result):
            latest_s = time.time() + self._options.clock_skew_s
            if parse_timestamp(message.collected_at) > latest_s or message.seq > latest_s * 1_000_000:
                raise MessageError(
                    f"collected at {message.collected_at} by the clock of {message.node}, ahead of this server's",
                    vars(message),
                )

    def _settle_written(self, transport: Transport, consumer: Consumer) -> None:
        while not self._written.empty():
            written = self._written.get()
            self._in_flight -= 1
            self._pace.note(len(written.entries), written.took_s)
            self._batch.max_count = self._pace.count
            self._settle(written, transport, consumer)

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
        """To the dead letters; the runner that may wait for it is told, if the message says which."""
        log.error("dead letter: %s", reason, extra={"event": "dead_letter"})
        self.counts["dead"] += 1
        consumer.dead_letter(delivery, reason)
        with suppress(ValueError):
            messages.check_node_name(node)
            messages.check_id(run)
            receipt = Receipt(str(run), str(node), messages.FAILED, {"reason": f"not stored: {reason[:1000]}"})
            transport.publish_receipts([(str(run), encode(receipt))])

    def _drain(self, transport: Transport, consumer: Consumer) -> None:
        """Store and acknowledge what was taken, within the limit. The rest is delivered to another server."""
        deadline_s = time.monotonic() + self._options.stop_timeout_s
        while (self._in_flight or len(self._batch)) and self._bug is None and time.monotonic() < deadline_s:
            self._settle_written(transport, consumer)
            if not self._in_flight and len(self._batch):
                self._hand_over(transport, consumer)
            if self._in_flight:
                consumer.receive(min(0.1, deadline_s - time.monotonic()))

    # --- the store's side, in the writer's thread -------------------------------------------------

    def _write(self) -> None:
        """Open the store, write batches, open it again when it was lost; until told to stop.

        A server whose writer is dead would hold its results for ever: a bug in here ends the process.
        """
        pending: list[list[Entry]] = []
        try:
            keep_trying(lambda backoff: self._write_batches(pending, backoff), self._abandoning, lambda error: False)
        except BaseException as error:
            log.exception("the writer has died", extra={"event": "bug"})
            self._bug = error
            self.stop()

    def _write_batches(self, pending: list[list[Entry]], backoff: Backoff) -> None:
        with closing(self._open_store()) as store:
            _set_up(store, self._options.designs)
            housekeeping = Housekeeping(store, self._options.retention, self._schedule, self._absentees)
            again = bool(pending)
            while True:
                if not pending:
                    entries = self._next_to_write(housekeeping)
                    if entries is None:
                        return
                    pending.append(entries)
                began_s = time.monotonic()
                again = again or any(entry.delivery.redelivered for entry in pending[0])
                outcomes = store.apply([entry.message for entry in pending[0]], messages.now(), again)
                again = False
                self._written.put(Written(pending.pop(), outcomes, time.monotonic() - began_s))
                backoff.reset()
                self._wake()

    def _next_to_write(self, housekeeping: Housekeeping) -> list[Entry] | None:
        """A batch, or None at the end; until there is one, what else is due."""
        while True:
            with suppress(queue.Empty):
                return self._to_write.get(timeout=housekeeping.due_in_s(time.monotonic()))
            housekeeping.step(time.monotonic())


def _set_up(store: Store, designs: Path | None) -> None:
    """Make what is missing. A login that may only write is enough once somebody has set the store up."""
    try:
        for line in store.setup(designs):
            log.info("%s", line, extra={"event": "setup"})
    except StoreError as error:
        if error.retryable:
            raise
        log.info("the store was not set up from here: %s", describe(error), extra={"event": "setup"})
    log.info("store: %s", store.ping(), extra={"event": "store"})


def _kind(message: Storable, outcome: Outcome) -> str:
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
