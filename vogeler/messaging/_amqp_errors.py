"""From what pika, the socket and the TLS library raise to our errors, in one place.

Reply codes: the AMQP 0-9-1 reference, section "Constants"; the texts are RabbitMQ's.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from vogeler import tls
from vogeler.errors import MessageTooLarge, TransportError, TransportUnavailable
from vogeler.messaging import SETUP_REMEDY
from vogeler.messaging._amqp_pika import AMQPConnectorException, pika_errors

_ACCESS_REFUSED, _NOT_FOUND, _RESOURCE_LOCKED, _PRECONDITION_FAILED, _NOT_ALLOWED = 403, 404, 405, 406, 530

_CHANNEL_REMEDIES = {
    _ACCESS_REFUSED: "give the broker's user the permission it lacks (`rabbitmqctl set_permissions`)",
    _NOT_FOUND: SETUP_REMEDY,
    _RESOURCE_LOCKED: "another connection holds it: choose another name, or wait until that one is gone",
    _PRECONDITION_FAILED: "delete what is there (`rabbitmqctl delete_queue NAME`), then " + SETUP_REMEDY,
}
_CONNECTION_REMEDIES = {
    _ACCESS_REFUSED: "check the user and the password",
    _NOT_ALLOWED: "check the virtual host in the URL, and the user's permission for it",
}
_NO_PLUGIN = "exchange type"
_UNREACHABLE_REMEDY = "start it, or correct qhost"
_PLUGIN_REMEDY = "on each member: `rabbitmq-plugins enable rabbitmq_consistent_hash_exchange`"
_EXTERNAL_REMEDY = (
    "for a login by certificate RabbitMQ needs its plugin rabbitmq_auth_mechanism_ssl, EXTERNAL among its "
    "auth_mechanisms, and a user named as the certificate is; else give a user and a password"
)
_NO_AMQP = (
    pika_errors.IncompatibleProtocolError,
    pika_errors.ProtocolSyntaxError,
    pika_errors.ProtocolVersionMismatch,
    pika_errors.ConnectionOpenAborted,
)


@contextmanager
def translated(where: str, connected: bool = True) -> Iterator[None]:
    """Raise our errors for what goes wrong inside; ``where`` is the URL without its password."""
    try:
        yield
    except (pika_errors.AMQPError, AMQPConnectorException, OSError) as error:
        raise _ours(_root(error), where, connected) from error


def _root(error: BaseException) -> BaseException:
    """Out of the wrappers that pika puts around the error of one attempt."""
    while True:
        inner = getattr(error, "exception", None)
        if inner is None and isinstance(error, pika_errors.AMQPConnectionError) and error.args:
            inner = error.args[0]
        if not isinstance(inner, BaseException):
            return error
        error = inner


def _ours(error: BaseException, where: str, connected: bool) -> TransportError:
    if _NO_PLUGIN in _reply(error):
        return TransportError(f"the broker at {where} refuses: {_reply(error)}", _PLUGIN_REMEDY)
    if isinstance(error, pika_errors.ChannelClosed):
        return _refusal(error, where)
    if isinstance(error, pika_errors.ShortStringTooLong):
        return TransportError(
            f"a name is too long for the broker at {where}: {error}", "names of nodes end at 242 characters"
        )
    code = _connection_code(error)
    if code in _CONNECTION_REMEDIES and "is down" not in str(error):
        remedy = _EXTERNAL_REMEDY if "EXTERNAL" in str(error) else _CONNECTION_REMEDIES[code]
        return TransportError(f"the broker at {where} refuses: {_reply(error)}", remedy)
    if isinstance(error, pika_errors.AuthenticationError):
        return TransportError(f"the broker at {where} does not take this kind of login: {error}", _EXTERNAL_REMEDY)
    refused = tls.refusal(error)
    if refused is not None:
        return TransportError(f"the broker at {where} {refused[0]}", refused[1])
    reason = _reason(error)
    if isinstance(error, _NO_AMQP) and where.startswith("amqps:"):  # TLS 1.3: refused behind the handshake
        reason += f"; {tls.ENDED}"
    if connected:
        return TransportUnavailable(f"connection lost to the broker at {where}: {reason}")
    return TransportUnavailable(f"broker unreachable at {where}: {reason}", _UNREACHABLE_REMEDY)


def is_away(error: BaseException | None) -> bool:
    """Whether RabbitMQ says that a classic queue's cluster member is down, and the rest of the cluster is not."""
    return isinstance(error, pika_errors.ChannelClosed) and "is down or inaccessible" in _reply(error)


def is_forbidden(error: BaseException | None) -> bool:
    """Whether RabbitMQ says that the login may not do this."""
    return isinstance(error, pika_errors.ChannelClosed) and error.reply_code == _ACCESS_REFUSED


def _refusal(error: pika_errors.ChannelClosed, where: str) -> TransportError:
    text = _reply(error)
    # A delivery that was held for too long passes, too.
    if is_away(error) or "timed out" in text:
        return TransportUnavailable(f"the broker at {where} can't serve this now: {text}")
    if error.reply_code == _PRECONDITION_FAILED and "max size" in text:
        return MessageTooLarge(
            f"the broker at {where} refuses: {text}", "raise its max_message_size, or lower the plugin's max_output"
        )
    if error.reply_code == _PRECONDITION_FAILED and "user_id" in text:
        return TransportError(
            f"the broker at {where} refuses: {text}", "name the user in the URL by the name that RabbitMQ has for it"
        )
    if error.reply_code in _CHANNEL_REMEDIES:
        return TransportError(f"the broker at {where} refuses: {text}", _CHANNEL_REMEDIES[error.reply_code])
    return TransportUnavailable(f"the broker at {where} closed the channel: {text}")


def _connection_code(error: BaseException) -> int:
    """The reply code of a closed connection, or 0. While it opens, pika leaves it in the text only."""
    if isinstance(error, pika_errors.ConnectionClosed):
        return int(error.reply_code)
    if isinstance(error, (pika_errors.ProbableAuthenticationError, pika_errors.ProbableAccessDeniedError)):
        return next((code for code in _CONNECTION_REMEDIES if f"({code})" in str(error)), 0)
    return 0


def _reply(error: BaseException) -> str:
    """What the broker said, without pika's decoration: ``ACCESS_REFUSED - Login was refused ...``."""
    if isinstance(error, (pika_errors.ChannelClosed, pika_errors.ConnectionClosed)):
        return str(error.reply_text)
    text = str(error)
    return text.partition(") ")[2].strip('"') or text


def _reason(error: BaseException) -> str:
    """Why it can't be reached, in a few words."""
    ended = tls.ended(error)
    if ended is not None:
        return f"it has ended TLS without a word: {ended}"
    if isinstance(error, _NO_AMQP):
        return "what answers there does not speak AMQP (starting, another service, or amqp:// where amqps:// belongs?)"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error}): is this a TLS port?"
    if isinstance(error, socket.gaierror):
        return f"the host name is not known ({error.strerror})"
    if isinstance(error, socket.timeout) or str(error).startswith("Timeout while"):
        return "no answer in time"
    if str(error).startswith("Timeout during"):  # the handshake: connected, and then nothing that makes sense
        return "nothing that speaks AMQP answered in time"
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    if isinstance(error, pika_errors.ConnectionBlockedTimeout):
        return "it accepts no messages (out of memory or disk space)"
    if isinstance(error, pika_errors.NackError):
        return "it could not store the message"
    if isinstance(error, (pika_errors.ConnectionWrongStateError, pika_errors.ChannelWrongStateError)):
        return "the connection is closed"
    return _reply(error)
