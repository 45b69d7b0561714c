"""How long the broker may take to answer."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
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
# Who is at ease answers a simple question within this time, and soon after once more; who is busy is asked again after
# so many times as long as the answer took, and waited for no longer than this.
_AT_EASE_S, _ONCE_MORE_AFTER_S, _TIMES_SLOWER, _MOST_PATIENCE_S = 0.5, 5.0, 5.0, 300.0


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

    ``at_ease``: the broker answers other questions at once.
    """

    began_s: float
    limit_s: float
    ask_at_s: float
    ends_at_s: float
    told: bool = False
    at_ease: bool = False


class Answers:
    """Says so when the broker takes long to answer, and breaks the connection when the answer will never come.

    A quorum queue without a majority of its members answers nothing, and RabbitMQ (3.10) may never confirm what was
    published meanwhile, while it goes on to serve the heartbeats. What is not confirmed can be sent again.

    A broker that is only busy must not be left for that: thousands of nodes that connect anew, to send the same once
    more, would keep it so. So it is asked how many results wait, on a channel of its own. If it tells that at once, and
    soon after once more, the other answer will never come. If it takes its time, or does not say, it is busy, and is
    asked again later. That it is still there is told by its heartbeats.

    pika keeps a timer until it is due, also when it was removed. So there is but one a connection, which looks by
    then what is waited for.
    """

    def __init__(self, connection: pika.BlockingConnection, where: str) -> None:
        self._connection = connection
        self._where = where
        self._wait: _Wait | None = None
        self._look_at_s = math.inf
        self._asked_at_s: float | None = None  # how many results wait, and it has not said so yet

    @contextmanager
    def awaited(self, size_bytes: int = 0, valid_s: float | None = None) -> Iterator[None]:
        """Of what is done inside. ``size_bytes``: of the message, which may have to go over a slow line first.

        ``valid_s``: how long the answer is worth to be waited for, which then is neither too long nor too short.
        """
        now_s = time.monotonic()
        limit_s = _ANSWER_LIMIT_S + size_bytes // _SLOWEST_BYTES_A_SECOND
        if valid_s is None:
            self._wait = _Wait(now_s, limit_s, now_s + limit_s, now_s + _MOST_PATIENCE_S + limit_s)
        else:
            self._wait = _Wait(now_s, limit_s, math.inf, now_s + max(limit_s, valid_s))
        self._look_within(min(_TELL_AFTER_S, limit_s))
        try:
            yield
        finally:
            self._wait = None

    def end(self) -> None:
        """Wait for what was asked: who closes a connection stumbles over channels that end meanwhile."""
        if self._asked_at_s is not None:
            self._connection._flush_output(lambda: self._asked_at_s is None)

    def _look_within(self, delay_s: float) -> None:
        look_at_s = time.monotonic() + delay_s
        if look_at_s < self._look_at_s and self._connection.is_open:
            self._connection._impl._adapter_call_later(delay_s, self._look)
            self._look_at_s = look_at_s

    def _look(self) -> None:
        self._look_at_s = math.inf
        wait = self._wait
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
        if now_s >= wait.ask_at_s and self._asked_at_s is not None:  # for one that has come, and was not told
            wait.ask_at_s = now_s + wait.limit_s
        elif now_s >= wait.ask_at_s:
            wait.ask_at_s = math.inf  # until it has answered
            self._ask()
        self._look_within(min(wait.ask_at_s, wait.ends_at_s, math.inf if wait.told else tell_at_s) - now_s)

    def _ask(self) -> None:
        """How many results wait. By pika's own calls, as the blocking ones are busy with what is awaited."""
        self._asked_at_s = time.monotonic()

        def declare(channel: Any) -> None:
            channel.queue_declare(topology.RESULTS_QUEUE, passive=True, callback=lambda _frame: channel.close())

        channel = self._connection._impl.channel(on_open_callback=declare)
        channel._set_cookie(channel)  # what a blocking connection that is closed looks at
        channel.add_on_close_callback(lambda _channel, _reason: self._answered())  # by us, or it has no such queue

    def _answered(self) -> None:
        wait, asked_at_s, self._asked_at_s = self._wait, self._asked_at_s, None
        if wait is None or asked_at_s is None or asked_at_s < wait.began_s or not self._connection.is_open:
            return
        now_s = time.monotonic()
        took_s = now_s - asked_at_s
        if took_s >= _AT_EASE_S:
            wait.at_ease = False
            wait.ask_at_s = now_s + max(took_s * _TIMES_SLOWER, wait.limit_s)
        elif not wait.at_ease:
            wait.at_ease = True
            wait.ask_at_s = now_s + _ONCE_MORE_AFTER_S
        else:
            _break(self._connection, now_s - wait.began_s)
            return
        self._look_within(wait.ask_at_s - now_s)


def _break(connection: pika.BlockingConnection, waited_s: float) -> None:
    """The calls are those that pika's own heartbeat checker uses to end a connection."""
    impl = connection._impl
    if impl._transport is not None:  # else it was lost while we were frozen, and pika is about to say so
        impl._terminate_stream(pika_errors.StreamLostError(f"no answer within {waited_s:.3g} s"))
