"""Run as a process of its own: consumes, says what comes, and acks nothing until it is killed.

``python -m tests.messaging.consumer_process URL commands NODE | results PREFETCH | receipts RUN | publish NODE``
"""

from __future__ import annotations

import sys

from vogeler import messaging
from vogeler.messages import Envelope
from vogeler.messaging import Consumer, Transport


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - its parent reads it


def consumer_of(transport: Transport, what: str, which: str) -> Consumer:
    if what == "commands":
        return transport.consume_commands(which, ())
    if what == "results":
        return transport.consume_results(int(which))
    return transport.consume_receipts(which)


def publish(transport: Transport, node: str) -> None:
    """Results without end; each is said once it is confirmed."""
    for number in range(1_000_000):
        transport.publish_result(Envelope(f"{node}:{number}".encode()), node)
        say(f"{node}:{number}")


def main(qhost: str, what: str, which: str) -> None:
    transport = messaging.connect(qhost)
    if what == "publish":
        say("ready")
        publish(transport, which)
    consumer = consumer_of(transport, what, which)
    say("ready")
    while True:
        delivery = consumer.receive(60.0)
        if delivery is not None:
            say(delivery.envelope.body.decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
