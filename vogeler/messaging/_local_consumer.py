"""One stream of deliveries from a queue of the local bus."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from vogeler import topology
from vogeler.errors import TransportError, TransportUnavailable
from vogeler.messages import Envelope
from vogeler.messaging import Delivery
from vogeler.messaging._local_bell import Bell, is_heard
from vogeler.messaging._local_bus import Bus

# Bells wake at once. These find what nobody rings for: in a shared queue, a consumer that was killed with messages in
# hand; in any, a message whose publisher was killed before it rang, and a file that was removed.
POLL_S = 1.0
_ALONE_POLL_S = 5.0  # a client's queue: most of what an idle client costs
_PORTION = 50
_WAITING = "SELECT 1 FROM messages WHERE queue = ? AND consumer IS NULL LIMIT 1"
_OLDEST = (
    "SELECT id, redelivered, reason, source, body, content_encoding, message_id, type, signature"
    " FROM messages WHERE queue = ? AND consumer IS NULL ORDER BY id LIMIT ?"
)


class LocalConsumer:
    """The Consumer contract over the bus. ``shared``: whether others may consume the same queue."""

    def __init__(
        self, bus: Bus, queue: str, consumer: int, bell: Bell, prefetch: int, *, auto_ack: bool = False, shared: bool
    ) -> None:
        self._bus = bus
        self._queue = queue
        self._consumer = consumer
        self._bell = bell
        self._prefetch = prefetch
        self._auto_ack = auto_ack
        self._shared = shared
        self._ready: deque[Delivery] = deque()
        self._unacked: set[int] = set()
        self._woken = False
        self._closed = False

    def receive(self, wait_s: float) -> Delivery | None:
        """The next delivery, or None after ``wait_s`` seconds or a ``wake``."""
        deadline = time.monotonic() + wait_s
        while True:
            if not self._ready:
                self._take()
            if self._ready:
                return self._ready.popleft()
            left_s = deadline - time.monotonic()
            if self._woken or left_s <= 0:
                self._woken = False
                return None
            rang = self._bell.wait(min(left_s, POLL_S if self._shared else _ALONE_POLL_S))
            if self._shared and not rang:
                self._look_after_the_others()

    def _take(self) -> None:
        """Take what waits, as far as the prefetch allows. Reads first: writing would disturb the others."""
        if self._closed:
            raise TransportUnavailable(f"the consumer of {self._queue} at local://{self._bus.path} is closed")
        room = min(self._prefetch - len(self._unacked), _PORTION)
        if room <= 0 or not self._bus.read(_WAITING, self._queue):
            return
        with self._bus.writing() as db:
            self._bus.expire_messages(db)
            rows = db.execute(_OLDEST, (self._queue, room)).fetchall()
            if self._auto_ack:
                db.executemany("DELETE FROM messages WHERE id = ?", [(row[0],) for row in rows])
            else:
                db.executemany(
                    "UPDATE messages SET consumer = ? WHERE id = ?", [(self._consumer, row[0]) for row in rows]
                )
        for number, redelivered, reason, source, *content in rows:
            self._ready.append(Delivery(Envelope(*content), bool(redelivered), reason, source, tag=(self, number)))
        if not self._auto_ack:
            self._unacked.update(row[0] for row in rows)

    def _look_after_the_others(self) -> None:
        others = self._bus.read("SELECT id FROM consumers WHERE queue = ?", self._queue)
        if not all(is_heard(self._bus.bell_path(other)) for (other,) in others):
            with self._bus.writing() as db:
                self._bus.bury(db)

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done with these, in one transaction; those of an earlier consumer are passed over."""
        numbers = self._held(deliveries)
        if numbers:
            with self._bus.writing() as db:
                db.executemany("DELETE FROM messages WHERE id = ?", [(number,) for number in numbers])
            self._unacked -= numbers

    def _held(self, deliveries: Sequence[Delivery]) -> set[int]:
        return {number for owner, number in (delivery.tag for delivery in deliveries) if owner is self} & self._unacked

    def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Move it to the dead letters, in one transaction."""
        numbers = self._held([delivery])
        if not numbers and not self._auto_ack:  # of an earlier consumer: it comes again
            return
        source = delivery.source or self._queue
        with self._bus.writing(safe=True) as db:
            self._bus.put(db, [topology.DEAD_QUEUE], delivery.envelope, reason=reason, source=source)
            db.executemany("DELETE FROM messages WHERE id = ?", [(number,) for number in numbers])
        self._unacked -= numbers

    def wake(self) -> None:
        """Make ``receive`` return. The flag is set first, so that a wait about to begin sees it."""
        self._woken = True
        self._bell.ring()

    def close(self) -> None:
        """Give back what was not acked. May be called twice; never raises.

        When the bus is out of reach, the silent bell tells the others, as it does for the dead.
        """
        if self._closed:
            return
        self._closed = True
        self._ready.clear()
        with suppress(TransportError), self._bus.writing() as db:
            self._bus.discharge(db, self._consumer, self._queue)
        self._bell.close()
