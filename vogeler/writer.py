"""The server's side of the store: a thread that applies one batch after the other.

A server has as many writers as its store can serve at once. All messages of a node go to the same one, so that they
stay in order and no two writers change the same documents.

While there is nothing to write, one of them removes what has had its time, in small steps.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from vogeler import messages
from vogeler.audit import entries_of
from vogeler.backoff import Backoff, describe, keep_trying
from vogeler.batch import Batch, Pace
from vogeler.errors import StoreError
from vogeler.messages import Decision
from vogeler.messaging import Delivery
from vogeler.persistence import Outcome, Storable, Store
from vogeler.retention import Housekeeping

log = logging.getLogger(__name__)

_ENDS_WITHIN_S = 1.0
# How long it should take to store a batch, as who comes next waits for it; longer where the next was full before, as
# large batches cost the store less. What is stored at once even if it takes longer, as every batch takes some time.
_BATCH_TAKES_S, _FULL_ONES_TAKE_S, _LEAST_BATCH = 0.08, 0.25, 40
_BATCHES_AHEAD = 2  # one is being written, the next is ready


@dataclass(frozen=True)
class Entry:
    """A message on its way into the store, with what must be acked after."""

    delivery: Delivery
    message: Storable | Decision


@dataclass(frozen=True)
class Written:
    """A batch that is in the store, and what became of each entry."""

    entries: list[Entry]
    outcomes: list[Outcome]
    took_s: float


class Writer:
    """``tell`` is called in the writer's thread when there is something to ``settle``, or when the thread has died.

    ``most`` and ``most_bytes``: of messages that are applied at once. ``designs``: as of Store.setup.
    ``keep_house``: makes what it does besides; None: nothing.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        tell: Callable[[], None],
        most: int,
        most_bytes: int,
        designs: Path | None,
        keep_house: Callable[[Store], Housekeeping] | None,
    ) -> None:
        self._open_store = open_store
        self._tell = tell
        self._most_bytes = most_bytes
        self._designs = designs
        self._keep_house = keep_house
        self._pace = Pace(_LEAST_BATCH, most)
        self._waiting: Batch[Entry] = self._new_batch()
        self._in_flight = 0  # batches that were handed to the thread, and are not settled yet
        self._to_write: queue.SimpleQueue[list[Entry] | None] = queue.SimpleQueue()
        self._written: queue.SimpleQueue[Written] = queue.SimpleQueue()
        self._abandoning = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self.bug: BaseException | None = None  # what ended the thread

    # --- in the server's thread -------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many messages it stores at once, as things are."""
        return self._pace.count

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return not self._in_flight and not self._waiting

    @property
    def is_full(self) -> bool:
        """Whether it has work for longer than a batch takes."""
        return self._in_flight >= _BATCHES_AHEAD

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, entry: Entry) -> None:
        """One more to write, after those that there are."""
        self._waiting.add(entry, entry.delivery.envelope.unpacked_bytes, time.monotonic())

    def forget_waiting(self) -> None:
        """What the thread does not have yet is not to be written."""
        self._waiting = self._new_batch()

    def hand_over(self) -> None:
        """Give the thread what waits; while it is at something else, only what is as much as it stores at once."""
        while self._waiting and (not self._in_flight or (not self.is_full and self._waiting.is_full())):
            self._in_flight += 1
            self._to_write.put(self._waiting.take())

    def settle(self) -> list[Written]:
        """What was written since the last call."""
        settled = []
        while not self._written.empty():
            written = self._written.get()
            self._in_flight -= 1
            within_s = _FULL_ONES_TAKE_S if self._in_flight else _BATCH_TAKES_S
            self._pace.note(len(written.entries), written.took_s, within_s)
            self._waiting.max_count = self._pace.count
            settled.append(written)
        return settled

    def end(self) -> None:
        """Write no more. What the thread is still at is delivered to another server."""
        self._abandoning.set()
        self._to_write.put(None)
        self._thread.join(timeout=_ENDS_WITHIN_S)

    def _new_batch(self) -> Batch[Entry]:
        return Batch(self._pace.count, self._most_bytes, 0.0)

    # --- in its own thread ------------------------------------------------------------------------

    def _run(self) -> None:
        """Open the store, write batches, open it again when it was lost; until told to stop.

        A server whose writer is dead would hold its results for ever: a bug in here ends the process.
        """
        pending: list[list[Entry]] = []
        try:
            keep_trying(lambda backoff: self._write_batches(pending, backoff), self._abandoning, lambda error: False)
        except BaseException as error:
            log.exception("the writer has died", extra={"event": "bug"})
            self.bug = error
            self._tell()

    def _write_batches(self, pending: list[list[Entry]], backoff: Backoff) -> None:
        with closing(self._open_store()) as store:
            _set_up(store, self._designs)
            housekeeping = None
            if self._keep_house is not None:
                log.info("store: %s", store.ping(), extra={"event": "store"})
                housekeeping = self._keep_house(store)
            again = bool(pending)
            while True:
                if not pending:
                    entries = self._next_to_write(housekeeping)
                    if entries is None:
                        return
                    pending.append(entries)
                began_s = time.monotonic()
                again = again or any(entry.delivery.redelivered for entry in pending[0])
                outcomes = _store(store, [entry.message for entry in pending[0]], messages.now(), again)
                again = False
                self._written.put(Written(pending.pop(), outcomes, time.monotonic() - began_s))
                backoff.reset()
                self._tell()

    def _next_to_write(self, housekeeping: Housekeeping | None) -> list[Entry] | None:
        """A batch, or None at the end; until there is one, what else is due."""
        while housekeeping is not None:
            with suppress(queue.Empty):
                return self._to_write.get(timeout=housekeeping.due_in_s(time.monotonic()))
            housekeeping.step(time.monotonic())
        return self._to_write.get()


def _store(store: Store, batch: list[Storable | Decision], received_at: str, again: bool) -> list[Outcome]:
    """Who asked comes first: what is stored is never without it. An outcome each, in order."""
    store.add_audit(entries_of(batch, received_at))
    storable = [message for message in batch if not isinstance(message, Decision)]
    outcomes = iter(store.apply(storable, received_at, again) if storable else ())
    return [Outcome(message.stage) if isinstance(message, Decision) else next(outcomes) for message in batch]


def _set_up(store: Store, designs: Path | None) -> None:
    """Make what is missing. A login that may only write is enough once somebody has set the store up."""
    try:
        for line in store.setup(designs):
            log.info("%s", line, extra={"event": "setup"})
    except StoreError as error:
        if error.retryable:
            raise
        log.info("the store was not set up from here: %s", describe(error), extra={"event": "setup"})
