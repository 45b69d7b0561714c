"""A file that says who may do what: nobody else may write it, what is changed in it counts at once; its lines."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from vogeler.errors import ConfigError

Content = TypeVar("Content")
_MOST_BYTES = 64 * 1024 * 1024
_TICK_S = 0.1  # more than the clock of any file system goes on by at once, but for FAT's

_COMMENT_OR_QUOTED = re.compile(r"""(?<!\S)#|(?<![^\s,=])(?:"[^"]*"|'[^']*')""")


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """(number, line without its comment) of those that say something.

    A word that begins with # begins a comment, but not in quotes. They have no other meaning, so that whoever writes
    them is told so by what reads the line, and not by a line that was cut in the middle.
    """
    for number, line in enumerate(text.split("\n"), 1):
        marks = (match.start() for match in _COMMENT_OR_QUOTED.finditer(line) if match.group() == "#")
        said = line[: next(marks, None)]
        if said.strip():
            yield number, said


def read(path: Path, forbidden: int, remedy: str) -> tuple[str, os.stat_result]:
    """The text of a file of root or this user, and what it was when it was opened.

    ``forbidden``: the bits of a mode that it must not have; ``remedy``: what to do about it then. Raises ConfigError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, encoding="utf-8") as file:
            state = os.fstat(descriptor)
            _check(path, state, forbidden, remedy)
            return file.read(), state
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}", "make it, or correct the setting") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 at byte {error.start}", "save it as UTF-8") from None


def _check(path: Path, state: os.stat_result, forbidden: int, remedy: str) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise ConfigError(f"{path} is not a file", "correct the setting")
    if state.st_size > _MOST_BYTES:
        raise ConfigError(f"{path} has {state.st_size} bytes: at most {_MOST_BYTES} are read", "correct the setting")
    if state.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{path} belongs to another user, number {state.st_uid}", "give it to root or to this user")
    if state.st_mode & forbidden:
        raise ConfigError(f"{path} is open to others: its mode is {stat.S_IMODE(state.st_mode):04o}", remedy)


class Watched(Generic[Content]):
    """A file that only root or this user may write, read again when it is another than before.

    ``parse`` gets its text and raises ValueError, whose text says in which line what is wrong. What can't be read is
    not used in part, nor is what was there before: an error in the file must not keep alive what was taken out of it.
    """

    def __init__(self, path: Path, parse: Callable[[str], Content]) -> None:
        self._path = path
        self._parse = parse
        self._seen: tuple[int, ...] | None = None
        self._content: Content | ConfigError = ConfigError(f"{path} was not read yet")

    def __str__(self) -> str:
        return str(self._path)

    def get(self) -> Content:
        """What the file says now. Raises ConfigError."""
        if self._seen is None or self._seen != self._now():
            self._read()
        if isinstance(self._content, ConfigError):
            raise ConfigError(self._content.message, self._content.remedy)
        return self._content

    def _now(self) -> tuple[int, ...] | None:
        try:
            return _mark(self._path.stat())
        except OSError:
            return None

    def _read(self) -> None:
        self._seen = None
        try:
            text, state = read(self._path, 0o022, f"chmod go-w {self._path}")
            if abs(time.time() - state.st_ctime) > _TICK_S:  # else the next change could have the same mark
                self._seen = _mark(state)
            self._content = self._parse(text)
        except ConfigError as error:
            self._content = error
        except ValueError as error:
            self._content = ConfigError(f"{self._path}, {error}", "correct it; nothing in it counts until then")


def _mark(state: os.stat_result) -> tuple[int, ...]:
    """Another one after every change: a file that was written, replaced, or has another mode or owner."""
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
