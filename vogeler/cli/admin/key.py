"""vogeler-admin key new | show | trust | revoke."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from vogeler import sealing, signing
from vogeler.cli._output import add_format, write_rows
from vogeler.cli._program import talk
from vogeler.cli.admin import _files
from vogeler.config import Settings
from vogeler.errors import ConfigError, ExitCode, NotFoundError, UsageError
from vogeler.units import parse_duration, to_timestamp

HELP = "make the keys that sign, and those that open what is sealed, and say which are trusted"
_COLUMNS = ("use", "name", "id", "key", "aliases", "expires_at", "keys")
_Key = Union[signing.PublicKey, sealing.Reader]


@dataclass(frozen=True)
class _File:
    """A file of public keys of one kind, a line each."""

    path: Path
    parse: Callable[[str], Mapping[str, _Key]]
    read: Callable[[Path], list[_Key]]  # raises ConfigError
    use: str  # what its keys do
    does: str  # what is done with them

    def lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").rstrip("\n").split("\n")

    def replace(self, lines: list[str]) -> None:
        """Comments stay, and so does its mode."""
        mode = self.path.stat().st_mode & 0o777 if self.path.exists() else 0o644
        try:
            _files.replace(self.path, "".join(f"{line}\n" for line in lines), mode)
        except OSError as error:
            message = f"can't write {self.path}: {error.strerror}"
            raise ConfigError(message, "run as the user who owns it") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The action and what it is done to."""
    parser.add_argument("action", choices=("new", "show", "trust", "revoke"))
    parser.add_argument(
        "words",
        metavar="NAME",
        nargs="*",
        help="new: whose key; trust: whose, and the key (ed25519:... or x25519:...); revoke: names, or ids of keys",
    )
    parser.add_argument(
        "--reader", metavar="FILE", type=Path, help="new: a key that opens what is sealed for it, written to this file"
    )
    parser.add_argument("--aliases", metavar="GLOBS", help="trust: the aliases that may be asked for with it alone")
    parser.add_argument("--expires", metavar="DURATION", help="trust: how long it is trusted, as 365d (for ever)")
    parser.add_argument("--keys", metavar="GLOBS", help="trust, of a reader: the keys of the record that it is for")
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
    files = _files_of(settings)
    if settings.signing_key is None and not files:
        raise UsageError(
            "key show: none of signing_key, trusted_keys and readers is set", "name a file with --trusted-keys"
        )
    if settings.signing_key is not None:
        yield _row("signs", signing.load(settings.signing_key).public())
    for file in files:
        yield from (_row(file.use, key) for key in sorted(file.read(file.path), key=lambda key: key.name))


def _row(use: str, key: _Key) -> dict[str, Any]:
    row = {"use": use, "name": key.name, "id": key.id, "key": key.text}
    if isinstance(key, sealing.Reader):
        return {**row, "keys": ",".join(key.keys)}
    return {**row, "aliases": ",".join(key.aliases), "expires_at": key.expires_at}


def _files_of(settings: Settings) -> list[_File]:
    """Those that are set."""
    files = []
    if settings.trusted_keys is not None:
        files.append(_trusted_keys(settings.trusted_keys))
    if settings.readers is not None:
        files.append(_readers(settings.readers))
    return files


def _trusted_keys(path: Path | None) -> _File:
    if path is None:
        raise UsageError("which file of trusted keys?", "set trusted_keys, or name it with --trusted-keys")
    return _File(path, signing.parse_keys, lambda path: [*signing.TrustedKeys(path).all()], "trusted", "trusts")


def _readers(path: Path | None) -> _File:
    if path is None:
        raise UsageError("which file of readers?", "set readers, or name it with --readers")
    return _File(path, sealing.parse_readers, lambda path: [*sealing.Readers(path).all()], "reads", "seals for")


def _new(arguments: argparse.Namespace, settings: Settings) -> None:
    if len(arguments.words) != 1:
        raise UsageError("key new: whose?", "vogeler-admin key new NAME --signing-key FILE, or --reader FILE")
    (name,) = arguments.words
    public: _Key
    if arguments.reader is not None:
        path, reads = arguments.reader, sealing.new(name)
        public = reads.public()
        sealing.save(reads, path)
    elif settings.signing_key is not None:
        path, signs = settings.signing_key, signing.new(name)
        public = signs.public()
        signing.save(signs, path)
    else:
        raise UsageError("key new: where to?", "name a file that does not exist yet with --signing-key, or --reader")
    print(public.line)
    talk(f"{path}: the private key {public.id} of {name}, for this place alone")


def _trust(arguments: argparse.Namespace, settings: Settings) -> None:
    """A key that is trusted already gets what is said now: its owner, and what it is for."""
    key = _public(arguments)
    file = _readers(settings.readers) if isinstance(key, sealing.Reader) else _trusted_keys(settings.trusted_keys)
    others = [line for line in file.lines() if _key_of(file, line) != key.id] if file.path.exists() else []
    file.replace([*others, key.line])
    talk(f"{file.path}: {file.does} the key {key.id} of {key.name}")


def _public(arguments: argparse.Namespace) -> _Key:
    line = " ".join(arguments.words)
    try:
        for option in ("aliases", "keys"):
            if getattr(arguments, option) is not None:
                line += f" {option}={getattr(arguments, option)}"
        if arguments.expires is not None:
            line += f" expires={to_timestamp(time.time() + parse_duration(arguments.expires))}"
        is_reader = len(arguments.words) > 1 and arguments.words[1].startswith("x25519:")
        return sealing.parse_reader(line) if is_reader else signing.parse_public(line)
    except ValueError as error:
        remedy = "vogeler-admin key trust NAME ed25519:... or NAME x25519:..., as key new prints it"
        raise UsageError(f"key trust: {error}", remedy) from None


def _revoke(arguments: argparse.Namespace, settings: Settings) -> None:
    files = _files_of(settings) or [_trusted_keys(None)]
    wanted, known = set(arguments.words), set()
    gone: list[tuple[_File, dict[str, set[str]]]] = []
    for file in files:
        file.read(file.path)  # refuses a file with an error in it
        found = {line: {key.name, key.id} for line in file.lines() for key in file.parse(line).values()}
        known |= set().union(*found.values())
        gone.append((file, {line: names for line, names in found.items() if names & wanted}))
    if wanted - known or not wanted:
        names = ", ".join(sorted(wanted - known)) or "of no name"
        where = " nor ".join(str(file.path) for file in files)
        raise NotFoundError(f"{where} has no key {names}", "vogeler-admin key show lists them")
    for file, lines in gone:
        if lines:
            file.replace([line for line in file.lines() if line not in lines])
        for line in sorted(lines):
            talk(f"{file.path}: no longer {file.does} {' '.join(line.split()[:2])}")


def _key_of(file: _File, line: str) -> str | None:
    with suppress(ValueError):
        return next(iter(file.parse(line)), None)
    return None
