"""What each part of a fleet costs: processor time and memory of its processes with all that they have started."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import psutil

_MIB = 2**20


@dataclass(frozen=True)
class Snapshot:
    """By part: seconds of processor time since its processes began, and MiB that they hold now. ``at_s``: monotonic."""

    at_s: float
    cpu_s: Mapping[str, float]
    rss_mib: Mapping[str, float]

    def since(self, before: Snapshot) -> dict[str, float]:
        """Seconds of processor time by part between two of them."""
        return {part: self.cpu_s[part] - before.cpu_s.get(part, 0.0) for part in self.cpu_s}


class Parts:
    """Processes by part. Whatever a process starts counts for its part, also after it has ended."""

    def __init__(self) -> None:
        self._pids: dict[int, str] = {}

    def add(self, part: str, *pids: int | None) -> None:
        """One that is not on this machine (None) is left out."""
        self._pids.update((pid, part) for pid in pids if pid is not None)

    def now(self) -> Snapshot:
        """One pass over the processes of the machine."""
        at_s = time.monotonic()
        processes = {p.pid: p.info for p in psutil.process_iter(["ppid", "cpu_times", "memory_info"])}
        children: dict[int, list[int]] = defaultdict(list)
        for pid, about in processes.items():
            children[about["ppid"]].append(pid)
        cpu_s: dict[str, float] = dict.fromkeys(self._pids.values(), 0.0)
        rss_mib: dict[str, float] = dict.fromkeys(self._pids.values(), 0.0)
        for pid, part in self._pids.items():
            for about in (processes[each] for each in _tree(pid, children) if each in processes):
                if about["cpu_times"] is not None:
                    cpu_s[part] += sum(about["cpu_times"][:4])
                    rss_mib[part] += about["memory_info"].rss / _MIB
        return Snapshot(at_s, cpu_s, rss_mib)


def _tree(pid: int, children: Mapping[int, list[int]]) -> Iterable[int]:
    yield pid
    for child in children.get(pid, ()):
        yield from _tree(child, children)


@dataclass
class Sampler:
    """Snapshots every now and then, in a thread, with ``more`` numbers by name; ``end`` returns when it has ended."""

    parts: Parts
    more: Callable[[], Mapping[str, int]] = dict
    every_s: float = 1.0
    snapshots: list[Snapshot] = field(default_factory=list)
    numbers: list[tuple[float, Mapping[str, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._take, daemon=True)

    def begin(self) -> None:
        """From now on."""
        self._thread.start()

    def end(self) -> None:
        """No more."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def next(self) -> Mapping[str, int]:
        """The numbers that are taken after this call. Raises RuntimeError when the thread has died."""
        wanted = len(self.numbers) + 2
        while len(self.numbers) < wanted:
            if not self._thread.is_alive():
                raise RuntimeError("the sampler has died")
            time.sleep(self.every_s / 10)
        return self.numbers[-1][1]

    def most(self, name: str, since_s: float) -> int:
        """The largest of a number since then, on the monotonic clock."""
        return max((numbers[name] for at_s, numbers in self.numbers if at_s >= since_s), default=0)

    def _take(self) -> None:
        while not self._ending.wait(self.every_s):
            self.snapshots.append(self.parts.now())
            self.numbers.append((time.monotonic(), self.more()))

    def largest_mib(self) -> dict[str, float]:
        """By part, the most memory that it held."""
        largest: dict[str, float] = {}
        for snapshot in self.snapshots:
            for part, mib in snapshot.rss_mib.items():
                largest[part] = max(mib, largest.get(part, 0.0))
        return largest
