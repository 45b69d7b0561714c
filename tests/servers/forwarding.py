"""A port of this process that passes on to a server what comes, in another way where a test wants that."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Callable

Pump = Callable[[socket.socket, socket.socket], None]


def pump(source: socket.socket, sink: socket.socket) -> None:
    """All that comes, to its end."""
    while data := source.recv(65536):
        sink.sendall(data)


@dataclass(frozen=True)
class _Way:
    upstream: tuple[str, int]
    wrap: Callable[[socket.socket], socket.socket]
    back: Pump


@contextmanager
def before(
    upstream: tuple[str, int], wrap: Callable[[socket.socket], socket.socket] = lambda raw: raw, back: Pump = pump
) -> Iterator[int]:
    """The port. ``wrap``: what is done to each connection that comes; ``back``: passes on what the server says."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        way = _Way(upstream, wrap, back)
        thread = threading.Thread(target=_accept, args=(listener, way), daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket, way: _Way) -> None:
    with suppress(OSError):
        while True:
            threading.Thread(target=_serve, args=(listener.accept()[0], way), daemon=True).start()


def _serve(raw: socket.socket, way: _Way) -> None:
    with raw, suppress(OSError), way.wrap(raw) as near:
        near.settimeout(60)
        with socket.create_connection(way.upstream) as far:
            back = threading.Thread(target=_to_the_end, args=(way.back, far, near), daemon=True)
            back.start()
            _to_the_end(pump, near, far)
            back.join(5)


def _to_the_end(passed: Pump, source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        passed(source, sink)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
