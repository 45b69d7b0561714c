"""Settings: default < file < environment < flag, into one frozen, typed object.

A setting is a field of ``Settings`` and nothing else: its flag (``--batch-age``), environment variable
(``VOGELER_BATCH_AGE``) and file key (``batch_age``) follow from its name. The file is INI: ``[vogeler]``
is for every program, ``[client]``, ``[server]``, ``[runner]`` and ``[admin]`` for one.
"""

from __future__ import annotations

import configparser
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vogeler import urls
from vogeler.errors import ConfigError, UsageError
from vogeler.messages import check_node_name
from vogeler.registry import did_you_mean
from vogeler.units import parse_duration, parse_size

PROGRAMS = ("client", "server", "runner", "admin")
DEFAULT_FILE = Path("/etc/vogeler/vogeler.conf")
COMMON_SECTION = "vogeler"

# --- values: each turns the text of a setting into what the programs use, or raises ValueError -----


def _text(text: str) -> str:
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _groups(text: str) -> tuple[str, ...]:
    for name in _names(text):
        check_node_name(name)
    return _names(text)


def _node(text: str) -> str:
    check_node_name(text)
    return text


def _url(text: str) -> str:
    urls.parse_many(text)
    return text


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise ValueError(f"{text!r} is not a folder")
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
_NOTHING: dict[Callable[[str], Any], Any] = {_names: (), _groups: (), _folder: None, parse_duration: None}


def _setting(
    default: str, parse: Callable[[str], Any], help: str, programs: tuple[str, ...] = PROGRAMS, flag: bool = True
) -> Any:
    return field(metadata={"default": default, "parse": parse, "help": help, "programs": programs, "flag": flag})


@dataclass(frozen=True)
class Settings:
    """Every setting there is. Durations are seconds, sizes bytes. ``etc/vogeler.conf`` shows them all."""

    qhost: str = _setting("", _url, "the broker: local:///PATH or amqp://USER@HOST/VHOST, a comma list for a cluster")
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

    node: str = _setting("", _node, "this node's name; empty: the full host name", ("client",))
    plugins: tuple[str, ...] = _setting(
        "", _names, "directories with plugin files; a later one overrides an earlier one", ("client",)
    )
    groups: tuple[str, ...] = _setting("", _groups, "the groups this node is in, for -n group:NAME", ("client",))
    heartbeat: float = _setting("60s", _beat, "how often a client says that it is there", ("client",))
    full_every: float = _setting(
        "6h", parse_duration, "how often a value that has not changed is sent all the same", ("client",)
    )
    workers: int = _setting("4", _count, "how many plugins may run at once on a node", ("client",))
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


def settings_of(program: str) -> list[Field[Any]]:
    """The settings that one program uses, in the order they are documented."""
    return [spec for spec in fields(Settings) if program in spec.metadata["programs"]]


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
    values = {spec.name: (spec.metadata["default"], "the default") for spec in fields(Settings)}
    values.update(_from_file(program, file, environ))
    values.update(_from_environment(program, environ))
    values.update(_from_flags(flags))
    parsed = {spec.name: _parsed(spec, *values[spec.name]) for spec in fields(Settings)}
    return Settings(**{**parsed, **_computed(program, parsed)})


def _parsed(spec: Field[Any], text: str, source: str) -> Any:
    if text == "" and spec.metadata["default"] == "":
        return _NOTHING.get(spec.metadata["parse"], "")
    if "\0" in text or not _is_utf8(text):
        raise ConfigError(f"{spec.name} ({source}): not a text in UTF-8", f"it is {spec.metadata['help']}")
    try:
        return spec.metadata["parse"](text)
    except UsageError as error:
        raise ConfigError(f"{spec.name} ({source}): {error}", error.remedy) from None
    except ValueError as error:
        raise ConfigError(f"{spec.name} ({source}): {error}", f"it is {spec.metadata['help']}") from None


def _is_utf8(text: str) -> bool:
    """Not so: bytes of the environment that Python could not read."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _from_file(program: str, file: Path | None, environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    named = file or (Path(environ["VOGELER_CONFIG"]) if environ.get("VOGELER_CONFIG") else None)
    path = named or DEFAULT_FILE
    if named is None and not path.exists():
        return {}
    found: dict[str, tuple[str, str]] = {}
    parser = _read(path)
    for section in parser.sections():
        if section not in (COMMON_SECTION, *PROGRAMS):
            raise ConfigError(
                f"{path}: unknown section [{section}]", did_you_mean(section, (COMMON_SECTION, *PROGRAMS))
            )
    for section in (COMMON_SECTION, *PROGRAMS):
        if parser.has_section(section):
            known = {s.name for s in (fields(Settings) if section == COMMON_SECTION else settings_of(section))}
            for key, value in parser.items(section):
                if key not in known:
                    raise ConfigError(f"{path}, [{section}]: unknown key {key!r}", did_you_mean(key, known))
                if section in (COMMON_SECTION, program):
                    found[key] = (value.strip(), str(path))
    return found


def _read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, default_section="", inline_comment_prefixes=(" #", " ;"))
    try:
        parser.read_string(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}", "name another with --config") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 at byte {error.start}", "save it as UTF-8") from None
    except configparser.Error as error:
        raise ConfigError(f"{path} is not INI: {' '.join(str(error).split())}", "see etc/vogeler.conf") from None
    return parser


def _from_environment(program: str, environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    known = {environment_of(spec.name): spec.name for spec in fields(Settings)}
    for variable in environ:
        if variable.startswith("VOGELER_") and variable not in known:
            close = get_close_matches(variable, known, n=1, cutoff=0.85)
            if close:
                raise ConfigError(f"unknown environment variable {variable}", f"did you mean {close[0]}?")
    return {name: (environ[variable], variable) for variable, name in known.items() if environ.get(variable)}


def _from_flags(flags: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    for name in ("qhost", "dbhost"):
        if name in flags and urls.has_password(flags[name]):
            raise UsageError(
                f"{flag_of(name)} with a password in it: everybody on this machine could read it in the process list",
                f"put the URL into {environment_of(name)} or the configuration file",
            )
    return {name: (text, flag_of(name)) for name, text in flags.items()}


def _computed(program: str, parsed: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that depend on the machine."""
    state = quote(str(state_directory())) if not (parsed["qhost"] and parsed["dbhost"]) else ""
    computed: dict[str, Any] = {}
    if not parsed["qhost"]:
        computed["qhost"] = f"local://{state}/bus.db"
    if not parsed["dbhost"]:
        computed["dbhost"] = f"sqlite://{state}/vogeler.db"
    if program == "client" and not parsed["node"]:
        computed["node"] = _parsed(*_host_name())
    if not parsed["plugins"]:
        computed["plugins"] = tuple(map(str, shipped("plugins", Path("/etc/vogeler/plugins"))))
    return computed


def _host_name() -> tuple[Field[Any], str, str]:
    name = socket.gethostname()
    full = name if "." in name else socket.getfqdn()
    if full.startswith("localhost") or not full:
        full = name
    return next(spec for spec in fields(Settings) if spec.name == "node"), full, "this host's name"


def state_directory() -> Path:
    """Where the default engines keep their files: /var/lib/vogeler for root, else in the home directory."""
    if os.geteuid() == 0:
        return Path("/var/lib/vogeler")
    try:
        directory = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "vogeler"
    except RuntimeError:
        raise ConfigError("this user has no home directory for the default engines", "set qhost and dbhost") from None
    if not _is_utf8(str(directory)):
        raise ConfigError(f"the name of the folder {directory} is not UTF-8, as URLs are", "set qhost and dbhost")
    return directory


def shipped(folder: str, site: Path) -> list[Path]:
    """The folders of that name that exist: the checkout's or else the installed one, then the site's own."""
    checkout = Path(__file__).resolve().parent.parent / folder
    installed = Path(sys.prefix) / "share" / "vogeler" / folder
    ours = [path for path in (checkout, installed) if path.is_dir()][:1]
    return ours + ([site] if site.is_dir() else [])
