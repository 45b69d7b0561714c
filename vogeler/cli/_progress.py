"""A progress bar on a terminal; nothing at all in a pipe."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType

from vogeler.runner import Tally

_WIDTH = 30


class Progress:
    """Draws how many nodes of a run are done, on one line of stderr that is wiped at the end."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._on = sys.stderr.isatty()
        self._drawn = ""

    def draw(self, tally: Tally) -> None:
        """Draw, if that would change anything."""
        if not self._on:
            return
        total = max(tally.total, 1)
        filled = _WIDTH * tally.done // total
        bar = "█" * filled + "░" * (_WIDTH - filled)
        text = f"{self._label} {bar} {tally.done}/{tally.total} done, {len(tally.answers)} accepted"
        self._write(text[: shutil.get_terminal_size().columns - 1])

    def _write(self, text: str) -> None:
        if text != self._drawn:
            sys.stderr.write("\r\x1b[K" + text)
            sys.stderr.flush()
            self._drawn = text

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on:
            self._write("")
