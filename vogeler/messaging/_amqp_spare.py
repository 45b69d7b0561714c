"""Commands for a node whose queue is away with a member of the cluster, by way of another queue.

A node's queue is a classic one, and lives on one member. While that member is down, the broker refuses everything about
the queue. The spare is bound to the same keys, and is left as soon as the queue is back and nothing is under way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from vogeler import topology
from vogeler.errors import TransportError, TransportUnavailable
from vogeler.messaging import Delivery
from vogeler.messaging._amqp_consumer import AmqpConsumer

_LOOK_EVERY_S = 10.0
_LEAVES_AFTER_S = 1.0  # from the unbinding on, which everything that is on its way precedes


class SpareConsumer(AmqpConsumer):
    """Ends with TransportUnavailable when the queue that it stands in for is back: connect again."""

    def stand_in(self, queue: str, keys: Sequence[str], once: Callable[..., Any]) -> None:
        """``queue``: which to look for; ``keys``: what both are bound to; ``once``: a call on a channel of its own."""
        self._away, self._keys, self._once = queue, keys, once
        self._leaving = False
        self._look_at_s = time.monotonic() + _LEAVES_AFTER_S  # what waits in it comes first

    def receive(self, wait_s: float) -> Delivery | None:
        """As of every consumer, but for a look at the queue now and then."""
        if time.monotonic() >= self._look_at_s:
            self._look()
        return super().receive(min(wait_s, max(self._look_at_s - time.monotonic(), 0.0)))

    def _look(self) -> None:
        if self._leaving:
            if self.is_idle:  # else what came last keeps it: it is delivered again, and begun but once
                self._once("queue_delete", self.queue, if_empty=True)
            raise TransportUnavailable(f"the queue {self._away} is back at {self._where}")
        if self.is_idle and self._is_back():
            for key in self._keys:
                self._once("queue_unbind", self.queue, topology.BROADCAST_EXCHANGE, key)
            self._leaving = True
        self._look_at_s = time.monotonic() + (_LEAVES_AFTER_S if self._leaving else _LOOK_EVERY_S)

    def _is_back(self) -> bool:
        with suppress(TransportError):
            self._once("queue_declare", self._away, passive=True)
            return True
        return False
