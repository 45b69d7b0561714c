"""The server's side of the store: a thread that applies one batch after the other.

A server has as many writers as its store can serve at once. All messages of a node go to the same one, so that they
stay in order and no two writers change the same documents.

A message that the store can't take, while it takes others, ends as a dead letter: one that breaks the store's
software would stop all others for ever.

While there is nothing to write, one of them removes what has had its time, in small steps.
"""

from __future__ import annotations

import logging
import math
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from vogeler import messages
from vogeler.audit import entries_of
from vogeler.backoff import Backoff, describe, keep_trying
from vogeler.batch import Batch, Lull, Pace
from vogeler.errors import StoreError
from vogeler.messages import FAILED, STORED, Decision, Result
from vogeler.messaging import Delivery
from vogeler.persistence import Outcome, Storable, Store
from vogeler.retention import Housekeeping

log = logging.getLogger(__name__)

_ENDS_WITHIN_S = 1.0
# How long it should take to store a batch, as who comes next waits for it; longer where the next was full before, as
# large batches cost the store less. What is stored at once even if it takes longer, as every batch takes some time.
_BATCH_TAKES_S, _FULL_ONES_TAKE_S, _LEAST_WEIGHT = 0.08, 0.25, 1_250_000
_MESSAGE_WEIGHT = 4_000  # what a message costs a store however small it is, in bytes of a changed value, about
# Views follow while nothing is stored, as both at once would take longer; and if that never comes, all the same.
_READY_AFTER_S, _READY_WITHIN_S = 2.0, 300.0
_BATCHES_AHEAD = 2  # one is being written, the next is ready
_TRIES = 8  # of a batch as a whole; then of a message that fails where others do not
_FAILURES_IN_A_ROW = 3  # so many messages, one after the other, and the store is to blame


def weight_of(delivery: Delivery) -> int:
    """What a message costs the store, about: bytes, unpacked, and as much again as small ones cost."""
    return delivery.envelope.unpacked_bytes + _MESSAGE_WEIGHT


@dataclass(frozen=True, eq=False)
class Entry:
    """A message on its way into the store, with what must be acked after."""

    delivery: Delivery
    message: Storable | Decision


@dataclass(frozen=True)
class Written:
    """What is in the store, or never will be, and what became of each entry. It ends so many batches."""

    entries: list[Entry]
    outcomes: list[Outcome]
    took_s: float
    batches: int = 1


@dataclass
class _Pending:
    """What the thread is at, however often that has to be tried. ``failures``: how often a message did not go alone."""

    entries: list[Entry] = field(default_factory=list)
    batches: int = 1
    tries: int = 0
    failures: Counter[Entry] = field(default_factory=Counter)

    def begin(self, entries: list[Entry]) -> None:
        """Another batch."""
        self.entries, self.batches, self.tries = entries, 1, 0
        self.failures.clear()


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
        self._most = most
        self._designs = designs
        self._keep_house = keep_house
        self._pace = Pace(_LEAST_WEIGHT, most_bytes)
        self._waiting: Batch[Entry] = self._new_batch()
        self._in_flight = 0  # batches that were handed to the thread, and are not settled yet
        self._to_write: queue.SimpleQueue[list[Entry] | None] = queue.SimpleQueue()
        self._written: queue.SimpleQueue[Written] = queue.SimpleQueue()
        self._in_trouble = False  # a batch has failed too often: what else there is may tell why
        self._lull = Lull(_READY_AFTER_S, _READY_WITHIN_S)
        self._abandoning = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self.bug: BaseException | None = None  # what ended the thread

    # --- in the server's thread -------------------------------------------------------------------

    @property
    def room(self) -> int:
        """The weight of the messages that it stores at once, as things are."""
        return self._pace.size

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return not self._in_flight and not self._waiting

    @property
    def takes_any(self) -> bool:
        """Whether it takes what there is, however little: it is idle, or in trouble, of which others may tell why."""
        return self.is_idle or (self._in_trouble and not self.is_full)

    @property
    def is_full(self) -> bool:
        """Whether it has work for longer than a batch takes."""
        return self._in_flight >= _BATCHES_AHEAD

    @property
    def holds_up(self) -> bool:
        """Whether the other writers wait for it: it is full; in trouble, which may last, when a batch waits besides."""
        return self.is_full and (not self._in_trouble or self._waiting.is_full())

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, entry: Entry) -> None:
        """One more to write, after those that there are."""
        self._waiting.add(entry, weight_of(entry.delivery), time.monotonic())

    def forget_waiting(self) -> None:
        """What the thread does not have yet is not to be written."""
        self._waiting = self._new_batch()

    def hand_over(self) -> None:
        """Give the thread what waits; while it is at something else, only what is as much as it stores at once."""
        while self._waiting and (not self._in_flight or (not self.is_full and self._may_be_next())):
            self._in_flight += 1
            self._to_write.put(self._waiting.take(time.monotonic()))

    def _may_be_next(self) -> bool:
        return self._waiting.is_full() or self._in_trouble

    def settle(self) -> list[Written]:
        """What was written since the last call."""
        settled = []
        while not self._written.empty():
            written = self._written.get()
            self._in_flight -= written.batches
            within_s = _FULL_ONES_TAKE_S if self._in_flight else _BATCH_TAKES_S
            self._pace.note(sum(weight_of(entry.delivery) for entry in written.entries), written.took_s, within_s)
            self._waiting.max_bytes = self._pace.size
            settled.append(written)
        return settled

    def end(self) -> None:
        """Write no more. What the thread is still at is delivered to another server."""
        self._abandoning.set()
        self._to_write.put(None)
        self._thread.join(timeout=_ENDS_WITHIN_S)

    def _new_batch(self) -> Batch[Entry]:
        return Batch(self._most, self._pace.size, 0.0)

    # --- in its own thread ------------------------------------------------------------------------

    def _run(self) -> None:
        """Open the store, write batches, open it again when it was lost; until told to stop.

        A server whose writer is dead would hold its results for ever: a bug in here ends the process.
        """
        pending = _Pending()
        try:
            keep_trying(lambda backoff: self._write_batches(pending, backoff), self._abandoning, lambda error: False)
        except BaseException as error:
            log.exception("the writer has died", extra={"event": "bug"})
            self.bug = error
            self._tell()

    def _write_batches(self, pending: _Pending, backoff: Backoff) -> None:
        with closing(self._open_store()) as store:
            _set_up(store, self._designs)
            self._lull.call_for(time.monotonic())  # for what was stored before
            housekeeping = None
            if self._keep_house is not None:
                log.info("store: %s", store.ping(), extra={"event": "store"})
                housekeeping = self._keep_house(store)
            while True:
                if not pending.entries:
                    entries = self._next_to_write(store, housekeeping)
                    if entries is None:
                        return
                    pending.begin(entries)
                if pending.tries < _TRIES:
                    self._write(store, pending)
                else:
                    self._write_apart(store, pending)
                backoff.reset()

    def _write(self, store: Store, pending: _Pending) -> None:
        """A batch as a whole."""
        pending.tries += 1
        again = pending.tries > 1 or any(entry.delivery.redelivered for entry in pending.entries)
        began_s = time.monotonic()
        outcomes = _store(store, [entry.message for entry in pending.entries], messages.now(), again)
        entries, pending.entries = pending.entries, []
        now_s = time.monotonic()
        self._put(Written(entries, outcomes, now_s - began_s))
        if any(outcome.stage == STORED and isinstance(e.message, Result) for e, outcome in zip(entries, outcomes)):
            self._lull.call_for(now_s)

    def _put(self, written: Written) -> None:
        self._written.put(written)
        self._tell()

    def _write_apart(self, store: Store, pending: _Pending) -> None:
        """One message after the other, in any order, to find those that are to blame: what fails while others do not.

        Raises what one of them failed with, if any are left that may be stored after all.
        """
        self._in_trouble = True
        self._tell()  # to be given what else there is
        self._take_along(pending)
        failed: list[tuple[Entry, StoreError]] = []
        settled = stored = audited = False  # what has been seen to work: which databases can be written
        for entry in random.sample(pending.entries, len(pending.entries)):
            try:
                (outcome,) = _store(store, [entry.message], messages.now(), again=True)
            except StoreError as error:
                failed.append((entry, error))
                if not settled and len(failed) >= _FAILURES_IN_A_ROW:
                    pending.tries -= 1  # together again the next time: it is the store, which may be back then
                    raise
            else:
                settled = True
                stored = stored or (isinstance(entry.message, Result) and outcome.stage == STORED)
                audited = audited or bool(entries_of([entry.message], ""))
                self._settle_one(pending, entry, outcome)
        for entry, failure in failed if stored else []:
            if entries_of([entry.message], "") and not audited:  # it may be the audit database that takes nothing
                continue
            pending.failures[entry] += 1
            if pending.failures[entry] >= _TRIES:
                reason = f"the store takes others, and not this one: {describe(failure)}"
                self._settle_one(pending, entry, Outcome(FAILED, reason, refused=True))
        if pending.entries:
            self._put(Written([], [], 0.0, pending.batches - 1))
            pending.batches = 1
            raise failed[0][1]
        self._in_trouble = False

    def _take_along(self, pending: _Pending) -> None:
        """The next batch, too, if there is one."""
        with suppress(queue.Empty):
            more = self._to_write.get_nowait()
            if more is None:
                self._to_write.put(None)
                return
            pending.entries += more
            pending.batches += 1

    def _settle_one(self, pending: _Pending, entry: Entry, outcome: Outcome) -> None:
        pending.entries.remove(entry)
        self._put(Written([entry], [outcome], 0.0, 0 if pending.entries else pending.batches))

    def _next_to_write(self, store: Store, housekeeping: Housekeeping | None) -> list[Entry] | None:
        """A batch, or None at the end; until there is one, what else is due."""
        while True:
            now_s = time.monotonic()
            ready_in_s = self._lull.due_in_s(now_s)
            if ready_in_s == 0.0:
                self._lull.done()
                _refresh(store)
                continue
            kept_in_s = math.inf if housekeeping is None else housekeeping.due_in_s(now_s)
            wait_s = min(ready_in_s, kept_in_s)
            with suppress(queue.Empty):
                return self._to_write.get(timeout=None if math.isinf(wait_s) else wait_s)
            if housekeeping is not None and kept_in_s <= ready_in_s:
                housekeeping.step(time.monotonic())


def _store(store: Store, batch: list[Storable | Decision], received_at: str, again: bool) -> list[Outcome]:
    """Who asked comes first: what is stored is never without it. An outcome each, in order."""
    store.add_audit(entries_of(batch, received_at))
    storable = [message for message in batch if not isinstance(message, Decision)]
    outcomes = iter(store.apply(storable, received_at, again) if storable else ())
    return [Outcome(message.stage) if isinstance(message, Decision) else next(outcomes) for message in batch]


def _refresh(store: Store) -> None:
    """What is stored goes first: a store that takes results, and can't do this, is no reason to stop."""
    try:
        store.refresh()
    except StoreError as error:
        log.warning("views are brought up to date when they are asked: %s", error, extra={"event": "refresh"})


def _set_up(store: Store, designs: Path | None) -> None:
    """Make what is missing. A login that may only write is enough once somebody has set the store up."""
    try:
        for line in store.setup(designs):
            log.info("%s", line, extra={"event": "setup"})
    except StoreError as error:
        if error.retryable:
            raise
        log.info("the store was not set up from here: %s", describe(error), extra={"event": "setup"})
