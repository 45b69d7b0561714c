"""The client: takes a node's commands, runs the plugin for each, sends back what came out.

One thread talks to the broker; plugins run in a few others, so that a slow one never makes the
broker think that the node is gone. The life of a command::

    delivered ─▶ decoded, checked ─▶ accepted ─▶ (splay) ─▶ plugin runs ─▶ result confirmed ─▶ acked
                      │                                                        by the broker
                      └─▶ refused or unavailable, with a receipt; acked

Until it is acked it belongs to the broker, and comes again should this process die at any point. What
has run stays in memory until the broker has confirmed it, however often the connection is lost.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from vogeler import __version__, messages, targets, topology
from vogeler.backoff import Backoff, keep_trying
from vogeler.collect import Collected
from vogeler.errors import MessageError, MessageTooLarge, NodeNameTaken, UsageError, VogelerError
from vogeler.gate import Gate, expired
from vogeler.jobs import Job, Jobs, Request
from vogeler.messages import Command, Envelope, decode
from vogeler.messaging import Consumer, Delivery, Transport
from vogeler.plugins import Loaded, Plugin, unavailable_reason
from vogeler.reporter import Reporter
from vogeler.results import Results

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 30.0


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


@dataclass(frozen=True)
class _Session:
    """A connection to the broker, as the client uses it."""

    consumer: Consumer
    reporter: Reporter


class Client:
    """One node's agent. ``run`` blocks; ``stop`` and ``reload`` may be called from any thread.

    ``collect`` runs a plugin, in a thread of the pool, until its event is set. ``gate`` decides which commands are
    let in; ``sign`` is done to all that is for the server; ``audit`` is told of every command.
    """

    def __init__(
        self,
        options: Options,
        load_plugins: Callable[[], Loaded],
        connect: Callable[[], Transport],
        collect: Callable[[Plugin, threading.Event], Collected],
        gate: Gate | None = None,
        sign: Callable[[Envelope], Envelope] = lambda envelope: envelope,
        audit: Callable[[dict[str, Any]], None] | None = None,
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
        self._jobs = Jobs(options.workers)
        self._pool = ThreadPoolExecutor(options.workers, thread_name_prefix="plugin")
        self._finished: queue.SimpleQueue[tuple[Job, Collected]] = queue.SimpleQueue()
        self._results = Results(options.node, options.full_every_s, options.clock_skew_s)
        self._outbox: list[tuple[Job, Envelope]] = []
        self._next_beat_s = 0.0

    # --- start and stop ---------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until ``stop``. Raises NodeNameTaken when another client has this node's name."""
        self._jobs.schedule(self._plugins)
        try:
            keep_trying(self._serve, self._stopping, self._is_final)
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

    # --- a connection -----------------------------------------------------------------------------

    def _serve(self, backoff: Backoff) -> None:
        with closing(self._connect()) as transport:
            consumer = transport.consume_commands(self._options.node, self._options.groups)
            session = _Session(consumer, Reporter(self._options.node, transport, self._sign, self._audit))
            self._consumer = consumer
            self._was_connected = True
            self._next_beat_s = 0.0
            self._results.forget_sent()  # who knows what the broker has lost
            log.info("node %s is ready", self._options.node, extra={"event": "ready"})
            try:
                while not self._stopping.is_set():
                    self._turn(session)
                    backoff.reset()
                self._drain(session)
            finally:
                self._consumer = None

    def _turn(self, session: _Session) -> None:
        if self._reloading.is_set():
            self._reload()
        self._start_due(session)
        self._send_finished(session)
        self._beat_if_due(session)
        delivery = session.consumer.receive(self._wait_s())
        if delivery is not None:
            self._take(delivery, session)

    def _reload(self) -> None:
        self._reloading.clear()
        self._results.forget_sent()
        self._plugins = self._load_plugins()
        self._jobs.schedule(self._plugins)
        self._next_beat_s = 0.0
        log.info("read the plugins again: %d", len(self._plugins.plugins), extra={"event": "reload"})

    def _wait_s(self) -> float:
        if not self._finished.empty() or self._stopping.is_set():
            return 0.0
        next_s = min(self._next_beat_s, self._jobs.next_due_s())
        return min(_LONGEST_WAIT_S, max(0.0, next_s - time.monotonic()))

    def _drain(self, session: _Session) -> None:
        """Finish what runs, within the limit. What has not begun goes back to the broker."""
        deadline_s = time.monotonic() + self._options.stop_timeout_s
        while (self._jobs.running or self._outbox) and time.monotonic() < deadline_s:
            self._send_finished(session)
            if self._jobs.running:
                session.consumer.receive(min(1.0, deadline_s - time.monotonic()))
        if self._jobs.running:
            names = ", ".join(sorted(job.alias for job in self._jobs.running))
            log.warning("stopped while %s ran: will run again", names, extra={"event": "cut_short"})

    # --- commands ---------------------------------------------------------------------------------

    def _take(self, delivery: Delivery, session: _Session) -> None:
        try:
            command = decode(delivery.envelope, Command)
            if not topology.may_command(delivery.user):
                raise MessageError(f"a command that was sent by {topology.sender(delivery.user)}, which may send none")
        except MessageError as error:
            self._refuse_unreadable(delivery, error, session)
            return
        if not targets.matches(command.targets, self._options.node, self._options.groups):
            session.consumer.ack([delivery])
            return
        try:
            key = self._gate.check(command, delivery.envelope)
        except MessageError as error:
            self._turn_away(Request(command, None, delivery), messages.REFUSED, error.message, session)
            return
        request = Request(command, key, delivery)
        here = self._jobs.requested_by(command)
        if here is not None:
            here.delivery = delivery
        elif self._jobs.was_answered(command) or self._gate.is_done(command):
            log.info("%s came again", command.id, extra={"event": "repeated", "run": command.id})
            session.reporter.repeated(request)
            session.consumer.ack([delivery])
        else:
            self._decide(request, session)

    def _refuse_unreadable(self, delivery: Delivery, error: MessageError, session: _Session) -> None:
        with suppress(ValueError):
            run = error.fields.get("id")
            messages.check_id(run)
            session.reporter.unreadable(str(run), error.message)
        session.consumer.dead_letter(delivery, error.message)
        session.reporter.dead_lettered(error.message)
        log.warning("a command can't be read: %s", error, extra={"event": "dead_letter"})

    def _decide(self, request: Request, session: _Session) -> None:
        command = request.command
        plugin = self._plugins.find(command.alias)
        names = () if plugin is None else plugin.answers_to
        node, clock_skew_s = self._options.node, self._options.clock_skew_s
        refusal = self._gate.refusal(command, request.key, names, node, clock_skew_s)
        if refusal is not None:
            self._turn_away(request, messages.REFUSED, refusal, session)
        elif plugin is None:
            unknown = f"no plugin answers to {command.alias!r} here; {self._plugins.suggestion(command.alias)}"
            self._turn_away(request, messages.UNAVAILABLE, unknown, session)
        else:
            self._accept(request, plugin, session)

    def _turn_away(self, request: Request, stage: str, reason: str, session: _Session) -> None:
        session.reporter.turned_away(request, stage, reason)
        log.info(
            "%s %s from %s: %s", stage, request.command.alias, request.command.requested_by, reason,
            extra={"event": stage, "user": request.delivery.user},
        )  # fmt: skip
        session.consumer.ack([request.delivery])

    def _accept(self, request: Request, plugin: Plugin, session: _Session) -> None:
        command = request.command
        delay_s = command.splay_s * _fraction(self._options.node + command.id)
        self._jobs.add(Job(plugin, time.monotonic() + delay_s, request))
        detail = {"key": plugin.key, "timeout_s": plugin.timeout_s, "splay_s": round(delay_s, 3)}
        session.reporter.accepted(request, detail)
        log.info(
            "accepted %s from %s", command.alias, command.requested_by,
            extra={"event": messages.ACCEPTED, "run": command.id, "user": request.delivery.user},
        )  # fmt: skip

    # --- runs -------------------------------------------------------------------------------------

    def _start_due(self, session: _Session) -> None:
        """Begin as many as may run at once; what has to wait for its turn may expire meanwhile."""
        for job in self._jobs.due():
            if job.request is not None:
                reason = self._too_late(job.request)
                if reason is not None:  # it waits on until this is told: the connection may be lost meanwhile
                    session.reporter.turned_away(job.request, messages.REFUSED, reason)
                    self._jobs.drop(job)
                    self._settle(job.request, session)
                    continue
            self._jobs.begin(job)
            self._pool.submit(self._run_plugin, job)

    def _too_late(self, request: Request) -> str | None:
        """Why what was accepted is not begun any more, if so."""
        late = expired(request.command)
        if late is not None:
            return f"{late}: {self._options.workers} plugins were running before it"
        return self._gate.objection(request.delivery.envelope)

    def _run_plugin(self, job: Job) -> None:
        """In a thread of the pool. Whatever goes wrong in here must not leave the job unanswered."""
        try:
            collected = self._collect(job.plugin, self._killing)
        except Exception as error:
            log.exception("%s: the plugin could not be run", job.alias, extra={"event": "bug"})
            collected = Collected(messages.FAILED, error=f"{type(error).__name__}: {error}")
        self._finished.put((job, collected))
        self._wake()

    def _send_finished(self, session: _Session) -> None:
        while not self._finished.empty() and not self._killing.is_set():  # what is killed runs again after the restart
            job, collected = self._finished.get()
            _log_collected(job, collected)
            self._outbox.append((job, self._results.of(job, collected)))
            self._jobs.end(job)
            if job.request is None:
                self._jobs.schedule_next(job.plugin.name, self._plugins)
        while self._outbox:
            job, envelope = self._outbox[0]
            try:
                session.reporter.publish(envelope)
            except MessageTooLarge as error:
                self._outbox[0] = (job, self._results.without_value(envelope, error))
                raise
            self._outbox.pop(0)
            if job.request is not None:
                self._settle(job.request, session)

    def _settle(self, request: Request, session: _Session) -> None:
        self._gate.done(request.command)
        self._jobs.answer(request.command)
        session.consumer.ack([request.delivery])

    # --- heartbeats -------------------------------------------------------------------------------

    def _beat_if_due(self, session: _Session) -> None:
        if time.monotonic() >= self._next_beat_s:
            session.reporter.heartbeat(self._agent())
            jitter = random.uniform(0.9, 1.1)  # noqa: S311 - spreads load
            self._next_beat_s = time.monotonic() + self._options.heartbeat_s * jitter

    def _agent(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "started_at": self._started_at,
            "groups": list(self._options.groups),
            "plugins": [_offer(plugin) for plugin in self._plugins.plugins],
        }


def _log_collected(job: Job, collected: Collected) -> None:
    said = f": {collected.error}" if collected.error else ""
    run = None if job.request is None else job.request.command.id
    log.info(
        "%s: %s in %.2f s%s", job.alias, collected.status, collected.duration_s, said,
        extra={"event": "collected", "alias": job.alias, "status": collected.status, "run": run},
    )  # fmt: skip


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
