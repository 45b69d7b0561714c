"""What a command has started, as /proc tells it. For Linux.

A process leaves its group with ``setpgid``, as a shell with job control does, and its session with ``setsid``. Whose
child it is it can't change as long as its parent is there.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """``started`` is in ticks since the boot: by it a later process of the same number is told from this one."""

    pid: int
    parent: int
    session: int
    started: int


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
