"""Messages sent at once, each as a whole.

pika puts the three frames of a message into a buffer, asks the poller whether they may be sent, and sends each by
itself. A client would spend a third of its time with the broker on that, and RabbitMQ get three packets a message.
What the socket does not take stays with pika, and so does what comes after it. Errors of the socket are found there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from vogeler.messaging._amqp_pika import pika

_FIRST_FRAMES = 3  # method, header, and as much of the body as a frame holds
# What this relies on, and pika keeps for itself. A version without it sends as it likes.
_OF_CONNECTION = ("_output_marshaled_frames", "_adapter_emit_data", "frames_sent", "bytes_sent", "_transport")
_OF_TRANSPORT = ("_state", "_STATE_ACTIVE", "_sock", "get_write_buffer_size", "write")
_PLAINTEXT = "_AsyncPlaintextTransport"


def send_at_once(connection: pika.BlockingConnection) -> None:
    """From now on. Over TLS the frames are put together, and sent as pika does."""
    impl: Any = connection._impl
    transport: Any = getattr(impl, "_transport", None)
    if not (_has(impl, _OF_CONNECTION) and _has(transport, _OF_TRANSPORT)):
        return
    buffer = transport.write

    def write(data: bytes) -> None:
        if transport._state == transport._STATE_ACTIVE and not transport.get_write_buffer_size():
            with suppress(OSError):
                data = data[transport._sock.send(data) :]
        if data:
            buffer(data)

    def output(frames: Sequence[bytes]) -> None:
        impl.frames_sent += len(frames)
        for data in (b"".join(frames[:_FIRST_FRAMES]), *frames[_FIRST_FRAMES:]):
            impl.bytes_sent += len(data)
            impl._adapter_emit_data(data)

    impl._output_marshaled_frames = output
    if type(transport).__name__ == _PLAINTEXT:
        transport.write = write


def _has(part: object, names: Sequence[str]) -> bool:
    return all(hasattr(part, name) for name in names)
