"""How long to wait before trying again: exponential, capped, with full jitter.

Full jitter spreads a fleet that lost its broker at one instant evenly over the whole delay
(AWS Architecture Blog, "Exponential Backoff And Jitter", 2015).
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from vogeler.errors import VogelerError

log = logging.getLogger(__name__)

LONGEST_S = 15.0  # between two attempts, by default


class Backoff:
    """Delays in seconds: each drawn from [0.1 × d, d], where d doubles up to ``cap_s``."""

    def __init__(self, first_s: float = 0.5, cap_s: float = LONGEST_S, rng: random.Random | None = None):
        self._first_s = first_s
        self._cap_s = cap_s
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._attempts = 0

    def next_s(self) -> float:
        """The next delay. Each call counts as one more failed attempt."""
        ceiling = min(self._cap_s, self._first_s * 2.0 ** min(self._attempts, 30))
        self._attempts += 1
        return self._rng.uniform(0.1 * ceiling, ceiling)

    def reset(self) -> None:
        """Something worked: the next failure starts over at the first delay."""
        self._attempts = 0


def keep_trying(
    attempt: Callable[[Backoff], None], stop: threading.Event, gives_up: Callable[[VogelerError], bool]
) -> None:
    """Call ``attempt`` until ``stop`` is set or it returns, waiting between failures, logging each.

    ``attempt`` gets the backoff, to reset it once something worked. Every VogelerError is retried: what
    is refused today (a login, a right) may be given back tomorrow. Except those that ``gives_up`` is
    true for: they are raised.
    """
    backoff = Backoff()
    while not stop.is_set():
        try:
            attempt(backoff)
            return
        except VogelerError as error:
            if gives_up(error):
                raise
            delay_s = backoff.next_s()
            log.warning("%s; trying again in %.1f s", describe(error), delay_s, extra={"event": "retry"})
            stop.wait(delay_s)


def describe(error: VogelerError) -> str:
    """The error and its remedy, in one line for the log."""
    return f"{error.message} ({error.remedy})" if error.remedy else error.message
