"""From what a plugin gave to the result that a client sends.

A value that is what was sent last is left out of the result, whose digest says which it is. It is sent
after every connection, when a command asks for it in full, and once in a while.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from vogeler import messages
from vogeler.collect import Collected
from vogeler.errors import MessageError, VogelerError
from vogeler.jobs import Job
from vogeler.messages import OMITTED, Envelope, Result, decode, digest_of, encode


class Results:
    """Makes the results of one node. For one thread."""

    def __init__(self, node: str, full_every_s: float, clock_skew_s: float) -> None:
        self._node = node
        self._full_every_s = full_every_s
        self._clock_skew_s = clock_skew_s
        self._sent: dict[str, tuple[str, float]] = {}  # key → digest of the value that was sent last, and when
        self._seq = 0

    def forget_sent(self) -> None:
        """Every value is sent in full the next time."""
        self._sent.clear()

    def of(self, job: Job, collected: Collected) -> Envelope:
        """The result as bytes; without its value when that is more than a message may carry."""
        result = self._result(job, collected)
        try:
            return encode(result)
        except MessageError as error:
            return self._too_large(result, error)

    def without_value(self, envelope: Envelope, error: VogelerError) -> Envelope:
        """The same result, which the broker found too large, without its value."""
        return self._too_large(decode(envelope, Result), error)

    def _result(self, job: Job, collected: Collected) -> Result:
        self._seq = self._next_seq()
        command = None if job.request is None else job.request.command
        return Result(
            node=self._node,
            alias=job.alias,
            key=job.plugin.key,
            seq=self._seq,
            status=collected.status,
            collected_at=messages.now(),
            duration_s=round(collected.duration_s, 3),
            run=None if command is None else command.id,
            requested_by=None if command is None else command.requested_by,
            exit_code=collected.exit_code,
            digest=collected.digest,
            value=self._to_send(job, collected, in_full=command is not None and command.full),
            error=collected.error,
            volatile=list(job.plugin.volatile) or None,
        )

    def _to_send(self, job: Job, collected: Collected, in_full: bool) -> Any:
        """The value, or OMITTED where it is what was sent last, its volatile paths too."""
        if collected.status != messages.OK:
            return collected.value
        whole = digest_of(collected.value) if job.plugin.volatile else str(collected.digest)
        now_s = time.monotonic()
        last, sent_s = self._sent.get(job.plugin.key, ("", 0.0))
        if whole == last and not in_full and now_s - sent_s < self._full_every_s:
            return OMITTED
        self._sent[job.plugin.key] = whole, now_s
        return collected.value

    def _too_large(self, result: Result, error: VogelerError) -> Envelope:
        """The result without its value, as one that says so. What is not sent is not believed to be there."""
        self._sent.pop(result.key, None)
        return encode(replace(result, status=messages.TOO_LARGE, digest=None, value=None, error=error.message))

    def _next_seq(self) -> int:
        """The clock in microseconds, and on from the last number while the clock is set back by up to ``clock_skew``.

        Further ahead the clock was wrong, as before it is synchronised at boot: a server refuses such numbers, and
        would go on refusing what counts on from them.
        """
        now = time.time_ns() // 1000
        refused = self._seq > now + self._clock_skew_s * 1_000_000
        return now if refused else max(self._seq + 1, now)
