"""Run a plugin's command within its limits, and take what it prints. No other part of a daemon starts processes.

One thread per call and none of its own; several threads may call at once. For Linux.

A command gets a session and process group of its own, so that its children can be ended with it. One that exceeds a
limit is ended with all it has started. Of one that exits by itself, what is in another session or process group by then
is a daemon: it lives on, and isn't waited for.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import pwd
import select
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from vogeler import processes, rlimits
from vogeler.errors import PluginError
from vogeler.messages import FAILED, OK, TIMEOUT, TOO_LARGE
from vogeler.plugins import Plugin
from vogeler.processes import Orphans
from vogeler.units import format_duration

_READ_BYTES = 65536
_STDERR_BYTES = 4096
_ERROR_CHARS = 500
_TICK_S = 0.1  # how soon a set stop event, or an exit behind an open pipe, is noticed
_TERM_GRACE_S = 1.0
_DRAIN_S = 0.3
_KILL_WAIT_S = 5.0  # a process in the kernel's hands (a dead NFS server) can't be waited for any longer


@dataclass(frozen=True)
class Execution:
    """How a command ended: OK, FAILED, TIMEOUT or TOO_LARGE.

    ``exit_code`` is None for a command that did not start or did not exit by itself. ``error`` is None
    when OK, else a sentence and the last of stderr, at most about 500 characters.
    """

    status: str
    stdout: bytes
    exit_code: int | None
    duration_s: float
    error: str | None
    summary: str | None = None  # the error without what the command said


def execute(plugin: Plugin, *, stop: Event | None = None, orphans: Orphans | None = None) -> Execution:
    """Run the command until it exits, exceeds a limit of the plugin, or ``stop`` is set (FAILED).

    When this returns, the command and what was left of its process group have been killed; unless it had exited
    by itself, whatever else it had started, too: with ``orphans`` also what has cut itself off from it.
    """
    orphans = orphans or Orphans(adopting=False)
    started = time.monotonic()
    if stop is not None and stop.is_set():
        return Execution(FAILED, b"", None, 0.0, "stopped", "stopped")
    try:
        process = orphans.start(lambda: _start(plugin))
    except PluginError as error:
        return Execution(FAILED, b"", None, time.monotonic() - started, error.message, error.message)
    output = _Output(process, plugin.max_output_bytes)
    end = None
    try:
        end = _attend(process, output, plugin, started + plugin.timeout_s, stop)
    finally:
        gone = _kill(process, output, plugin, orphans, gently=end is not None and end.status != TOO_LARGE)
        output.close()
    end = end or _outcome(process.returncode, rlimits.hit(plugin, process.returncode or 0, output.stderr))
    stdout = output.stdout.getvalue() if end.status == OK else b""
    summary = end.error if gone else f"{end.error or 'ended'}, and can't be killed"
    said = _report(summary, output.stderr)
    return Execution(end.status, stdout, end.exit_code, time.monotonic() - started, said, summary)


# --- starting -------------------------------------------------------------------------------------


def _start(plugin: Plugin) -> subprocess.Popen[bytes]:
    program = _program(plugin)
    identity, home = _identity(plugin.user)
    try:
        process = subprocess.Popen(  # noqa: S603 - the command is the plugin file's, and no shell reads it
            [*rlimits.prefix(plugin), program, *plugin.command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=plugin.directory,
            env=_environment(plugin, home),
            start_new_session=True,
            umask=0o022,
            **identity,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise PluginError(f"can't start {program}: {_reason(program, error)}") from None
    rlimits.expendable(process.pid)
    return process


def _program(plugin: Plugin) -> str:
    """The path of the command: beside the plugin file if it is there, else on the PATH."""
    word = plugin.command[0]
    beside = Path(plugin.directory, word)
    if beside.is_file():
        return str(beside)
    found = None if os.sep in word else shutil.which(word, path=plugin.search_path)
    if found is None:
        places = f"neither in {plugin.directory} nor on the PATH {plugin.search_path}"
        raise PluginError(f"command not found: {word}" + ("" if word.startswith(os.sep) else f", {places}"))
    return found


def _identity(user: str | None) -> tuple[dict[str, Any], str]:
    """What Popen needs to become ``user``, and the home directory. None, or who runs now: stay."""
    if user is None:
        return {}, _own_home()
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise PluginError(f"no user {user!r} on this node, and the plugin is to run as that user") from None
    if entry.pw_uid == os.geteuid():
        return {}, _own_home()
    if os.geteuid() != 0:
        raise PluginError(f"only root can run a plugin as {user!r}: run the client as root, or as {user!r}")
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}, entry.pw_dir


def _own_home() -> str:
    if "HOME" in os.environ:
        return os.environ["HOME"]
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:  # a container may run under a number that has no name
        return "/"


def _environment(plugin: Plugin, home: str) -> dict[str, str]:
    """The same on every node and however the client was started, so that the output is too."""
    environment = {"PATH": plugin.search_path, "LC_ALL": "C.UTF-8", "HOME": home, processes.MARK: plugin.name}
    if "TZ" in os.environ:
        environment["TZ"] = os.environ["TZ"]
    return {**environment, **plugin.env}


def _reason(program: str, error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    if error.errno == errno.ENOENT and error.filename == program:  # it was found, so its interpreter wasn't
        return f"the interpreter that its first line names is not there: {_first_line(program)!r}"
    if error.errno == errno.ENOEXEC:
        return "not a program: a script begins with a line such as #!/bin/sh"
    if error.errno == errno.EACCES:
        return f"{error.strerror}: chmod +x it, and let the user that runs it reach its directory"
    return f"{error.strerror}: {error.filename}"


def _first_line(program: str) -> str:
    try:
        with Path(program).open("rb") as file:
            return file.readline(80).decode("ascii", "replace").rstrip("\n")
    except OSError:
        return "?"


# --- reading --------------------------------------------------------------------------------------


class _Output:
    """What a process printed so far: stdout up to a limit, and the last of stderr."""

    def __init__(self, process: subprocess.Popen[bytes], limit_bytes: int) -> None:
        self.stdout = io.BytesIO()
        self.stderr = b""
        self.too_large = False
        self._room = limit_bytes
        self._pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]
        self._keep = dict(zip((pipe.fileno() for pipe in self._pipes), (self._keep_stdout, self._keep_stderr)))
        self._poll = select.poll()  # which needs no descriptor of its own
        for descriptor in self._keep:
            self._poll.register(descriptor, select.POLLIN)

    @property
    def open(self) -> bool:
        """Whether some process can still print."""
        return bool(self._keep)

    def read(self, wait_s: float) -> None:
        """Take what is there, after waiting for it up to ``wait_s``; just wait if nothing is open."""
        for descriptor, _ in self._poll.poll(math.ceil(wait_s * 1000)):
            chunk = os.read(descriptor, _READ_BYTES)
            if chunk:
                self._keep[descriptor](chunk)
            else:
                self._poll.unregister(descriptor)
                del self._keep[descriptor]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()

    def _keep_stdout(self, chunk: bytes) -> None:
        self.too_large = self.too_large or len(chunk) > self._room
        if not self.too_large:
            self._room -= len(chunk)
            self.stdout.write(chunk)

    def _keep_stderr(self, chunk: bytes) -> None:
        self.stderr = (self.stderr + chunk)[-_STDERR_BYTES:]


# --- ending ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _End:
    status: str
    exit_code: int | None = None
    error: str | None = None


def _attend(
    process: subprocess.Popen[bytes], output: _Output, plugin: Plugin, deadline: float, stop: Event | None
) -> _End | None:
    """Read until the process has exited (None), or has overstepped and is to be ended."""
    pause_s = 0.001
    while not _has_exited(process):
        end = _overstepped(output, plugin, deadline, stop)
        if end is not None:
            return end
        output.read(_TICK_S if output.open else pause_s)
        if not output.open:  # it mostly exits at once, having closed its pipes
            pause_s = min(pause_s * 2, _TICK_S)
    _drain(output)
    return _too_large(plugin) if output.too_large else None


def _overstepped(output: _Output, plugin: Plugin, deadline: float, stop: Event | None) -> _End | None:
    if output.too_large:
        return _too_large(plugin)
    if stop is not None and stop.is_set():
        return _End(FAILED, error="stopped")
    if time.monotonic() >= deadline:
        return _End(TIMEOUT, error=f"not done after its timeout of {format_duration(plugin.timeout_s)}")
    return None


def _too_large(plugin: Plugin) -> _End:
    return _End(TOO_LARGE, error=f"printed more than its max_output of {plugin.max_output_bytes} bytes")


def _drain(output: _Output) -> None:
    """Take what an exited command left in its pipes, which a child in the background may hold open for ever."""
    until = time.monotonic() + _DRAIN_S
    while output.open and not output.too_large and time.monotonic() < until:
        output.read(_TICK_S)


def _has_exited(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has, without reaping it: until then no other process group can get its number."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill(process: subprocess.Popen[bytes], output: _Output, plugin: Plugin, orphans: Orphans, gently: bool) -> bool:
    """End what is left of the process group, and reap the process. False if the kernel won't let it go.

    If it has not exited, so do all that it has started: they are looked for before it, or one between, is gone.
    """
    exited = _has_exited(process)
    strays = [] if exited else [*processes.started_by(process.pid), *orphans.of(process.pid, plugin.name)]
    if gently:
        _signal(process, signal.SIGTERM)
        until = time.monotonic() + _TERM_GRACE_S
        while not _has_exited(process) and time.monotonic() < until:
            output.read(0.01)
    if strays:
        strays += processes.started_by(process.pid, *(stray.pid for stray in strays))
    _signal(process, signal.SIGKILL)
    processes.kill(strays)
    if not exited:  # what was started, or lost its parent, meanwhile
        late = orphans.of(process.pid, plugin.name)
        processes.kill(late)
        strays += late
    try:
        process.wait(_KILL_WAIT_S)
    except subprocess.TimeoutExpired:
        return False
    finally:
        orphans.settle(process.pid, strays)
    return True


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # PermissionError: what is left in the group has become another user.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _outcome(return_code: int | None, limit: str | None = None) -> _End:
    why = "" if limit is None else f"; {limit}"
    if return_code is None or return_code < 0:
        number = -(return_code or 0)
        names = {known.value: known.name for known in signal.Signals}
        return _End(FAILED, error=f"killed by signal {number} ({names.get(number, 'unknown')}){why}")
    if return_code > 0:
        return _End(FAILED, return_code, f"exit code {return_code}{why}")
    return _End(OK, 0)


def _report(error: str | None, stderr: bytes) -> str | None:
    """The error, and the last of what the command said of it, safe to show on a terminal."""
    if error is None:
        return None
    text = stderr.decode("utf-8", "replace").strip()
    text = "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)
    room = _ERROR_CHARS - len(error) - 2
    return f"{error}: {text if len(text) <= room else '…' + text[1 - room :]}" if text else error
