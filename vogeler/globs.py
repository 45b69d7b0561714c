"""Shell patterns: ``*``, ``?`` and ``[...]``. A ``*`` stands for any characters, a dot among them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection
from functools import lru_cache

_SPECIAL = re.compile(r"[*?\[]")


def is_glob(word: str) -> bool:
    """Whether the word is a pattern rather than a name."""
    return _SPECIAL.search(word) is not None


def literal_prefix(pattern: str) -> str:
    """What everything that matches begins with: the whole word where it is no pattern."""
    return _SPECIAL.split(pattern, maxsplit=1)[0]


@lru_cache(maxsize=256)
def matcher(*patterns: str) -> Callable[[str], object]:
    """A test whether a whole text matches one of the patterns, upper and lower case apart.

    A range that goes backwards, as in ``[z-a]``, matches nothing. (Python 3.9 makes a wrong expression of it.)
    """
    translated = [text for text in map(_translated, patterns) if _is_right(text)]
    return re.compile("|".join(translated) or "(?!)").match


def any_matches(patterns: Collection[str], texts: Collection[str]) -> bool:
    """Whether any of the texts matches any of the patterns."""
    is_meant = matcher(*patterns)
    return any(is_meant(text) for text in texts)


def _translated(pattern: str) -> str:
    """With a ``[`` that nothing closes in brackets: fnmatch would look for the end of each of them anew."""
    closed, end, rest = pattern.rpartition("]")
    return fnmatch.translate(closed + end + rest.replace("[", "[[]"))


def _is_right(expression: str) -> bool:
    try:
        re.compile(expression)
    except re.error:
        return False
    return True
