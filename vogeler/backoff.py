"""How long to wait before trying again: exponential, capped, with full jitter.

Full jitter spreads a fleet that lost its broker at one instant evenly over the whole delay
(AWS Architecture Blog, "Exponential Backoff And Jitter", 2015).
"""

from __future__ import annotations

import random


class Backoff:
    """Delays in seconds: each drawn from [0.1 × d, d], where d doubles up to ``cap_s``."""

    def __init__(self, first_s: float = 0.5, cap_s: float = 15.0, rng: random.Random | None = None):
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
