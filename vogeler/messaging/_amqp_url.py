"""From an ``amqp://`` URL to an open pika connection.

``?heartbeat=30`` in seconds; for ``amqps`` the options of tls.py. A URL with a certificate and without a password logs
in by the certificate: RabbitMQ's mechanism EXTERNAL.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import ssl

from vogeler import tls
from vogeler.errors import TransportError, TransportUnavailable, UsageError
from vogeler.messaging._amqp_errors import translated
from vogeler.messaging._amqp_pika import pika
from vogeler.messaging._amqp_send import send_at_once
from vogeler.registry import did_you_mean
from vogeler.urls import Url

HEARTBEAT_S = 30
_GUEST = "guest"  # who connects when nobody is named
_PORTS = {"amqp": 5672, "amqps": 5671}
_OPTIONS = ("heartbeat", *tls.OPTIONS)


def open_any(cluster: tuple[Url, ...], timeout_s: float, name: str) -> tuple[pika.BlockingConnection, Url]:
    """A connection to the first member that takes us, and which that is; in random order, so that a fleet spreads.

    Each member gets ``timeout_s``. Raises the refusal of a member that refuses, else TransportUnavailable naming all
    of them.
    """
    _quieten()
    failures: list[TransportError] = []
    for url in random.sample(cluster, len(cluster)):
        try:
            return _open(url, timeout_s, name), url
        except TransportError as error:
            failures.append(error)
    refusals = [error for error in failures if not isinstance(error, TransportUnavailable)]
    if refusals or len(failures) == 1:
        raise (refusals or failures)[0]
    raise TransportUnavailable("; ".join(error.message for error in failures), failures[0].remedy)


def _open(url: Url, timeout_s: float, name: str) -> pika.BlockingConnection:
    parameters = _parameters(url, timeout_s, name)
    with translated(str(url), connected=False):
        try:
            connection = pika.BlockingConnection(parameters)
        except ssl.SSLError:  # of which one is a ValueError, too
            raise
        except ValueError as error:  # pika's, for a socket that was reset as soon as it was connected
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error
    send_at_once(connection)
    return connection


def _parameters(url: Url, timeout_s: float, name: str) -> pika.ConnectionParameters:
    for option, _ in url.options:
        if option not in _OPTIONS:
            raise UsageError(f"unknown option {option!r} in the URL {url}", did_you_mean(option, _OPTIONS))
    tls.check(url)
    heartbeat_s = _heartbeat_s(url)
    return pika.ConnectionParameters(
        host=url.host or "localhost",
        port=url.port or _PORTS[url.scheme],
        virtual_host=url.path[1:] or "/",
        credentials=_credentials(url),
        heartbeat=heartbeat_s,
        socket_timeout=timeout_s,
        stack_timeout=timeout_s,
        blocked_connection_timeout=timeout_s,
        ssl_options=pika.SSLOptions(tls.context(url), url.host or "localhost") if url.secure else None,
        # Half of a cut connection is noticed by the heartbeat; this notices it while we are sending.
        tcp_options={"TCP_USER_TIMEOUT": max(heartbeat_s, HEARTBEAT_S) * 1000},
        client_properties={"connection_name": name, "product": "vogeler"},
    )


def _credentials(url: Url) -> pika.PlainCredentials | pika.credentials.ExternalCredentials:
    if url.password is None and url.option("certfile", ""):
        return pika.credentials.ExternalCredentials()
    return pika.PlainCredentials(*login(url), erase_on_connect=True)


def login(url: Url) -> tuple[str, str]:
    """User and password, with RabbitMQ's own defaults."""
    return url.user or _GUEST, url.password or (_GUEST if url.user is None else "")


def _heartbeat_s(url: Url) -> int:
    text = url.option("heartbeat", str(HEARTBEAT_S))
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise UsageError(f"heartbeat={text} in the URL {url} is not a number of seconds", "for example ?heartbeat=30")
    return int(text)


def _quieten() -> None:
    """Every failure reaches the log as one of our errors; pika would add a traceback to each."""
    logger = logging.getLogger("pika")
    if logger.level == logging.NOTSET and not logger.isEnabledFor(logging.DEBUG):
        logger.setLevel(logging.CRITICAL)
