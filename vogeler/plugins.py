"""Plugins: what this node may be asked to run. Loads the ``*.cfg`` of directories and checks every key in them.

A plugin is a section of a file. The keys are in KEYS and in docs/plugins.rst. A bad file or section is a
PluginError among ``Loaded.problems`` and stops no other.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vogeler import formats, sections
from vogeler.errors import PluginError
from vogeler.messages import MAX_MESSAGE_BYTES, MOST_CHARACTERS, check_key
from vogeler.registry import did_you_mean
from vogeler.sections import Section
from vogeler.trust import distrust
from vogeler.units import parse_duration, parse_memory, parse_size

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
    "max_memory": ("the client's", "how much address space each of its processes may take"),
    "max_cpu": ("the client's", "how much processor time each of its processes may take"),
    "max_processes": ("the client's", "how many processes its user may have; for plugins with a user"),
    "max_files": ("the client's", "how many files each of its processes may have open"),
    "redact": ("", "paths below the value, or . for all of it: a keyed digest leaves the node in their place"),
    "seal": ("", "paths below the value, or . for all of it: what is there leaves the node for its readers alone"),
    "volatile": ("", "paths below the value that change all the time: stored, but no change and no history"),
}

_USUAL = {key: default for key, (default, _) in KEYS.items()}
_BOOLEANS = configparser.RawConfigParser.BOOLEAN_STATES
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# The variables by which programs are made to run code from elsewhere: ld.so(8), and those of the common languages.
_LOADERS = {
    "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "GCONV_PATH", "BASH_ENV", "ENV", "CLASSPATH", "NODE_PATH",
    "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PERL5LIB", "PERLLIB", "RUBYLIB", "GEM_PATH", "GEM_HOME",
    "LUA_PATH", "LUA_CPATH",
}  # fmt: skip
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
    seal: tuple[str, ...] = ()

    @property
    def answers_to(self) -> tuple[str, ...]:
        """The words that run this plugin: its name, and its alias where it has another one."""
        return (self.name,) if self.alias in (None, self.name) else (self.name, str(self.alias))

    @property
    def is_secretive(self) -> bool:
        """Whether its words may hold what its value must not show."""
        return bool(self.redact or self.seal)

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


@dataclass(frozen=True)
class Limits:
    """What a plugin may use up whose file does not say; None: no limit."""

    memory_bytes: int | None = None
    cpu_s: float | None = None
    processes: int | None = None  # not where it is none: for plugins that run as root
    files: int | None = None


def load(directories: Iterable[str | Path], strict: bool = False, limits: Limits = Limits()) -> Loaded:
    """Every plugin of the directories, in order; a later directory replaces an earlier one's by name.

    ``strict``: none that others than root and our own user can change. Raises nothing: what can't be used is in
    ``problems``, and a plugin it would have replaced stays; but not one whose place was for one that hides something.
    """
    found: dict[str, Plugin] = {}
    problems: list[PluginError] = []
    for directory in dict.fromkeys(Path(os.path.expanduser(directory)).absolute() for directory in directories):  # noqa: PTH111 - raises nothing
        for section in _sections(directory, problems, strict):
            try:
                plugin = _plugin(section, limits)
                if strict:
                    _check_trust(plugin, section)
                _admit(plugin, section, found)
            except PluginError as error:
                problems.append(error)
                if section.values.keys() & {"redact", "seal"}:  # rather none than one that hides nothing
                    found.pop(section.values.get("name", section.name).strip(), None)
    return Loaded(tuple(found[name] for name in sorted(found)), tuple(problems))


def unavailable_reason(plugin: Plugin) -> str | None:
    """Why the plugin can't run here now, or None. Looks at the file system each time."""
    for choice in plugin.requires:
        programs = choice.split("|")
        if not any(shutil.which(program, path=plugin.search_path) for program in programs):
            return f"needs {' or '.join(programs)[:_MOST_NAMED]}, which is not on the PATH of this node"
    return None


# --- directories ----------------------------------------------------------------------------------


def _sections(directory: Path, problems: list[PluginError], strict: bool) -> Iterator[Section]:
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
                raise sections.problem(file, 1, f"refused: {doubt.reason}", doubt.remedy)
            yield from sections.read(file, _USUAL)
        except PluginError as error:
            problems.append(error)


# --- from a section to a plugin -------------------------------------------------------------------


def _admit(plugin: Plugin, section: Section, found: dict[str, Plugin]) -> None:
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


def _check_trust(plugin: Plugin, section: Section) -> None:
    """What the command runs from a place that the file names: for ``user``, that user may change it."""
    for path in _named_paths(plugin):
        doubt = distrust(path, *_uid_of(plugin.user))
        if doubt is not None:
            raise section.problem("command", f"[{section.name}] is refused: {doubt.reason}", doubt.remedy)


def _named_paths(plugin: Plugin) -> Iterator[Path]:
    """The program, where the file says where it is; what else lies beside the file; where its environment leads."""
    below = plugin.directory + os.sep
    for place, word in enumerate(plugin.command):
        path = os.path.join(plugin.directory, word)  # noqa: PTH118 - a word may be anything
        beside = os.path.normpath(path).startswith(below) and os.path.isfile(path)  # noqa: PTH113 - raises nothing
        if beside or (place == 0 and os.sep in word):
            yield Path(path)
    yield from map(Path, filter(None, plugin.env.get("PATH", "").split(os.pathsep)))
    for name in _LOADERS & plugin.env.keys():
        for word in filter(None, re.split(r"[:\s]", plugin.env[name])):
            if os.sep in word or not name.startswith("LD_"):  # else a library of the system
                yield Path(plugin.directory, word)


def _uid_of(user: str | None) -> tuple[int, ...]:
    import pwd

    try:
        return () if user is None else (pwd.getpwnam(user).pw_uid,)
    except KeyError:
        return ()


def _plugin(section: Section, limits: Limits) -> Plugin:
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
        volatile=section.read("volatile", _paths, ()),
        directory=str(section.file.parent),
        source=f"{section.file}:{section.line}",
        max_memory_bytes=section.read(
            "max_memory", lambda text: parse_memory(text) if text else None, limits.memory_bytes
        ),
        max_cpu_s=section.read("max_cpu", lambda text: _positive_duration(text) if text else None, limits.cpu_s),
        max_processes=_processes(section, limits.processes),
        max_files=section.read("max_files", _count, limits.files),
        redact=section.read("redact", _paths, ()),
        seal=section.read("seal", _paths, ()),
    )


def _check_keys(section: Section) -> None:
    for key in section.values:
        if key in KEYS or key in section.shared:
            continue
        if not key.startswith("env."):
            raise section.problem(key, f"unknown key {key!r}", did_you_mean(key, KEYS))
        if not _ENV_NAME.fullmatch(key[4:]):
            raise section.problem(key, f"{key[4:]!r} can't name an environment variable", "letters, digits and '_'")


def _command(section: Section) -> tuple[str, ...]:
    if "command" not in section.values:
        raise section.problem(None, f"[{section.name}] has no command", "add: command = program arguments")
    command = section.words("command")
    if not command or not command[0]:
        raise section.problem("command", "command is empty", "write: command = program arguments")
    return command


def _result_format(section: Section) -> str:
    name = section.read("result_format", str, "output")
    if name not in formats.names():
        remedy = did_you_mean(name, formats.names())
        raise section.problem("result_format", f"unknown result_format {name!r}", remedy)
    return name


def _key(section: Section, name: str) -> str:
    key = section.read("result_key", str, name)
    try:
        check_key(key)
    except ValueError as error:
        given = "result_key" if "result_key" in section.values else "name"
        remedy = "give it another result_key" if given == "result_key" else "add a result_key, or give it another name"
        raise section.problem(given, str(error), remedy) from None
    return key


def _env(section: Section) -> dict[str, str]:
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


def _paths(text: str) -> tuple[str, ...]:
    return tuple(map(_word, _words(text)))


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


def _processes(section: Section, usual: int | None) -> int | None:
    by_root = os.geteuid() == 0 and section.values.get("user", "").strip() in ("", "root")
    count = section.read("max_processes", _count, None if by_root else usual)
    if count is not None and by_root:
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
