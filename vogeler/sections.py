"""Plugin files as text: INI, a section per plugin, where each key is, and what it refers to.

The files of 2010 read unchanged: white space and a semicolon begin a comment, ``%(other)s`` is another key's value.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vogeler.errors import PluginError

T = TypeVar("T")

_REFERENCE = re.compile(r"%%|%\(([^()]*)\)s")
_QUOTE_OR_COMMENT = re.compile(r"""['"]|\s;""")
_QUOTED = {"'": re.compile(r"'[^']*'"), '"': re.compile(r'"(?:[^"\\]|\\.)*"')}
# What is longer is something else, and what reads it, configparser, takes very long with very long lines.
_MOST_BYTES = 1_000_000
_MOST_IN_A_LINE = 10_000
_MOST_EXPANDED = 100_000
_MOST_REFERENCES = 10  # one through the other


@dataclass(frozen=True)
class Section:
    """The keys of one section as written, and where. ``defaults``: what the keys are without a line, for people."""

    file: Path
    name: str
    values: Mapping[str, str]
    lines: Mapping[str, int]
    line: int
    shared: frozenset[str]
    defaults: Mapping[str, str]

    def problem(self, key: str | None, what: str, remedy: str) -> PluginError:
        """What is wrong with ``key``, or with the section, and in which line."""
        return problem(self.file, self.lines.get(key or "", self.line), what, remedy)

    def read(self, key: str, convert: Callable[[str], T], default: T) -> T:
        """The value of ``key``, converted; raises PluginError with what ``convert`` says of it."""
        if key not in self.values:
            return default
        try:
            return convert(self.text(key))
        except ValueError as error:
            usual = self.defaults.get(key)
            remedy = f"correct it, or leave the line out for the default: {usual}" if usual else "correct the line"
            raise self.problem(key, f"{key}: {error}", remedy) from None

    def text(self, key: str) -> str:
        """The value, filled in. Raises PluginError."""
        return self._literal(self._expanded(key)).strip()

    def words(self, key: str) -> tuple[str, ...]:
        """The value split as a shell would, and only then filled in: a directory may have spaces."""
        try:
            return tuple(self._literal(word) for word in shlex.split(self._expanded(key)))
        except ValueError as error:
            what = f"{key}: {error}: {self.values[key]}"
            raise self.problem(key, what, "close the quotes, as for a shell") from None

    def _expanded(self, key: str, on_the_way: tuple[str, ...] = (), known: dict[str, str] | None = None) -> str:
        """The value with ``%(other)s`` filled in; ``%%`` and the built-in references stay for _literal."""
        known = {} if known is None else known
        if key in known:
            return known[key]
        if key in on_the_way:
            raise self.problem(key, f"{key} refers to itself with %({key})s", "write the value out")
        if len(on_the_way) > _MOST_REFERENCES:
            what = f"{on_the_way[0]} refers through more than {_MOST_REFERENCES} others"
            raise self.problem(on_the_way[0], what, "write the values out")
        room = _MOST_EXPANDED

        def fill_in(match: re.Match[str]) -> str:
            nonlocal room
            name = match.group(1)
            if name is None or name in self._built_in():
                return match.group()
            other = normal_key(name)
            if other not in self.values:
                remedy = f"write %%({name})s where those characters are meant; a reference is to " + ", ".join(
                    [*self._built_in(), "or a key of the section"]
                )
                raise self.problem(key, f"{key} refers to %({name})s, which is not there", remedy)
            filled = self._expanded(other, (*on_the_way, key), known)
            room -= len(filled)
            if room < 0:
                what = f"{key} is more than {_MOST_EXPANDED} characters with its references filled in"
                raise self.problem(key, what, "put it into a program beside the file")
            return filled

        known[key] = _REFERENCE.sub(fill_in, self.values[key])
        return known[key]

    def _literal(self, text: str) -> str:
        return _REFERENCE.sub(lambda match: self._built_in()[match.group(1)] if match.group(1) else "%", text)

    def _built_in(self) -> dict[str, str]:
        return {"here": str(self.file.parent), "python": sys.executable}


class _Parser(configparser.RawConfigParser):
    """The INI dialect: ``#`` and ``;`` comments, ``key = value`` or ``key: value``, continuation lines."""

    def __init__(self) -> None:
        super().__init__(interpolation=None)

    def optionxform(self, optionstr: str) -> str:
        return normal_key(optionstr)


def normal_key(key: str) -> str:
    """Keys are read in any case, except that NAME of ``env.NAME`` is kept."""
    key = key.strip()
    return "env." + key[4:] if key[:4].lower() == "env." else key.lower()


def problem(file: Path, line: int, what: str, remedy: str) -> PluginError:
    """What is wrong with a file, and in which line."""
    return PluginError(f"{file}:{line}: {what}", remedy)


def read(file: Path, defaults: Mapping[str, str]) -> list[Section]:
    """The sections of a file, in order. Raises PluginError. ``defaults``: as in Section."""
    lines = [_uncommented(line) for line in _content(file).split("\n")]
    for number, line in enumerate(lines, 1):
        if len(line) > _MOST_IN_A_LINE:
            remedy = "divide it: a line that begins with white space continues the one before"
            raise problem(file, number, f"a line of {len(line)} characters; at most {_MOST_IN_A_LINE}", remedy)
    parser = _Parser()
    try:
        parser.read_file(lines, str(file))
    except configparser.Error as error:
        raise _syntax(file, lines, error) from None
    if not parser.sections():
        raise problem(file, 1, "no [section] in it: a plugin is a section", "begin it with [name], or remove the file")
    places = _places(lines)
    referred = {normal_key(match.group(1) or "") for line in lines for match in _REFERENCE.finditer(line)}
    shared = referred & parser.defaults().keys()
    return [_section(file, name, parser, places, frozenset(shared), defaults) for name in parser.sections()]


def _uncommented(line: str) -> str:
    """2010: white space and a semicolon begin a comment. Not inside quotes, or sh -c 'a ; b' would be cut."""
    at, unclosed = 0, ""
    while True:
        mark = _QUOTE_OR_COMMENT.search(line, at)
        if mark is None:
            return line
        if mark.group() not in _QUOTED:
            return line[: mark.start()]
        quoted = None if mark.group() in unclosed else _QUOTED[mark.group()].match(line, mark.start())
        if quoted is None:
            unclosed += mark.group()  # nor are those behind it
        at = quoted.end() if quoted else mark.end()


def _section(
    file: Path,
    name: str,
    parser: _Parser,
    places: Mapping[tuple[str, str], int],
    shared: frozenset[str],
    defaults: Mapping[str, str],
) -> Section:
    values = dict(parser.items(name))
    line = places.get((name, ""), 1)
    lines = {key: places.get((name, key)) or places.get((parser.default_section, key), line) for key in values}
    return Section(file, name, values, lines, line, shared, defaults)


def _content(file: Path) -> str:
    if os.path.exists(file) and not os.path.isfile(file):  # noqa: PTH110, PTH113 - Path's raise PermissionError
        raise problem(file, 1, "not a regular file", "move it elsewhere: *.cfg in a plugin directory is a plugin file")
    try:
        size_bytes = file.stat().st_size
        text = file.read_bytes().decode("utf-8-sig") if size_bytes <= _MOST_BYTES else ""
    except OSError as error:
        raise problem(file, 1, f"can't be read: {error.strerror}", "let the client's user read it") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise problem(file, line, f"not UTF-8: byte 0x{error.object[error.start]:02x}", "save it as UTF-8") from None
    if size_bytes > _MOST_BYTES:
        what = f"{size_bytes} bytes; at most {_MOST_BYTES}"
        raise problem(file, 1, what, "move it elsewhere: this is not a plugin file")
    if "\0" in text:
        raise problem(file, text.count("\n", 0, text.index("\0")) + 1, "a NUL byte", "save it as plain text")
    return text


def _syntax(file: Path, lines: list[str], error: configparser.Error) -> PluginError:
    if isinstance(error, configparser.DuplicateSectionError):
        return problem(file, error.lineno or 1, f"a second section [{error.section}]", "rename or remove one")
    if isinstance(error, configparser.DuplicateOptionError):
        what = f"a second {error.option!r} in [{error.section}]"
        return problem(file, error.lineno or 1, what, "remove one of the two lines")
    if isinstance(error, configparser.MissingSectionHeaderError):
        what = f"{error.line.strip()[:60]!r} before the first [section]"
        return problem(file, error.lineno, what, "put [name] on a line above it")
    line = error.errors[0][0] if isinstance(error, configparser.ParsingError) and error.errors else 1
    what = f"{lines[line - 1].strip()[:60]!r} is not 'key = value'"
    return problem(file, line, what, "correct it, or begin the line with #")


def _places(lines: Iterable[str]) -> dict[tuple[str, str], int]:
    """The line of each (section, key), and of each (section, "") header. configparser doesn't tell."""
    places: dict[tuple[str, str], int] = {}
    section = ""
    for number, line in enumerate(lines, start=1):
        if line.lstrip()[:1] in ("#", ";"):
            continue
        header = _Parser.SECTCRE.match(line.strip())
        option = _Parser.OPTCRE.match(line.strip())
        if header:
            section = header.group("header")
            places.setdefault((section, ""), number)
        elif option:
            places.setdefault((section, normal_key(option.group("option"))), number)
    return places
