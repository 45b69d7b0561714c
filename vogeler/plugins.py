"""Plugin files: what this node may be asked to run. Loads ``*.cfg`` and checks every line of it.

The format is INI, one plugin per section; the files of 2010 load unchanged. The keys are in KEYS and
in docs/plugins.rst. A bad file or section is a PluginError among ``Loaded.problems`` and stops no other.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from vogeler import formats
from vogeler.errors import PluginError
from vogeler.messages import MAX_MESSAGE_BYTES, MOST_CHARACTERS, check_key
from vogeler.registry import did_you_mean
from vogeler.trust import distrust
from vogeler.units import parse_duration, parse_size

T = TypeVar("T")

# Where programs are looked for: the same on every node, whoever started the client.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# key: (default, meaning), as docs/plugins.rst lists them.
KEYS: Mapping[str, tuple[str, str]] = {
    "name": ("the section", "what the plugin answers to"),
    "description": ("", "one line for people"),
    "command": ("", "the program and its arguments, split as a shell would and run without one"),
    "result_format": ("output", "how the output is read: " + ", ".join(formats.names())),
    "command_alias": ("", "a second word the plugin answers to"),
    "result_key": ("the name", "the key of the node's record that the result fills"),
    "timeout": ("60s", "how long the command may take before it is ended"),
    "max_output": ("4MB", "how much the command may print before it is ended"),
    "requires": ("", "programs without which the plugin is unavailable here; a|b: one of them"),
    "interval": ("", "run by itself this often"),
    "splay": ("the interval, at most 5m", "the first run by itself comes after a random time of up to this much"),
    "user": ("", "run as this user; empty: as the client's own"),
    "env.NAME": ("", "an environment variable NAME for the command"),
    "unordered": ("false", "true: sort the list before it is compared and stored"),
    "max_memory": ("", "how much address space each of its processes may take"),
    "max_cpu": ("", "how much processor time each of its processes may take"),
    "max_processes": ("", "how many processes its user may have; for plugins with a user"),
    "max_files": ("", "how many files each of its processes may have open"),
    "redact": ("", "paths below the value, or . for all of it: a keyed digest leaves the node in their place"),
    "volatile": ("", "paths below the value that change all the time: stored, but no change and no history"),
}

_BOOLEANS = configparser.RawConfigParser.BOOLEAN_STATES
_REFERENCE = re.compile(r"%%|%\(([^()]*)\)s")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTE_OR_COMMENT = re.compile(r"""['"]|\s;""")
_QUOTED = {"'": re.compile(r"'[^']*'"), '"': re.compile(r'"(?:[^"\\]|\\.)*"')}
# What is longer is something else, and what reads it, configparser, takes very long with very long lines.
_MOST_BYTES = 1_000_000
_MOST_IN_A_LINE = 10_000
_MOST_EXPANDED = 100_000
_MOST_REFERENCES = 10  # one through the other
_MOST_NAMED = 500  # characters of the names of programs


@dataclass(frozen=True)
class Plugin:
    """One command this node may be asked to run. Nothing in it changes after loading."""

    name: str
    description: str
    command: tuple[str, ...]
    result_format: str
    alias: str | None
    key: str
    timeout_s: float
    max_output_bytes: int
    requires: tuple[str, ...]
    interval_s: float | None
    splay_s: float | None
    user: str | None
    env: Mapping[str, str] = field(hash=False)
    unordered: bool
    volatile: tuple[str, ...]
    directory: str
    source: str
    max_memory_bytes: int | None = None
    max_cpu_s: float | None = None
    max_processes: int | None = None
    max_files: int | None = None
    redact: tuple[str, ...] = ()

    @property
    def answers_to(self) -> tuple[str, ...]:
        """The words that run this plugin: its name, and its alias where it has another one."""
        return (self.name,) if self.alias in (None, self.name) else (self.name, str(self.alias))

    @property
    def search_path(self) -> str:
        """Where its programs are looked for: PATH, or its own env.PATH."""
        return self.env.get("PATH", PATH)


@dataclass(frozen=True)
class Loaded:
    """What a reading of the plugin directories gave: plugins by name, and what was wrong."""

    plugins: tuple[Plugin, ...]
    problems: tuple[PluginError, ...]

    def find(self, alias: str) -> Plugin | None:
        """The plugin that answers to ``alias``, by name or alias."""
        return next((plugin for plugin in self.plugins if alias in plugin.answers_to), None)

    def suggestion(self, alias: str) -> str:
        """A sentence for the person who asked for an ``alias`` nothing answers to."""
        return did_you_mean(alias, (word for plugin in self.plugins for word in plugin.answers_to))


def load(directories: Iterable[str | Path], strict: bool = False) -> Loaded:
    """Every plugin of the directories, in order; a later directory replaces an earlier one's by name.

    ``strict``: none that others than root and our own user can change. Raises nothing: what can't be used is in
    ``problems``, and a plugin it would have replaced stays.
    """
    found: dict[str, Plugin] = {}
    problems: list[PluginError] = []
    for directory in dict.fromkeys(Path(os.path.expanduser(directory)).absolute() for directory in directories):  # noqa: PTH111 - raises nothing
        for section in _sections(directory, problems, strict):
            try:
                plugin = _plugin(section)
                if strict:
                    _check_trust(plugin, section)
                _admit(plugin, section, found)
            except PluginError as error:
                problems.append(error)
    return Loaded(tuple(found[name] for name in sorted(found)), tuple(problems))


def unavailable_reason(plugin: Plugin) -> str | None:
    """Why the plugin can't run here now, or None. Looks at the file system each time."""
    for choice in plugin.requires:
        programs = choice.split("|")
        if not any(shutil.which(program, path=plugin.search_path) for program in programs):
            return f"needs {' or '.join(programs)[:_MOST_NAMED]}, which is not on the PATH of this node"
    return None


# --- files and sections ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Section:
    """The keys of one section as written, and where."""

    file: Path
    name: str
    values: Mapping[str, str]
    lines: Mapping[str, int]
    line: int
    shared: frozenset[str]

    def problem(self, key: str | None, what: str, remedy: str) -> PluginError:
        return _problem(self.file, self.lines.get(key or "", self.line), what, remedy)

    def read(self, key: str, convert: Callable[[str], T], default: T) -> T:
        """The value of ``key``, converted; raises PluginError with what ``convert`` says of it."""
        if key not in self.values:
            return default
        try:
            return convert(self.text(key))
        except ValueError as error:
            usual = KEYS[key][0]
            remedy = f"correct it, or leave the line out for the default: {usual}" if usual else "correct the line"
            raise self.problem(key, f"{key}: {error}", remedy) from None

    def text(self, key: str) -> str:
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


def _problem(file: Path, line: int, what: str, remedy: str) -> PluginError:
    return PluginError(f"{file}:{line}: {what}", remedy)


def _sections(directory: Path, problems: list[PluginError], strict: bool) -> Iterator[_Section]:
    """The sections of all ``*.cfg`` in a directory; what can't be read goes to ``problems``."""
    try:
        str(directory).encode()  # it may be in what the node offers, by %(here)s
        files = sorted(path for path in directory.iterdir() if path.suffix == ".cfg" and path.name[0] != ".")
    except OSError as error:
        problems.append(
            PluginError(
                f"{directory}: plugin directory can't be read: {error.strerror}",
                "create it, or correct the setting 'plugins'",
            )
        )
        return
    except UnicodeEncodeError:
        problems.append(PluginError(f"{directory}: the name of the plugin directory is not UTF-8", "rename it"))
        return
    doubt = distrust(directory) if strict else None
    if doubt is not None:
        problems.append(PluginError(f"{directory}: plugin directory refused: {doubt.reason}", doubt.remedy))
        return
    for file in files:
        try:
            doubt = distrust(file) if strict else None
            if doubt is not None:
                raise _problem(file, 1, f"refused: {doubt.reason}", doubt.remedy)
            yield from _read(file)
        except PluginError as error:
            problems.append(error)


def _read(file: Path) -> list[_Section]:
    lines = [_uncommented(line) for line in _content(file).split("\n")]
    for number, line in enumerate(lines, 1):
        if len(line) > _MOST_IN_A_LINE:
            remedy = "divide it: a line that begins with white space continues the one before"
            raise _problem(file, number, f"a line of {len(line)} characters; at most {_MOST_IN_A_LINE}", remedy)
    parser = _Parser()
    try:
        parser.read_file(lines, str(file))
    except configparser.Error as error:
        raise _syntax(file, lines, error) from None
    if not parser.sections():
        raise _problem(file, 1, "no [section] in it: a plugin is a section", "begin it with [name], or remove the file")
    places = _places(lines)
    referred = {normal_key(match.group(1) or "") for line in lines for match in _REFERENCE.finditer(line)}
    shared = referred & parser.defaults().keys()
    return [_section(file, name, parser, places, frozenset(shared)) for name in parser.sections()]


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
    file: Path, name: str, parser: _Parser, places: Mapping[tuple[str, str], int], shared: frozenset[str]
) -> _Section:
    values = dict(parser.items(name))
    line = places.get((name, ""), 1)
    lines = {key: places.get((name, key)) or places.get((parser.default_section, key), line) for key in values}
    return _Section(file, name, values, lines, line, shared)


def _content(file: Path) -> str:
    if os.path.exists(file) and not os.path.isfile(file):  # noqa: PTH110, PTH113 - Path's raise PermissionError
        raise _problem(file, 1, "not a regular file", "move it elsewhere: *.cfg in a plugin directory is a plugin file")
    try:
        size_bytes = file.stat().st_size
        text = file.read_bytes().decode("utf-8-sig") if size_bytes <= _MOST_BYTES else ""
    except OSError as error:
        raise _problem(file, 1, f"can't be read: {error.strerror}", "let the client's user read it") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _problem(file, line, f"not UTF-8: byte 0x{error.object[error.start]:02x}", "save it as UTF-8") from None
    if size_bytes > _MOST_BYTES:
        what = f"{size_bytes} bytes; at most {_MOST_BYTES}"
        raise _problem(file, 1, what, "move it elsewhere: this is not a plugin file")
    if "\0" in text:
        raise _problem(file, text.count("\n", 0, text.index("\0")) + 1, "a NUL byte", "save it as plain text")
    return text


def _syntax(file: Path, lines: list[str], error: configparser.Error) -> PluginError:
    if isinstance(error, configparser.DuplicateSectionError):
        return _problem(file, error.lineno or 1, f"a second section [{error.section}]", "rename or remove one")
    if isinstance(error, configparser.DuplicateOptionError):
        what = f"a second {error.option!r} in [{error.section}]"
        return _problem(file, error.lineno or 1, what, "remove one of the two lines")
    if isinstance(error, configparser.MissingSectionHeaderError):
        what = f"{error.line.strip()[:60]!r} before the first [section]"
        return _problem(file, error.lineno, what, "put [name] on a line above it")
    line = error.errors[0][0] if isinstance(error, configparser.ParsingError) and error.errors else 1
    what = f"{lines[line - 1].strip()[:60]!r} is not 'key = value'"
    return _problem(file, line, what, "correct it, or begin the line with #")


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


# --- from a section to a plugin -------------------------------------------------------------------


def _admit(plugin: Plugin, section: _Section, found: dict[str, Plugin]) -> None:
    """Put the plugin among the others, in place of one by the same name in an earlier directory."""
    for other in found.values():
        if other.name == plugin.name and other.directory != plugin.directory:
            continue
        both = [word for word in plugin.answers_to if word in other.answers_to]
        if both:
            what = f"answers to {both[0]!r}, as does {other.name!r} ({other.source}); the latter is kept"
            key = "name" if both[0] == plugin.name else "command_alias"
            raise section.problem(key, what, "give one of them another name or command_alias")
    found[plugin.name] = plugin


def _check_trust(plugin: Plugin, section: _Section) -> None:
    """What the command runs from a place that the file names: for ``user``, that user may change it."""
    for path in _named_paths(plugin):
        doubt = distrust(path, *_uid_of(plugin.user))
        if doubt is not None:
            raise section.problem("command", f"[{section.name}] is refused: {doubt.reason}", doubt.remedy)


def _named_paths(plugin: Plugin) -> Iterator[Path]:
    """The program, where the file says where it is; what else lies beside the file; where its env.PATH leads."""
    below = plugin.directory + os.sep
    for place, word in enumerate(plugin.command):
        path = os.path.join(plugin.directory, word)  # noqa: PTH118 - a word may be anything
        beside = os.path.normpath(path).startswith(below) and os.path.isfile(path)  # noqa: PTH113 - raises nothing
        if beside or (place == 0 and os.sep in word):
            yield Path(path)
    yield from map(Path, filter(None, plugin.env.get("PATH", "").split(os.pathsep)))


def _uid_of(user: str | None) -> tuple[int, ...]:
    import pwd

    try:
        return () if user is None else (pwd.getpwnam(user).pw_uid,)
    except KeyError:
        return ()


def _plugin(section: _Section) -> Plugin:
    _check_keys(section)
    name = section.read("name", _name, section.name.strip())
    return Plugin(
        name=name,
        description=section.read("description", _line, ""),
        command=_command(section),
        result_format=_result_format(section),
        alias=section.read("command_alias", _word, "") or None,
        key=_key(section, name),
        timeout_s=section.read("timeout", _positive_duration, 60.0),
        max_output_bytes=section.read("max_output", _output_size, 4_000_000),
        requires=section.read("requires", _programs, ()),
        interval_s=section.read("interval", lambda text: _positive_duration(text) if text else None, None),
        splay_s=section.read("splay", parse_duration, None),
        user=section.read("user", str, "") or None,
        env=_env(section),
        unordered=section.read("unordered", _boolean, False),
        volatile=section.read("volatile", lambda text: tuple(map(_word, _words(text))), ()),
        directory=str(section.file.parent),
        source=f"{section.file}:{section.line}",
        max_memory_bytes=section.read("max_memory", lambda text: _some(parse_size(text), text) if text else None, None),
        max_cpu_s=section.read("max_cpu", lambda text: _positive_duration(text) if text else None, None),
        max_processes=_processes(section),
        max_files=section.read("max_files", _count, None),
        redact=section.read("redact", lambda text: tuple(map(_word, _words(text))), ()),
    )


def _check_keys(section: _Section) -> None:
    for key in section.values:
        if key in KEYS or key in section.shared:
            continue
        if not key.startswith("env."):
            raise section.problem(key, f"unknown key {key!r}", did_you_mean(key, KEYS))
        if not _ENV_NAME.fullmatch(key[4:]):
            raise section.problem(key, f"{key[4:]!r} can't name an environment variable", "letters, digits and '_'")


def _command(section: _Section) -> tuple[str, ...]:
    if "command" not in section.values:
        raise section.problem(None, f"[{section.name}] has no command", "add: command = program arguments")
    command = section.words("command")
    if not command or not command[0]:
        raise section.problem("command", "command is empty", "write: command = program arguments")
    return command


def _result_format(section: _Section) -> str:
    name = section.read("result_format", str, "output")
    if name not in formats.names():
        remedy = did_you_mean(name, formats.names())
        raise section.problem("result_format", f"unknown result_format {name!r}", remedy)
    return name


def _key(section: _Section, name: str) -> str:
    key = section.read("result_key", str, name)
    try:
        check_key(key)
    except ValueError as error:
        given = "result_key" if "result_key" in section.values else "name"
        remedy = "give it another result_key" if given == "result_key" else "add a result_key, or give it another name"
        raise section.problem(given, str(error), remedy) from None
    return key


def _env(section: _Section) -> dict[str, str]:
    return {key[4:]: section.text(key) for key in section.values if key.startswith("env.")}


def _name(text: str) -> str:
    if not text:
        raise ValueError("empty")
    return _word(text)


def _word(text: str) -> str:
    """What a message takes as an alias or a path."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text)} characters; at most {MOST_CHARACTERS}")
    return text


def _line(text: str) -> str:
    return " ".join(text.split())


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _programs(text: str) -> tuple[str, ...]:
    return _words(re.sub(r"\s*\|\s*", "|", text))


def _positive_duration(text: str) -> float:
    duration_s = parse_duration(text)
    if duration_s <= 0:
        raise ValueError(f"{text!r} is not more than nothing")
    return duration_s


def _output_size(text: str) -> int:
    size_bytes = parse_size(text)
    if not 0 < size_bytes <= MAX_MESSAGE_BYTES:
        raise ValueError(f"{text!r} is not between 1 and {MAX_MESSAGE_BYTES} bytes, the most a message takes")
    return size_bytes


def _some(size_bytes: int, text: str) -> int:
    if not 0 < size_bytes < 2**62:
        raise ValueError(f"{text!r} is no amount of memory")
    return size_bytes


def _processes(section: _Section) -> int | None:
    count = section.read("max_processes", _count, None)
    if count is not None and os.geteuid() == 0 and section.values.get("user", "").strip() in ("", "root"):
        what = "max_processes is no limit for root: setrlimit(2), RLIMIT_NPROC"
        raise section.problem("max_processes", what, "add the line user = NAME, or limit the client's unit: TasksMax=")
    return count


def _count(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text[:12]) < 2**31):
        raise ValueError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError(f"{text!r} is neither true nor false")
    return _BOOLEANS[text.lower()]
