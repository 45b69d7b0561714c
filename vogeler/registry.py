"""From a name in a URL or a plugin file to the module of that name.

A transport, a store and a result format are one module each, in one package each; the
module's name is the scheme's or the format's. Adding one is adding a file.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

from vogeler.errors import UsageError

_MOST_NAMED = 12


def names(package: str) -> list[str]:
    """The names that can be asked for in ``package``, sorted. Imports none of them."""
    folders = importlib.import_module(package).__path__
    files = [file for folder in folders for file in Path(folder).glob("*.py")]
    return sorted(file.stem for file in files if not file.stem.startswith("_"))


@cache  # what is not there is looked for again: a file may have been added
def load(package: str, name: str, what: str) -> ModuleType:
    """Import ``package.name``; ``what`` ("transport", "result_format") is for the message.

    A secure scheme is its plain one with an ``s`` behind it: ``amqps`` loads ``amqp``.
    Raises UsageError with a suggestion for a name that no module has.
    """
    known = names(package)
    for candidate in (name, name[:-1] if name.endswith("s") else name):
        if candidate in known:
            return importlib.import_module(f"{package}.{candidate}")
    raise UsageError(f"unknown {what} {name!r}", did_you_mean(name, known))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence naming the closest of the ``known`` words, or the first of them."""
    import difflib  # for those who mistype

    candidates = sorted(known)
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if not candidates:
        return "there are none"
    more = f", and {len(candidates) - _MOST_NAMED} more" if len(candidates) > _MOST_NAMED else ""
    return "one of: " + ", ".join(candidates[:_MOST_NAMED]) + more
