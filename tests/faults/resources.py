"""What a process holds, as /proc tells it: open files, threads, memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# More than at rest before: threads of plugins are made as they are needed, four at most; a batch may be in memory.
_FILES, _THREADS, _BYTES = 3, 4, 24_000_000


@dataclass(frozen=True)
class Held:
    """What one process holds now."""

    files: int
    threads: int
    bytes: int


def held_by(pid: int) -> Held:
    """Raises FileNotFoundError for a process that is gone."""
    proc = Path(f"/proc/{pid}")
    resident = int((proc / "statm").read_text().split()[1])
    threads, files = (len(list((proc / name).iterdir())) for name in ("task", "fd"))
    return Held(files, threads, resident * os.sysconf("SC_PAGE_SIZE"))


def leaks(before: Mapping[str, Held], after: Mapping[str, Held]) -> list[str]:
    """What a process holds beyond what any of its kind held before. By name: ``server 0``, or the node's."""
    found = []
    for name, now in after.items():
        was = _most([held for other, held in before.items() if other.startswith("server") == name.startswith("server")])
        if now.files > was.files + _FILES or now.threads > was.threads + _THREADS or now.bytes > was.bytes + _BYTES:
            found.append(f"{name} holds {now}; its like held {was} at most before the faults")
    return found


def _most(alike: Sequence[Held]) -> Held:
    return Held(max(h.files for h in alike), max(h.threads for h in alike), max(h.bytes for h in alike))
