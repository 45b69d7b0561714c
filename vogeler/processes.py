"""What a command has started, as /proc tells it. For Linux.

A process leaves its group with ``setpgid``, as a shell with job control does, and its session with ``setsid``. Whose
child it is it can't change as long as its parent is there; when that is gone, it becomes a child of whoever adopts
orphans: init, or a process that has asked for it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

MARK = "VOGELER_PLUGIN"  # the environment variable by which what a command has started is known again
_PR_SET_CHILD_SUBREAPER = 36
_DEAD_WITHIN_S = 1.0  # after SIGKILL, unless the kernel holds it


@dataclass(frozen=True)
class Process:
    """``started`` is in ticks since the boot: by it a later process of the same number is told from this one."""

    pid: int
    parent: int
    session: int
    started: int


class _Started(Protocol):
    pid: int


Started = TypeVar("Started", bound=_Started)


class Orphans:
    """What commands have cut off from themselves, a double fork with setsid for example: it becomes a child of ours.

    prctl(2), PR_SET_CHILD_SUBREAPER: for the whole process, and only once it is asked for. Any thread may call.
    """

    def __init__(self, adopting: bool = True) -> None:
        self._adopting = adopting
        self._running: set[int] = set()
        self._lock = threading.Lock()
        if adopting:
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def start(self, start: Callable[[], Started]) -> Started:
        """A command, by what is handed in: no orphan, so ``reap`` leaves it alone."""
        self.reap()
        with self._lock:
            process = start()
            self._running.add(process.pid)
            return process

    def reap(self) -> None:
        """Let go of those that are dead."""
        if not _any_has_ended():
            return
        with self._lock:
            for pid in self._children() if self._adopting else ():
                _has_ended(pid)

    def settle(self, ended: int, killed: Iterable[Process]) -> None:
        """The command ``ended`` was waited for: let go of what was killed with it, as soon as it is dead."""
        pids = [-ended, *(process.pid for process in killed)]  # waitpid(2): below 0 it is a process group
        until = time.monotonic() + _DEAD_WITHIN_S
        with self._lock:
            self._running.discard(ended)
        while self._adopting and time.monotonic() < until:
            with self._lock:
                found = [_has_ended(pid) for pid in pids if pid not in self._running]
            if found.count(None) == len(found):
                return
            if True not in found:  # who has ended may have left us children of its own
                time.sleep(0.002)

    def of(self, command: int, mark: str) -> list[Process]:
        """Those of a command that was not waited for yet, and all below them: by the MARK in their environment.

        One without any mark is its, if no other command is running. None is older than the command.
        """
        leader = _read(command)
        if leader is None or not self._adopting:
            return []
        marks = {mark, None} if self._running == {command} else {mark}
        adopted = [process for process in map(_read, self._children()) if process is not None]
        ours = [p for p in adopted if p.started >= leader.started and _mark_of(p.pid) in marks]
        return [*ours, *started_by(*(process.pid for process in ours))] if ours else []

    def _children(self) -> list[int]:
        """Orphans become children of the first thread, and it starts no commands in a client."""
        me = os.getpid()
        try:
            children = Path(f"/proc/{me}/task/{me}/children").read_text(encoding="ascii")
        except OSError:
            return []
        return [pid for pid in map(int, children.split()) if pid not in self._running]


def _mark_of(pid: int) -> str | None:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    marks = (line.partition(b"=") for line in environment.split(b"\0"))
    return next((value.decode("utf-8", "replace") for name, _, value in marks if name == MARK.encode()), None)


def _any_has_ended() -> bool:
    """Whether any child of ours has, without letting go of it: what reading /proc for it costs, each run would."""
    with suppress(ChildProcessError):
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def _has_ended(pid: int) -> bool | None:
    """None for one that is no child of ours; one that has ended is none any more."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return None


def started_by(*pids: int) -> list[Process]:
    """Whatever is below these processes now, and what is left of the sessions that they lead; not themselves."""
    everybody = list(_everybody())
    found: dict[int, Process] = {}
    above = set(pids)
    while above:
        new = {p.pid: p for p in everybody if p.pid not in found and (p.parent in above or p.session in above)}
        found.update(new)
        above = set(new)
    return [process for pid, process in found.items() if pid not in pids]


def kill(processes: Iterable[Process]) -> None:
    """SIGKILL for those that are still there, and may be killed by us."""
    for process in processes:
        now = _read(process.pid)
        if now is not None and now.started == process.started:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)


def _everybody() -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        process = _read(int(entry.name)) if entry.name.isdecimal() else None
        if process is not None:
            yield process


def _read(pid: int) -> Process | None:
    """None for one that is gone. Fields are counted from behind the name, which may have anything in it: proc(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()
    return Process(pid, parent=int(fields[1]), session=int(fields[3]), started=int(fields[19]))
