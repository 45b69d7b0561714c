"""The client: takes a node's commands, runs the plugin for each, sends back what came out.

One thread talks to the broker; plugins run in a few others, so that a slow one never makes the
broker think that the node is gone. The life of a command::

    delivered ─▶ decoded, checked ─▶ accepted ─▶ (splay) ─▶ plugin runs ─▶ result confirmed ─▶ acked
                      │                                                        by the broker
                      └─▶ refused or unavailable, with a receipt; acked

Until it is acked it belongs to the broker, and comes again should this process die at any point. What
has run stays in memory until the broker has confirmed it, however often the connection is lost.

A value that is what was sent last is left out of the result, whose digest says which it is. It is sent
after every connection, when a command asks for it in full, and once in a while.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Optional

from vogeler import __version__, messages, targets, topology
from vogeler.backoff import Backoff, keep_trying
from vogeler.collect import Collected, collect
from vogeler.errors import MessageError, MessageTooLarge, NodeNameTaken, UsageError, VogelerError
from vogeler.gate import Gate
from vogeler.messages import OMITTED, Command, Decision, Envelope, Heartbeat, Receipt, Result, decode, digest_of, encode
from vogeler.messaging import Consumer, Delivery, Transport
from vogeler.plugins import Loaded, Plugin, unavailable_reason
from vogeler.units import parse_timestamp, to_timestamp

if TYPE_CHECKING:
    from vogeler.signing import PublicKey

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 30.0
_REMEMBERED_RUNS = 250  # a broker delivers again what was not acked, and that is few: COMMANDS_PREFETCH
_DEFAULT_SPLAY_S = 300.0


@dataclass
class Job:
    """One plugin to run once: for a command, or for the plugin's own schedule."""

    plugin: Plugin
    alias: str
    due_s: float  # on the monotonic clock
    expires_at: str | None = None  # on the wall clock: not to begin later
    run: str | None = None
    requested_by: str | None = None
    full: bool = False  # the value is to be sent, whether it has changed or not
    key: str | None = None  # the id of the key that the command is signed with
    delivery: Delivery | None = None  # the latest: after a reconnection the broker delivers it again


@dataclass(frozen=True)
class Options:
    """What a client is told about itself. Durations in seconds."""

    node: str
    groups: tuple[str, ...] = ()
    workers: int = 4
    heartbeat_s: float = 60.0
    clock_skew_s: float = 300.0
    stop_timeout_s: float = 30.0
    full_every_s: float = 6 * 3600.0


# Of a command: a run asks a node twice where it wants the value in full after all.
_Name = tuple[str, bool]
# Of a command: its id, the alias, who asks, and the id of the key.
_Asked = tuple[str, str, str, Optional[str]]


class Client:
    """One node's agent. ``run`` blocks; ``stop`` and ``reload`` may be called from any thread.

    ``collect`` runs a plugin, in a thread of the pool; a node that is simulated has another one. ``gate`` decides
    which commands are let in; ``sign`` is done to all that is for the server; ``audit`` is told of every command.
    """

    def __init__(
        self,
        options: Options,
        load_plugins: Callable[[], Loaded],
        connect: Callable[[], Transport],
        collect: Callable[[Plugin, threading.Event], Collected] = collect,
        gate: Gate | None = None,
        sign: Callable[[Envelope], Envelope] = lambda envelope: envelope,
        audit: Callable[[dict[str, Any]], None] = lambda entry: None,
    ):
        self._options = options
        self._load_plugins = load_plugins
        self._connect = connect
        self._collect = collect
        self._gate = gate or Gate()
        self._sign = sign
        self._audit = audit
        self._plugins = load_plugins()
        self._started_at = messages.now()
        self._stopping = threading.Event()
        self._killing = threading.Event()
        self._reloading = threading.Event()
        self._consumer: Consumer | None = None
        self._was_connected = False
        self._waiting: list[Job] = []
        self._running: dict[int, Job] = {}
        self._by_command: dict[_Name, Job] = {}
        self._answered: OrderedDict[_Name, None] = OrderedDict()
        self._finished: queue.SimpleQueue[tuple[Job, Collected]] = queue.SimpleQueue()
        self._outbox: list[tuple[Job, Envelope]] = []
        self._sent: dict[str, tuple[str, float]] = {}  # key → digest of the value that was sent last, and when
        self._seq = 0
        self._next_beat_s = 0.0
        self._pool = ThreadPoolExecutor(options.workers, thread_name_prefix="plugin")

    # --- the life of the process ------------------------------------------------------------------

    def run(self) -> None:
        """Serve until ``stop``. Raises NodeNameTaken when another client has this node's name."""
        self._schedule_all()
        try:
            keep_trying(self._session, self._stopping, self._is_final)
        finally:
            self._killing.set()
            self._pool.shutdown(wait=True, cancel_futures=True)

    def stop(self) -> None:
        """Take no more commands, let what runs finish within the limit, then return from ``run``."""
        self._stopping.set()
        limit = threading.Timer(self._options.stop_timeout_s, self._killing.set)  # whatever the broker is doing
        limit.daemon = True
        limit.start()
        self._wake()

    def reload(self) -> None:
        """Read the plugin files again."""
        self._reloading.set()
        self._wake()

    def _wake(self) -> None:
        consumer = self._consumer
        if consumer is not None:
            consumer.wake()

    def _is_final(self, error: VogelerError) -> bool:
        # Once connected, the name may be held by our own lost connection, not yet known to be dead.
        return isinstance(error, UsageError) or (isinstance(error, NodeNameTaken) and not self._was_connected)

    def _session(self, backoff: Backoff) -> None:
        with closing(self._connect()) as transport:
            consumer = transport.consume_commands(self._options.node, self._options.groups)
            self._consumer = consumer
            self._was_connected = True
            self._next_beat_s = 0.0
            self._sent.clear()  # who knows what the broker has lost
            log.info("node %s is ready", self._options.node, extra={"event": "ready"})
            try:
                while not self._stopping.is_set():
                    self._turn(transport, consumer)
                    backoff.reset()
                self._drain(transport, consumer)
            finally:
                self._consumer = None

    def _turn(self, transport: Transport, consumer: Consumer) -> None:
        if self._reloading.is_set():
            self._reload()
        self._start_due(transport, consumer)
        self._send_finished(transport, consumer)
        self._beat_if_due(transport)
        delivery = consumer.receive(self._wait_s())
        if delivery is not None:
            self._take(delivery, transport, consumer)

    def _wait_s(self) -> float:
        if not self._finished.empty() or self._stopping.is_set():
            return 0.0
        now_s = time.monotonic()
        may_start = len(self._running) < self._options.workers
        due_s = [self._next_beat_s, *(job.due_s for job in self._waiting if may_start)]
        return min(_LONGEST_WAIT_S, max(0.0, min(due_s) - now_s))

    def _drain(self, transport: Transport, consumer: Consumer) -> None:
        """Finish what runs, within the limit. What has not begun goes back to the broker."""
        deadline_s = time.monotonic() + self._options.stop_timeout_s
        while (self._running or self._outbox) and time.monotonic() < deadline_s:
            self._send_finished(transport, consumer)
            if self._running:
                consumer.receive(min(1.0, deadline_s - time.monotonic()))
        if self._running:
            names = ", ".join(sorted(job.alias for job in self._running.values()))
            log.warning("stopped while %s ran: will run again", names, extra={"event": "cut_short"})

    # --- commands ---------------------------------------------------------------------------------

    def _take(self, delivery: Delivery, transport: Transport, consumer: Consumer) -> None:
        try:
            command = decode(delivery.envelope, Command)
            if not topology.speaks_for(delivery.user, None):
                raise MessageError(f"a command that was sent by {topology.sender(delivery.user)}, which may send none")
        except MessageError as error:
            self._refuse_unreadable(delivery, error, transport, consumer)
            return
        if not targets.matches(command.targets, self._options.node, self._options.groups):
            consumer.ack([delivery])
            return
        try:
            key = self._gate.check(command, delivery.envelope)
        except MessageError as error:
            self._turn_away(command, delivery, None, messages.REFUSED, error.message, transport)
            consumer.ack([delivery])
            return
        if _name_of(command) in self._by_command:
            self._by_command[_name_of(command)].delivery = delivery
        elif _name_of(command) in self._answered or self._gate.is_done(command):
            log.info("%s came again", command.id, extra={"event": "repeated", "run": command.id})
            self._decided(transport, messages.REPEATED, _asked(command, key))
            consumer.ack([delivery])
        else:
            self._answer(command, key, delivery, transport, consumer)

    def _turn_away(
        self,
        command: Command,
        delivery: Delivery,
        key: PublicKey | None,
        stage: str,
        reason: str | None,
        transport: Transport,
    ) -> None:
        self._receipt(transport, command.id, stage, {"reason": reason})
        self._decided(transport, stage, _asked(command, key), reason)
        log.info(
            "%s %s from %s: %s", stage, command.alias, command.requested_by, reason,
            extra={"event": stage, "user": delivery.user},
        )  # fmt: skip

    def _decided(self, transport: Transport, stage: str, asked: _Asked, reason: str | None = None) -> None:
        """Into this node's audit log, and to the server. That a command was accepted, its result tells the server."""
        decision = Decision(self._options.node, *asked[:3], stage, reason and reason[:1000], asked[3])
        if stage != messages.ACCEPTED:
            transport.publish_result(self._sign(encode(decision)), self._options.node)
        self._audit({name: value for name, value in vars(decision).items() if name != "id"})

    def _answer(
        self, command: Command, key: PublicKey | None, delivery: Delivery, transport: Transport, consumer: Consumer
    ) -> None:
        plugin = self._plugins.find(command.alias)
        stage, reason = self._refusal(command, key, plugin)
        if plugin is None or stage != messages.ACCEPTED:
            self._turn_away(command, delivery, key, stage, reason, transport)
            consumer.ack([delivery])
            return
        delay_s = command.splay_s * _fraction(self._options.node + command.id)
        due_s = time.monotonic() + delay_s
        asked = (command.id, command.requested_by, command.full)
        job = Job(plugin, command.alias, due_s, command.expires_at, *asked, _asked(command, key)[3], delivery)
        self._by_command[_name_of(command)] = job
        self._waiting.append(job)
        detail = {"key": plugin.key, "timeout_s": plugin.timeout_s, "splay_s": round(delay_s, 3)}
        self._decided(transport, stage, _asked(command, key))
        self._receipt(transport, command.id, stage, detail)
        log.info(
            "accepted %s from %s", command.alias, command.requested_by,
            extra={"event": stage, "run": command.id, "user": delivery.user},
        )  # fmt: skip

    def _refusal(self, command: Command, key: PublicKey | None, plugin: Plugin | None) -> tuple[str, str | None]:
        now_s = time.time()
        here = f"this node's clock says {to_timestamp(now_s)}"
        if parse_timestamp(command.expires_at) < now_s:
            return messages.REFUSED, _expired(command.expires_at)
        if parse_timestamp(command.at) > now_s + self._options.clock_skew_s:
            return messages.REFUSED, f"sent in the future, at {command.at}; {here}: compare the clocks"
        names = () if plugin is None else tuple(filter(None, (plugin.name, plugin.alias)))
        denial = self._gate.denial(command, key, names, self._options.node)
        if denial is not None:
            return messages.REFUSED, denial
        if plugin is None:
            return messages.UNAVAILABLE, _unknown(self._plugins, command.alias)
        return messages.ACCEPTED, None

    def _refuse_unreadable(
        self, delivery: Delivery, error: MessageError, transport: Transport, consumer: Consumer
    ) -> None:
        with suppress(ValueError):
            run = error.fields.get("id")
            messages.check_id(run)
            self._receipt(transport, str(run), messages.REFUSED, {"reason": error.message})
        consumer.dead_letter(delivery, error.message)
        self._audit({"node": self._options.node, "stage": "unreadable", "reason": error.message, "at": messages.now()})
        log.warning("a command can't be read: %s", error, extra={"event": "dead_letter"})

    def _receipt(self, transport: Transport, run: str, stage: str, detail: dict[str, Any]) -> None:
        detail = {**detail, "reason": detail["reason"][:1000]} if detail.get("reason") else detail
        transport.publish_receipts([(run, encode(Receipt(run, self._options.node, stage, detail)))])

    # --- plugins ----------------------------------------------------------------------------------

    def _start_due(self, transport: Transport, consumer: Consumer) -> None:
        """Begin as many as may run at once; what has to wait for its turn may expire meanwhile."""
        now_s = time.monotonic()
        for job in sorted(self._waiting, key=lambda job: job.due_s):
            if job.due_s > now_s or len(self._running) >= self._options.workers:
                break
            reason = self._too_late(job)
            if reason is not None:  # it waits on until this is told: the connection may be lost meanwhile
                asked = (str(job.run), job.alias, str(job.requested_by), job.key)
                self._receipt(transport, str(job.run), messages.REFUSED, {"reason": reason})
                self._decided(transport, messages.REFUSED, asked, reason)
                self._waiting.remove(job)
                self._settle(job, consumer)
            else:
                self._waiting.remove(job)
                self._running[id(job)] = job
                self._pool.submit(self._run_plugin, job)

    def _too_late(self, job: Job) -> str | None:
        """Why what was accepted is not begun any more, if so."""
        if job.expires_at is not None and parse_timestamp(job.expires_at) < time.time():
            return f"{_expired(job.expires_at)}: {self._options.workers} plugins were running before it"
        return None if job.delivery is None else self._gate.objection(job.delivery.envelope)

    def _run_plugin(self, job: Job) -> None:
        """In a thread of the pool. Whatever goes wrong in here must not leave the job unanswered."""
        try:
            collected = self._collect(job.plugin, self._killing)
        except Exception as error:
            log.exception("%s: the plugin could not be run", job.alias, extra={"event": "bug"})
            collected = Collected(messages.FAILED, error=f"{type(error).__name__}: {error}")
        self._finished.put((job, collected))
        self._wake()

    def _send_finished(self, transport: Transport, consumer: Consumer) -> None:
        while not self._finished.empty() and not self._killing.is_set():  # what is killed runs again after the restart
            job, collected = self._finished.get()
            self._outbox.append((job, self._fitting(self._result(job, collected))))
            del self._running[id(job)]
            if job.run is None:
                self._schedule_next(job.plugin.name)
        while self._outbox:
            job, envelope = self._outbox[0]
            try:
                transport.publish_result(self._sign(envelope), self._options.node)
            except MessageTooLarge as error:
                self._outbox[0] = (job, self._too_large(decode(envelope, Result), error))
                raise
            self._outbox.pop(0)
            if job.run is not None:
                self._settle(job, consumer)

    def _settle(self, job: Job, consumer: Consumer) -> None:
        name = (str(job.run), job.full)
        if job.expires_at is not None:
            self._gate.done(*name, job.expires_at)
        del self._by_command[name]
        self._answered[name] = None
        if len(self._answered) > _REMEMBERED_RUNS:
            self._answered.popitem(last=False)
        if job.delivery is not None:
            consumer.ack([job.delivery])

    def _result(self, job: Job, collected: Collected) -> Result:
        self._seq = self._next_seq()
        log.info(
            "%s: %s in %.2f s%s", job.alias, collected.status, collected.duration_s,
            f": {collected.error}" if collected.error else "",
            extra={"event": "collected", "alias": job.alias, "status": collected.status, "run": job.run},
        )  # fmt: skip
        return Result(
            node=self._options.node,
            alias=job.alias,
            key=job.plugin.key,
            seq=self._seq,
            status=collected.status,
            collected_at=messages.now(),
            duration_s=round(collected.duration_s, 3),
            run=job.run,
            requested_by=job.requested_by,
            exit_code=collected.exit_code,
            digest=collected.digest,
            value=self._to_send(job, collected),
            error=collected.error,
            volatile=list(job.plugin.volatile) or None,
        )

    def _to_send(self, job: Job, collected: Collected) -> Any:
        """The value, or OMITTED where it is what was sent last, its volatile paths too."""
        if collected.status != messages.OK:
            return collected.value
        whole = digest_of(collected.value) if job.plugin.volatile else str(collected.digest)
        now_s = time.monotonic()
        last, sent_s = self._sent.get(job.plugin.key, ("", 0.0))
        if whole == last and not job.full and now_s - sent_s < self._options.full_every_s:
            return OMITTED
        self._sent[job.plugin.key] = whole, now_s
        return collected.value

    def _fitting(self, result: Result) -> Envelope:
        """The result as bytes; without its value when that is more than a message may carry."""
        try:
            return encode(result)
        except MessageError as error:
            return self._too_large(result, error)

    def _too_large(self, result: Result, error: VogelerError) -> Envelope:
        """The result without its value, as one that says so. What is not sent is not believed to be there."""
        self._sent.pop(result.key, None)
        return encode(replace(result, status=messages.TOO_LARGE, digest=None, value=None, error=error.message))

    def _next_seq(self) -> int:
        """The clock in microseconds, and on from the last number while the clock is set back by up to ``clock_skew``.

        Further ahead the clock was wrong, as before it is synchronised at boot: a server refuses such numbers, and
        would go on refusing what counts on from them.
        """
        now = time.time_ns() // 1000
        refused = self._seq > now + self._options.clock_skew_s * 1_000_000
        return now if refused else max(self._seq + 1, now)

    def _schedule_all(self) -> None:
        self._waiting = [job for job in self._waiting if job.run is not None]
        scheduled = {job.plugin.name for job in self._running.values() if job.run is None}
        for plugin in self._plugins.plugins:
            if plugin.name not in scheduled:
                self._schedule(plugin)

    def _schedule(self, plugin: Plugin) -> None:
        """The first run by schedule, after a random time, so that a fleet spreads out."""
        if plugin.interval_s is not None:
            splay_s = min(plugin.interval_s, _DEFAULT_SPLAY_S) if plugin.splay_s is None else plugin.splay_s
            delay_s = random.uniform(0, splay_s)  # noqa: S311 - spreads load
            self._waiting.append(Job(plugin, plugin.name, time.monotonic() + delay_s))

    def _schedule_next(self, name: str) -> None:
        """The next run by schedule, as the plugin's file says by now."""
        plugin = self._plugins.find(name)
        if plugin is not None and plugin.name == name and plugin.interval_s is not None:
            self._waiting.append(Job(plugin, name, time.monotonic() + plugin.interval_s))

    def _reload(self) -> None:
        self._reloading.clear()
        self._sent.clear()
        self._plugins = self._load_plugins()
        self._schedule_all()
        self._next_beat_s = 0.0
        log.info("read the plugins again: %d", len(self._plugins.plugins), extra={"event": "reload"})

    # --- heartbeats -------------------------------------------------------------------------------

    def _beat_if_due(self, transport: Transport) -> None:
        if time.monotonic() >= self._next_beat_s:
            beat = encode(Heartbeat(self._options.node, self._agent()))
            transport.publish_result(self._sign(beat), self._options.node)
            jitter = random.uniform(0.9, 1.1)  # noqa: S311 - spreads load
            self._next_beat_s = time.monotonic() + self._options.heartbeat_s * jitter

    def _agent(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "started_at": self._started_at,
            "groups": list(self._options.groups),
            "plugins": [_offer(plugin) for plugin in self._plugins.plugins],
        }


def _name_of(command: Command) -> _Name:
    return command.id, command.full


def _asked(command: Command, key: PublicKey | None) -> _Asked:
    return command.id, command.alias, command.requested_by, None if key is None else key.id


def _expired(expires_at: str) -> str:
    return f"expired at {expires_at}; this node's clock says {messages.now()}"


def _unknown(plugins: Loaded, alias: str) -> str:
    return f"no plugin answers to {alias!r} here; {plugins.suggestion(alias)}"


def _offer(plugin: Plugin) -> dict[str, Any]:
    reason = unavailable_reason(plugin)
    return {
        "name": plugin.name,
        "alias": plugin.alias,
        "description": plugin.description,
        "format": plugin.result_format,
        "key": plugin.key,
        "interval_s": plugin.interval_s,
        "available": reason is None,
        "reason": reason,
    }


def _fraction(text: str) -> float:
    """A number in [0, 1) that is the same for the same text, so that a redelivered command keeps its splay."""
    return zlib.crc32(text.encode()) / 2**32
