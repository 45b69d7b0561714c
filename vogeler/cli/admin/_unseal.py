"""``--unseal FILE``: sealed values as those see them who have the key."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vogeler.cli._output import printable
from vogeler.cli._program import talk
from vogeler.errors import ExitCode
from vogeler.sealed import readers, walked

if TYPE_CHECKING:
    from vogeler.persistence import Document
    from vogeler.sealing import ReaderKey

_MOST_NAMED, _MOST_CHARACTERS = 20, 300


def add_unseal(parser: argparse.ArgumentParser) -> None:
    """The flag, which may be repeated."""
    parser.add_argument(
        "--unseal",
        metavar="FILE",
        type=Path,
        action="append",
        help="show what is sealed for the private key in this file; may be repeated, as for an older key",
    )


class Unsealing:
    """Opens what it can with the keys in some files; what it can't, stays sealed and is remembered.

    Raises ConfigError for a file that is no reader's private key, or that others may read.
    """

    def __init__(self, files: list[Path] | None) -> None:
        self._keys: list[ReaderKey] = []
        self._of_others: dict[tuple[str, ...], list[str]] = {}
        self._broken: dict[tuple[str, ...], str] = {}
        if files:
            from vogeler import sealing

            self._keys = [sealing.load(file) for file in files]

    def value(self, node: str, key: str, value: Any) -> Any:
        """The value of a key of a node's record, as the keys let it be seen."""

        def opened(path: str, sealed: dict[str, Any]) -> Any:
            from vogeler.sealing import ForOthers, unseal

            place = (node, key, path)
            name = (*place, str(sealed["digest"]))
            try:
                return unseal(self._keys, place, sealed)
            except ForOthers:
                self._of_others[name] = readers(sealed)
            except ValueError as error:
                self._broken[name] = str(error)
            return sealed

        return walked(value, key, opened) if self._keys else value

    def record(self, node: str, record: Document) -> Document:
        """What plugins put into a record, likewise; the rest as it is."""
        from vogeler.cli.admin._held import facts

        return {**record, **self.facts(node, facts(record))}

    def facts(self, node: str, facts: dict[str, Any]) -> dict[str, Any]:
        """Values by key, likewise."""
        return {key: self.value(node, key, value) for key, value in facts.items()}

    def before(self, change: Document | None) -> Document | None:
        """The entry before another one, if there is one, likewise."""
        return None if change is None else self.change(change)

    def change(self, change: Document) -> Document:
        """An entry of the history, likewise."""
        if not self._keys or "value" not in change:
            return change
        return {**change, "value": self.value(change["node"], change["key"], change["value"])}

    def tell(self) -> ExitCode:
        """Say what stays sealed. SOME_FAILED where something is not what was sealed there."""
        if self._of_others:
            names = sorted({name for names in self._of_others.values() for name in names})
            more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            who = f"for {', '.join(map(_shown, names[:_MOST_NAMED]))}{more}" if names else "for nobody"
            talk(f"{_count(len(self._of_others))} sealed: {who}, and not for these keys")
        for (node, _, path, _), reason in list(self._broken.items())[:_MOST_NAMED]:
            talk(f"{node}, {_shown(path)}: can't be unsealed: {reason}")
        if len(self._broken) > _MOST_NAMED:
            talk(f"... and {len(self._broken) - _MOST_NAMED} more can't be unsealed")
        return ExitCode.SOME_FAILED if self._broken else ExitCode.OK


def _shown(name: str) -> str:
    """On one line, whoever made it up."""
    return printable(name if len(name) <= _MOST_CHARACTERS else name[: _MOST_CHARACTERS - 1] + "…")


def _count(count: int) -> str:
    return f"{count} value{' stays' if count == 1 else 's stay'}"
