"""RabbitMQ without its confirms.

So it looks to a program when a quorum queue had no majority for a while: what was published then may never be
confirmed, though the broker is well.
"""

from __future__ import annotations

import socket
import struct

from pika import frame, spec

_HEADER = struct.Struct(">BHI")  # AMQP 0-9-1, 4.2.3: type, channel, size; then so many bytes, and one that ends it


def without_confirms(source: socket.socket, sink: socket.socket) -> None:
    """Pass on every frame of the broker but these."""
    with source.makefile("rb") as stream:
        while len(head := stream.read(_HEADER.size)) == _HEADER.size:
            data = head + stream.read(_HEADER.unpack(head)[2] + 1)
            _, decoded = frame.decode_frame(data)
            if not (isinstance(decoded, frame.Method) and isinstance(decoded.method, spec.Basic.Ack)):
                sink.sendall(data)
