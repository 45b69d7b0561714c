"""What a client has to run: for commands and by schedule; what waits, what runs, which commands were answered."""

from __future__ import annotations

import math
import random
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vogeler.messages import Command
from vogeler.messaging import Delivery
from vogeler.plugins import Loaded, Plugin

if TYPE_CHECKING:
    from vogeler.signing import PublicKey

_REMEMBERED_RUNS = 250  # a broker delivers again what was not acked, and that is few: COMMANDS_PREFETCH
_DEFAULT_SPLAY_S = 300.0


@dataclass
class Request:
    """A command as it came: with the key that it is signed with, where that was looked at, and in which delivery."""

    command: Command
    key: PublicKey | None
    delivery: Delivery  # the latest: after a reconnection the broker delivers it again


@dataclass(eq=False)
class Job:
    """One plugin to run once: for a request, or for the plugin's own schedule."""

    plugin: Plugin
    due_s: float  # on the monotonic clock
    request: Request | None = None

    @property
    def alias(self) -> str:
        """The word that was asked for; by schedule, the plugin's name."""
        return self.plugin.name if self.request is None else self.request.command.alias


class Jobs:
    """The jobs of one client, of which ``at_once`` may run at the same time. For one thread."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._waiting: list[Job] = []
        self._running: set[Job] = set()
        # By id and ``full``: a run asks a node twice where it wants the value in full after all.
        self._requested: dict[tuple[str, bool], Job] = {}
        self._answered: OrderedDict[tuple[str, bool], None] = OrderedDict()

    @property
    def running(self) -> list[Job]:
        """What has begun and has not ended."""
        return list(self._running)

    def add(self, job: Job) -> None:
        """One more that waits until it is due."""
        self._waiting.append(job)
        if job.request is not None:
            self._requested[_name_of(job.request.command)] = job

    def requested_by(self, command: Command) -> Request | None:
        """The request of the job that the command has here already, if it has one."""
        job = self._requested.get(_name_of(command))
        return None if job is None else job.request

    def was_answered(self, command: Command) -> bool:
        """Whether the command's job was here, and is done with."""
        return _name_of(command) in self._answered

    def due(self) -> Iterator[Job]:
        """What may begin now, the first one first. To be taken one by one: each is begun or dropped."""
        now_s = time.monotonic()
        for job in sorted(self._waiting, key=lambda job: job.due_s):
            if job.due_s > now_s or len(self._running) >= self._at_once:
                break
            yield job

    def next_due_s(self) -> float:
        """When, on the monotonic clock, something may begin; infinity: not before something ends, or is added."""
        if len(self._running) >= self._at_once:
            return math.inf
        return min((job.due_s for job in self._waiting), default=math.inf)

    def begin(self, job: Job) -> None:
        """It is run from now on."""
        self._waiting.remove(job)
        self._running.add(job)

    def drop(self, job: Job) -> None:
        """It is not run."""
        self._waiting.remove(job)

    def end(self, job: Job) -> None:
        """It was run."""
        self._running.remove(job)

    def answer(self, command: Command) -> None:
        """The command's job is done with."""
        name = _name_of(command)
        del self._requested[name]
        self._answered[name] = None
        if len(self._answered) > _REMEMBERED_RUNS:
            self._answered.popitem(last=False)

    # --- schedules --------------------------------------------------------------------------------

    def schedule(self, plugins: Loaded) -> None:
        """The first runs by schedule, after random times, so that a fleet spreads out; in place of those that wait."""
        self._waiting = [job for job in self._waiting if job.request is not None]
        scheduled = {job.plugin.name for job in self.running if job.request is None}
        for plugin in plugins.plugins:
            if plugin.interval_s is not None and plugin.name not in scheduled:
                splay_s = min(plugin.interval_s, _DEFAULT_SPLAY_S) if plugin.splay_s is None else plugin.splay_s
                delay_s = random.uniform(0, splay_s)  # noqa: S311 - spreads load
                self.add(Job(plugin, time.monotonic() + delay_s))

    def schedule_next(self, name: str, plugins: Loaded) -> None:
        """The next run by schedule, as the plugin's file says by now."""
        plugin = plugins.find(name)
        if plugin is not None and plugin.name == name and plugin.interval_s is not None:
            self.add(Job(plugin, time.monotonic() + plugin.interval_s))


def _name_of(command: Command) -> tuple[str, bool]:
    return command.id, command.full
