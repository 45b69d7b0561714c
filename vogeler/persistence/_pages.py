"""How much to ask a store for at once."""

from __future__ import annotations

from collections.abc import Iterator


def growing(most: int, first: int = 2) -> Iterator[int]:
    """2, 8, 32, ... up to ``most``: who needs one row reads few, who needs all reads them in few pages."""
    size = first
    while True:
        yield min(size, most)
        size = min(4 * size, most)
