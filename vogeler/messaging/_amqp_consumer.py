"""One stream of deliveries from a RabbitMQ queue, on a channel of its own.

pika serves heartbeats and hands out deliveries only inside ``process_data_events``, and nothing but
``add_callback_threadsafe`` may be called from another thread: both are used here alone.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any

from vogeler import topology
from vogeler.errors import TransportError, TransportUnavailable
from vogeler.messages import CONTENT_TYPE, Envelope
from vogeler.messaging import Delivery
from vogeler.messaging._amqp_answers import CLOSE_LIMIT_S, limited
from vogeler.messaging._amqp_errors import translated
from vogeler.messaging._amqp_pika import pika, pika_errors

REASON_HEADER = "x-vogeler-reason"
SOURCE_HEADER = "x-vogeler-source"
SIGNATURE_HEADER = "x-vogeler-signature"
USER_HEADER = "x-vogeler-user"  # who sent what is a dead letter now
_SERVE_EVERY_S = 1.0
# All headers must fit into one frame (128 KiB by default), the reason is one of them.
_REASON_CHARACTERS = 4000

# Publishes to an exchange under a key, with headers, and returns when it is confirmed.
Publish = Callable[[str, str, Envelope, dict[str, str]], None]


class AmqpConsumer:
    """The Consumer contract over one channel of a BlockingConnection."""

    def __init__(
        self,
        connection: pika.BlockingConnection,
        where: str,
        queue: str,
        publish: Publish,
        dead_route: tuple[str, str] = (topology.DEAD_EXCHANGE, ""),
    ) -> None:
        self._connection = connection
        self._where = where
        self._queue = queue
        self._publish = publish
        self._dead_route = dead_route
        self._ready: deque[Delivery] = deque()
        self._unacked: dict[int, None] = {}  # delivery tags as they came, which is ascending
        self._auto_ack = False
        self._cancelled = False
        self._woken = False
        self._served_at = time.monotonic()
        self._rings_at_s = math.inf  # when the timer is due that ends a wait
        with translated(where):
            self._channel = connection.channel()
            self._channel.add_on_cancel_callback(self._on_cancel)

    def start(self, prefetch: int, exclusive: bool = False, auto_ack: bool = False) -> None:
        """Begin to consume. Raises pika's errors: what they mean depends on the queue."""
        self._auto_ack = auto_ack
        self._channel.basic_qos(prefetch_count=min(prefetch, 65535))
        self._channel.basic_consume(self._queue, self._on_delivery, exclusive=exclusive, auto_ack=auto_ack)

    @property
    def queue(self) -> str:
        """What is consumed here."""
        return self._queue

    @property
    def is_idle(self) -> bool:
        """Whether nothing is here that is not acked yet."""
        return not self._unacked and not self._ready

    @property
    def channel(self) -> Any:
        """The channel, to declare and bind what is consumed here."""
        return self._channel

    def receive(self, wait_s: float) -> Delivery | None:
        """The next delivery, or None after ``wait_s`` seconds or a ``wake``."""
        deadline = time.monotonic() + wait_s
        if time.monotonic() - self._served_at > _SERVE_EVERY_S:
            self._serve(0.0)
        if not self._ready:
            self._serve(0.0 if self._woken else max(wait_s, 0.0))
        while not self._ready and not self._woken and time.monotonic() < deadline:
            self._serve(max(deadline - time.monotonic(), 0.0))
        if self._ready:
            return self._ready.popleft()
        self._woken = False
        return None

    def _serve(self, wait_s: float) -> None:
        with translated(self._where):
            if not self._connection.is_open:  # pika would raise a ValueError
                raise pika_errors.ConnectionWrongStateError
            if wait_s > 0:
                self._ring_within(wait_s)
            self._connection.process_data_events(None if wait_s > 0 else 0)
        self._served_at = time.monotonic()
        self._check()

    def _check(self) -> None:
        if self._cancelled:
            raise TransportUnavailable(f"the queue {self._queue} at {self._where} was deleted, or its node is gone")
        if self._channel.is_closed:
            reason = getattr(self._channel, "_closing_reason", None)
            raise TransportUnavailable(f"the broker at {self._where} closed the channel of {self._queue}: {reason}")

    def _ring_within(self, wait_s: float) -> None:
        """End the wait by then, maybe earlier: pika keeps a timer until it is due, so one serves for many waits."""
        ring_at_s = time.monotonic() + wait_s
        if ring_at_s < self._rings_at_s:
            self._connection.call_later(wait_s, self._ring)
            self._rings_at_s = ring_at_s

    def _ring(self) -> None:
        self._rings_at_s = math.inf

    def _on_delivery(self, _channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        headers = properties.headers or {}
        death = _first_death(headers.get("x-death"))
        if not self._auto_ack:
            self._unacked[method.delivery_tag] = None
        signature = _text(headers.get(SIGNATURE_HEADER))
        described = (properties.content_encoding, properties.message_id or "", properties.type or "", signature)
        self._ready.append(
            Delivery(
                Envelope(body, *described),
                bool(method.redelivered),
                _text(headers.get(REASON_HEADER) or death.get("reason")),
                _text(headers.get(SOURCE_HEADER) or death.get("queue")),
                self._sender(properties.user_id or "", headers.get(USER_HEADER)),
                (self, method.delivery_tag),
            )
        )

    def _sender(self, user: str, told: object) -> str:
        """Whose login sent it; of a dead letter whom that one ``told`` to have it from.

        Not if a node did: it may dead-letter what was sent to it, and could name anybody.
        """
        trusted = self._queue == topology.DEAD_QUEUE and topology.speaks_for(user, None)
        return str(told) if trusted and told is not None else user

    def _on_cancel(self, _frame: Any) -> None:
        self._cancelled = True

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done with these; those of an earlier consumer are passed over."""
        tags = self._held(deliveries)
        oldest = list(takewhile(tags.__contains__, self._unacked))
        with translated(self._where):
            if oldest:  # everything up to here: one frame for the whole batch
                self._channel.basic_ack(oldest[-1], multiple=True)
            for tag in sorted(tags.difference(oldest)):
                self._channel.basic_ack(tag)
        for tag in tags:
            del self._unacked[tag]

    def _held(self, deliveries: Sequence[Delivery]) -> set[int]:
        tags = {number for owner, number in (delivery.tag for delivery in deliveries) if owner is self}
        return tags & self._unacked.keys()

    def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Publish it to the dead letters, and ack it once the broker has it there."""
        if not self._held([delivery]) and not self._auto_ack:  # of an earlier connection: it comes again
            return
        headers = {
            REASON_HEADER: reason[:_REASON_CHARACTERS],
            SOURCE_HEADER: delivery.source or self._queue,
            USER_HEADER: delivery.user or "",
        }
        self._publish(*self._dead_route, delivery.envelope, headers)
        self.ack([delivery])

    def wake(self) -> None:
        """Make ``receive`` return. The flag is set first, so that a wait about to begin sees it."""
        self._woken = True
        with suppress(pika_errors.AMQPError, OSError):
            self._connection.add_callback_threadsafe(_nothing)

    def close(self) -> None:
        """Close the channel: the broker takes back what was not acked."""
        self._ready.clear()
        with suppress(TransportError), translated(self._where), limited(self._connection, CLOSE_LIMIT_S):
            if self._channel.is_open:
                self._channel.close()


def properties_of(envelope: Envelope, **more: Any) -> pika.BasicProperties:
    """The headers that describe an envelope, persistent unless ``more`` says otherwise."""
    if envelope.signature is not None:
        more["headers"] = {**(more.get("headers") or {}), SIGNATURE_HEADER: envelope.signature}
    described = {
        "content_type": CONTENT_TYPE,
        "content_encoding": envelope.content_encoding,
        "message_id": envelope.message_id or None,
        "type": envelope.type or None,
        "app_id": "vogeler",
        "delivery_mode": pika.DeliveryMode.Persistent.value,
    }
    return pika.BasicProperties(**{**described, **more})


def _first_death(deaths: object) -> dict[str, Any]:
    """The latest entry of RabbitMQ's ``x-death`` header; anybody may have put anything else there."""
    first = deaths[0] if isinstance(deaths, list) and deaths else None
    return first if isinstance(first, dict) else {}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _nothing() -> None:
    pass
