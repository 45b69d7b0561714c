"""What a server takes: the queue of results, and the numbered ones where results are spread over several by node.

A numbered queue gives its messages to one consumer, and the others stand by (RabbitMQ, "Single Active Consumer"). The
first server to come is the one, on all of them. So each looks now and then how many servers there are, and goes to the
end of the line where it has more than its share. Those that stand by are at hand at once when it dies.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from vogeler import topology
from vogeler.messages import new_id
from vogeler.messaging import Delivery
from vogeler.messaging._amqp_consumer import AmqpConsumer
from vogeler.messaging._amqp_errors import translated
from vogeler.messaging._amqp_pika import pika
from vogeler.messaging._amqp_spread import numbered

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
_QUIET_S = 1.0  # of a queue that is left: what was on its way has come
_STUCK_AFTER_S = 60.0  # without an ack: its store may be away from this server alone


class ResultsConsumer(AmqpConsumer):
    """The consumer of vogeler.results, which every server takes from, and all others of a server beside it."""

    def begin(self, prefetch: int, once: Callable[..., Any], passive: Callable[[str, str], Any]) -> None:
        """``once``: a call on a channel of its own; ``passive``: the answer about what is there, or None."""
        self._prefetch, self._once = prefetch, once
        self._numbered: dict[int, _NumberedConsumer] = {}
        self._look_at_s = time.monotonic()
        self.start(prefetch)
        self._notices = AmqpConsumer(self._connection, self._where, topology.server_queue(new_id()), self._publish)
        self._notices.channel.queue_declare(self._notices.queue, exclusive=True, auto_delete=True)
        self._notices.channel.queue_bind(self._notices.queue, topology.BROADCAST_EXCHANGE, topology.SERVERS_KEY)
        self._notices.start(prefetch=0, auto_ack=True)
        self._wanted = len(numbered(passive))
        self._take()

    def _take(self) -> None:
        for number in range(1, self._wanted + 1):
            if number not in self._numbered:
                consumer = _NumberedConsumer(
                    self._connection, self._where, topology.numbered_queue(number), self._publish
                )
                consumer.join(self._ready, self._prefetch)
                self._numbered[number] = consumer

    def _serve(self, wait_s: float) -> None:
        """Whatever has come for any of the queues; and what else is due, as nothing of pika's is under way here."""
        if self._numbered:
            wait_s = min(wait_s, max(self._look_at_s - time.monotonic(), 0.0))
        super()._serve(wait_s)
        while self._notices._ready:
            self._note(self._notices._ready.popleft())
        if self._numbered and time.monotonic() >= self._look_at_s:
            with translated(self._where):
                self._leave()
                self._look()
            leaving = any(number > self._wanted for number in self._numbered)
            self._look_at_s = time.monotonic() + (_QUIET_S if leaving else _LOOK_EVERY_S)

    def _note(self, notice: Delivery) -> None:
        told = notice.envelope.body
        if not (told.isdigit() and len(told) < 5 and topology.may_tell_servers(notice.user)):
            log.warning(
                "a number of queues was expected, from who sets up: %r from %s",
                told[:100], topology.sender(notice.user), extra={"event": "bad_notice", "user": notice.user},
            )  # fmt: skip
            return
        self._wanted = int(told)
        with translated(self._where):
            self._take()
        self._look_at_s = time.monotonic()

    def _check(self) -> None:
        super()._check()
        for consumer in self._numbered.values():
            consumer._check()

    def _leave(self) -> None:
        """What is no longer one of the queues, when nothing of it is here."""
        for number in [n for n, consumer in self._numbered.items() if n > self._wanted and consumer.is_idle]:
            self._numbered.pop(number).close()

    def _look(self) -> None:
        servers = self._once("queue_declare", self.queue, passive=True).method.consumer_count
        if servers < 2:
            return
        for consumer in self._numbered.values():
            if consumer.is_stuck:
                log.warning(
                    "%s: nothing stored for a while; another server has its turn", consumer.queue,
                    extra={"event": "hand_over"},
                )  # fmt: skip
                consumer.step_back(self._prefetch, give_back=True)
        active = sorted((c for c in self._numbered.values() if c.is_active), key=lambda consumer: consumer.held)
        share = -(-len(self._numbered) // servers)
        for consumer in active[: max(len(active) - share, 0)]:
            log.info("%s is for another of the %d servers", consumer.queue, servers, extra={"event": "hand_over"})
            consumer.step_back(self._prefetch)

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done with these, of whichever queue."""
        super().ack(deliveries)
        for consumer in self._numbered.values():
            consumer.ack(deliveries)

    def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """By the consumer that it came to."""
        owner = delivery.tag[0]
        if owner in self._numbered.values():
            owner.dead_letter(delivery, reason)
        else:
            super().dead_letter(delivery, reason)

    def close(self) -> None:
        """Of all queues."""
        for consumer in (*self._numbered.values(), self._notices):
            consumer.close()
        super().close()


class _NumberedConsumer(AmqpConsumer):
    """Of one numbered queue. What comes is ready for the whole."""

    def join(self, ready: Any, prefetch: int) -> None:
        """``ready``: the deliveries of all queues, as they came."""
        self._ready = ready
        self._moved_at_s = self._came_at_s = time.monotonic()
        self._patience_s = _STUCK_AFTER_S
        self.is_active = False
        self.start(prefetch)

    def _on_delivery(self, channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        self.is_active = True
        if properties.type == topology.PROBE_KEY:  # to see whether the queue is empty, which it is not
            channel.basic_ack(method.delivery_tag)
            return
        self._came_at_s = time.monotonic()
        if not self._unacked:
            self._moved_at_s = self._came_at_s
        super()._on_delivery(channel, method, properties, body)

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """As of every consumer."""
        held = self.held
        super().ack(deliveries)
        if self.held < held:
            self._moved_at_s = time.monotonic()
            self._patience_s = _STUCK_AFTER_S

    @property
    def held(self) -> int:
        """How many deliveries are not acked yet."""
        return len(self._unacked)

    @property
    def is_idle(self) -> bool:
        """Whether nothing of this queue is here that is not acked yet, nor on its way, it seems."""
        return not self._unacked and time.monotonic() - self._came_at_s > _QUIET_S

    @property
    def is_stuck(self) -> bool:
        """Whether what is here is not acked, and has not been for long."""
        return bool(self._unacked) and time.monotonic() - self._moved_at_s > self._patience_s

    def step_back(self, prefetch: int, give_back: bool = False) -> None:
        """To the end of the line. What is here is acked when it is stored; or goes back to its place in the queue."""
        for tag in list(self._channel.consumer_tags):
            self._channel.basic_cancel(tag)
        if give_back:
            self._channel.basic_nack(next(reversed(self._unacked)), multiple=True, requeue=True)
            self._unacked.clear()
            for delivery in [ready for ready in self._ready if ready.tag[0] is self]:
                self._ready.remove(delivery)
            self._patience_s *= 2  # RabbitMQ 4 counts how often a message was given back
        self.is_active = False
        self.start(prefetch)

    def close(self) -> None:
        """Leave what the other queues have ready."""
        self._ready = type(self._ready)()
        super().close()
