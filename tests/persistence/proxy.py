"""A small HTTP server between the store and CouchDB, or in place of CouchDB, that does what a test tells it to."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional


class Exchange(BaseHTTPRequestHandler):
    """One request: answer it, pass it on, or hang up."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer takes 40 ms
    server: Proxy  # type: ignore[assignment]
    body = b""

    def _serve(self) -> None:
        self.server.requests.append((self.command, self.path))
        if self.server.reads_bodies:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.behave(self)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def reply(self, status: int, body: bytes = b"", kind: Optional[str] = "application/json", **headers: str) -> None:
        """Answer."""
        self.send_response(status)
        if kind is not None:
            self.send_header("Content-Type", kind)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def forward(self) -> tuple[int, bytes]:
        """Have CouchDB do it; what it answered is not passed on yet."""
        assert self.server.upstream is not None
        with closing(http.client.HTTPConnection(*self.server.upstream, timeout=20)) as connection:
            connection.request(self.command, self.path, self.body, dict(self.headers))
            answer = connection.getresponse()
            return answer.status, answer.read()

    def pass_on(self) -> None:
        """As if nobody stood in between."""
        self.reply(*self.forward())

    def hang_up(self) -> None:
        """Close the connection without a word."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        """Nothing on the screen."""


class Proxy(ThreadingHTTPServer):
    """``behave`` is called with every Exchange; ``requests`` are the methods and paths that came."""

    daemon_threads = True
    reads_bodies = True

    def __init__(self, behave: Callable[[Exchange], None], upstream: Optional[tuple[str, int]]) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.behave = behave
        self.upstream = upstream
        self.requests: list[tuple[str, str]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is what some tests are about."""


@contextmanager
def running(behave: Callable[[Exchange], None], upstream: Optional[tuple[str, int]] = None) -> Iterator[Proxy]:
    """A proxy that serves until the end of the block."""
    with Proxy(behave, upstream) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
