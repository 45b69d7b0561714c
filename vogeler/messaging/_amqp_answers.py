"""How long the broker may take to answer."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vogeler.messaging._amqp_pika import pika, pika_errors

log = logging.getLogger(__name__)

CLOSE_LIMIT_S = 5.0
_TELL_AFTER_S = 10.0
_ANSWER_LIMIT_S = 20.0
_SLOWEST_BYTES_A_SECOND = 10_000
_AT_EASE_S, _TIMES_SLOWER, _MOST_PATIENCE_S = 1.0, 20.0, 300.0


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
    """For an answer, on the monotonic clock."""

    began_s: float
    limit_s: float
    told: bool = False


class Answers:
    """Says so when the broker takes long to answer, and breaks the connection when it takes too long.

    A quorum queue without a majority of its members answers nothing, and RabbitMQ (3.10) may never confirm what was
    published meanwhile, while it goes on to serve the heartbeats. What is not confirmed can be sent again.

    A broker that is only busy must not be left for that: thousands of nodes that connect anew, to send the same once
    more, would keep it so. How long it took to open the connection, ``opened_in_s``, tells: a busy one gets more time.

    pika keeps a timer until it is due, also when it was removed. So there is but one a connection, which looks by
    then what is waited for.
    """

    def __init__(self, connection: pika.BlockingConnection, where: str, opened_in_s: float) -> None:
        self._patience_s = patience_s(opened_in_s)
        self._connection = connection
        self._where = where
        self._wait: _Wait | None = None
        self._look_at_s = math.inf

    @contextmanager
    def awaited(self, size_bytes: int = 0, least_s: float = 0.0) -> Iterator[None]:
        """Of what is done inside. ``size_bytes``: of the message, which may have to go over a slow line first.

        ``least_s``: that is never too long.
        """
        limit_s = max(_ANSWER_LIMIT_S, least_s) + self._patience_s + size_bytes // _SLOWEST_BYTES_A_SECOND
        self._wait = _Wait(time.monotonic(), limit_s)
        self._look_within(min(_TELL_AFTER_S, limit_s))
        try:
            yield
        finally:
            self._wait = None

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
        waited_s = time.monotonic() - wait.began_s
        if waited_s >= wait.limit_s:
            _break(self._connection, wait.limit_s)
            return
        if waited_s >= _TELL_AFTER_S and not wait.told:
            wait.told = True
            log.warning(
                "the broker at %s has not answered for %g s; waiting (is it busy, or a majority of its members down?)",
                self._where, _TELL_AFTER_S, extra={"event": "waiting"},
            )  # fmt: skip
        self._look_within((wait.limit_s if wait.told else min(_TELL_AFTER_S, wait.limit_s)) - waited_s)


def patience_s(opened_in_s: float) -> float:
    """How much longer than usual to wait for the answers of a broker that took so long to let us in."""
    return min(max(opened_in_s - _AT_EASE_S, 0.0) * _TIMES_SLOWER, _MOST_PATIENCE_S)


def _break(connection: pika.BlockingConnection, limit_s: float) -> None:
    """The calls are those that pika's own heartbeat checker uses to end a connection."""
    impl = connection._impl
    if impl._transport is not None:  # else it was lost while we were frozen, and pika is about to say so
        impl._terminate_stream(pika_errors.StreamLostError(f"no answer within {limit_s:g} s"))
