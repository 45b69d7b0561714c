"""Settings: default < file < environment < flag, into one frozen, typed object.

A setting is a field of ``Settings`` and nothing else: its flag (``--batch-age``), environment variable
(``VOGELER_BATCH_AGE``) and file key (``batch_age``) follow from its name. The file is INI: ``[vogeler]``
is for every program, ``[client]``, ``[server]``, ``[runner]`` and ``[admin]`` for one.

``--help`` needs the table of settings alone: what reads or checks a value is imported where it does so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vogeler.errors import ConfigError, UsageError
from vogeler.places import host_name, shipped, state_directory
from vogeler.units import parse_duration, parse_memory, parse_size

if TYPE_CHECKING:
    import configparser

PROGRAMS = ("client", "server", "runner", "admin")
DEFAULT_FILE = Path("/etc/vogeler/vogeler.conf")
COMMON_SECTION = "vogeler"

# --- values: each turns the text of a setting into what the programs use, or raises ValueError -----


def _text(text: str) -> str:
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _groups(text: str) -> tuple[str, ...]:
    from vogeler.messages import check_node_name

    for name in _names(text):
        check_node_name(name)
    return _names(text)


def _node(text: str) -> str:
    from vogeler.messages import check_node_name

    check_node_name(text)
    return text


def _url(text: str) -> str:
    from vogeler import urls

    urls.parse_many(text)
    return text


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise ValueError(f"{text!r} is not a folder")
    return Path(text)


def _path(text: str) -> Path:
    return Path(text)


def _waiting(text: str) -> float:
    """A duration that something is waited for: not nothing."""
    seconds = parse_duration(text)
    if seconds < 0.001:
        raise ValueError(f"{text!r} is no time at all")
    return seconds


def _beat(text: str) -> float:
    seconds = parse_duration(text)
    if seconds < 1:
        raise ValueError(f"{text!r} is less than a second")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) < 1:
        raise ValueError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not one of: {', '.join(words)}")
        return text

    return parse


# What an empty text means, where that is the default.
_NOTHING: dict[Callable[[str], Any], Any] = {
    **dict.fromkeys((_names, _groups), ()),
    **dict.fromkeys((_folder, _path, parse_duration, parse_memory, _waiting, _count)),
}


class Setting:
    """One row of the table below: which programs it is for, and what its text means."""

    def __init__(
        self, default: str, parse: Callable[[str], Any], help: str, programs: tuple[str, ...], flag: bool
    ) -> None:
        self.name = ""
        self.default, self.parse, self.help, self.programs, self.flag = default, parse, help, programs, flag

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


def _setting(
    default: str, parse: Callable[[str], Any], help: str, programs: tuple[str, ...] = PROGRAMS, flag: bool = True
) -> Any:
    """A row, where a type checker looks for the value."""
    return Setting(default, parse, help, programs, flag)


class Settings:
    """Every setting there is. Durations are seconds, sizes bytes. ``etc/vogeler.conf`` shows them all.

    Not a dataclass: making one of so many fields would be a third of what a command takes to start.
    """

    qhost: str = _setting("", _url, "the broker: local:///PATH or amqp://USER@HOST/VHOST, a comma list for a cluster")
    qapi: str = _setting(
        "", _url, "the broker's HTTP API, for setup --roles; empty: port 15672 of qhost, 15671 with TLS", ("admin",)
    )
    dbhost: str = _setting(
        "", _url, "the store: sqlite:///PATH or couch://USER@HOST:5984/DATABASE", ("server", "runner", "admin")
    )
    qpassword: str = _setting("", _text, "the broker's password, for a URL that has none", flag=False)
    dbpassword: str = _setting(
        "", _text, "the store's password, for a URL that has none", ("server", "runner", "admin"), flag=False
    )
    loglevel: str = _setting("info", _choice("debug", "info", "warning", "error"), "how much is logged to stderr")
    logformat: str = _setting("text", _choice("text", "json"), "how a log line is written")
    connect_timeout: float = _setting("10s", _waiting, "how long to wait for the broker to answer")
    store_timeout: float = _setting(
        "30s", _waiting, "how long to wait for the store to answer", ("server", "runner", "admin")
    )

    signing_key: Path | None = _setting(
        "",
        _path,
        "file with the private key that a runner signs commands with, and a client results; empty: unsigned",
        ("client", "runner", "admin"),
    )
    trusted_keys: Path | None = _setting(
        "",
        _path,
        "file with the public keys whose commands a client takes, or whose results a server; empty: all",
        ("client", "server", "admin"),
    )

    readers: Path | None = _setting(
        "", _path, "file with the public keys of those for whom a client seals; empty: nobody", ("client", "admin")
    )

    node: str = _setting("", _node, "this node's name; empty: the full host name", ("client",))
    plugins: tuple[str, ...] = _setting(
        "", _names, "directories with plugin files; a later one overrides an earlier one", ("client",)
    )
    strict_modes: str = _setting(
        "yes",
        _choice("yes", "no"),
        "whether root refuses settings, keys and plugins that others can write",
        ("client",),
    )
    redact: tuple[str, ...] = _setting(
        "", _names, "paths in the record in whose place a keyed digest leaves this node", ("client",)
    )
    redact_key: str = _setting(
        "", _text, "the file with the key of redact and seal; empty: redact.key, made here", ("client",)
    )
    seal: tuple[str, ...] = _setting(
        "", _names, "paths in the record that leave this node sealed for its readers", ("client",)
    )
    groups: tuple[str, ...] = _setting("", _groups, "the groups this node is in, for -n group:NAME", ("client",))
    heartbeat: float = _setting("60s", _beat, "how often a client says that it is there", ("client",))
    full_every: float = _setting(
        "6h", parse_duration, "how often a value that has not changed is sent all the same", ("client",)
    )
    state: Path | None = _setting(
        "", _path, "folder for what a client must know after a restart; empty: where the local engines are", ("client",)
    )
    policy: Path | None = _setting(
        "", _path, "file with the rules who may ask this node for which alias; empty: everybody for all", ("client",)
    )
    audit_log: Path | None = _setting(
        "", _path, "file that gets a JSON line for every command that came to this node; empty: none", ("client",)
    )
    workers: int = _setting("4", _count, "how many plugins may run at once on a node", ("client",))
    max_memory: int | None = _setting(
        "",
        parse_memory,
        "how much address space each process of a plugin may take, if its file does not say",
        ("client",),
    )
    max_cpu: float | None = _setting(
        "", _waiting, "how much processor time each process of a plugin may take, if its file does not say", ("client",)
    )
    max_processes: int | None = _setting(
        "", _count, "how many processes the user of a plugin may have, but root, if its file does not say", ("client",)
    )
    max_files: int | None = _setting(
        "", _count, "how many files each process of a plugin may have open, if its file does not say", ("client",)
    )
    clock_skew: float = _setting(
        "5m", parse_duration, "how far a command or result may come from the future", ("client", "server")
    )
    stop_timeout: float = _setting(
        "30s", parse_duration, "how long a stopping daemon lets what runs finish", ("client", "server")
    )

    prefetch: int = _setting("1000", _count, "how many results a server takes before it must store some", ("server",))
    batch_count: int = _setting("500", _count, "how many results are stored at once, at most", ("server",))
    batch_bytes: int = _setting("4MB", parse_size, "how many bytes of results are stored at once, at most", ("server",))
    batch_age: float = _setting("10ms", parse_duration, "how long a result waits for others to join it", ("server",))
    history_keep: float = _setting(
        "90d", parse_duration, "how long changes stay in the history, besides history_versions", ("server",)
    )
    history_versions: int = _setting("10", _count, "how many changes of each key always stay", ("server",))
    audit_keep: float = _setting("90d", parse_duration, "how long it is known who asked what of whom", ("server",))
    retention_check: float = _setting(
        "1h", parse_duration, "how often a server looks for history and nodes that have had their time", ("server",)
    )
    decommission: float | None = _setting(
        "", parse_duration, "how long a node may be silent before it is forgotten; empty: for ever", ("server",)
    )
    design_docs: Path | None = _setting(
        "", _folder, "folder with CouchDB design documents; empty: as shipped", ("server", "admin")
    )

    late_after: float = _setting(
        "150s", _waiting, "how long after its last word a node is late; two and a half heartbeats, mostly", ("admin",)
    )
    silent_after: float = _setting("10m", _waiting, "how long after its last word a node is silent", ("admin",))
    stale_after: float = _setting(
        "24h", _waiting, "how long after its last check a key is stale, whose plugin has no interval", ("admin",)
    )

    timeout: float = _setting("60s", _waiting, "how long a runner waits for the nodes that accepted", ("runner",))
    discovery: float = _setting("2s", parse_duration, "how long a runner waits for nodes to accept", ("runner",))
    ttl: float | None = _setting("", parse_duration, "until when a node may begin; empty: as timeout", ("runner",))
    splay: float = _setting("0s", parse_duration, "each node waits a random time up to this first", ("runner",))

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings never change: {name}")


SETTINGS = tuple(row for row in vars(Settings).values() if isinstance(row, Setting))


def settings_of(program: str) -> list[Setting]:
    """The settings that one program uses, in the order they are documented."""
    return [spec for spec in SETTINGS if program in spec.programs]


def flag_of(name: str) -> str:
    """``batch_age`` → ``--batch-age``."""
    return "--" + name.replace("_", "-")


def environment_of(name: str) -> str:
    """``batch_age`` → ``VOGELER_BATCH_AGE``."""
    return "VOGELER_" + name.upper()


def load(
    program: str, flags: Mapping[str, str], environ: Mapping[str, str] | None = None, file: Path | None = None
) -> Settings:
    """The settings of ``program``, each from the strongest place that gives it.

    ``file`` None: VOGELER_CONFIG, else /etc/vogeler/vogeler.conf where there is one.
    Raises ConfigError for a file or variable, UsageError for a flag.
    """
    environ = os.environ if environ is None else environ
    values = {spec.name: (spec.default, "the default") for spec in SETTINGS}
    values.update(_from_file(program, file, environ))
    values.update(_from_environment(program, environ))
    values.update(_from_flags(flags))
    parsed = {spec.name: _parsed(spec, *values[spec.name]) for spec in SETTINGS}
    return Settings(**{**parsed, **_computed(program, parsed)})


def _parsed(spec: Setting, text: str, source: str) -> Any:
    if text == "" and spec.default == "":
        return _NOTHING.get(spec.parse, "")
    if "\0" in text or not _is_utf8(text):
        raise ConfigError(f"{spec.name} ({source}): not a text in UTF-8", f"it is {spec.help}")
    try:
        return spec.parse(text)
    except UsageError as error:
        raise ConfigError(f"{spec.name} ({source}): {error}", error.remedy) from None
    except ValueError as error:
        raise ConfigError(f"{spec.name} ({source}): {error}", f"it is {spec.help}") from None


def _is_utf8(text: str) -> bool:
    """Not so: bytes of the environment that Python could not read."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def named_file(file: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file of settings that is named, by ``file`` or the environment; None: DEFAULT_FILE, which need not exist."""
    return file or (Path(environ["VOGELER_CONFIG"]) if environ.get("VOGELER_CONFIG") else None)


def _from_file(program: str, file: Path | None, environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    named = named_file(file, environ)
    path = named or DEFAULT_FILE
    if named is None and not path.exists():
        return {}
    from vogeler.registry import did_you_mean

    found: dict[str, tuple[str, str]] = {}
    parser = _read(path)
    for section in parser.sections():
        if section not in (COMMON_SECTION, *PROGRAMS):
            raise ConfigError(
                f"{path}: unknown section [{section}]", did_you_mean(section, (COMMON_SECTION, *PROGRAMS))
            )
    for section in (COMMON_SECTION, *PROGRAMS):
        if parser.has_section(section):
            known = {s.name for s in (SETTINGS if section == COMMON_SECTION else settings_of(section))}
            for key, value in parser.items(section):
                if key not in known:
                    raise ConfigError(f"{path}, [{section}]: unknown key {key!r}", did_you_mean(key, known))
                if section in (COMMON_SECTION, program):
                    found[key] = (value.strip(), str(path))
    return found


def _read(path: Path) -> configparser.ConfigParser:
    import configparser

    parser = configparser.ConfigParser(interpolation=None, default_section="", inline_comment_prefixes=(" #", " ;"))
    try:
        parser.read_string(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}", "name another with --config") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 at byte {error.start}", "save it as UTF-8") from None
    except configparser.Error as error:
        raise ConfigError(f"{path} is not INI: {_syntax(error)}", "see etc/vogeler.conf") from None
    return parser


def _syntax(error: configparser.Error) -> str:
    """What is wrong, and in which line; not the line, which may hold a password."""
    import configparser

    if isinstance(error, configparser.DuplicateSectionError):
        return f"line {error.lineno}: [{error.section}] for the second time"
    if isinstance(error, configparser.DuplicateOptionError):
        return f"line {error.lineno}: {error.option!r} for the second time in [{error.section}]"
    if isinstance(error, configparser.MissingSectionHeaderError):
        return f"line {error.lineno} is before the first [section]"
    number = error.errors[0][0] if isinstance(error, configparser.ParsingError) and error.errors else "?"
    return f"line {number} is neither a [section] nor 'key = value'"


def _from_environment(program: str, environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    known = {environment_of(spec.name): spec.name for spec in SETTINGS}
    for variable in environ:
        if variable.startswith("VOGELER_") and variable not in known and variable != "VOGELER_CONFIG":
            from difflib import get_close_matches

            close = get_close_matches(variable, known, n=1, cutoff=0.85)
            if close:
                raise ConfigError(f"unknown environment variable {variable}", f"did you mean {close[0]}?")
    return {name: (environ[variable], variable) for variable, name in known.items() if environ.get(variable)}


def _from_flags(flags: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    from vogeler import urls

    for name in ("qhost", "qapi", "dbhost"):
        if name in flags and urls.has_password(flags[name]):
            raise UsageError(
                f"{flag_of(name)} with a password in it: everybody on this machine could read it in the process list",
                f"put the URL into {environment_of(name)} or the configuration file",
            )
    return {name: (text, flag_of(name)) for name, text in flags.items()}


def _computed(program: str, parsed: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that depend on the machine."""
    from urllib.parse import quote

    state = quote(str(state_directory())) if not (parsed["qhost"] and parsed["dbhost"]) else ""
    computed: dict[str, Any] = {}
    if not parsed["qhost"]:
        computed["qhost"] = f"local://{state}/bus.db"
    if not parsed["dbhost"]:
        computed["dbhost"] = f"sqlite://{state}/vogeler.db"
    if program == "client" and not parsed["node"]:
        node = next(spec for spec in SETTINGS if spec.name == "node")
        computed["node"] = _parsed(node, host_name(), "this host's name")
    if program == "client" and not parsed["redact_key"]:
        with suppress(ConfigError):  # a user without a home directory has to name one, if one is needed
            computed["redact_key"] = str(state_directory() / "redact.key")
    if not parsed["plugins"]:
        computed["plugins"] = tuple(map(str, shipped("plugins", Path("/etc/vogeler/plugins"))))
    return computed
