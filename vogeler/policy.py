"""Who may ask a node for what: rules in a file, read again when it has changed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from vogeler.errors import ConfigError
from vogeler.globs import any_matches, matcher
from vogeler.watched import Watched, lines_of

_UNCLEAR = "a rule is: REQUESTER ALIAS,ALIAS and then perhaps NODE,NODE, all of them globs, without spaces in between"


@dataclass(frozen=True)
class Rule:
    """A requester may ask these nodes for these aliases. All are globs."""

    requester: str
    aliases: tuple[str, ...]
    nodes: tuple[str, ...] = ("*",)


class Policy:
    """The rules of one file. What none of them allows is refused."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError where the file can't be used."""
        self._file = Watched(path, parse)
        self._file.get()

    def objection(self, requester: str, names: Collection[str], node: str) -> str | None:
        """Why a requester may not ask a node for a plugin, which answers to each of the names; None if it may."""
        try:
            rules = self._file.get()
        except ConfigError as error:
            return f"the policy can't be read: {error.message}"
        for rule in rules:
            if matcher(rule.requester)(requester) and matcher(*rule.nodes)(node) and any_matches(rule.aliases, names):
                return None
        return f"{self._file} does not allow {requester} to ask for it here"


def parse(text: str) -> list[Rule]:
    """The rules of a file, a line each. Raises ValueError, whose text says in which line what is wrong."""
    rules = []
    for number, line in lines_of(text):
        requester, *words = line.split()
        lists = [tuple(filter(None, word.split(","))) for word in words]
        if len(lists) not in (1, 2) or not all(lists):
            raise ValueError(f"line {number}: {_UNCLEAR}")
        rules.append(Rule(requester, *lists))
    return rules
