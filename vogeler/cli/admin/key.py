"""vogeler-admin key new | show | trust | revoke."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vogeler import signing
from vogeler.cli._output import add_format, write_rows
from vogeler.cli._program import talk
from vogeler.cli.admin import _files
from vogeler.config import Settings
from vogeler.errors import ConfigError, ExitCode, NotFoundError, UsageError
from vogeler.units import parse_duration, to_timestamp

HELP = "make the keys that commands and results are signed with, and say which are trusted"
_COLUMNS = ("use", "name", "id", "key", "aliases", "expires_at")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The action and what it is done to."""
    parser.add_argument("action", choices=("new", "show", "trust", "revoke"))
    parser.add_argument(
        "words",
        metavar="NAME",
        nargs="*",
        help="new: whose key; trust: whose, and the key (ed25519:...); revoke: names, or ids of keys",
    )
    parser.add_argument("--aliases", metavar="GLOBS", help="trust: the aliases that may be asked for with it alone")
    parser.add_argument("--expires", metavar="DURATION", help="trust: how long it is trusted, as 365d (for ever)")
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings) -> ExitCode:
    """Data to stdout: the line to trust of a new key, the keys that there are."""
    if arguments.action == "show":
        write_rows(_rows(settings), _COLUMNS, arguments.format)
        return ExitCode.OK
    acts: dict[str, Callable[[argparse.Namespace, Settings], None]] = {"new": _new, "trust": _trust, "revoke": _revoke}
    acts[arguments.action](arguments, settings)
    return ExitCode.OK


def _rows(settings: Settings) -> Iterator[dict[str, Any]]:
    if settings.signing_key is None and settings.trusted_keys is None:
        raise UsageError("key show: neither signing_key nor trusted_keys is set", "name a file with --trusted-keys")
    if settings.signing_key is not None:
        yield _row("signs", signing.load(settings.signing_key).public())
    if settings.trusted_keys is not None:
        trusted = signing.TrustedKeys(settings.trusted_keys).all()
        yield from (_row("trusted", key) for key in sorted(trusted, key=lambda key: key.name))


def _row(use: str, key: signing.PublicKey) -> dict[str, Any]:
    options = {"aliases": ",".join(key.aliases), "expires_at": key.expires_at}
    return {"use": use, "name": key.name, "id": key.id, "key": key.text, **options}


def _new(arguments: argparse.Namespace, settings: Settings) -> None:
    if len(arguments.words) != 1:
        raise UsageError("key new: whose?", "vogeler-admin key new NAME --signing-key FILE")
    if settings.signing_key is None:
        raise UsageError("key new: where to?", "name a file that does not exist yet with --signing-key")
    key = signing.new(arguments.words[0])
    public = key.public()
    signing.save(key, settings.signing_key)
    print(public.line)
    talk(f"{settings.signing_key}: the private key {public.id} of {key.name}, for this place alone")


def _trust(arguments: argparse.Namespace, settings: Settings) -> None:
    """A key that is trusted already gets what is said now: its owner, aliases and expiry."""
    key = _public(arguments)
    path = _trusted_keys(settings)
    others = [line for line in _lines(path) if _key_of(line) != key.id] if path.exists() else []
    _replace(path, [*others, key.line])
    talk(f"{path}: trusts the key {key.id} of {key.name}")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n")


def _public(arguments: argparse.Namespace) -> signing.PublicKey:
    line = " ".join(arguments.words)
    if arguments.aliases is not None:
        line += f" aliases={arguments.aliases}"
    try:
        if arguments.expires is not None:
            line += f" expires={to_timestamp(time.time() + parse_duration(arguments.expires))}"
        return signing.parse_public(line)
    except ValueError as error:
        remedy = "vogeler-admin key trust NAME ed25519:..., as key new prints it"
        raise UsageError(f"key trust: {error}", remedy) from None


def _revoke(arguments: argparse.Namespace, settings: Settings) -> None:
    path = _trusted_keys(settings)
    signing.TrustedKeys(path)  # refuses a file with an error in it
    lines = _lines(path)
    found = {line: {key.name, key.id} for line in lines for key in signing.parse_keys(line).values()}
    wanted = set(arguments.words)
    unknown = wanted - set().union(*found.values())
    if unknown or not wanted:
        names = ", ".join(sorted(unknown)) or "of no name"
        raise NotFoundError(f"{path} has no key {names}", "vogeler-admin key show lists them")
    gone = {line for line, names in found.items() if names & wanted}
    _replace(path, [line for line in lines if line not in gone])
    for line in sorted(gone):
        talk(f"{path}: no longer trusts {' '.join(line.split()[:2])}")


def _key_of(line: str) -> str | None:
    with suppress(ValueError):
        return next(iter(signing.parse_keys(line)), None)
    return None


def _trusted_keys(settings: Settings) -> Path:
    if settings.trusted_keys is None:
        raise UsageError("which file of trusted keys?", "set trusted_keys, or name it with --trusted-keys")
    return settings.trusted_keys


def _replace(path: Path, lines: list[str]) -> None:
    """Comments stay, and so does its mode."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    try:
        _files.replace(path, "".join(f"{line}\n" for line in lines), mode)
    except OSError as error:
        raise ConfigError(f"can't write {path}: {error.strerror}", "run as the user who owns it") from None
