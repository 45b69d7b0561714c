"""A link between a program and a server that a test can cut, stall, black-hole, slow down or make lossy.

A process of its own forwards TCP connections, and does to each direction what it is told: ``up`` is from the
program that connects to the server, ``down`` is back. While a direction does not pass, the end of a connection
does not pass either: what is dead on one side is alive on the other.

It is not a network: what it has taken is acknowledged by TCP, whatever becomes of it. That is the harder case,
since the kernel then has nothing to complain of. A lost packet looks like what it is to a program: a pause.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from tests.servers.ports import free_ports

HOST = "127.0.0.1"
UP, DOWN = "up", "down"
BOTH = (UP, DOWN)
PASS, STALL, SWALLOW = "pass", "stall", "swallow"
RETRANSMITTED_S = (0.2, 1.0)  # what Linux takes to send a lost packet again: 0.2 s, then twice as long each time
_CHUNK_BYTES = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close with RST


class Link:
    """The handle of a forwarding process. Each call returns when it is done there."""

    def __init__(self, port: int, seed: int = 0) -> None:
        """A link to the server on that port, which passes everything."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.network", *map(str, (*free_ports(1), port, seed))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        self.port = int(self._answer())

    def url(self, url: str) -> str:
        """The URL of the server, by way of this link."""
        changed, count = re.subn(r"(?<=@)[^/@]*?:\d+(?=/)|(?<=//)[^/@]*?:\d+(?=/)", f"{HOST}:{self.port}", url, count=1)
        assert count == 1, url
        return changed

    def stall(self, *directions: str) -> None:
        """Forward nothing. Connections stay, new ones are taken; after ``heal`` all goes on as if it had been slow."""
        self._tell("behave", mode=STALL, directions=directions or BOTH)

    def swallow(self, *directions: str) -> None:
        """A black hole: take what comes, forward nothing. ``heal`` breaks the connections that have lost something."""
        self._tell("behave", mode=SWALLOW, directions=directions or BOTH)

    def slow(self, delay_s: float, bytes_per_s: Optional[float] = None) -> None:
        """Each portion of up to 64 KiB is late by ``delay_s``, one after the other."""
        self._tell("behave", delay_s=delay_s, bytes_per_s=bytes_per_s)

    def lose(self, share: float) -> None:
        """Packet loss as a program sees it: of every portion that share pauses, as for a retransmission."""
        self._tell("behave", loss=share)

    def cut(self, sides: tuple[str, ...] = BOTH) -> None:
        """Reset every connection, and each new one as soon as it comes, so that it is counted.

        ``sides``: (DOWN,) resets what the programs see alone, and the server goes on with dead connections.
        """
        self._tell("cut", sides=sides)

    def refuse(self) -> None:
        """Reset every connection, and listen no more: the next attempts are refused, and not counted."""
        self._tell("refuse")

    def heal(self) -> None:
        """Pass everything again."""
        self._tell("heal")

    def attempts(self) -> list[float]:
        """When programs tried to connect, on the monotonic clock of the machine."""
        return [float(moment) for moment in self._tell("attempts")]

    def connections(self) -> int:
        """How many connections there are that both sides could use, did the link pass them."""
        return int(self._tell("connections"))

    def close(self) -> None:
        """End the process, and with it the connections. May be called twice."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _tell(self, what: str, **how: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, how]).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the link has ended with {self._process.wait()}"
        return json.loads(line)


def most_within(moments: list[float], window_s: float) -> int:
    """The largest number of moments in any window of that length."""
    ordered = sorted(moments)
    most, first = 0, 0
    for last, moment in enumerate(ordered):
        while moment - ordered[first] > window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


# --- the process -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Behaviour:
    """What is done to one direction. Seconds, bytes a second, the share of portions that are lost at first."""

    mode: str = PASS
    delay_s: float = 0.0
    bytes_per_s: Optional[float] = None
    loss: float = 0.0

    def pause_s(self, size_bytes: int, rng: random.Random) -> float:
        """How late a portion is."""
        sending_s = size_bytes / self.bytes_per_s if self.bytes_per_s else 0.0
        lost_s = rng.uniform(*RETRANSMITTED_S) if rng.random() < self.loss else 0.0
        return self.delay_s + sending_s + lost_s


class _Pair:
    """One connection: the program's socket and, once it is there, the server's."""

    def __init__(self, forwarder: _Forwarder, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._forwarder = forwarder
        self._program = (reader, writer)
        self._server: Optional[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = None
        self.lossy = False  # something of it was swallowed
        self._severed = False  # the server alone still has it

    async def serve(self) -> None:
        await self._forwarder.passing(UP)
        try:
            self._server = await asyncio.open_connection(HOST, self._forwarder.target)
            _undelayed(self._server[1])
        except OSError:
            self.reset(BOTH)
            return
        await asyncio.gather(
            self._pump(self._program[0], self._server[1], UP), self._pump(self._server[0], self._program[1], DOWN)
        )
        self.reset(BOTH)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        with suppress(OSError):
            while True:
                portion = await _read(reader)
                if self._severed and direction == UP:
                    return
                behaviour = self._forwarder.behaviour[direction]
                if behaviour.mode == SWALLOW:
                    self.lossy = True
                    if portion:
                        continue
                await self._forwarder.passing(direction)
                await asyncio.sleep(behaviour.pause_s(len(portion or b""), self._forwarder.rng))
                await self._forwarder.passing(direction)
                if portion is None:
                    _abort(writer)
                    return
                if not portion:
                    writer.write_eof()
                    return
                if not self._severed:
                    writer.write(portion)
                    await writer.drain()

    def reset(self, sides: tuple[str, ...]) -> None:
        """RST to the program (DOWN), to the server (UP)."""
        self._severed = UP not in sides
        if DOWN in sides:
            _abort(self._program[1])
        if UP in sides and self._server is not None:
            _abort(self._server[1])

    @property
    def open(self) -> bool:
        return self._server is not None and not self._server[1].is_closing() and not self._program[1].is_closing()


class _Forwarder:
    """All connections, and what is done to them."""

    def __init__(self, port: int, target: int, seed: int) -> None:
        self.port = port
        self.target = target
        self.rng = random.Random(seed)
        self.behaviour = dict.fromkeys(BOTH, _Behaviour())
        self._changed = asyncio.Condition()
        self._cutting = False
        self._pairs: set[_Pair] = set()
        self._attempts: list[float] = []
        self._listener: Optional[asyncio.AbstractServer] = None

    async def listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, HOST, self.port, backlog=1024)

    async def passing(self, direction: str) -> None:
        """Returns when the direction passes."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.behaviour[direction].mode == PASS)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._attempts.append(time.monotonic())
        if self._cutting:
            _abort(writer)
            return
        _undelayed(writer)
        pair = _Pair(self, reader, writer)
        self._pairs.add(pair)
        try:
            await pair.serve()
        finally:
            self._pairs.discard(pair)

    async def behave(self, directions: tuple[str, ...] = BOTH, **how: Any) -> None:
        async with self._changed:
            self.behaviour.update({name: replace(self.behaviour[name], **how) for name in directions})
            self._changed.notify_all()

    async def cut(self, sides: tuple[str, ...] = BOTH) -> None:
        self._cutting = True
        for pair in list(self._pairs):
            pair.reset(sides)

    async def refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self.cut()

    async def heal(self) -> None:
        self._cutting = False
        for pair in [pair for pair in self._pairs if pair.lossy]:
            pair.reset(BOTH)
        if self._listener is None:
            await self.listen()
        async with self._changed:
            self.behaviour = dict.fromkeys(BOTH, _Behaviour())
            self._changed.notify_all()

    async def attempts(self) -> list[float]:
        return self._attempts

    async def connections(self) -> int:
        return sum(pair.open for pair in self._pairs)


async def _read(reader: asyncio.StreamReader) -> Optional[bytes]:
    """A portion, nothing at the end, None when the connection was reset."""
    try:
        return await reader.read(_CHUNK_BYTES)
    except OSError:
        return None


def _undelayed(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _abort(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def _commands() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    return reader


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)  # noqa: T201 - its parent reads it


async def _main(port: int, target: int, seed: int) -> None:
    forwarder = _Forwarder(port, target, seed)
    await forwarder.listen()
    commands = await _commands()
    _say(forwarder.port)
    while line := await commands.readline():
        what, how = json.loads(line)
        how = {name: tuple(value) if isinstance(value, list) else value for name, value in how.items()}
        _say(await getattr(forwarder, what)(**how))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal goes to all; the parent ends this
    with suppress(asyncio.CancelledError):
        asyncio.run(_main(*map(int, sys.argv[1:])))
