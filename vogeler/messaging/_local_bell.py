"""A bell per consumer: a FIFO in the file system that other processes write a byte to.

It tells of life, too: the kernel closes the reading end when its process dies, however it dies, and from
then on the FIFO can't be opened for writing (fifo(7): ENXIO).
"""

from __future__ import annotations

import errno
import os
import select
import threading
from contextlib import suppress
from pathlib import Path

_NOBODY_READS = (errno.ENXIO, errno.ENOENT)


class Bell:
    """The end that listens. ``path`` must not exist."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()  # reentrant, for a signal handler that rings
        os.mkfifo(path, 0o600)  # who else listened would keep a dead consumer alive
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        # Our own writing end keeps the reading end from reporting the end of the file for ever.
        self._writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        self._closed = False

    def wait(self, wait_s: float) -> bool:
        """Whether it rang within ``wait_s`` seconds, or has since the last wait."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if not poll.poll(max(wait_s, 0.0) * 1000):
            return False
        with suppress(BlockingIOError):
            while len(os.read(self._reader, 4096)) == 4096:
                pass
        return True

    def ring(self) -> None:
        """From any thread and from signal handlers, also after close."""
        with self._lock:
            if not self._closed:
                with suppress(BlockingIOError):  # full: it rings already
                    os.write(self._writer, b"!")

    def close(self) -> None:
        """Listen no longer, and leave nothing behind. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.close(self._reader)
            os.close(self._writer)
        with suppress(OSError):
            self._path.unlink()


def ring(path: Path) -> bool:
    """Ring another's bell. False when nobody listens: its owner is dead."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        return error.errno not in _NOBODY_READS
    try:
        os.write(descriptor, b"!")
    except BlockingIOError:
        pass  # full: it rings already
    except BrokenPipeError:
        return False
    finally:
        os.close(descriptor)
    return True


def is_heard(path: Path) -> bool:
    """Whether the owner of a bell lives. Does not ring it."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno not in _NOBODY_READS
    return True
