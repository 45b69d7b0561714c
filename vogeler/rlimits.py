"""What a plugin may use up, and whether it has. The kernel counts: setrlimit(2), by way of prlimit(1) of util-linux.

prlimit sets the limits in the process that then becomes the command: in Python nothing can run there safely while other
threads run here, and from outside it is too late for what the command has started by then.
"""

from __future__ import annotations

import contextlib
import math
import re
import shutil
import signal

from vogeler.errors import PluginError
from vogeler.plugins import PATH, Plugin
from vogeler.units import format_duration

# How programs put it when the kernel gives them no more: errno(3), and what languages make of it.
_FULL = (
    ("max_files", re.compile(r"too many open files|EMFILE", re.I)),
    ("max_processes", re.compile(r"resource temporarily unavailable|can(?:'t|not) fork|start new thread|EAGAIN", re.I)),
    ("max_memory", re.compile(r"cannot allocate|out of memory|MemoryError|bad_alloc|exhausted|ENOMEM", re.I)),
)  # fmt: skip
_DIES_WITHOUT_MEMORY = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS}


def prefix(plugin: Plugin) -> list[str]:
    """What the command is run by; empty for a plugin without limits. Raises PluginError where there is no prlimit."""
    flags = []
    if plugin.max_memory_bytes is not None:
        flags.append(f"--as={plugin.max_memory_bytes}")
    if plugin.max_cpu_s is not None:
        seconds = math.ceil(plugin.max_cpu_s)
        flags.append(f"--cpu={seconds}:{seconds + 1}")  # SIGXCPU, which says why; a second later SIGKILL
    if plugin.max_processes is not None:
        flags.append(f"--nproc={plugin.max_processes}")
    if plugin.max_files is not None:
        flags.append(f"--nofile={plugin.max_files}")
    if not flags:
        return []
    program = shutil.which("prlimit", path=PATH)
    if program is None:
        raise PluginError("its limits need prlimit, which is not on this node: install util-linux")
    return [program, *flags, "--"]


def expendable(pid: int) -> None:
    """When the memory of the machine is used up, the kernel ends this process, and what it starts, first: proc(5)."""
    place = f"/proc/{pid}/oom_score_adj"
    with contextlib.suppress(OSError), open(place, "wb", buffering=0) as file:  # noqa: PTH123 - it is for each run
        file.write(b"1000")  # if it is not gone, and has no other rights than we


def no_core_dumps() -> None:
    """From now on neither this process nor what it starts leaves its memory, with all secrets, on the disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def hit(plugin: Plugin, return_code: int, stderr: bytes) -> str | None:
    """The limit that a failed command has run into, as far as that can be told; None: none."""
    number = -return_code
    if plugin.max_cpu_s is not None and number == signal.SIGXCPU:
        return f"it used more than its max_cpu of {format_duration(math.ceil(plugin.max_cpu_s))}"
    said = stderr.decode("utf-8", "replace")
    for key, pattern in _FULL:
        most = _most(plugin, key)
        if most is not None and (pattern.search(said) or (key == "max_memory" and number in _DIES_WITHOUT_MEMORY)):
            return f"it seems to need more than its {key} of {most}"
    return None


def _most(plugin: Plugin, key: str) -> str | None:
    size_bytes = plugin.max_memory_bytes
    if key == "max_memory":
        return None if size_bytes is None else f"{size_bytes} bytes"
    count = plugin.max_files if key == "max_files" else plugin.max_processes
    return None if count is None else str(count)
