"""From a plugin to its value: run it, parse what it printed, redact, seal and sort that, digest it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING, Any

from vogeler import formats
from vogeler.backoff import describe
from vogeler.errors import FormatError, PluginError
from vogeler.execute import Execution, execute
from vogeler.leaves import without
from vogeler.messages import FAILED, OK, UNAVAILABLE, UNPARSABLE, canonical_json, digest_of
from vogeler.plugins import Plugin, unavailable_reason
from vogeler.processes import Orphans
from vogeler.redact import Redaction

if TYPE_CHECKING:
    from vogeler.sealing import Sealing

# sysexits.h: "a service is unavailable". So a plugin can find out by itself that it does not apply here.
EX_UNAVAILABLE = 69


@dataclass(frozen=True)
class Collected:
    """What a plugin gave: any of messages.STATUSES. ``value`` and ``digest`` are None unless it is OK.

    The digest is that of the value without the plugin's volatile paths.
    """

    status: str
    value: Any = None
    digest: str | None = None
    exit_code: int | None = None
    duration_s: float = 0.0
    error: str | None = None
    redacted: int = 0  # how many parts of the value are digests in their place
    sealed: int = 0  # how many are for readers alone


def collect(
    plugin: Plugin,
    stop: Event | None = None,
    orphans: Orphans | None = None,
    redaction: Redaction | None = None,
    sealing: Sealing | None = None,
) -> Collected:
    """Run the plugin and read its output. Raises nothing for what a plugin can do wrong."""
    reason = unavailable_reason(plugin)
    if reason is not None:
        return Collected(UNAVAILABLE, error=reason)
    ran = _discreet(plugin, execute(plugin, stop=stop, orphans=orphans))
    if ran.exit_code == EX_UNAVAILABLE:
        return Collected(UNAVAILABLE, exit_code=ran.exit_code, duration_s=ran.duration_s, error=ran.error)
    if ran.status != OK:
        return Collected(ran.status, exit_code=ran.exit_code, duration_s=ran.duration_s, error=ran.error)
    try:
        value = formats.parse(plugin.result_format, ran.stdout)
    except FormatError as error:
        quoted = f"{error.message}; {error.remedy}"
        said = "the output can't be read, and is not quoted" if plugin.is_secretive else quoted
        text = f"{plugin.result_format}: {said}"
        return Collected(UNPARSABLE, exit_code=ran.exit_code, duration_s=ran.duration_s, error=text)
    ran = replace(ran, stdout=b"")  # up to max_output, and the digest needs as much again
    try:
        value, redacted = _hidden(value, plugin.key, plugin.redact, redaction, "can't redact: there is no key")
        value, sealed = _hidden(value, plugin.key, plugin.seal, sealing, "can't seal: there are no readers")
    except PluginError as error:
        return Collected(FAILED, exit_code=ran.exit_code, duration_s=ran.duration_s, error=describe(error))
    if plugin.unordered and isinstance(value, list):
        value.sort(key=lambda entry: canonical_json(without(entry, plugin.volatile)))
    digest = digest_of(without(value, plugin.volatile))
    return Collected(OK, value, digest, ran.exit_code, ran.duration_s, None, redacted, sealed)


def _hidden(
    value: Any, key: str, paths: Sequence[str], by: Redaction | Sealing | None, without: str
) -> tuple[Any, int]:
    if by is not None:
        return by.of(value, key, paths)
    if paths:
        raise PluginError(without)
    return value, 0


def _discreet(plugin: Plugin, ran: Execution) -> Execution:
    """Without the words of a command that knows secrets."""
    return replace(ran, error=ran.summary) if plugin.is_secretive else ran
