"""When is a batch due? By count, bytes or age, whichever comes first. Pure: the clock is passed in.

How large may it be, so that nobody waits long for the one before? And when is there time for something else?
"""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Batch(Generic[Item]):
    """Items that wait to be stored together. ``max_bytes`` may be changed at any time.

    ``pause_s``: how long after the last batch one of items that nobody awaits is due, at the earliest.
    """

    def __init__(self, max_count: int, max_bytes: int, max_age_s: float, pause_s: float = 0.0):
        self.max_bytes = max_bytes
        self._max_count = max_count
        self._max_age_s = max_age_s
        self._pause_s = pause_s
        self._items: deque[tuple[Item, int, bool]] = deque()
        self._bytes = 0
        self._awaited = 0
        self._oldest_at_s = 0.0
        self._paused_until_s = -math.inf

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Item, size_bytes: int, now_s: float, awaited: bool = True) -> None:
        """Take one more; the age is counted from the first."""
        if not self._items:
            self._oldest_at_s = now_s
        self._items.append((item, size_bytes, awaited))
        self._bytes += size_bytes
        self._awaited += awaited

    def due_in_s(self, now_s: float) -> float | None:
        """Seconds until it is due, 0.0 when it is; None when it is empty."""
        if not self._items:
            return None
        if self.is_full():
            return 0.0
        due_at_s = self._oldest_at_s + self._max_age_s
        return max(0.0, due_at_s - now_s, 0.0 if self._awaited else self._paused_until_s - now_s)

    def is_full(self) -> bool:
        """Whether it is due however old it is."""
        return len(self._items) >= self._max_count or self._bytes >= self.max_bytes

    def take(self, now_s: float) -> list[Item]:
        """The oldest items, as many as the limits allow and at least one; what is left stays due, if it is awaited."""
        self._paused_until_s = now_s + self._pause_s
        taken: list[Item] = []
        taken_bytes = 0
        while self._items and len(taken) < self._max_count:
            _, size_bytes, awaited = self._items[0]
            if taken and taken_bytes + size_bytes > self.max_bytes:
                break
            taken.append(self._items.popleft()[0])
            taken_bytes += size_bytes
            self._awaited -= awaited
        self._bytes -= taken_bytes
        return taken


class Pace:
    """How much is stored in a time, as the last batches show: ``size``, between ``least`` and ``most``."""

    def __init__(self, least: int, most: int):
        self._least = min(least, most)
        self._most = most
        self.size = self._least

    def note(self, size: int, took_s: float, within_s: float) -> None:
        """A batch of a size was stored, and the next may take ``within_s``.

        A small batch that took little time says nothing of large ones.
        """
        fitting = min(int(size * within_s / max(took_s, 1e-6)), 2 * self.size)
        if took_s > within_s or (2 * size >= self.size and fitting > self.size):
            self.size = max(self._least, min(self._most, fitting))


class Lull:
    """When it is time for what can wait until nobody waits. Pure: the clock is passed in.

    That is when nothing has called for it for ``quiet_s``, and ``latest_s`` after the first call at the latest.
    """

    def __init__(self, quiet_s: float, latest_s: float):
        self._quiet_s = quiet_s
        self._latest_s = latest_s
        self._calls_s: tuple[float, float] | None = None  # the first and the last

    def call_for(self, now_s: float) -> None:
        """There is a reason for it."""
        first_s = now_s if self._calls_s is None else self._calls_s[0]
        self._calls_s = first_s, now_s

    def due_in_s(self, now_s: float) -> float:
        """Seconds until it is time, 0.0 when it is; infinite without a reason."""
        if self._calls_s is None:
            return math.inf
        first_s, last_s = self._calls_s
        return max(0.0, min(first_s + self._latest_s, last_s + self._quiet_s) - now_s)

    def done(self) -> None:
        """It was done."""
        self._calls_s = None
