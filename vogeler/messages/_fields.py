"""What may be in the fields of a message: a check raises ValueError, with what is expected instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import field
from typing import Any

from vogeler.units import parse_timestamp

MOST_CHARACTERS = 4096  # of a text: an alias, an error, who asked
RESERVED_KEYS = frozenset({"system_name", "created_at", "updated_at", "last_error", "vogeler"})
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_KEY = re.compile(r"[^\W_][\w .:@+-]{0,127}")


def check_node_name(name: object) -> None:
    """A node name becomes a document id, a queue name and a routing key. Raises ValueError."""
    if not isinstance(name, str) or not _NODE_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a node name: letters, digits and '._-', beginning with a letter or digit, at most 253"
        )


def check_key(key: object) -> None:
    """A key of the record that a plugin may fill. Raises ValueError."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a key: letters, digits and ' _.:@+-', beginning with a letter, at most 128")
    if key in RESERVED_KEYS:
        raise ValueError(f"the key {key!r} is reserved: {', '.join(sorted(RESERVED_KEYS))} and what begins with '_'")


def check_id(value: object) -> None:
    """The id of a message or a run: it becomes a routing key and the name of a queue. Raises ValueError."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError("expected an id: letters, digits and '-', at most 64")


def check_text(value: object) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= MOST_CHARACTERS:
        raise ValueError(f"expected a text of at most {MOST_CHARACTERS} characters")
    value.encode()  # half a surrogate pair, which JSON can hold, is a UnicodeEncodeError, a ValueError


def check_time(value: object) -> None:
    if not isinstance(value, str):
        raise ValueError("expected a UTC timestamp")
    parse_timestamp(value)


def check_integer(value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("expected an integer")


def check_seconds(value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1e9:
        raise ValueError("expected a number of seconds")


def check_flag(value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")


def check_agent(value: object) -> None:
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    for name in ("version", "started_at"):
        or_null(check_text)(value.get(name))
    groups, plugins = value.get("groups", []), value.get("plugins", [])
    if not isinstance(groups, list) or not isinstance(plugins, list):
        raise ValueError("expected lists of groups and of plugins")
    for group in groups:
        check_node_name(group)
    if not all(isinstance(plugin, dict) for plugin in plugins):
        raise ValueError("expected objects as plugins")


def check_detail(value: object) -> None:
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    for name in ("key", "reason"):
        or_null(check_text)(value.get(name))
    or_null(check_seconds)(value.get("duration_s"))


def check_nothing(value: object) -> None:
    del value


def check_targets(value: object) -> None:
    if value is None:
        return
    if not isinstance(value, dict) or not value or value.keys() - {"nodes", "groups"}:
        raise ValueError('expected null or {"nodes": [...], "groups": [...]}')
    for names in value.values():
        check_texts(names)


def or_null(check: Callable[[object], None]) -> Callable[[object], None]:
    def checked(value: object) -> None:
        if value is not None:
            check(value)

    return checked


def check_texts(value: object) -> None:
    if not isinstance(value, list):
        raise ValueError("expected a list of texts")
    for text in value:
        check_text(text)


def one_of(words: tuple[str, ...]) -> Callable[[object], None]:
    def checked(value: object) -> None:
        if value not in words:
            raise ValueError("expected one of: " + ", ".join(words))

    return checked


def checked(check: Callable[[object], None], **kwargs: Any) -> Any:
    return field(metadata={"check": check}, **kwargs)
