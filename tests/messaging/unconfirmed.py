"""A proxy in front of RabbitMQ that passes everything but its confirms.

So it looks to a program when a quorum queue had no majority for a while: what was published then may never be
confirmed, though the broker is well.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pika import frame, spec

_HOST = "127.0.0.1"
_HEADER = struct.Struct(">BHI")  # AMQP 0-9-1, 4.2.3: type, channel, size; then so many bytes, and one that ends it


@contextmanager
def without_confirms(url: str) -> Iterator[str]:
    """The URL of the broker at ``url`` by way of the proxy."""
    port = int(re.findall(r":(\d+)/", url)[-1])
    listener = socket.create_server((_HOST, 0))
    threading.Thread(target=_accept, args=(listener, port), daemon=True).start()
    try:
        yield url.replace(f":{port}/", f":{listener.getsockname()[1]}/")
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _accept(listener: socket.socket, port: int) -> None:
    with suppress(OSError):  # closed
        while True:
            program, _ = listener.accept()
            threading.Thread(target=_forward, args=(program, port), daemon=True).start()


def _forward(program: socket.socket, port: int) -> None:
    with program, socket.create_connection((_HOST, port)) as broker:
        up = threading.Thread(target=_to_the_end, args=(_pass, program, broker))
        up.start()
        _to_the_end(_pass_frames, broker, program)
        up.join()


def _to_the_end(
    pump: Callable[[socket.socket, socket.socket], None], source: socket.socket, sink: socket.socket
) -> None:
    with suppress(OSError):
        pump(source, sink)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _pass(source: socket.socket, sink: socket.socket) -> None:
    while data := source.recv(65536):
        sink.sendall(data)


def _pass_frames(source: socket.socket, sink: socket.socket) -> None:
    with source.makefile("rb") as stream:
        while len(head := stream.read(_HEADER.size)) == _HEADER.size:
            data = head + stream.read(_HEADER.unpack(head)[2] + 1)
            _, decoded = frame.decode_frame(data)
            if not (isinstance(decoded, frame.Method) and isinstance(decoded.method, spec.Basic.Ack)):
                sink.sendall(data)
