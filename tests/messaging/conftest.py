"""A fresh broker URL for each transport there is, and what the tests need to use it from several sides."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from vogeler import messaging, registry
from vogeler.messages import Envelope
from vogeler.messaging import Consumer, Delivery, Transport

LIMIT_S = 20.0  # for what takes milliseconds: reached only when it does not happen at all
NOTHING_S = 0.2  # how long to look for what must not come

Connect = Callable[[], Transport]


@pytest.fixture(params=registry.names("vogeler.messaging"))
def qhost(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a broker of each kind, with nothing in it yet."""
    if request.param == "local":
        return f"local://{tmp_path}/bus.db"
    if request.param == "amqp":
        return str(request.getfixturevalue("amqp_url"))
    pytest.fail(f"a new transport, {request.param}: say here how its tests get a fresh URL")


@pytest.fixture
def connect(qhost: str) -> Iterator[Connect]:
    """Opens transports, and closes them when the test is over."""
    opened: list[Transport] = []

    def opener() -> Transport:
        opened.append(messaging.connect(qhost, name="test"))
        return opened[-1]

    yield opener
    for transport in opened:
        transport.close()


@pytest.fixture
def transport(connect: Connect) -> Transport:
    """A transport to a broker that is set up."""
    opened = connect()
    opened.setup()
    return opened


def message(body: str, **fields: str) -> Envelope:
    return Envelope(body.encode(), **fields)


def body_of(delivery: Delivery | None) -> str:
    assert delivery is not None, "nothing came"
    return delivery.envelope.body.decode()


def next_body(consumer: Consumer) -> str:
    """What the next delivery says. Not acked."""
    return body_of(consumer.receive(LIMIT_S))


def all_bodies(consumer: Consumer, count: int) -> list[str]:
    """What the next deliveries say. Acked one by one."""
    bodies = []
    for _ in range(count):
        delivery = consumer.receive(LIMIT_S)
        bodies.append(body_of(delivery))
        assert delivery is not None
        consumer.ack([delivery])
    return bodies


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another process does in its own time."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


class ConsumerProcess:
    """A real process that consumes and acks nothing: to be killed."""

    def __init__(self, qhost: str, *what: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.messaging.consumer_process", qhost, *what],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.line() == "ready"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        return self._process.pid

    def line(self) -> str:
        """Its next line: ``ready``, then the body of each delivery."""
        return self._lines.get(timeout=LIMIT_S)

    def rest(self) -> list[str]:
        """All its lines that nobody has read yet."""
        return [self._lines.get_nowait() for _ in range(self._lines.qsize())]

    def kill(self) -> None:
        """Kill -9; returns when it is gone. May be called twice."""
        self._process.kill()
        self._process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def process(qhost: str) -> Iterator[Callable[..., ConsumerProcess]]:
    """Starts processes that consume ``commands NODE`` or ``results PREFETCH`` or ``receipts RUN``."""
    started: list[ConsumerProcess] = []

    def starter(*what: str) -> ConsumerProcess:
        started.append(ConsumerProcess(qhost, *what))
        return started[-1]

    yield starter
    for one in started:
        one.kill()
