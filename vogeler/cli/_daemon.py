"""How client and server are told to end, and end."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType

from vogeler.errors import ExitCode

log = logging.getLogger(__name__)

LEAVE_AFTER_S = 5.0  # beyond stop_timeout


def leave_within(limit_s: float) -> None:
    """End the process after ``limit_s``, whatever hangs: a frozen broker, a store that does not answer.

    What was not acknowledged is delivered again, so nothing is lost.
    """

    def leave() -> None:
        log.error("still not stopped: leaving what hangs behind", extra={"event": "stopped"})
        os._exit(ExitCode.INTERNAL)

    timer = threading.Timer(limit_s, leave)
    timer.daemon = True
    timer.start()


def on_signals(signals: Sequence[signal.Signals], act: Callable[[], None]) -> None:
    """Call ``act`` when one of the signals comes.

    In a thread of its own: a handler interrupts the main thread anywhere, also while that holds a
    lock which ``act`` needs.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        threading.Thread(target=act, daemon=True).start()

    for number in signals:
        signal.signal(number, handle)
