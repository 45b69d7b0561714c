"""Requests to CouchDB through couchdb-python, and every failure of them as one of our errors.

The library's own ``Session.request`` (1.2, the last, of 2018) stumbles over what a fleet meets: an error
answer that is chunked or has no content type ends in an AttributeError, a timeout leaves its socket open,
a server that refuses a large body before all of it was read is a broken pipe. So the exchange is ours, on
one kept-alive connection; URLs, logins, JSON and the classes around it are the library's.
"""

from __future__ import annotations

import io
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from typing import Any

from vogeler import tls
from vogeler.errors import StoreError, StoreUnavailable, UsageError
from vogeler.persistence._couch_library import http
from vogeler.registry import did_you_mean
from vogeler.urls import Url

_PORTS = {"couch": 5984, "couchs": 6984}
_COME_BACK = (408, 429)
_REASON_CHARACTERS = 300  # of what may be a whole stack of Erlang
_NONE: Mapping[str, str] = {}
_REMEDIES = {
    401: "check the user and the password of the store's URL",
    403: "check the user and the password of the store's URL, and what the user may do in these databases",
    404: "run: vogeler-admin setup",
    413: "raise max_document_size or max_http_request_size in CouchDB, or collect less",
}


class Refusal(StoreError):
    """CouchDB understood and says no. ``status`` is that of HTTP, ``reason`` CouchDB's words."""

    def __init__(self, where: str, status: int, reason: str) -> None:
        super().__init__(f"{where} answers {status}: {reason}", _REMEDIES.get(status, "the log of CouchDB says more"))
        self.status = status
        self.reason = reason


class Couch:
    """One CouchDB server, below ``path`` of the URL's host. Belongs to the thread that made it."""

    def __init__(self, url: Url, path: str, timeout_s: float) -> None:
        for option, _ in url.options:
            if option not in tls.OPTIONS:
                raise UsageError(f"unknown option {option!r} in the URL {url}", did_you_mean(option, tls.OPTIONS))
        tls.check(url)
        self._url = url
        self._session = _Session(_connection(url, timeout_s))
        self._root = http.Resource(path, self._session)
        self._root.credentials = (url.user, url.password or "") if url.user is not None else None

    def call(
        self, method: str, *path: str, body: object = None, options: Mapping[str, str] = _NONE, **query: object
    ) -> Any:
        """One request: ``get``, ``post``, ``put``, ``delete``. Returns the decoded JSON of the answer.

        A ``body`` of bytes is JSON already; ``options`` are parts of the query that are not JSON.
        Raises Refusal, StoreUnavailable.
        """
        arguments: dict[str, object] = {name: json.dumps(value) for name, value in query.items()}
        arguments.update(options)
        if body is not None:
            arguments["body"] = body if isinstance(body, bytes) else json.dumps(body).encode()
        with _translated(str(self._url)):
            _, _, answer = getattr(self._root(*path), f"{method}_json")(**arguments)
        if not isinstance(answer, (dict, list)):
            raise StoreUnavailable(_not_couch(str(self._url)))
        return answer

    def close(self) -> None:
        """May be called twice; the next request connects again."""
        self._session.connection.close()


class _Session(http.Session):  # type: ignore[misc]  # the class is not typed
    """The library's session with one connection, no cache and no redirects."""

    def __init__(self, connection: HTTPConnection) -> None:
        super().__init__()
        self.connection = connection

    def request(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        credentials: tuple[str, str] | None = None,
        num_redirects: int = 0,
    ) -> tuple[int, HTTPMessage, io.BytesIO]:
        """What ``Resource`` calls. Raises the library's ServerError for every answer that is no success."""
        all_headers = {"Accept": "application/json", "User-Agent": self.user_agent, **(headers or {})}
        if body is not None:
            all_headers["Content-Type"] = "application/json"
        if credentials:
            all_headers["Authorization"] = http.basic_auth(credentials).decode()
        status, answer_headers, content = self._exchange(method, url, body, all_headers)
        if not 200 <= status < 300:
            raise http.ServerError((status, _reason(content)))
        return status, answer_headers, io.BytesIO(content)

    def _exchange(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, HTTPMessage, bytes]:
        """Once more where the server had closed the kept-alive connection: RFC 9112, 9.3.1.

        The first try may have been done all the same: what is sent here may be sent twice.
        """
        kept_alive = self.connection.sock is not None
        try:
            return self._try(method, url, body, headers)
        except ConnectionError:
            if not kept_alive:
                raise
            return self._try(method, url, body, headers)

    def _try(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, HTTPMessage, bytes]:
        try:
            if self.connection.sock is None:
                self.connection.connect()
            with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):  # the answer may say why
                self.connection.request(method, url, body, headers)
            response = self.connection.getresponse()
            return response.status, response.msg, response.read()
        except BaseException:
            self.connection.close()  # half an answer may be left in it
            raise


def _connection(url: Url, timeout_s: float) -> HTTPConnection:
    host, port = url.host or "localhost", url.port or _PORTS[url.scheme]
    if not url.secure:
        return HTTPConnection(host, port, timeout=timeout_s)
    return HTTPSConnection(host, port, timeout=timeout_s, context=tls.context(url))


def _reason(content: bytes) -> tuple[str | None, str]:
    """``error`` and ``reason`` of CouchDB's error answer; (None, "") for anybody else's."""
    try:
        answer = json.loads(content)
        return str(answer["error"]), str(answer.get("reason")).partition("\n")[0][:_REASON_CHARACTERS]
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None, ""


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """What the library, HTTP and the network raise, as our errors."""
    try:
        yield
    except http.ServerError as error:
        status, (code, reason) = error.args[0]
        raise _from_status(where, status, code, reason) from error
    except (OSError, HTTPException) as error:
        refused = tls.refusal(error)
        if refused is not None:
            raise StoreError(f"the store at {where} {refused[0]}", refused[1]) from error
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        remedy = tls.ended(error) or "start it, or correct dbhost"
        raise StoreUnavailable(f"store unreachable at {where}: {reason}", remedy) from error
    except ValueError as error:  # JSON or UTF-8 that can't be read
        raise StoreUnavailable(f"{_not_couch(where)}: {error}") from error


def _from_status(where: str, status: int, code: str | None, reason: str) -> StoreError:
    if status in _COME_BACK or status >= 500:
        said = f": {code}, {reason}" if code else ""
        remedy = "the log of CouchDB says more; is its disk full?" if status == 500 else None
        return StoreUnavailable(f"the store at {where} answers {status}{said}", remedy)
    if code is None and status not in (401, 403, 413):  # those may come from a proxy in front
        return StoreUnavailable(f"{_not_couch(where)}: it answers {status}")
    return Refusal(f"the store at {where}", status, f"{code}, {reason}" if code else "without a reason")


def _not_couch(where: str) -> str:
    return f"what answers at {where} does not speak CouchDB's language"
