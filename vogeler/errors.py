"""Every error Vogeler raises on purpose, and the exit code each ends a command with.

::

    VogelerError                    1  INTERNAL
    ├── UsageError                  2  USAGE      a flag, a URL, an argument
    │   └── ConfigError             2  USAGE      the configuration file or environment
    ├── MessageError                1  INTERNAL   bytes that are not one of our messages
    ├── PluginError                 2  USAGE      a plugin file that can't be used
    │   └── FormatError             2  USAGE      output that is not in the plugin's result_format
    ├── NotFoundError               9  NOT_FOUND  no such node, key, dead letter
    ├── TransportError              7  BROKER     the broker refuses what we ask
    │   ├── TransportUnavailable    7  BROKER     can't be reached, or was lost: may be retried
    │   ├── NodeNameTaken          10  NAME_TAKEN another client runs under this node name
    │   └── MessageTooLarge         7  BROKER     the broker takes no message of this size
    └── StoreError                  8  STORE      the store refuses what we ask
        └── StoreUnavailable        8  STORE      can't be reached, or was lost: may be retried

An error says what happened and where; its ``remedy`` says what to do about it.
"""

from __future__ import annotations

from enum import IntEnum

MOST_CHARACTERS = 2000  # of an error's text
_LAST_CHARACTERS = 500


class ExitCode(IntEnum):
    """How every command ends. Described for operators in docs/reference.rst."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    SOME_FAILED = 3
    SOME_SILENT = 4
    NOBODY_ANSWERED = 5
    NOWHERE_AVAILABLE = 6
    BROKER = 7
    STORE = 8
    NOT_FOUND = 9
    NAME_TAKEN = 10
    UNHEALTHY = 11
    INTERRUPTED = 130


class VogelerError(Exception):
    """The root of the tree. ``remedy`` is one sentence for the person in front of the screen.

    Errors quote what somebody sent or wrote, and go into logs, headers and receipts. So both texts are
    cut where they are longer than MOST_CHARACTERS, and are UTF-8 whatever was quoted.
    """

    exit_code = ExitCode.INTERNAL
    retryable = False

    def __init__(self, message: str, remedy: str | None = None) -> None:
        self.message = _bounded(message)
        self.remedy = None if remedy is None else _bounded(remedy)
        super().__init__(self.message)


def _bounded(text: str) -> str:
    text = text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[: MOST_CHARACTERS - _LAST_CHARACTERS - 1]}…{text[-_LAST_CHARACTERS:]}"


class UsageError(VogelerError):
    """A flag, a URL or an argument that makes no sense."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """A configuration file or environment variable that makes no sense."""


class MessageError(VogelerError):
    """Bytes that are not a message of the protocol version spoken here.

    ``fields`` holds what could be read of it (a dict, possibly empty), so that the
    sender can still be answered.
    """

    def __init__(self, message: str, fields: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.fields = fields or {}


class PluginError(VogelerError):
    """A plugin file that can't be used: says the file, the line and the remedy."""

    exit_code = ExitCode.USAGE


class FormatError(PluginError):
    """Plugin output that is not in the plugin's result_format."""


class NotFoundError(VogelerError):
    """What was asked for is not in the store or the queue."""

    exit_code = ExitCode.NOT_FOUND


class TransportError(VogelerError):
    """The broker answered, and refuses: a login, a permission, a missing exchange."""

    exit_code = ExitCode.BROKER


class TransportUnavailable(TransportError):
    """The broker can't be reached, or the connection was lost."""

    retryable = True


class NodeNameTaken(TransportError):
    """Another client already consumes this node's commands."""

    exit_code = ExitCode.NAME_TAKEN


class MessageTooLarge(TransportError):
    """The broker takes no message of this size: it has to be sent without its value."""


class StoreError(VogelerError):
    """The store answered, and refuses: a login, a permission, a missing database."""

    exit_code = ExitCode.STORE


class StoreUnavailable(StoreError):
    """The store can't be reached, answers nonsense, or asks to come back later."""

    retryable = True
