"""Which commands a node has done, until they expire: in a file, so that a restart does not run them again."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from vogeler.errors import ConfigError
from vogeler.units import parse_timestamp, to_timestamp

_LINES = 1000  # besides twice as many as were needed the last time: then the file is written anew


class Seen:
    """The file of one node: a line ``<expires_at> <id> <full>`` for each command that was done.

    What has expired is left out after ``skew_s`` more. Then nothing that expires as early as that is taken any more,
    whatever the clock says later: it would not be known whether it was done. For one process at a time.
    """

    def __init__(self, path: Path, skew_s: float) -> None:
        """Raises ConfigError where the file can't be read and written."""
        self._path = path
        self._skew_s = skew_s
        self._done: dict[tuple[str, bool], float] = {}
        self._forgotten_s = 0.0
        self._lines = self._needed = 0
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._open(os.O_APPEND) as file:
                self._torn = file.tell() > 0
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise ConfigError(
                f"can't write {path}: {error.strerror}; it tells which signed commands were done",
                "give this user the right, or name another folder as state",
            ) from None
        for line in text.split("\n"):
            self._note(line)

    def __contains__(self, name: tuple[str, bool]) -> bool:
        """Whether this command was done: its id, and whether it asked for the value in full."""
        return name in self._done

    def forgets(self, expires_at: str) -> bool:
        """Whether a command that expires then may have been done without being known here any more."""
        return parse_timestamp(expires_at) <= self._forgotten_s

    def add(self, name: tuple[str, bool], expires_at: str) -> None:
        """This one is done. Safe on the disk when it returns. Raises OSError; it is known to this process even then."""
        self._done[name] = parse_timestamp(expires_at)
        if self._lines > 2 * self._needed + _LINES:
            self._tidy()
        else:
            self._write(os.O_APPEND, self._path, [("\n" if self._torn else "") + _line(name, expires_at)])
            self._torn = False

    def _tidy(self) -> None:
        """Write the file anew, without what has expired."""
        before_s = time.time() - self._skew_s
        expired = {name: expires_s for name, expires_s in self._done.items() if expires_s < before_s}
        self._forgotten_s = max(self._forgotten_s, *expired.values(), 0.0)
        for name in expired:
            del self._done[name]
        anew = self._path.with_name(self._path.name + ".new")
        lines = [_line(name, _later(expires_s)) for name, expires_s in self._done.items()]
        self._write(os.O_TRUNC, anew, [f"{_later(self._forgotten_s)} forgotten\n", *lines])
        anew.replace(self._path)
        self._lines = self._needed = len(lines)

    def _write(self, how: int, path: Path, lines: list[str]) -> None:
        with self._open(how, path) as file:
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
        self._lines += len(lines)

    def _open(self, how: int, path: Path | None = None) -> BinaryIO:
        descriptor = os.open(path or self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o600)
        return os.fdopen(descriptor, "ab" if how == os.O_APPEND else "wb")

    def _note(self, line: str) -> None:
        """A line that was cut short, by a power cut, tells nothing."""
        words = line.split(" ")
        with suppress(ValueError):
            if len(words) == 2 and words[1] == "forgotten":
                self._forgotten_s = parse_timestamp(words[0])
            elif len(words) == 3 and words[2] in ("full", "short"):
                self._done[words[1], words[2] == "full"] = parse_timestamp(words[0])
            self._lines += 1


def _later(epoch_s: float) -> str:
    """A timestamp in whole milliseconds, never before."""
    return to_timestamp(epoch_s + 0.001)


def _line(name: tuple[str, bool], expires_at: str) -> str:
    return f"{expires_at} {name[0]} {'full' if name[1] else 'short'}\n"
