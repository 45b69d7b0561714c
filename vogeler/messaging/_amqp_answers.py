"""How long the broker may take to answer."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vogeler import topology
from vogeler.messaging._amqp_pika import pika, pika_errors

log = logging.getLogger(__name__)

CLOSE_LIMIT_S = 5.0
_TELL_AFTER_S = 10.0
_ANSWER_LIMIT_S = 20.0
_SLOWEST_BYTES_A_SECOND = 10_000
# A broker at ease tells within this time how many results wait. It takes 0.25 s where the queue does not answer it
# (RabbitMQ 3.10, rabbit_quorum_queue:stat/1). Soon after, give or take a half, it is asked once more; one that is busy
# after so many times as long as it took, and for no longer than this.
_AT_EASE_S, _ONCE_MORE_AFTER_S, _TIMES_SLOWER, _MOST_PATIENCE_S = 0.2, 20.0, 5.0, 300.0


@contextmanager
def limited(connection: pika.BlockingConnection, limit_s: float) -> Iterator[None]:
    """Break the connection when what is done inside takes longer.

    pika's ``close`` waits for the broker's answer until the heartbeat gives up.
    """
    impl = connection._impl
    timer = impl._adapter_call_later(limit_s, lambda: _break(connection, limit_s)) if connection.is_open else None
    try:
        yield
    finally:
        if timer is not None and connection.is_open:
            impl._adapter_remove_timeout(timer)


@dataclass
class _Wait:
    """For an answer, on the monotonic clock. ``ask_at_s``: when it has taken long enough to ask whether it will come.

    ``at_ease``: the broker has answered that at once.
    """

    began_s: float
    limit_s: float
    ask_at_s: float
    ends_at_s: float
    told: bool = False
    at_ease: bool = False


class _Question:
    """How many results wait, asked on a channel of its own. By pika's own calls, as the blocking ones are busy.

    ``answered``: is told in the end how many seconds the answer took.
    """

    def __init__(self, connection: pika.BlockingConnection, answered: Callable[[float], None]) -> None:
        self._answered = answered
        self._sent_at_s = self._told_at_s = math.inf
        channel = connection._impl.channel(on_open_callback=self._send)
        channel.add_on_close_callback(self._end)  # whoever closes it: there may be no such queue
        channel._set_cookie(self)

    def _send(self, channel: Any) -> None:
        self._sent_at_s = time.monotonic()
        channel.queue_declare(topology.RESULTS_QUEUE, passive=True, callback=lambda _frame: self._tell(channel))

    def _tell(self, channel: Any) -> None:
        self._told_at_s = time.monotonic()
        if channel.is_open:
            channel.close()

    def _end(self, _channel: Any, _reason: Exception) -> None:
        self._answered(min(self._told_at_s, time.monotonic()) - self._sent_at_s)

    # What a BlockingConnection wants of each of its channels.
    is_open = False

    def _dispatch_events(self) -> None:
        pass


class Answers:
    """Says so when the broker takes long to answer, and breaks the connection when the answer will never come.

    A quorum queue without a majority of its members answers nothing, and RabbitMQ (3.10) may never confirm what was
    published meanwhile, while it goes on to serve the heartbeats. What is not confirmed can be sent again.

    A broker that is only busy must not be left for that: thousands of nodes that connect anew, to send the same once
    more, would keep it so. So it is asked how many results wait, on a channel of its own. If it tells that at once, and
    some time later once more, it is not busy, and the other answer is believed to be lost. If it takes its time, or
    does not say, it is asked again later; that it is there at all is told by its heartbeats. A slow disk alone does
    not show.

    pika keeps a timer until it is due, also when it was removed. So one serves for many waits: it looks by then what is
    waited for.
    """

    def __init__(self, connection: pika.BlockingConnection, where: str) -> None:
        self._connection = connection
        self._where = where
        self._wait: _Wait | None = None
        self._look_at_s = math.inf
        self._question: _Question | None = None  # that is not answered yet

    @contextmanager
    def awaited(self, size_bytes: int = 0, valid_s: float | None = None) -> Iterator[None]:
        """Of what is done inside. ``size_bytes``: of the message, which may have to go over a slow line first.

        ``valid_s``: so long the answer is waited for, whatever the broker may be at; 20 s at least.
        """
        now_s, around = time.monotonic(), self._wait
        limit_s = _ANSWER_LIMIT_S + size_bytes // _SLOWEST_BYTES_A_SECOND
        if valid_s is None:
            self._wait = _Wait(now_s, limit_s, now_s + limit_s, now_s + limit_s + _MOST_PATIENCE_S)
        else:
            self._wait = _Wait(now_s, limit_s, math.inf, now_s + max(limit_s, valid_s))
        self._look_within(min(_TELL_AFTER_S, limit_s))
        try:
            yield
        finally:
            self._wait = around
            if around is not None:
                self._look_within(_TELL_AFTER_S)

    def end(self) -> None:
        """Wait for what was asked: who closes a connection stumbles over channels that end meanwhile."""
        if self._question is not None:
            self._connection._flush_output(lambda: self._question is None)

    def _look_within(self, delay_s: float) -> None:
        look_at_s = time.monotonic() + delay_s
        if look_at_s < self._look_at_s and self._connection.is_open:
            self._connection._impl._adapter_call_later(delay_s, lambda: self._look(look_at_s))
            self._look_at_s = look_at_s

    def _look(self, due_s: float) -> None:
        wait = self._wait
        if due_s != self._look_at_s or not self._connection.is_open:  # a timer may be due that outlived its purpose
            return
        self._look_at_s = math.inf
        if wait is None:
            return
        now_s = time.monotonic()
        tell_at_s = wait.began_s + _TELL_AFTER_S
        if now_s >= wait.ends_at_s:
            _break(self._connection, now_s - wait.began_s)
            return
        if now_s >= tell_at_s and not wait.told:
            wait.told = True
            log.warning(
                "the broker at %s has not answered for %g s; waiting (is it busy, or a majority of its members down?)",
                self._where, _TELL_AFTER_S, extra={"event": "waiting"},
            )  # fmt: skip
        if now_s >= wait.ask_at_s and self._question is not None:  # asked for another wait, and not answered yet
            wait.ask_at_s = now_s + wait.limit_s
        elif now_s >= wait.ask_at_s:
            wait.ask_at_s = math.inf  # until it has answered
            self._question = _Question(self._connection, lambda took_s: self._answered(wait, took_s))
        self._look_within(min(wait.ask_at_s, wait.ends_at_s, math.inf if wait.told else tell_at_s) - now_s)

    def _answered(self, wait: _Wait, took_s: float) -> None:
        """``wait``: for what it was asked."""
        self._question = None
        if wait is not self._wait or not self._connection.is_open:
            return
        now_s = time.monotonic()
        if took_s > _AT_EASE_S:
            wait.at_ease = False
            wait.ask_at_s = now_s + max(took_s * _TIMES_SLOWER, wait.limit_s)
        elif not wait.at_ease:
            wait.at_ease = True
            wait.ask_at_s = now_s + _ONCE_MORE_AFTER_S * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load
        else:
            _break(self._connection, now_s - wait.began_s)
            return
        self._look_within(wait.ask_at_s - now_s)


def _break(connection: pika.BlockingConnection, waited_s: float) -> None:
    """The calls are those that pika's own heartbeat checker uses to end a connection."""
    impl = connection._impl
    if impl._transport is not None:  # else it was lost while we were frozen, and pika is about to say so
        impl._terminate_stream(pika_errors.StreamLostError(f"no answer within {waited_s:.1f} s"))
