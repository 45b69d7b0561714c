"""How far a benchmark has come, on a terminal only."""

from __future__ import annotations

import sys


def show(text: str) -> None:
    """Progress, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
