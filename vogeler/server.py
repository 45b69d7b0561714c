"""The server: takes results off the queue, stores them in batches, acknowledges after.

Two threads: this one talks to the broker, the writer to the store, so that a slow store never makes
the broker think that the server is gone. The life of a result::

    delivered ─▶ decoded ─▶ batch ─▶ (writer) history, record, status ─▶ receipt ─▶ acked
                    │                              │
                    └─▶ dead letter                └─▶ refused for good: dead letter

Until it is acked it belongs to the broker. A server that dies anywhere in between has its results
delivered to another, and storing twice is storing once. Several servers may run side by side.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from vogeler import messages
from vogeler.backoff import Backoff, describe, keep_trying
from vogeler.batch import Batch
from vogeler.errors import MessageError, StoreError
from vogeler.messages import Heartbeat, Receipt, Result, decode, encode
from vogeler.messaging import Consumer, Delivery, Transport
from vogeler.persistence import Outcome, Storable, Store

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 30.0
_WRITER_ENDS_WITHIN_S = 1.0


@dataclass(frozen=True)
class Options:
    """What a server is told about itself. Durations in seconds."""

    prefetch: int = 300
    batch_count: int = 100
    batch_bytes: int = 4_000_000
    batch_age_s: float = 0.01
    stop_timeout_s: float = 30.0
    designs: Path | None = None  # a folder with design documents; None: as shipped


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


class Server:
    """The daemon between the results queue and the store. ``stop`` may be called from any thread."""

    def __init__(self, options: Options, connect: Callable[[], Transport], open_store: Callable[[], Store]):
        self._options = options
        self._connect = connect
        self._open_store = open_store
        self._stopping = threading.Event()
        self._abandoning = threading.Event()
        self._consumer: Consumer | None = None
        self._batch: Batch[Entry] = self._new_batch()
        self._in_flight = 0
        self._to_write: queue.SimpleQueue[list[Entry] | None] = queue.SimpleQueue()
        self._written: queue.SimpleQueue[Written] = queue.SimpleQueue()
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        """Serve until ``stop``."""
        writer = threading.Thread(target=self._write, name="writer", daemon=True)
        writer.start()
        try:
            keep_trying(self._session, self._stopping, lambda error: False)
        finally:
            self._abandoning.set()
            self._to_write.put(None)
            writer.join(timeout=_WRITER_ENDS_WITHIN_S)  # what it is still at is delivered to another server
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

    def _new_batch(self) -> Batch[Entry]:
        return Batch(self._options.batch_count, self._options.batch_bytes, self._options.batch_age_s)

    def _turn(self, transport: Transport, consumer: Consumer) -> None:
        delivery = consumer.receive(self._wait_s())
        if delivery is not None:
            self._admit(delivery, transport, consumer)
        self._settle_written(transport, consumer)
        self._hand_over_if_due()

    def _wait_s(self) -> float:
        if self._in_flight:  # the writer wakes us when it is done
            return _LONGEST_WAIT_S
        due_in_s = self._batch.due_in_s(time.monotonic())
        return _LONGEST_WAIT_S if due_in_s is None else due_in_s

    def _admit(self, delivery: Delivery, transport: Transport, consumer: Consumer) -> None:
        try:
            message = decode(delivery.envelope, Result, Heartbeat)
        except MessageError as error:
            self._refuse(
                delivery, error.message, error.fields.get("run"), error.fields.get("node"), transport, consumer
            )
            return
        self._batch.add(Entry(delivery, message), len(delivery.envelope.body), time.monotonic())

    def _hand_over_if_due(self) -> None:
        """One batch is written at a time; the next one grows meanwhile."""
        if not self._in_flight and self._batch.due_in_s(time.monotonic()) == 0.0:
            self._hand_over()

    def _hand_over(self) -> None:
        entries = self._batch.take()
        self._in_flight = len(entries)
        self._to_write.put(entries)

    def _settle_written(self, transport: Transport, consumer: Consumer) -> None:
        while not self._written.empty():
            written = self._written.get()
            self._in_flight = 0
            self._settle(written, transport, consumer)

    def _settle(self, written: Written, transport: Transport, consumer: Consumer) -> None:
        """Receipts before the ack: should we die in between, they are sent again rather than never."""
        stored, receipts = [], []
        for entry, outcome in zip(written.entries, written.outcomes):
            self.counts[outcome.stage if isinstance(entry.message, Result) else entry.message.TYPE] += 1
            if outcome.refused:
                run, node = getattr(entry.message, "run", None), entry.message.node
                self._refuse(entry.delivery, str(outcome.reason), run, node, transport, consumer)
                continue
            stored.append(entry.delivery)
            if isinstance(entry.message, Result) and entry.message.run is not None:
                receipts.append((entry.message.run, encode(_receipt(entry.message, outcome))))
        transport.publish_receipts(receipts)
        consumer.ack(stored)

    def _refuse(
        self, delivery: Delivery, reason: str, run: object, node: object, transport: Transport, consumer: Consumer
    ) -> None:
        """To the dead letters; the runner that may wait for it is told, if the message says which."""
        log.error("dead letter: %s", reason, extra={"event": "dead_letter", "node": node})
        self.counts["dead"] += 1
        consumer.dead_letter(delivery, reason)
        try:
            messages.check_node_name(node)
        except ValueError:
            return
        if isinstance(run, str) and run:
            receipt = Receipt(run, str(node), messages.FAILED, {"reason": f"not stored: {reason}"})
            transport.publish_receipts([(run, encode(receipt))])

    def _drain(self, transport: Transport, consumer: Consumer) -> None:
        """Store and acknowledge what was taken, within the limit. The rest is delivered to another server."""
        deadline_s = time.monotonic() + self._options.stop_timeout_s
        while (self._in_flight or len(self._batch)) and time.monotonic() < deadline_s:
            self._settle_written(transport, consumer)
            if not self._in_flight and len(self._batch):
                self._hand_over()
            if self._in_flight:
                consumer.receive(min(0.1, deadline_s - time.monotonic()))

    # --- the store's side, in the writer's thread -------------------------------------------------

    def _write(self) -> None:
        """Open the store, write batches, open it again when it was lost; until told to stop."""
        pending: list[list[Entry]] = []
        keep_trying(lambda backoff: self._write_batches(pending, backoff), self._abandoning, lambda error: False)

    def _write_batches(self, pending: list[list[Entry]], backoff: Backoff) -> None:
        with closing(self._open_store()) as store:
            _set_up(store, self._options.designs)
            while True:
                if not pending:
                    entries = self._to_write.get()
                    if entries is None:
                        return
                    pending.append(entries)
                outcomes = store.apply([entry.message for entry in pending[0]], messages.now())
                self._written.put(Written(pending.pop(), outcomes))
                backoff.reset()
                self._wake()


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


def _receipt(result: Result, outcome: Outcome) -> Receipt:
    detail: dict[str, object] = {"key": result.key, "duration_s": result.duration_s}
    if outcome.reason:
        detail["reason"] = outcome.reason
    return Receipt(str(result.run), result.node, outcome.stage, detail)


def _summary(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {stage}" for stage, count in sorted(counts.items())) or "nothing was stored"
